#!/usr/bin/env python3
"""One training step, this project next to TRL's `GRPOTrainer`, alternating in one run.

    scripts/bench_step.py [--rounds 5] [--trl-python PATH]

4 problems x 8 responses x 64 new tokens, SmolLM2-135M, float32, the same prompts and made-up rewards on both sides, in
two cases: `all` groups have reward differences, or `half` of them. A step is sampling, scoring, update and the new
weights in the sampler. Ours samples with vLLM; TRL with transformers in its training process, as it does by default.

Each side is a child process that waits while the other one works. Memory is the highest sum of resident set sizes of a
side and everything that it started, sampled every 50 ms during its steps. The first step of each side and case is not
counted. TRL needs an environment of its own; without --trl-python it is made in the cache folder (some minutes).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from reasoner.config import LearningConfig, PromptConfig
from reasoner.data.prompts.renderer import open_renderer, render
from reasoner.gro.spec.presets import PRESETS
from reasoner.learning.device import release_device_memory
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.embedded import cache_root
from reasoner.models.resolve import resolve_model
from reasoner.processes.lifetime import guard_processes
from reasoner.records import Batch, Group, Message, Problem, SamplingParams, ScoredGroup
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.training.update import ActiveTerm, update
from reasoner.training.weight_sync import hand_over
from reasoner.trajectories.sampler import TrajectorySampler
from scripts.harness import parser_of, peak, spread

TRL_VERSION = "1.16.0"
GROUP_SIZE, MAX_TOKENS, LEARNING_RATE = 8, 64, 1e-6
TOKEN_BUDGET = 640
"""tokens: one group per forward pass, as on TRL's side"""
PROMPTS = [
    f"Write a long and detailed story about {subject}. Describe the place, the weather, the people who live there and "
    "what each of them wants, then tell what happens on one day from morning to night, without leaving anything out."
    for subject in ("a lighthouse", "a market in the mountains", "a ship in the ice", "a school by a river")
]
GRPO = ActiveTerm("grpo", PRESETS["grpo"].term, 1.0)
Case = Literal["all", "half"]
CASES: tuple[Case, ...] = ("all", "half")


@dataclass(frozen=True, slots=True)
class Measured:
    """One step."""

    seconds: float
    peak_bytes: int
    tokens: int


class Side:
    """A child process that does one step per line."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._answer()

    def step(self, case: Case) -> Measured:
        """Have one step done and watch its memory."""
        assert self._process.stdin is not None
        with peak(self._process.pid, _all_resident, 0.05) as highest:
            self._process.stdin.write(f"{case}\n")
            self._process.stdin.flush()
            answer = self._answer()
        self._answer()
        return Measured(answer["seconds"], int(highest[0]), int(answer["tokens"]))

    def close(self) -> None:
        """End of input ends the child."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the child process ended; its output ends with\n{self._log.read_text()[-3000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer


def _all_resident(processes: Sequence[psutil.Process]) -> float:
    """Bytes: the sum of resident set sizes."""
    return float(sum(map(_resident, processes)))


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def run_ours(work: Path, model: Path) -> None:
    """Our side: the project's own sampler, update stage and hand-over; one step per line on standard input."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    problems = [Problem(str(n), (Message("user", text),), "") for n, text in enumerate(PROMPTS)]
    prompts = render(problems, open_renderer(tokenizer, PromptConfig()), 512)
    learner = TorchLearner(
        model,
        device="cpu",
        dtype="float32",
        config=LearningConfig(learning_rate=LEARNING_RATE, token_budget=TOKEN_BUDGET, logit_chunk=512),
        total_steps=1000,
    )
    start = StartEngine(
        model=str(model),
        dtype="float32",
        device="cpu",
        max_model_len=512,
        max_sequences=GROUP_SIZE * len(PROMPTS),
        memory_share=0.5,
        kv_cache_gib=0.5,
        trust_remote_code=False,
    )
    with guard_processes(), VllmSampler(start, work / "vllm.log") as sampler:
        _say(ready=True)
        for number, line in enumerate(sys.stdin):
            started = time.perf_counter()
            params = SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS, seed=number)
            groups = sorted(
                TrajectorySampler(sampler).sample(prompts, GROUP_SIZE, params), key=lambda group: int(group.problem.id)
            )
            sampler.sleep()
            scored = tuple(_score(group, line.strip() == "all" or n % 2 == 0) for n, group in enumerate(groups))
            update({"online": Batch(scored)}, [GRPO], learner, max_tokens=MAX_TOKENS)
            release_device_memory()  # as `SyncedSampler.wake`
            sampler.wake()
            hand_over(learner, sampler)
            tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
            _say(seconds=time.perf_counter() - started, tokens=tokens)
            _say(ready=True)


def _score(group: Group, differs: bool) -> ScoredGroup:
    """The responses of a group get 0 to 1 in even steps, or all 0."""
    size = len(group.responses)
    return ScoredGroup(group, ((),) * size, tuple(index / (size - 1) if differs else 0.0 for index in range(size)))


def _say(**answer: float) -> None:
    print(json.dumps(answer), flush=True)


def trl_environment() -> Path:
    """A Python that has TRL and this project's versions of torch and transformers; made on first use."""
    folder = cache_root() / "bench" / f"trl-{TRL_VERSION}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making an environment with trl {TRL_VERSION} in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        same = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"trl=={TRL_VERSION}", *same], check=True)
        (folder / "complete").touch()
    return python


