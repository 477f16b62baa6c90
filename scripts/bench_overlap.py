#!/usr/bin/env python3
"""How much of the time a sampler is idle where the lengths of responses have a heavy tail.

    scripts/bench_overlap.py [--seeds 3] [--steps 200] [--vllm] [--write]

For `sampling.max_staleness` 0, 1 and 4, with and without `sampling.over_sample`:

simulated   64 groups of 8 responses a step; lengths are log-normal (median 600 tokens, sigma 1, at most 8192). An
            engine of 512 rows makes a token of each of b rows in 1 + b / 512 units of time: a full one takes twice as
            long for a token as an empty one. An update takes half of what sampling of a step takes on-policy. Every
            event is computed, nothing is measured.
vllm        (--vllm) a real vLLM and the project's own sampler, on this machine's CPU, with a tiny model whose lengths
            are set; the update is a pause, as on a device of its own.

idle        time in which the engine has nothing to sample
unused      rows of the engine without a response, mean over the time
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil, log
from pathlib import Path
from random import Random
from statistics import fmean
from threading import Condition, Lock
from typing import Any

from rich.console import Console
from rich.table import Table

from reasoner.processes.lifetime import guard_processes
from reasoner.records import Group, Message, Problem, Prompt, SamplingParams
from reasoner.sampling.base import Completed, Oldest, TokenRequest, TokenService
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.trajectories.sampler import TrajectorySampler
from scripts.harness import parser_of, write_page
from tests.tiny import build_tiny_model

SETTINGS = ((0, 0.0), (1, 0.0), (1, 0.25), (1, 0.5), (4, 0.0), (4, 0.25), (4, 0.5))
"""`sampling.max_staleness`, `sampling.over_sample`"""
GROUPS, SIZE, ROWS = 64, 8, 512
MEDIAN, SIGMA, MOST = 600, 1.0, 8192
UPDATE_SHARE = 0.5
PAGE = "overlap.md"
COLUMNS = ("max_staleness", "over_sample", "idle", "unused", "tokens/s", "steps/s", "first steps", "carried")


@dataclass(frozen=True)
class Overlap:
    """What a setting gives."""

    idle: float
    unused: float
    tokens_per_s: float
    steps_per_s: float
    first_lengths: float
    """mean length of the responses of the first tenth of the steps, as a share of that of all"""
    carried: float
    """share of responses of which an earlier step wrote something"""


def lookahead(staleness: int, over: float) -> int:
    """As `SamplingConfig.lookahead`."""
    return max(0, staleness - 1) if over else staleness


# Simulated


@dataclass(eq=False)
class SimulatedGroup:
    """A group while it is sampled."""

    lengths: list[int]
    left: list[float]
    """tokens that each response still needs"""
    oldest: int = 0
    """step whose weights wrote its first token; 0: none is written"""
    is_carried: bool = False

    @property
    def is_complete(self) -> bool:
        return not any(self.left)


@dataclass
class Engine:
    """Continues up to `ROWS` responses at the same time; every event is computed."""

    version: Callable[[float], int]
    """time -> step whose weights are there"""
    now: float = 0.0
    row_time: float = 0.0
    """integral of the rows in use over time"""
    tokens: float = 0.0

    def draw(self, groups: Sequence[SimulatedGroup], wanted: int, is_due: Callable[[SimulatedGroup], bool]) -> None:
        """Continue groups until `wanted` are complete, among them those that are due at its beginning."""
        due = [group for group in groups if is_due(group)]
        waiting = [(group, index) for group in groups for index, left in enumerate(group.left) if left]
        waiting.reverse()
        work = 0.0  # tokens of each row since the beginning
        running: list[tuple[float, int, SimulatedGroup, int]] = []
        complete = sum(group.is_complete for group in groups)
        while complete < wanted or not all(group.is_complete for group in due):
            while waiting and len(running) < ROWS:
                group, index = waiting.pop()
                group.oldest = group.oldest or self.version(self.now)
                heapq.heappush(running, (work + group.left[index], len(waiting), group, index))
            end, _, group, index = running[0]
            self._advance(end - work, len(running))
            work = end
            heapq.heappop(running)
            group.left[index] = 0.0
            complete += group.is_complete
        for end, _, group, index in running:
            group.left[index] = float(ceil(end - work - 1e-9))

    def _advance(self, tokens: float, rows: int) -> None:
        seconds = tokens * (1 + rows / ROWS)
        self.now += seconds
        self.row_time += seconds * rows
        self.tokens += tokens * rows


def simulate(staleness: int, over: float, steps: int, seed: int, update: float) -> Overlap:
    """A run of so many steps.

    Args:
        update: units of time.
    """
    chance, extra, ahead = Random(seed), ceil(round(over * GROUPS, 9)), lookahead(staleness, over)
    begins = [0.0, 0.0]  # of step 1 on: when its weights are there
    engine = Engine(lambda now: sum(begin <= now for begin in begins[1:]))
    groups: list[SimulatedGroup] = []
    lengths: list[float] = []
    busy, carried = 0.0, 0
    for step in range(1, steps + 1):
        groups += [_group(chance) for _ in range(GROUPS + extra - len(groups))]
        started = engine.now = max(engine.now, begins[max(1, step - ahead)])
        oldest = step + 1 - staleness
        engine.draw(groups, GROUPS, lambda group: 0 < group.oldest < oldest)  # noqa: B023 (used in this iteration)
        busy += engine.now - started
        ready = [group for group in groups if group.is_complete]
        ready.sort(key=lambda group: not 0 < group.oldest < oldest)
        learned = ready[:GROUPS]
        assert all(group.oldest >= step - staleness for group in learned)
        lengths.append(fmean(length for group in learned for length in group.lengths))
        carried += sum(group.is_carried for group in learned)
        groups = [group for group in groups if group not in learned]
        for group in groups:
            group.is_carried = True
        begins.append(max(engine.now, begins[step]) + update)
    wall = begins[-1]
    first = fmean(lengths[: max(1, steps // 10)]) / fmean(lengths)
    return Overlap(
        1 - busy / wall,
        1 - engine.row_time / (ROWS * wall),
        engine.tokens / wall,
        steps / wall,
        first,
        carried / (steps * GROUPS),
    )


def _group(chance: Random) -> SimulatedGroup:
    lengths = [min(MOST, max(1, int(chance.lognormvariate(log(MEDIAN), SIGMA)))) for _ in range(SIZE)]
    return SimulatedGroup(lengths, [float(length) for length in lengths])


def simulated(steps: int, seeds: int) -> list[Overlap]:
    """Each setting, the mean over the seeds."""
    sampling = [1 / simulate(0, 0.0, steps, seed, 0.0).steps_per_s for seed in range(seeds)]
    return [
        _mean([simulate(*setting, steps, seed, UPDATE_SHARE * sampling[seed]) for seed in range(seeds)])
        for setting in SETTINGS
    ]


def _mean(runs: Sequence[Overlap]) -> Overlap:
    return Overlap(*(fmean(values) for values in zip(*(vars(run).values() for run in runs), strict=True)))


# Real


@dataclass
class SetLengths:
    """A token service whose continuations have set lengths, and that notes how many run.

    Args:
        lengths: by prompt; a request whose tokens begin with it is of this prompt.
    """

    service: TokenService
    lengths: dict[tuple[int, ...], int]
    row_time: float = 0.0
    busy_s: float = 0.0
    _running: int = 0
    _since: float = field(default_factory=time.perf_counter)
    _lock: Lock = field(default_factory=Lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)

    def submit(self, requests: Sequence[TokenRequest]) -> None:
        """With as many tokens as are left."""
        self._count(sum(request.n for request in requests))
        self.service.submit([replace(request, params=self._params(request)) for request in requests])

    def receive(self, timeout_s: float | None = None) -> Completed | None:
        """As the service's."""
        completed = self.service.receive(timeout_s)
        if completed:
            self._count(-len(completed.completions))
        return completed

    def _params(self, request: TokenRequest) -> SamplingParams:
        prompt = tuple(request.token_ids[:PROMPT_TOKENS])
        written = len(request.token_ids) - PROMPT_TOKENS
        return replace(request.params, max_tokens=max(1, self.lengths[prompt] - written))

    def _count(self, more: int) -> None:
        with self._lock:
            now = time.perf_counter()
            self.row_time += self._running * (now - self._since)
            self.busy_s += bool(self._running) * (now - self._since)
            self._running, self._since = self._running + more, now


