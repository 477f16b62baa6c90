"""A step's fresh groups: sampled and scored, now or while the step before is still learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoner.config import Config
from reasoner.curriculum import Curriculum
from reasoner.data import Stream
from reasoner.evaluation import Progress, Scorer, counted, pass_rates
from reasoner.measure import Timer
from reasoner.records import Group, Problem, Prompt, SamplingParams, ScoredGroup
from reasoner.sampling.base import Sampler

REFILL_SEED = 1_000_003
"""between the seeds of a step's refills: they draw with others than any step"""


@dataclass(frozen=True, slots=True)
class Fresh:
    """The fresh responses of one step."""

    step: int
    rounds: tuple[tuple[ScoredGroup, ...], ...]
    """every group that was drawn: once, and by every refill, each in the order of its problems"""
    refilled: bool
    """`sampling.refills` is on: groups whose rewards are all equal are dropped"""
    greedy_rewards: tuple[float | None, ...] | None
    """reward of a greedy response to the problem of each kept group; None: no term asks for it"""
    tokens: int
    """sampled, dropped groups and greedy responses included"""
    scoring_s: float
    """seconds in reward sources for them, summed over their workers"""
    metrics: Mapping[str, Any]
    """of choosing problems, by the names of the metrics table"""
    seconds: Mapping[str, Any]
    """by stage"""

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        """Those that the step learns from."""
        return tuple(scored for some in self.rounds for scored in some if not self.refilled or scored.informative)


@dataclass
class Drawer:
    """Samples and scores the fresh groups of one step after the other."""

    config: Config
    sampler: Sampler
    scorer: Scorer
    problems: Stream[Problem]
    prompts: Mapping[str, Prompt]
    """training prompts by problem id"""
    curriculum: Curriculum | None
    """chooses among the problems; None: each comes once per epoch"""
    draws: int = field(default=0, init=False)
    """how many times problems were taken from the stream"""

    def state(self) -> dict[str, Any]:
        """A part of the run (`checkpointing.Part`)."""
        return {"draws": self.draws, "curriculum": self.curriculum.state() if self.curriculum else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.draws = state["draws"]
        if self.curriculum:
            self.curriculum.restore(state["curriculum"])

    def draw(
        self,
        step: int,
        *,
        greedy: bool,
        progress: Progress = lambda done, total: None,
        seen: Callable[[Group], None] = lambda group: None,
    ) -> Fresh:
        """The groups of a step, each scored as soon as it is complete.

        With `sampling.refills`, groups whose rewards are all equal are dropped and as many fresh problems sampled, up
        to that many times; what is missing then makes the step smaller.

        Args:
            greedy: also have the reward of a greedy response to every problem.
            progress: told of `(responses, of how many)`.
            seen: told of every group of this rank as the sampler gives it.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        timer = Timer()
        wanted, refills = self.config.learning.problems_per_step, self.config.sampling.refills
        rounds: list[tuple[ScoredGroup, ...]] = []
        kept: list[ScoredGroup] = []
        size, temperature = self.config.sampling.group_size, self.config.sampling.temperature
        for round_ in range(refills + 1):
            prompts = [self.prompts[problem.id] for problem in self._next_problems(wanted - len(kept))]
            params = self._params(temperature, step + round_ * REFILL_SEED)
            groups = self._score(prompts, size, params, timer, progress, seen)
            if self.curriculum:
                self.curriculum.observe(pass_rates(groups, self.config.required_evaluation.correct))
            rounds.append(groups)
            kept += [scored for scored in groups if not refills or scored.informative]
            if len(kept) == wanted:
                break
        greedily: tuple[ScoredGroup, ...] = ()
        if greedy:
            prompts = [self.prompts[scored.group.problem.id] for scored in kept]
            greedily = self._score(prompts, 1, self._params(0.0, 0), timer, progress, lambda group: None)
        everything = [scored for some in (*rounds, greedily) for scored in some]
        return Fresh(
            step=step,
            rounds=tuple(rounds),
            refilled=refills > 0,
            greedy_rewards=tuple(scored.rewards[0] for scored in greedily) if greedy else None,
            tokens=sum(len(response.token_ids) for scored in everything for response in scored.group.responses),
            scoring_s=sum(c.seconds for scored in everything for row in scored.components for c in row),
            metrics=self._metrics(len(kept)),
            seconds=timer.seconds,
        )

    def _next_problems(self, count: int) -> tuple[Problem, ...]:
        self.draws += 1
        return self.curriculum.take(count) if self.curriculum else self.problems.at(self.draws)[:count]

    def _params(self, temperature: float, seed: int) -> SamplingParams:
        config = self.config.sampling
        return SamplingParams(temperature, config.max_tokens, tuple(config.stop), self.config.run.seed + seed)

    def _score(
        self,
        prompts: Sequence[Prompt],
        size: int,
        params: SamplingParams,
        timer: Timer,
        progress: Progress,
        seen: Callable[[Group], None],
    ) -> tuple[ScoredGroup, ...]:
        drawn = _told(seen, self.sampler.sample(prompts, size, params))
        sampled = timer.iterate("sample", counted(drawn, len(prompts) * size, progress))
        groups = {scored.group.problem.id: scored for scored in self.scorer.score(sampled)}
        timer.rest("score_wait")
        return tuple(groups[prompt.problem.id] for prompt in prompts)

    def _metrics(self, kept: int) -> dict[str, float]:
        metrics = (
            {"groups/kept": float(kept), "groups/draws": float(self.draws)} if self.config.sampling.refills else {}
        )
        return metrics | (self.curriculum.metrics if self.curriculum else {})


def _told(seen: Callable[[Group], None], groups: Iterator[Group]) -> Iterator[Group]:
    for group in groups:
        seen(group)
        yield group