def compare(rounds: int, trl_python: Path, model: Path, work: Path) -> dict[tuple[str, Case], list[Measured]]:
    """`rounds` counted steps of each side in each case, alternating."""
    setting = {
        "prompts": PROMPTS,
        "group_size": GROUP_SIZE,
        "max_tokens": MAX_TOKENS,
        "learning_rate": LEARNING_RATE,
        "steps": len(CASES) * (rounds + 1) + 1,  # one that is never asked for: TRL must not end during the last
    }
    (work / "setting.json").write_text(json.dumps(setting))
    own = Path(__file__)
    trl_side = [str(trl_python), str(own.with_name("bench_step_trl.py")), "--model", str(model), "--work", str(work)]
    sides: dict[str, Side] = {}
    results: dict[tuple[str, Case], list[Measured]] = defaultdict(list)
    try:
        sides["trl"] = Side(trl_side, work / "trl.log")
        sides["ours"] = Side([sys.executable, str(own), "--side", str(work)], work / "ours.log")
        for number in range(rounds + 1):
            for case in CASES:
                for name, side in sides.items():
                    step = side.step(case)
                    print(
                        f"{'warm-up' if number == 0 else f'round {number}'} {case:4} {name:4} {step.seconds:6.1f} s "
                        f"{step.peak_bytes / 2**30:5.2f} GiB {step.tokens} tokens",
                        flush=True,
                    )
                    if number:
                        results[name, case].append(step)
    finally:
        for side in sides.values():
            side.close()
    return results


def report(results: dict[tuple[str, Case], list[Measured]]) -> Table:
    """Median and range over the rounds; a ratio is taken within a round."""
    table = Table("case", "", "ours", "TRL", "ours / TRL", title="median \\[lowest, highest]")
    for case in CASES:
        own_results, trl = results["ours", case], results["trl", case]
        for label, unit, value in (
            ("time per step", "s", lambda step: step.seconds),
            ("peak memory", "GiB", lambda step: step.peak_bytes / 2**30),
            ("new tokens", "", lambda step: float(step.tokens)),
        ):
            pairs = [
                (value(own_result), value(trl_result)) for own_result, trl_result in zip(own_results, trl, strict=True)
            ]
            columns = ([a for a, _ in pairs], [b for _, b in pairs], [a / b for a, b in pairs])
            table.add_row(case, f"{label} {unit}".strip(), *(spread(column, ".3g") for column in columns))
    return table


def main() -> None:
    """Compare, or be our side of the comparison."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted steps per side and case")
    parser.add_argument("--trl-python", type=Path, help=f"Python of an environment with trl {TRL_VERSION}")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = resolve_model("embedded:smollm2-135m-instruct")
    if options.side is not None:
        run_ours(options.side, model)
        return
    with tempfile.TemporaryDirectory(prefix="bench-step-") as work:
        results = compare(options.rounds, options.trl_python or trl_environment(), model, Path(work))
    Console().print(report(results))


if __name__ == "__main__":
    main()
