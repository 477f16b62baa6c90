"""A training run's parts, and the stages of the loop that need several of them (`reasoner.pipeline`).

`reasoner.training.build` builds it from the configuration.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from shlex import quote

import numpy as np
import torch

from reasoner.config import Config, TermConfig
from reasoner.data.problems import Stream
from reasoner.distributed.ranks import Ranks
from reasoner.distributed.remote_tokens import whole_groups
from reasoner.distributed.seeds import derive_seed
from reasoner.distributed.sharding import LogprobModel
from reasoner.errors import DataError, SamplerError, ScoringError
from reasoner.evaluation.examples import Example
from reasoner.evaluation.metrics import Criterion, Estimate, Evaluation, listed_criteria
from reasoner.evaluation.training_gate import PROBLEMS, combine_gates, judge_gate
from reasoner.gro.spec.schedules import MetricSwitch, factor, passed
from reasoner.gro.spec.terms import Source, Term
from reasoner.io.bounded_files import is_there
from reasoner.io.metric_history import MetricHistory
from reasoner.learning.critic import TorchCritic
from reasoner.learning.learner import PerturbableLearner
from reasoner.monitoring.alarms import AlarmMonitor
from reasoner.monitoring.step_metrics import idle_metrics, memory_metrics, seconds_since_start
from reasoner.monitoring.timer import Timeline, Timer
from reasoner.monitoring.view import Summary, View
from reasoner.plugins.events import Events
from reasoner.records import Batch, Group, Rollout, ScoredGroup
from reasoner.runs.examples import read_examples
from reasoner.runs.folder import GATE, RunFolder, as_read, read_gate
from reasoner.runs.rollouts import to_rollouts
from reasoner.training.checkpointing import CheckpointManager, Stateful
from reasoner.training.evaluator import Evaluator
from reasoner.training.guards.applicability import unrewarded_reason
from reasoner.training.guards.nonfinite import explain, stop_after
from reasoner.training.guards.time_limit import Deadline
from reasoner.training.held_out import HeldOut
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import RolloutCollector, StepRollouts, sampling_metrics
from reasoner.training.synced_sampler import SyncedSampler
from reasoner.training.update import ActiveTerm, UpdateReport


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
    """sampler and scorer; None: no term and no evaluation samples responses"""
    held_out: HeldOut | None
    """offline responses that are not trained on; None: there are none"""
    collector: RolloutCollector | None
    """samples and scores the on-policy groups of a step; None: no term reads any"""
    prefetcher: Prefetcher
    """samples later steps' groups during the update (`sampling.max_staleness`)"""
    offline: Mapping[Source, Stream[ScoredGroup]]
    """responses that somebody else wrote, by source"""
    adapter_is_beside: bool = False
    """the sampler holds the LoRA adapter beside its weights, and cannot change it under what it samples"""
    alarms: AlarmMonitor = field(default_factory=AlarmMonitor)
    """looks for what goes wrong"""
    timeline: Timeline = field(default_factory=Timeline)
    """notes who works when"""
    rollouts: StepRollouts | None = None
    """of the current step; None: no term reads on-policy groups at this step"""

    def __post_init__(self) -> None:
        self._is_first = not any("reward/abstained" in metrics for metrics in self.history)
        """no step has sampled yet"""
        self._passed: dict[str, Mapping[str, float]] = {}
        """terms whose schedule waits for a metric to pass a bound -> the metrics of the first step that did"""
        self._examined = 0
        """steps of the history that were looked through for that"""
        self._own: list[Group] = []
        """groups of this step that this rank's sampler gave, where they were sampled at this step"""

    @property
    def history(self) -> MetricHistory:
        """The metrics of every committed step."""
        return self.run.history

    @cached_property
    def deadline(self) -> Deadline:
        """When the run must end."""
        return Deadline(self.config.run.max_hours)

    @cached_property
    def checkpoints(self) -> CheckpointManager:
        """Writes the run's checkpoints."""
        parts: dict[str, Stateful] = {"clock": self.run.clock}
        if self.collector:
            parts["collector"] = self.collector
        return CheckpointManager(
            self.config.run,
            self.run,
            self.ranks,
            self.learner,
            self.critic,
            self.evaluator.service if self.evaluator else None,
            parts,
            self.prefetcher,
            self.view.message,
            self.config.sampling.tensor_parallel,
            self.collector if self.config.sampling.over_sample else None,
        )

    @cached_property
    def sampler(self) -> SyncedSampler | None:
        """None: neither a term nor an evaluation samples."""
        if self.evaluator is None:
            return None
        sampler, turn_end = self.evaluator.engine, self.evaluator.turn_end
        meanwhile = self.config.sampling.lookahead > 1 and not self.adapter_is_beside
        return SyncedSampler(self.config, sampler, self.learner, self.ranks, turn_end, self.view.message, meanwhile)

    def check_time(self) -> None:
        """Another step, or the last evaluation, is about to begin.

        Raises:
            OutOfTimeError: it may not end within `run.max_hours`.
        """
        at_the_end = self.checkpoints.seconds + self.prefetcher.seconds
        self.deadline.next_lap(*self.ranks.broadcast((seconds_since_start(), at_the_end)))

    def active_terms(self, step: int) -> list[ActiveTerm]:
        """The terms with weight at a step."""
        for metrics in self.history[self._examined :]:
            for name, term in self.config.gro.terms.items():
                if isinstance(term.schedule, MetricSwitch) and passed(term.schedule, metrics):
                    self._passed.setdefault(name, metrics)
        self._examined = len(self.history)
        weights = {name: self._weight(name, term, step) for name, term in self.config.gro.terms.items()}
        return [ActiveTerm(name, self.terms[name], weight) for name, weight in weights.items() if weight > 0.0]

    def _weight(self, name: str, term: TermConfig, step: int) -> float:
        decisive = [self._passed[name]] if name in self._passed else []
        return term.weight * factor(term.schedule, step, self.config.run.steps, decisive)

    def collect(self, step: int, terms: Sequence[ActiveTerm], timer: Timer) -> dict[Source, Batch]:
        """The step's groups of every source that a term reads: sampled and scored, or from a data set.

        Raises:
            RunError: the weight sync, the sampler or the scoring service failed; or no reward source has anything to
                say about the first responses.
        """
        seed_generators(self.config.run.seed, step)
        if self.collector:
            self.collector.note_version(step, self.learner.version)
        batches: dict[Source, Batch] = {}
        self.rollouts = None
        for source in dict.fromkeys(term.term.source for term in terms):
            if source == "online":
                self.rollouts = rollouts = self._sample(step, timer)
                self._report(rollouts)
                self._check_first(rollouts)
                batches[source] = Batch(
                    rollouts.groups,
                    greedy_rewards=rollouts.greedy_rewards,
                    temperature=self.config.sampling.temperature,
                )
            else:
                batches[source] = Batch(self.offline[source].at(step))
        return {source: batch for source, batch in batches.items() if batch.groups}

    def _sample(self, step: int, timer: Timer) -> StepRollouts:
        """The step's on-policy groups: those that were sampled during updates before (`sampling.max_staleness`), or
        sampled now, with the learner's weights; then sampling for later steps begins.
        """
        assert self.collector is not None
        self._own = []
        progress = partial(self.view.stage, "sample")
        with timer("sample"):
            rollouts = self.prefetcher.take(step, progress)
        if self.sampler:
            self.sampler.steps += 1
            if self.sampler.check_due or not self.sampler.samples_meanwhile:
                self.prefetcher.wait(progress)
            with timer("handover"):
                self.sampler.publish()
            with timer("check"):
                self.sampler.follow()
        if rollouts is None:
            self.prefetcher.wait(progress)
            greedy = self._needs_greedy(step)
            rollouts = self.collector.collect(step, greedy=greedy, progress=progress, on_group=self._own.append)
            timer.add(rollouts.seconds)
        self._check_staleness(step, rollouts)
        self._sample_ahead(step)
        return rollouts

    def _check_staleness(self, step: int, rollouts: StepRollouts) -> None:
        """Raises SamplerError where a token is of older weights than `sampling.max_staleness` allows."""
        assert self.collector is not None
        most = self.config.sampling.max_staleness
        oldest = self.collector.published.get(step - most, -1)
        for scored in rollouts.groups:
            for response in scored.group.responses:
                if response.policy_version < oldest:
                    raise SamplerError(
                        f"a response to problem {scored.group.problem.id} of step {step} was sampled with weights of "
                        f"version {response.policy_version}, and sampling.max_staleness = {most} allows none before "
                        f"{oldest}; this is a bug"
                    )

    def _sample_ahead(self, step: int) -> None:
        """Have the groups of the steps sampled that may be sampled with the weights of this one."""
        assert self.collector is not None
        last = min(step + self.config.sampling.lookahead, self.config.run.steps)
        for later in range(max(self.prefetcher.last, step) + 1, last + 1):
            if any(active.term.source == "online" for active in self.active_terms(later)):
                self.prefetcher.start(later, partial(self.collector.collect, later, greedy=self._needs_greedy(later)))

    def _needs_greedy(self, step: int) -> bool:
        return any(active.term.needs_greedy for active in self.active_terms(step))

    def _check_first(self, rollouts: StepRollouts) -> None:
        """End a run whose first responses no reward source has anything to say about."""
        before = self.run.evaluations.get(0)
        for name, task in self.config.parts.items() if self._is_first else ():
            own = [
                scored for scored in rollouts.sampled if not self.config.mixture or scored.group.problem.part == name
            ]
            of_task = before.tasks.get(name) if before and self.config.mixture else before
            if reason := unrewarded_reason(task, own, of_task):
                raise ScoringError(reason)

    def _report(self, rollouts: StepRollouts) -> None:
        """Tell plugins of the step's groups, and the view where there are fewer than the step should have."""
        for groups in rollouts.rounds:
            self.events.emit("groups_sampled", step=rollouts.step, groups=tuple(scored.group for scored in groups))
        self.events.emit("groups_scored", step=rollouts.step, groups=rollouts.groups)
        kept, wanted = len(rollouts.groups), self.config.learning.problems_per_step
        if kept < wanted:
            self.view.message(
                f"step {rollouts.step}: {kept} of {wanted} groups have differences after {len(rollouts.rounds) - 1} "
                "refills; the step is smaller"
            )

    def on_policy_groups(self) -> list[Group]:
        """Some groups of every rank's sampler, sampled with the weights that the learner has; none where there are no
        such groups. Those of which the policy wrote nothing, because their environment failed at its start, say nothing
        of it.

        Raises:
            RunError: the sampler failed.
        """
        if self.rollouts is None:
            return []
        # Ranks take turns in sampling the first round: so many groups, dropped ones too, are of every rank's sampler.
        groups = [scored.group for scored in self.rollouts.rounds[0][: max(2, self.ranks.count)]]
        version = self.learner.version
        if not self.config.sampling.over_sample and all(_is_of(version, group) for group in groups):
            return [group for group in whole_groups(groups, self.ranks) if _is_written(group)]
        first = next(filter(partial(_is_of, version), self._own), None)
        if first is None:
            first = self.prefetcher.first(partial(_is_of, version))
        return [group for group in self.ranks.gather(first) if group and _is_written(group)]

    def evaluate(self, step: int) -> None:
        """Evaluate the learner's weights after a step where that is due: before training, after it, and in between as
        `evaluation.every` has it. One that was made before the run was interrupted is not made again.

        Raises:
            RunError: the hand-over, the sampler, the scoring service or the disk failed.
        """
        when = {0: "before training", self.config.run.steps: "after training"}.get(step)
        tasks = [name for name, task in self.config.evaluated.items() if when or _is_due(task, step)]
        if not (when or tasks or _is_due(self.config, step)) or step in self.run.evaluations:
            return
        when = when or f"after step {step}"
        self.prefetcher.wait()
        measured = self._measure_held_out()
        rows = self.held_out.count if self.held_out else 0
        if self.evaluator and self.sampler and tasks:
            self.sampler.wake()
            self.sampler.publish()
            evaluation = self.evaluator.evaluate(step, when, tasks, rows, measured)
        elif rows:
            evaluation = Evaluation(0, 0, 0, measured, rows=rows)
            self.run.commit_evaluation(step, evaluation, [])
            self.view.evaluated(when, evaluation)
            self.events.emit("evaluation_finished", step=step, evaluation=evaluation)
        else:
            return
        self.alarms.evaluated(step, evaluation)

    def _measure_held_out(self) -> tuple[Estimate, ...]:
        if self.held_out is None:
            return ()
        started = time.perf_counter()
        with self.sampler_asleep(Timer()):
            estimates = self.held_out.measure(partial(self.view.stage, "held out"))
        self.run.clock.evaluation += time.perf_counter() - started
        return estimates

    def prove_sampler(self) -> None:
        """Before anything is trained: every family of parameters reaches the sampler (`canary`).

        Raises:
            RunError: one does not; or the sampler gives other log-probabilities than the learner, or failed.
        """
        if self.sampler is None or self.evaluator is None:
            return
        started = time.perf_counter()
        self.view.stage("check", 0, 0)
        prompts = list(self.collector.prompts.values()) if self.collector else list(self.evaluator.held_out)
        result = self.sampler.prove(prompts)
        seconds = time.perf_counter() - started
        self.run.clock.set_up += seconds
        self.run.add_fact("sampler check", result)
        self.view.message(f"{result}; {seconds:.1f} s")

    def try_training_problems(self) -> None:
        """The gate before the first step: how often the policy is right on a few training problems, and what to change
        where it never or always is. A resumed run has it already.

        Raises:
            RunError: the sampler, the scoring service or the disk failed.
        """
        if self.run.steps or self.ranks.broadcast(is_there(self.run.folder / GATE)):
            return
        if self.collector is None or self.sampler is None:
            self.view.message("no gate before training: the method reads data alone, no training problem is sampled")
            return
        started = time.perf_counter()
        self.sampler.wake()
        self.sampler.publish()
        groups = self.collector.sample_apart(PROBLEMS, partial(self.view.stage, "gate"))
        demonstrations = self.config.gro.reads("demos")
        gate = combine_gates(
            {
                name: judge_gate(own, Criterion.of(task), demonstrations=demonstrations)
                for name, task in self.config.parts.items()
                if (own := [group for group in groups if not self.config.mixture or group.group.problem.part == name])
            }
        )
        self.run.commit_gate(gate)
        self.run.clock.evaluation += time.perf_counter() - started
        self.view.message(gate.sentence)
        if gate.advice:
            self.view.message(f"WARNING: {gate.advice}")

    @contextmanager
    def sampler_asleep(self, timer: Timer) -> Iterator[None]:
        """The sampler gives its memory back meanwhile, unless it samples ahead; one that only evaluates until the next
        evaluation. Its going to sleep and waking up are a part of the update's time."""
        with timer("update"):
            if self.sampler and not self.config.sampling.lookahead:
                self.sampler.sleep()
        yield
        if self.config.online:
            with timer("update"):
                if self.sampler:
                    self.sampler.wake()

    def commit(self, step: int, report: UpdateReport, timer: Timer) -> None:
        """Measure the step, write it to the run folder and show it.

        Raises:
            RunError: the disk is full, or the updates of too many steps in a row were not finite.
        """
        timeline = timer.timeline(step)
        metrics = report.metrics | timer.metrics | idle_metrics(timeline, self.config.online)
        metrics |= memory_metrics(self.device)
        rollouts: list[Rollout] = []
        if self.rollouts and self.ranks.first:
            version = self.learner.version - sum(done.applied for done in report.steps)
            metrics |= sampling_metrics(self.rollouts, self.config, version)
            sampled, dropped = self.rollouts.sampled, self.rollouts.dropped
            rollouts = to_rollouts(step, sampled, report.credits, report.weights, dropped)
        evidence = self.run.keep_nonfinite(step, report.nonfinite) if report.nonfinite else None
        metrics = self.ranks.broadcast(as_read(metrics))  # schedules read them, and must be the same everywhere
        self._is_first = self._is_first and "reward/abstained" not in metrics
        warnings = self.alarms.look(metrics)
        self.run.warn([warned for warned in warnings if warned.step == step])
        self.run.keep_timeline(timeline)
        run = self.config.run
        kept = step in (1, run.steps) or step % run.keep_rollouts == 0
        self.run.commit(step, metrics, rollouts if kept else [])
        self.checkpoints.committed()
        self.view.step(step, self.config.run.steps, metrics, warnings)
        self.events.emit("step_finished", step=step, metrics=metrics)
        for reason in dict.fromkeys(report.skipped):  # one message for all mini-batches
            self.view.message(f"step {step}: {reason}")
        if evidence:
            self.view.message(f"step {step}: {explain(report.nonfinite)}; {evidence}")
            stop_after(self.history, self.config.learning.max_not_finite, report.nonfinite, evidence)

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
                correct=listed_criteria(Criterion.of_tasks(self.config)) if self.config.has_sampler else "",
                history=self.history,
                warnings=self.alarms.raised,
                evaluations=(before, after) if before and after else None,
                examples=self._examples(),
                gate=read_gate(self.run.folder),
                set_up_s=self.run.clock.set_up,
                evaluation_s=self.run.clock.evaluation,
                total_s=self.run.clock.total,
                run_folder=self.run.folder,
                model_folder=model,
                next_commands=commands,
            )
        )

    def _examples(self) -> Sequence[Example]:
        """Responses before and after training, where there are any of both."""
        if not self.config.has_sampler:
            return ()
        try:
            return read_examples(self.run.folder, 0, self.config.run.steps, Criterion.of_tasks(self.config))
        except DataError as error:
            self.view.message(f"no responses before and after training are shown: {error}")
            return ()


def _is_due(config: Config, step: int) -> bool:
    every = config.evaluation.every if config.evaluation else 0
    return bool(every) and step % every == 0


def _is_of(version: int, group: Group) -> bool:
    """Whether weights of this version, and no older ones, sampled the group."""
    return all(response.policy_version == version for response in group.responses)


def _is_written(group: Group) -> bool:
    """Whether the policy wrote some token of the group."""
    return any(response.policy_mask.count(True) for response in group.responses)


def seed_generators(seed: int, step: int) -> None:
    """Seed this process's generators for a step. Nothing of ours draws from them, but a plugin's credit or link may: it
    draws the same in a repeated and in a resumed run."""
    of_step = derive_seed(seed, "step", step)
    random.seed(of_step)
    np.random.seed(list(of_step.to_bytes(8)))  # one number for numpy has 32 bits
    torch.manual_seed(of_step)
