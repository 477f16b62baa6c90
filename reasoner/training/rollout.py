"""A step's rollouts: groups that the policy samples and the reward sources score, now or during the update before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from reasoner.config import Config
from reasoner.data.mixture import Mixture
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.seeds import Purpose, derive_seed
from reasoner.errors import RunError
from reasoner.evaluation.metrics import Criterion, pass_rates
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.monitoring.step_metrics import carried_metrics, rollout_metrics, staleness_metrics
from reasoner.monitoring.timer import Timeline, Timer
from reasoner.records import Group, PartialGroup, Prompt, SamplingParams, ScoredGroup
from reasoner.sampling.base import Oldest, ParamsByTask, Progress, Sampler, track_progress
from reasoner.scoring.base import Scorer
from reasoner.training.guards.environment_failures import check_failures


@dataclass(frozen=True, slots=True)
class StepRollouts:
    """The sampled and scored groups of one step."""

    step: int
    rounds: tuple[tuple[ScoredGroup, ...], ...]
    """every group that was sampled: at first, and by every refill, each in the order of its problems"""
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
    def sampled(self) -> tuple[ScoredGroup, ...]:
        """All of them: what rewards, lengths and pass rates are measured over."""
        return tuple(scored for groups in self.rounds for scored in groups)

    @property
    def dropped(self) -> tuple[bool, ...]:
        """(N,) which of `sampled` the step does not learn from."""
        return tuple(self.refilled and not scored.informative for scored in self.sampled)

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        """Those that the step learns from."""
        return tuple(scored for scored, dropped in zip(self.sampled, self.dropped, strict=True) if not dropped)


@dataclass
class RolloutCollector:
    """Samples and scores the groups of one step after the other."""

    config: Config
    sampler: Sampler
    scorer: Scorer
    problems: Mixture
    """chooses the problems of a step"""
    prompts: Mapping[str, Prompt]
    """training prompts by problem id"""
    turn_end: TurnEnd = TurnEnd()  # noqa: RUF009 (frozen)
    """what ends a response beside the model's own end tokens"""
    timeline: Timeline = field(default_factory=Timeline)
    """notes when the sampler and the reward sources work"""
    carried: tuple[str, ...] = ()
    """ids of the problems whose groups are begun and belong to a later step (`sampling.over_sample`), in their
    order"""
    published: dict[int, int] = field(default_factory=dict)
    """training steps, as far back as responses may come from -> version of the learner's weights at their beginning"""

    def __post_init__(self) -> None:
        self._marked: tuple[dict[str, Any], tuple[PartialGroup, ...]] = {}, ()

    def state(self) -> dict[str, Any]:
        """A part of the run (`checkpointing.Part`)."""
        return {"problems": self.problems.state(), **self._marked[0]}

    def mark(self) -> None:
        self.problems.mark()
        if self.config.sampling.over_sample:
            published = {str(step): version for step, version in self.published.items()}
            self._marked = {"carried": [*self.carried], "published": published}, self.sampler.kept

    def restore(self, state: Mapping[str, Any]) -> None:
        self.problems.restore(state["problems"])
        if self.config.sampling.over_sample:
            self.carried = tuple(state["carried"])
            self.published = {int(step): version for step, version in state["published"].items()}

    def save_kept(self, file: Path) -> None:
        """Write what this rank's sampler had at the last `mark` of groups that are not complete, if anything.

        Raises:
            RunError: the disk is full.
        """
        if self._marked[1]:
            write_parquet(file, self._marked[1])

    def load_kept(self, files: Sequence[Path]) -> None:
        """Give the sampler back what those of all ranks had.

        Raises:
            RunError: it is not all there.
        """
        groups = {group.problem.id: group for file in files for group in read_parquet(file, PartialGroup)}
        if missing := [name for name in self.carried if name not in groups]:
            raise RunError(
                f"the checkpoint holds nothing of {len(missing)} groups that were begun before it, such as that of "
                f"problem {missing[0]!r}: it was damaged"
            )
        self.sampler.keep([groups[name] for name in self.carried])

    def note_version(self, step: int, version: int) -> None:
        """A training step begins, with this version of the learner's weights."""
        self.published[step] = version
        for earlier in [earlier for earlier in self.published if earlier < step - self.config.sampling.max_staleness]:
            del self.published[earlier]

    def _oldest(self, step: int) -> Oldest:
        """The oldest weights that a step, and the next one, may learn from."""
        first = step - self.config.sampling.max_staleness
        return Oldest(self.published.get(first, -1), self.published.get(first + 1, -1))

    def collect(
        self,
        step: int,
        *,
        greedy: bool,
        progress: Progress = lambda done, total: None,
        on_group: Callable[[Group], None] = lambda group: None,
    ) -> StepRollouts:
        """Sample and score the groups of a step, each scored as soon as it is complete.

        With `sampling.refills`, groups whose rewards are all equal are dropped and as many further problems sampled, up
        to that many times and as long as there are problems that the step does not have yet; what is missing then makes
        the step smaller.

        With `sampling.over_sample` more groups are begun, those that are not complete when the step has enough are
        continued at the next step, and every group that was begun is learned from, once.

        Args:
            greedy: also have the reward of a greedy response to every problem.
            progress: called with `(responses, of how many)`.
            on_group: told of every group of this rank as the sampler gives it.

        Raises:
            RunError: the sampler or the scoring service failed, or the environment failed on too many responses of the
                step.
        """
        timer = Timer()
        wanted, refills = self.config.learning.problems_per_step, self.config.sampling.refills
        rounds: list[tuple[ScoredGroup, ...]] = []
        kept: list[ScoredGroup] = []
        size, temperature = self.config.sampling.group_size, self.config.sampling.temperature
        for round_ in range(refills + 1):
            taken = [scored.group.problem for groups in rounds for scored in groups]
            taken += [self.prompts[name].problem for name in self.carried]
            missing, more = wanted - len(kept), 0 if rounds else self._extra - len(self.carried)
            prompts = [self.prompts[problem.id] for problem in self.problems.take(missing + more, taken)]
            if not prompts and (rounds or not self.carried):
                break
            params = partial(self._params, temperature, "sampling", step, round_)
            if self._extra:
                enough = len(prompts) if rounds else min(missing, len(prompts) + len(self.carried))
                groups = self._score_some(step, prompts, enough, params, timer, progress, on_group)
            else:
                groups = self._score(prompts, size, params, timer, progress, on_group)
            if self.config.curriculum.kind != "none" or self.config.curriculum.parts != "fixed":
                self.problems.observe(self._pass_rates(groups))
            rounds.append(groups)
            kept += [scored for scored in groups if not refills or scored.informative]
            if len(kept) == wanted:
                break
        greedy_groups: tuple[ScoredGroup, ...] = ()
        if greedy:
            prompts = [self.prompts[scored.group.problem.id] for scored in kept]
            params = partial(self._params, 0.0, "greedy", step)
            greedy_groups = self._score(prompts, 1, params, timer, progress, lambda group: None)
        everything = [scored for groups in (*rounds, greedy_groups) for scored in groups]
        self._check_environments(everything)
        return StepRollouts(
            step=step,
            rounds=tuple(rounds),
            refilled=refills > 0,
            greedy_rewards=tuple(scored.rewards[0] for scored in greedy_groups) if greedy else None,
            tokens=sum(
                response.policy_mask.count(True) for scored in everything for response in scored.group.responses
            ),
            scoring_s=sum(c.seconds for scored in everything for row in scored.components for c in row),
            metrics=self._metrics(len(kept), sum(map(len, rounds))),
            seconds=timer.seconds,
        )

    def sample_apart(self, count: int, progress: Progress) -> tuple[ScoredGroup, ...]:
        """Groups of a few training problems of each task, chosen at random, that belong to no step: the problems and
        the noise of the steps stay what they are without it.

        Args:
            count: problems of each task; all where there are fewer.

        Raises:
            RunError: the sampler or the scoring service failed, or the environment failed on too many responses.
        """
        config, random = self.config, Random(derive_seed(self.config.run.seed, "gate", "problems"))
        chosen: list[Prompt] = []
        for name in config.parts:
            own = [prompt for prompt in self.prompts.values() if not config.mixture or prompt.problem.part == name]
            chosen += random.sample(own, min(count, len(own)))
        params = partial(self._params, config.sampling.temperature, "gate")
        groups = self._score(chosen, config.sampling.group_size, params, Timer(), progress, lambda group: None)
        self._check_environments(groups)
        return groups

    def _check_environments(self, groups: Sequence[ScoredGroup]) -> None:
        """
        Raises:
            RunError: the environment of a task failed on too many of its responses.
        """
        for name, task in self.config.parts.items():
            own = (scored.group for scored in groups if scored.group.problem.part in ("", name))
            check_failures(own, task.environment)

    def _params(self, temperature: float, purpose: Purpose, *parts: int, task: Config) -> SamplingParams:
        config, seed = task.sampling, derive_seed(self.config.run.seed, purpose, *parts)
        params = SamplingParams(
            temperature, config.max_tokens, tuple(config.stop), seed, stop_repetition=config.stop_repetition
        )
        return self.turn_end.added_to(params)

    def _score(
        self,
        prompts: Sequence[Prompt],
        size: int,
        params: Callable[..., SamplingParams],
        timer: Timer,
        progress: Progress,
        on_group: Callable[[Group], None],
    ) -> tuple[ScoredGroup, ...]:
        """
        Args:
            params: called with `task`, the configuration of a task: how its responses are sampled.
        """
        responses = _passing_on(on_group, self.sampler.sample(prompts, size, self._by_task(prompts, params)))
        groups = self._scored(track_progress(responses, len(prompts) * size, progress), timer)
        return tuple(groups[prompt.problem.id] for prompt in prompts)

    def _score_some(
        self,
        step: int,
        new: Sequence[Prompt],
        enough: int,
        params: Callable[..., SamplingParams],
        timer: Timer,
        progress: Progress,
        on_group: Callable[[Group], None],
    ) -> tuple[ScoredGroup, ...]:
        """Go on with the groups that are begun, begin those of new prompts, and score `enough` of them, in the order in
        which their problems were chosen. Other arguments as of `_score`."""
        size = self.config.sampling.group_size
        prompts = [*(self.prompts[name] for name in self.carried), *new]
        carried, oldest = prompts[: len(self.carried)], self._oldest(step)
        by_task = self._by_task(prompts, params)
        sampled = self.sampler.sample_some(carried, new, size, by_task, enough, oldest)
        groups = self._scored(track_progress(_passing_on(on_group, sampled), enough * size, progress), timer)
        self.carried = tuple(prompt.problem.id for prompt in prompts if prompt.problem.id not in groups)
        return tuple(groups[prompt.problem.id] for prompt in prompts if prompt.problem.id in groups)

    def _by_task(
        self, prompts: Sequence[Prompt], params: Callable[..., SamplingParams]
    ) -> SamplingParams | ParamsByTask:
        """How responses to the prompts are sampled: in one way where all are of one task."""
        names = dict.fromkeys(prompt.problem.part for prompt in prompts)
        by_task = {name: params(task=self.config.part(name)) for name in names}
        return by_task if len(by_task) > 1 else next(iter(by_task.values()))

    def _scored(self, sampled: Iterator[Group], timer: Timer) -> dict[str, ScoredGroup]:
        """The groups of all ranks, by problem id."""
        with ExitStack() as stack:
            watched = self._watched(timer.iterate("sample", sampled), stack)
            groups = {scored.group.problem.id: scored for scored in self.scorer.score(watched)}
        timer.rest("score_wait")
        return groups

    @property
    def _extra(self) -> int:
        """Groups that are being sampled beyond those that a step learns from."""
        return self.config.extra_groups

    def _watched(self, groups: Iterator[Group], scoring: ExitStack) -> Iterator[Group]:
        """The groups; the sampler works until the last one is there, scoring from the first one on."""
        with self.timeline("sampler"):
            for number, group in enumerate(groups):
                if not number:
                    scoring.enter_context(self.timeline("scoring"))
                yield group

    def _pass_rates(self, groups: Sequence[ScoredGroup]) -> dict[str, dict[str, float]]:
        """By task, the share of correct responses to each problem."""
        return {
            name: pass_rates(own, Criterion.of(task))
            for name, task in self.config.parts.items()
            if (own := [scored for scored in groups if scored.group.problem.part in ("", name)])
        }

    def _metrics(self, kept: int, sampled: int) -> dict[str, float]:
        refilled = (
            {"groups/kept": float(kept), "groups/sampled": float(sampled)} if self.config.sampling.refills else {}
        )
        return refilled | self.problems.metrics


def sampling_metrics(rollouts: StepRollouts, config: Config, version: int) -> dict[str, float]:
    """Figures of everything that was sampled for a step, whether it was trained on or dropped.

    Staleness alone is that of what was trained on: optimiser steps between sampling and first update, on average.

    Args:
        version: of the learner's weights before that update.
    """
    conditions = {name: part.conditions for name, part in config.parts.items()}
    metrics = {**rollouts.metrics, **rollout_metrics(rollouts.sampled, conditions)}
    metrics["tokens/sampled"] = float(rollouts.tokens)
    metrics["score/seconds"] = rollouts.scoring_s
    metrics["tokens_per_s/sample"] = rollouts.tokens / rollouts.seconds["sample"]
    if config.sampling.max_staleness:
        metrics["sample/seconds"] = rollouts.seconds["sample"]
        responses = [response for scored in rollouts.groups for response in scored.group.responses]
        if responses:
            metrics |= staleness_metrics(responses, version)
        if config.sampling.over_sample and responses:
            metrics |= carried_metrics(responses)
    return metrics


def _passing_on(on_group: Callable[[Group], None], groups: Iterator[Group]) -> Iterator[Group]:
    for group in groups:
        on_group(group)
        yield group
