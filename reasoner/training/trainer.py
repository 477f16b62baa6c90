"""What a run works with, and the stages that need several of its parts. `reasoner.training.build` builds it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any

import numpy as np
import torch

from reasoner.config import Config
from reasoner.data.problems import Stream
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.seeds import derive_seed
from reasoner.distributed.sharding import LogprobModel
from reasoner.errors import ScoringError
from reasoner.evaluation.metrics import Criterion, Estimate, Evaluation
from reasoner.gro.spec.schedules import factor
from reasoner.gro.spec.terms import Source, Term
from reasoner.learning.critic import TorchCritic
from reasoner.learning.learner import PerturbableLearner
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.step_metrics import Timer, memory_metrics, rollout_metrics, seconds_since_start
from reasoner.monitoring.view import Summary, View
from reasoner.plugins.manager import Events
from reasoner.records import Batch, Group, Prompt, Rollout, SamplingParams, ScoredGroup
from reasoner.runs.folder import RunFolder, as_read
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import Sampler
from reasoner.scoring.base import Scorer
from reasoner.scoring.service import ScoringService
from reasoner.training.checkpointing import SCORING, CheckpointManager, Stateful
from reasoner.training.evaluator import evaluate, evaluation_params
from reasoner.training.guards.applicability import unjudged_reason, unrewarded_reason
from reasoner.training.guards.canary import Canary
from reasoner.training.guards.nonfinite import explain, stop_after
from reasoner.training.guards.time_limit import Deadline
from reasoner.training.held_out import HeldOut
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import RolloutCollector, StepRollouts
from reasoner.training.update import ActiveTerm, UpdateReport
from reasoner.training.weight_sync import Publisher, gap_limit, hand_over


@dataclass
class Evaluator:
    """What an evaluation needs; training needs it too."""

    config: Config
    run: RunFolder
    view: View
    held_out: Sequence[Prompt]
    scorer: Scorer
    service: ScoringService
    """what of it is this rank's own"""
    sampler: Sampler
    events: Events
    """the plugins that watch"""
    turn_end: TurnEnd
    """what ends a response beside the model's own end tokens"""

    def evaluate(self, step: int, when: str, rows: int = 0, measured: Sequence[Estimate] = ()) -> Evaluation:
        """Sample and score the held-out problems with the sampler's weights; the result is in the run folder.

        Args:
            rows: held-out rows of offline data.
            measured: their figures, which go with those of the responses.

        Raises:
            RunError: the sampler, the scoring service or the disk failed; or the deciding source has no value for any
                response before training.
        """
        started = time.perf_counter()
        config = self.config.required_evaluation
        params = self.turn_end.added_to(evaluation_params(self.config))
        progress = partial(self.view.stage, "evaluation")
        criterion = Criterion.of(self.config)
        evaluation, groups = evaluate(
            self.sampler, self.scorer, self.held_out, params, config.samples, criterion, progress
        )
        evaluation = replace(evaluation, rows=rows, estimates=(*evaluation.estimates, *measured))
        if step == 0 and (found := unjudged_reason(self.config, groups)):
            raise ScoringError(found)  # not committed: the resumed run makes this evaluation again
        self.run.commit_evaluation(step, evaluation, to_rollouts(step, groups))
        self.view.evaluated(when, evaluation)
        self.events.emit("evaluation_finished", step=step, evaluation=evaluation)
        self.run.clock.evaluation += time.perf_counter() - started
        return evaluation