PROMPT_TOKENS = 4
REAL_GROUPS, REAL_MEDIAN, REAL_MOST = 16, 40, 400


def measure(engine: VllmSampler, staleness: int, over: float, steps: int, update_s: float) -> Overlap:
    """So many steps of 16 responses; the update is a pause."""
    chance, extra, ahead = Random(0), ceil(over * REAL_GROUPS), lookahead(staleness, over)
    service = SetLengths(engine, {})
    sampler = TrajectorySampler(service)
    counter = iter(range(10**6))

    def prompt() -> Prompt:
        number = next(counter)
        token_ids = tuple(10 + number // 100**place % 100 for place in range(PROMPT_TOKENS))
        service.lengths[token_ids] = min(REAL_MOST, max(1, int(chance.lognormvariate(log(REAL_MEDIAN), SIGMA))))
        return Prompt(Problem(str(number), (Message("user", "?"),), ""), token_ids)

    begun, drawn, changed = [0], [list[Group]() for _ in range(steps)], Condition()

    def draw_all() -> None:
        carried: list[Prompt] = []
        for step in range(1, steps + 1):
            with changed:
                changed.wait_for(lambda: begun[0] >= step - ahead)  # noqa: B023 (waited for in this iteration)
            new = [prompt() for _ in range(REAL_GROUPS + extra - len(carried))]
            params = SamplingParams(1.0, REAL_MOST, seed=step)
            # versions do not change here, so the step at which a group was begun is not known to be too old: with
            # one step of staleness everything that is carried is waited for, as in a run
            due = Oldest(-1, 1 if staleness == 1 else -1)
            groups = list(sampler.sample_some(carried, new, 1, params, REAL_GROUPS, due))
            carried = [
                each for each in (*carried, *new) if each.problem.id in {kept.problem.id for kept in sampler.kept}
            ]
            with changed:
                drawn[step - 1] = groups
                changed.notify_all()

    started = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw_all)
        for step in range(1, steps + 1):
            with changed:
                begun[0] = step
                changed.notify_all()
                changed.wait_for(lambda: drawn[step - 1] or drawing.done())  # noqa: B023
            time.sleep(update_s)
        drawing.result()
    wall = time.perf_counter() - started
    responses = [group.responses[0] for groups in drawn for group in groups]
    lengths = [fmean(len(group.responses[0].token_ids) for group in groups) for groups in drawn]
    rows = REAL_GROUPS + extra
    return Overlap(
        1 - service.busy_s / wall,
        1 - service.row_time / (rows * wall),
        sum(len(response.token_ids) for response in responses) / wall,
        steps / wall,
        fmean(lengths[: max(1, steps // 10)]) / fmean(lengths),
        fmean(response.carried_tokens > 0 for response in responses),
    )


def measured(model: Path, steps: int, work: Path) -> Iterator[Overlap]:
    """Each setting with a real vLLM."""
    start = StartEngine(str(model), "float32", "cpu", 512, 2 * REAL_GROUPS, 0.5, 0.25, False)
    with guard_processes(), VllmSampler(start, work / "vllm.log") as engine:
        measure(engine, 0, 0.0, 1, 0.0)  # its first draw compiles
        sampling_s = 1 / measure(engine, 0, 0.0, steps, 0.0).steps_per_s
        for staleness, over in SETTINGS:
            yield measure(engine, staleness, over, steps, UPDATE_SHARE * sampling_s)


def rows_of(results: Sequence[Overlap]) -> list[list[str]]:
    """The table; tokens and steps a second as a share of those of the first setting."""
    base = results[0]
    return [
        [
            str(staleness),
            f"{over:g}",
            f"{100 * result.idle:.0f}%",
            f"{100 * result.unused:.0f}%",
            f"{result.tokens_per_s / base.tokens_per_s:.2f}",
            f"{result.steps_per_s / base.steps_per_s:.2f}",
            f"{result.first_lengths:.2f}",
            f"{100 * result.carried:.0f}%",
        ]
        for (staleness, over), result in zip(SETTINGS, results, strict=True)
    ]


def show(title: str, results: Sequence[Overlap]) -> None:
    """On the terminal."""
    table = Table(*COLUMNS, title=title)
    for row in rows_of(results):
        table.add_row(*row)
    Console().print(table)


def page(parts: dict[str, Sequence[Overlap]], steps: int, seeds: int) -> str:
    """The validation page."""
    texts = [INTRODUCTION.format(steps=steps, seeds=seeds)]
    for title, results in parts.items():
        lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ("--:",) * len(COLUMNS), *rows_of(results))]
        texts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(texts)


INTRODUCTION = """# Idle samplers

Lengths with a heavy tail, `sampling.max_staleness` and `sampling.over_sample`
([scaling.md](../scaling.md#sampling-during-the-update)), by `scripts/bench_overlap.py --vllm --write`, whose docstring
has the setting. Simulated: {steps} steps, mean of {seeds} seeds.

*idle* is the time in which the engine has nothing to sample, *unused* the rows of the engine without a response, mean
over the time; tokens and steps a second are shares of those of the first line. *first steps* is the mean length of the
responses of the first tenth of the steps as a share of that of all, which shows what finished-first does to the order;
*carried* the share of groups that an earlier step began.
"""


def main() -> None:
    """Simulate, measure where that is asked for, and write the page where that is."""
    parser = parser_of(__doc__, PAGE)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each simulated setting")
    parser.add_argument("--steps", type=int, default=200, help="steps of a simulated run")
    parser.add_argument("--vllm", action="store_true", help="also measure with a real vLLM")
    parser.add_argument("--vllm-steps", type=int, default=12, help="steps of a measured run")
    parser.add_argument("--model", type=Path, help="model of the measured runs; a tiny one is made otherwise")
    options = parser.parse_args()
    parts: dict[str, Sequence[Overlap]] = {"Simulated": simulated(options.steps, options.seeds)}
    show("simulated", parts["Simulated"])
    if options.vllm:
        with tempfile.TemporaryDirectory(prefix="bench-overlap-") as work:
            model = options.model or build_tiny_model(Path(work) / "tiny")
            parts["vLLM on a CPU"] = list(measured(model, options.vllm_steps, Path(work)))
        show("vLLM on a CPU", parts["vLLM on a CPU"])
    if options.write:
        write_page(PAGE, "bench_overlap.py", page(parts, options.steps, options.seeds))


if __name__ == "__main__":
    main()