@dataclass
class Trainer:
    """A training run's parts."""

    config: Config
    device: str
    run: RunFolder
    view: View
    events: Events
    """the plugins that watch"""
    ranks: Ranks
    """this process among those that train together"""
    terms: Mapping[str, Term]
    """the objective's terms, bound to the functions of plugins"""
    learner: PerturbableLearner
    reference: LogprobModel | None
    """frozen copy of the initial model; None: no term asks for it"""
    teacher: LogprobModel | None
    """frozen model of the teacher's credit; None: no term asks for it"""
    critic: TorchCritic | None
    """value model; None: no term asks for it"""
    evaluator: Evaluator | None
    """sampler and scorer; None: no term reads fresh groups, and no evaluation samples"""
    held_out: HeldOut | None
    """offline responses that are not trained on; None: there are none"""
    collector: RolloutCollector | None
    """samples and scores the fresh groups of a step; None: no term reads any"""
    ahead: Prefetcher
    """what it draws beside the update (`sampling.ahead`)"""
    offline: Mapping[Source, Stream[ScoredGroup]]
    """responses that somebody else wrote, by source"""
    sampled_steps: int = 0
    """steps that sampled, since this start"""
    fresh: StepRollouts | None = None
    """of the current step; None: it reads no fresh groups"""
    asleep: bool = False
    """the sampler has given its memory back"""
    told: set[str] = field(default_factory=set)
    """what was said once for all steps"""
    alarms: AlarmMonitor = field(default_factory=AlarmMonitor)
    """looks for what goes wrong"""

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of every committed step."""
        return self.run.history

    @cached_property
    def deadline(self) -> Deadline:
        """When the run must end."""
        return Deadline(self.config.run.max_hours)

    @cached_property
    def checkpoints(self) -> CheckpointManager:
        """Writes the run's checkpoints."""
        parts: dict[str, Stateful] = {"stages": self}
        scoring = self.evaluator.service if self.evaluator else None
        if scoring:
            parts[SCORING] = scoring
        if self.collector:
            parts["drawer"] = self.collector
        return CheckpointManager(
            self.config.run,
            self.run,
            self.ranks,
            self.learner,
            self.critic,
            scoring,
            parts,
            self.ahead,
            self.view.message,
            self.config.sampling.tensor_parallel,
        )

    def state(self) -> dict[str, Any]:
        """A part of the run (`checkpointing.Part`)."""
        clock = self.run.clock
        return {"set_up_s": clock.set_up, "evaluation_s": clock.evaluation, "total_s": clock.total}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.run.clock.go_on_from(state["set_up_s"], state["evaluation_s"], state["total_s"])

    def check_time(self) -> None:
        """Another step, or the last evaluation, is about to begin.

        Raises:
            OutOfTimeError: it may not end within `run.max_hours`.
        """
        at_the_end = self.checkpoints.seconds + self.ahead.seconds
        self.deadline.next_lap(*self.ranks.broadcast((seconds_since_start(), at_the_end)))

    def active_terms(self, step: int) -> list[ActiveTerm]:
        """The terms with weight at a step."""
        run, configured = self.config.run, self.config.gro.terms
        weights = {
            name: term.weight * factor(term.schedule, step, run.steps, self.history)
            for name, term in configured.items()
        }
        return [ActiveTerm(name, self.terms[name], weight) for name, weight in weights.items() if weight > 0.0]

    def collect(self, step: int, terms: Sequence[ActiveTerm], timer: Timer) -> dict[Source, Batch]:
        """The step's groups of every source that a term reads: sampled and scored, or from a data set.

        Raises:
            RunError: the hand-over, the sampler or the scoring service failed; or no reward source has anything to say
                about the first responses.
        """
        seed_generators(self.config.run.seed, step)
        batches: dict[Source, Batch] = {}
        self.fresh = None
        for source in dict.fromkeys(term.term.source for term in terms):
            if source == "online":
                self.sampled_steps += 1
                self.fresh = fresh = self._fresh(step, timer)
                self._tell(fresh)
                self._check_first(fresh)
                batches[source] = Batch(
                    fresh.groups, greedy_rewards=fresh.greedy_rewards, temperature=self.config.sampling.temperature
                )
            else:
                batches[source] = Batch(self.offline[source].at(step))
        return {source: batch for source, batch in batches.items() if batch.groups}

    def _fresh(self, step: int, timer: Timer) -> StepRollouts:
        """What was drawn for the step during the update before it (`sampling.ahead`), or is drawn now, with the
        learner's weights; then drawing for the next step begins.
        """
        assert self.collector is not None
        with timer("sample"):
            fresh = self.ahead.take(step, partial(self.view.stage, "sample"))
        with timer("handover"):
            self.publish()
        with timer("check"):
            self.follow_sampler()
        if fresh is None:
            fresh = self.collector.draw(
                step, greedy=self._needs_greedy(step), progress=partial(self.view.stage, "sample")
            )
            timer.add(fresh.seconds)
        if self.config.sampling.ahead and step < self.config.run.steps and self._reads_fresh(step + 1):
            self.ahead.begin(partial(self.collector.draw, step + 1, greedy=self._needs_greedy(step + 1)))
        return fresh

    def _check_first(self, fresh: StepRollouts) -> None:
        """End a run whose first responses no reward source has anything to say about."""
        first = not any("reward/abstained" in metrics for metrics in self.history)
        before = self.run.evaluations.get(0)
        if first and (found := unrewarded_reason(self.config, fresh.sampled, before)):
            raise ScoringError(found)

    def _reads_fresh(self, step: int) -> bool:
        return any(each.term.source == "online" for each in self.active_terms(step))

    def _needs_greedy(self, step: int) -> bool:
        return any(each.term.needs_greedy for each in self.active_terms(step))

    def _tell(self, fresh: StepRollouts) -> None:
        """Say what happened while groups were drawn, to plugins too."""
        for drawn in fresh.rounds:
            self.events.emit("groups_sampled", step=fresh.step, groups=tuple(scored.group for scored in drawn))
        self.events.emit("groups_scored", step=fresh.step, groups=fresh.groups)
        kept, wanted = len(fresh.groups), self.config.learning.problems_per_step
        if kept < wanted:
            self.view.message(
                f"step {fresh.step}: {kept} of {wanted} groups have differences after {len(fresh.rounds) - 1} "
                "refills; the step is smaller"
            )

    def on_policy_groups(self) -> list[Group]:
        """Some groups of every rank's sampler, drawn with the weights that the learner has; none where there are no
        such groups.

        Raises:
            RunError: the sampler failed.
        """
        if self.fresh is None:
            return []
        # Ranks take turns in drawing the first round: so many groups, dropped ones too, are of every rank's sampler.
        groups = [scored.group for scored in self.fresh.rounds[0][: max(2, self.ranks.count)]]
        if all(response.policy_version == self.learner.version for group in groups for response in group.responses):
            return groups
        return [group for group in self.ranks.gather(self.ahead.first()) if group]

    def publish(self) -> None:
        """Give the sampler the learner's weights, if they have changed.

        Raises:
            HandoverError: the sampler did not take them.
        """
        if self.evaluator and self.learner.version != self.evaluator.sampler.version:
            self._hand_over(self.learner)

    def _hand_over(self, publisher: Publisher) -> None:
        assert self.evaluator is not None
        parent = self.config.sampling.weights_folder
        hand_over(publisher, self.evaluator.sampler, self.ranks, parent, self._say_once)

    def _say_once(self, text: str) -> None:
        """Say what is the same at every step once."""
        if text not in self.told:
            self.told.add(text)
            self.view.message(text)

    def evaluate(self, step: int) -> None:
        """Evaluate the learner's weights after a step where that is due: before training, after it, and in between as
        `evaluation.every` has it. One that was made before the run was interrupted is not made again.

        Raises:
            RunError: the hand-over, the sampler, the scoring service or the disk failed.
        """
        every = self.config.evaluation.every if self.config.evaluation else 0
        when = {0: "before training", self.config.run.steps: "after training"}.get(step)
        due = when is not None or (every and step % every == 0)
        if not due or step in self.run.evaluations:
            return
        when = when or f"after step {step}"
        self.ahead.wait()
        measured = self._measure_held_out()
        rows = self.held_out.count if self.held_out else 0
        if self.evaluator:
            self.wake_sampler()
            self.publish()
            self.evaluator.evaluate(step, when, rows, measured)
        elif rows:
            evaluation = Evaluation(0, 0, 0, measured, rows=rows)
            self.run.commit_evaluation(step, evaluation, [])
            self.view.evaluated(when, evaluation)
            self.events.emit("evaluation_finished", step=step, evaluation=evaluation)

    def _measure_held_out(self) -> tuple[Estimate, ...]:
        if self.held_out is None:
            return ()
        started = time.perf_counter()
        with self.sampler_asleep(Timer()):
            found = self.held_out.measure(partial(self.view.stage, "held out"))
        self.run.clock.evaluation += time.perf_counter() - started
        return found

    @cached_property
    def canary(self) -> Canary | None:
        """Sees whether the sampler takes what it is given; None: there is no sampler."""
        if self.evaluator is None:
            return None
        limit = gap_limit(self.config.model.dtype, self.config.handover.max_gap)
        sampling = self.config.sampling
        params = SamplingParams(sampling.temperature, sampling.max_tokens, tuple(sampling.stop))
        params = self.evaluator.turn_end.added_to(params)
        return Canary(self.learner, self.evaluator.sampler, self.ranks, limit, self._hand_over, params)

    def prove_sampler(self) -> None:
        """Before anything is trained: every family of parameters reaches the sampler (`canary`).

        Raises:
            RunError: one does not; or the sampler gives other log-probabilities than the learner, or failed.
        """
        if self.canary is None or self.evaluator is None:
            return
        started = time.perf_counter()
        self.view.stage("check", 0, 0)
        self.publish()
        prompts = list(self.collector.prompts.values()) if self.collector else list(self.evaluator.held_out)
        found = self.canary.prove(prompts)
        seconds = time.perf_counter() - started
        self.run.clock.set_up += seconds
        self.run.add_fact("sampler check", found)
        self.view.message(f"{found}; {seconds:.1f} s")

    def follow_sampler(self) -> None:
        """After the first update, and then at every k-th step until it is seen: the sampler, which has the learner's
        weights, follows it (`canary`).

        Raises:
            RunError: it does not, or failed.
        """
        if self.check_due and self.canary and (found := self.canary.follow()):
            self.view.message(found)

    @property
    def check_due(self) -> bool:
        """Whether sampler and learner are compared at this step: at the first that samples, at the second (after a
        hand-over), then at every k-th."""
        count = self.sampled_steps
        return count in (1, 2) or count % self.config.handover.check_every == 0

    @contextmanager
    def sampler_asleep(self, timer: Timer) -> Iterator[None]:
        """The sampler gives its memory back meanwhile, unless it draws ahead; one that only evaluates until the next
        evaluation. Its going to sleep and waking up are a part of the update's time."""
        sampler = self.evaluator.sampler if self.evaluator and not self.config.sampling.ahead else None
        with timer("update"):
            if sampler and not self.asleep:
                sampler.sleep()
                self.asleep = True
        yield
        if self.config.online:
            with timer("update"):
                self.wake_sampler()

    def wake_sampler(self) -> None:
        """Give the sampler its memory again."""
        if self.evaluator and self.asleep:
            self.evaluator.sampler.wake()
            self.asleep = False

    def commit(self, step: int, report: UpdateReport, timer: Timer) -> None:
        """Measure the step, write it to the run folder and show it.

        Raises:
            RunError: the disk is full, or the updates of too many steps in a row were not finite.
        """
        metrics = report.metrics | timer.metrics | memory_metrics(self.device)
        rollouts: list[Rollout] = []
        if self.fresh:
            metrics |= self._fresh_metrics(self.fresh, report)
            rollouts = to_rollouts(step, self.fresh.sampled, report.credits, report.weights, self.fresh.dropped)
        evidence = self.run.keep_nonfinite(step, report.nonfinite) if report.nonfinite else None
        metrics = self.ranks.broadcast(as_read(metrics))  # schedules read them, and must be the same everywhere
        warnings = self.alarms.look([*self.history, metrics], list(self.run.evaluations.items()))
        self.run.warn([warned for warned in warnings if warned.step == step])
        self.run.commit(step, metrics, rollouts)
        self.checkpoints.committed()
        self.view.step(step, self.config.run.steps, metrics, warnings)
        self.events.emit("step_finished", step=step, metrics=metrics)
        for reason in dict.fromkeys(report.skipped):  # the same of every mini-batch is said once
            self.view.message(f"step {step}: {reason}")
        if evidence:
            self.view.message(f"step {step}: {explain(report.nonfinite)}; {evidence}")
            stop_after(self.history, self.config.learning.max_not_finite, report.nonfinite, evidence)

    def _fresh_metrics(self, fresh: StepRollouts, report: UpdateReport) -> dict[str, float]:
        """Figures of everything that was sampled for the step, whether it was trained on or dropped; staleness alone is
        that of what was trained on."""
        metrics = {**fresh.metrics, **rollout_metrics(fresh.sampled, self.config.conditions)}
        metrics["tokens/sampled"] = float(fresh.tokens)
        metrics["score/seconds"] = fresh.scoring_s
        metrics["tokens_per_s/sample"] = fresh.tokens / fresh.seconds["sample"]
        if self.config.sampling.ahead:
            metrics["sample/seconds"] = fresh.seconds["sample"]
            if fresh.groups:
                metrics["response/staleness"] = self._staleness(fresh.groups, report)
        return metrics

    def _staleness(self, groups: Sequence[ScoredGroup], report: UpdateReport) -> float:
        """How many optimiser steps were made between drawing the step's responses and its first update, on average."""
        version = self.learner.version - sum(step.applied for step in report.steps)
        return fmean(version - response.policy_version for scored in groups for response in scored.group.responses)

    def save_model(self) -> Path:
        """Save the trained model, and the critic beside it, into the run folder.

        Raises:
            RunError: the disk is full.
        """
        with self.run.saving_model() as folder:
            self.learner.save(folder)
            if self.critic and self.ranks.first:
                self.critic.save(folder / "critic")
        return self.run.model_folder

    def finish(self, model: Path) -> None:
        """Remove what only an interrupted run needs, and show the summary."""
        self.checkpoints.finish()
        self.run.clock.stop()
        before, after = (self.run.evaluations.get(step) for step in (0, self.config.run.steps))
        folder = quote(str(self.run.folder))
        complete = quote(str(self.run.folder / "config.toml"))
        commands = {"Repeat this run exactly": f"reasoner run {complete}"}
        if self.config.run.keep_last:
            commands["Train it further"] = f"reasoner run --resume {folder} --steps {2 * self.config.run.steps}"
        if self.config.has_sampler:
            compared = f"reasoner eval {complete} --model {quote(self.config.model.path)} --model {quote(str(model))}"
            commands = {"Compare the trained model with the initial one": compared} | commands
        self.view.finished(
            Summary(
                task=self.config.task,
                correct=str(Criterion.of(self.config)) if self.config.has_sampler else "",
                history=self.history,
                warnings=self.alarms.raised,
                evaluations=(before, after) if before and after else None,
                set_up_s=self.run.clock.set_up,
                evaluation_s=self.run.clock.evaluation,
                total_s=self.run.clock.total,
                run_folder=self.run.folder,
                model_folder=model,
                next_commands=commands,
            )
        )


def seed_generators(seed: int, step: int) -> None:
    """Seed this process's generators for a step. Nothing of ours draws from them, but a plugin's credit or link may: it
    draws the same in a repeated and in a resumed run."""
    of_step = derive_seed(seed, "step", step)
    random.seed(of_step)
    np.random.seed(list(of_step.to_bytes(8)))  # one number for numpy has 32 bits
    torch.manual_seed(of_step)
