"""What a run works with, and the stages that need several of its parts. `reasoner.opening` builds it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasoner.checkpointing import SCORING, Keeper, Part
from reasoner.config import Config
from reasoner.curriculum import Curriculum
from reasoner.data import Stream
from reasoner.deadline import Deadline
from reasoner.evaluation import Evaluation, Scorer, counted, evaluate, evaluation_params, pass_rates
from reasoner.gro.schedules import factor
from reasoner.gro.terms import Source, Term
from reasoner.handover import hand_over
from reasoner.learning.critic import TorchCritic
from reasoner.learning.learner import Learner
from reasoner.learning.spread import Policy
from reasoner.measure import Timer, memory_metrics, rollout_metrics, seconds_since_start
from reasoner.plugins import Events
from reasoner.ranks import Ranks
from reasoner.records import Batch, Group, Problem, Prompt, SamplingParams, ScoredGroup
from reasoner.reporting.alarms import Watch
from reasoner.reporting.view import Summary, View
from reasoner.runs.folder import Run, as_read
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import Sampler
from reasoner.scoring.service import ScoringService
from reasoner.suspects import explain, stop_after
from reasoner.update import ActiveTerm, UpdateReport

REFILL_SEED = 1_000_003
"""between the seeds of a step's refills: they draw with others than any step"""


@dataclass
class Evaluator:
    """What an evaluation needs; training needs it too."""

    config: Config
    run: Run
    view: View
    held_out: Sequence[Prompt]
    scorer: Scorer
    service: ScoringService
    """what of it is this rank's own"""
    sampler: Sampler
    events: Events
    """the plugins that watch"""
    seconds: float = 0.0
    """spent in evaluations"""

    def evaluate(self, step: int, when: str) -> Evaluation:
        """Sample and score the held-out problems with the sampler's weights; the result is in the run folder.

        Raises:
            RunError: the sampler, the scoring service or the disk failed.
        """
        started = time.perf_counter()
        config = self.config.required_evaluation
        params = evaluation_params(self.config)
        progress = partial(self.view.stage, "evaluation")
        evaluation, groups = evaluate(
            self.sampler, self.scorer, self.held_out, params, config.samples, config.correct, progress
        )
        self.run.commit_evaluation(step, evaluation, to_rollouts(step, groups))
        self.view.evaluated(when, evaluation)
        self.events.emit("evaluation_finished", step=step, evaluation=evaluation)
        self.seconds += time.perf_counter() - started
        return evaluation

    def state(self) -> dict[str, Any]:
        """A part of the run (`checkpointing.Part`)."""
        return {"seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seconds = state["seconds"]


@dataclass
class Stages:
    """A training run's parts."""

    config: Config
    device: str
    run: Run
    view: View
    events: Events
    """the plugins that watch"""
    ranks: Ranks
    """this process among those that train together"""
    terms: Mapping[str, Term]
    """the objective's terms, bound to the functions of plugins"""
    learner: Learner
    reference: Policy | None
    """frozen copy of the initial model; None: no term asks for it"""
    critic: TorchCritic | None
    """value model; None: no term asks for it"""
    evaluator: Evaluator | None
    """sampler and scorer; None: no term reads fresh groups"""
    problems: Stream[Problem] | None
    """training problems; None: no term reads fresh groups"""
    prompts: Mapping[str, Prompt]
    """training prompts by problem id"""
    offline: Mapping[Source, Stream[ScoredGroup]]
    """responses that somebody else wrote, by source"""
    set_up_s: float
    """seconds from the start of the process until everything was ready; with those of earlier starts of the run"""
    earlier_s: float = 0.0
    """seconds of earlier starts"""
    draws: int = 0
    """how many times problems were taken from the stream"""
    fresh_steps: int = 0
    """steps that sampled, since this start"""
    sampled_tokens: int = 0
    """of the current step, dropped groups and greedy responses included"""
    scoring_s: float = 0.0
    """seconds in reward sources for the same responses, summed over their workers"""
    curriculum: Curriculum | None = None
    """chooses among the training problems; None: each comes once per epoch"""
    watch: Watch = field(default_factory=Watch)
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
    def keeper(self) -> Keeper:
        """Writes the run's checkpoints."""
        parts: dict[str, Part] = {"stages": self}
        scoring = self.evaluator.service if self.evaluator else None
        if self.evaluator and scoring:
            parts |= {"evaluator": self.evaluator, SCORING: scoring}
        if self.curriculum:
            parts["curriculum"] = self.curriculum
        return Keeper(
            self.config.run, self.run, self.ranks, self.learner, self.critic, scoring, parts, self.view.message
        )

    def state(self) -> dict[str, Any]:
        """A part of the run (`checkpointing.Part`)."""
        total_s = self.earlier_s + seconds_since_start()
        return {"draws": self.draws, "set_up_s": self.set_up_s, "total_s": total_s}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.draws = state["draws"]
        self.set_up_s += state["set_up_s"]
        self.earlier_s = state["total_s"]

    def check_time(self) -> None:
        """Another step, or the last evaluation, is about to begin.

        Raises:
            OutOfTimeError: it may not end within `run.max_hours`.
        """
        self.deadline.next_lap(*self.ranks.of_first((seconds_since_start(), self.keeper.seconds)))

    def active_terms(self, step: int) -> list[ActiveTerm]:
        """The terms with weight at a step."""
        run, configured = self.config.run, self.config.gro.terms
        weights = {
            name: term.weight * factor(term.schedule, step, run.steps, self.history)
            for name, term in configured.items()
        }
        return [ActiveTerm(name, self.terms[name], weight) for name, weight in weights.items() if weight > 0.0]

    def collect(self, step: int, terms: Sequence[ActiveTerm], timer: Timer) -> dict[Source, Batch]:
        """The step's groups of every source that a term reads: sampled with the learner's weights and scored, or from a
        data set.

        Raises:
            RunError: the hand-over, the sampler or the scoring service failed.
        """
        seed_generators(self.config.run.seed, step)
        batches: dict[Source, Batch] = {}
        self.sampled_tokens, self.scoring_s = 0, 0.0
        for source in dict.fromkeys(term.term.source for term in terms):
            if source == "online":
                with timer("handover"):
                    self.publish()
                self.fresh_steps += 1
                groups = self.sample_and_score(step, timer)
                self.events.emit("groups_scored", step=step, groups=groups)
                greedy = self._greedy_rewards(groups, timer) if any(t.term.needs_greedy for t in terms) else None
                temperature = self.config.sampling.temperature
                batches[source] = Batch(groups, greedy_rewards=greedy, temperature=temperature)
            else:
                batches[source] = Batch(self.offline[source].at(step))
        return {source: batch for source, batch in batches.items() if batch.groups}

    def sample_and_score(self, step: int, timer: Timer) -> tuple[ScoredGroup, ...]:
        """Sample the step's groups and score each as soon as it is complete; in the order of the problems.

        With `sampling.refills`, groups whose rewards are all equal are dropped and as many fresh problems sampled, up
        to that many times; what is missing then makes the step smaller.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        wanted, refills = self.config.learning.problems_per_step, self.config.sampling.refills
        kept: list[ScoredGroup] = []
        for round_ in range(refills + 1):
            prompts = [self.prompts[problem.id] for problem in self._next_problems(wanted - len(kept))]
            size, temperature = self.config.sampling.group_size, self.config.sampling.temperature
            groups = self._score(prompts, size, temperature, step + round_ * REFILL_SEED, timer, step)
            if self.curriculum:
                self.curriculum.observe(pass_rates(groups, self.config.required_evaluation.correct))
            kept += [scored for scored in groups if not refills or scored.informative]
            if len(kept) == wanted:
                break
        else:
            self.view.message(
                f"step {step}: {len(kept)} of {wanted} groups have differences after {refills} refills; the step is "
                "smaller"
            )
        return tuple(kept)

    def _next_problems(self, count: int) -> tuple[Problem, ...]:
        assert self.problems is not None
        self.draws += 1
        return self.curriculum.take(count) if self.curriculum else self.problems.at(self.draws)[:count]

    def _greedy_rewards(self, groups: Sequence[ScoredGroup], timer: Timer) -> tuple[float | None, ...]:
        """Reward of a greedy response to each group's problem."""
        prompts = [self.prompts[scored.group.problem.id] for scored in groups]
        return tuple(scored.rewards[0] for scored in self._score(prompts, 1, 0.0, 0, timer))

    def _score(
        self, prompts: Sequence[Prompt], size: int, temperature: float, seed: int, timer: Timer, step: int | None = None
    ) -> list[ScoredGroup]:
        """`step`: of which plugins are told; None: they are not."""
        assert self.evaluator is not None
        config = self.config.sampling
        params = SamplingParams(
            temperature=temperature,
            max_tokens=config.max_tokens,
            stop=tuple(config.stop),
            seed=self.config.run.seed + seed,
        )
        drawn = self.evaluator.sampler.sample(prompts, size, params)
        sampled = timer.iterate("sample", counted(drawn, len(prompts) * size, partial(self.view.stage, "sample")))
        scores = self.evaluator.scorer.score(sampled if step is None else self._told(step, sampled))
        groups = {scored.group.problem.id: scored for scored in scores}
        timer.rest("score_wait")
        self.sampled_tokens += sum(len(r.token_ids) for scored in groups.values() for r in scored.group.responses)
        self.scoring_s += sum(c.seconds for scored in groups.values() for row in scored.components for c in row)
        return [groups[prompt.problem.id] for prompt in prompts]

    def _told(self, step: int, groups: Iterator[Group]) -> Iterator[Group]:
        """The groups; after the last one plugins are told of them."""
        passed: list[Group] = []
        for group in groups:
            passed.append(group)
            yield group
        self.events.emit("groups_sampled", step=step, groups=tuple(passed))

    def publish(self) -> None:
        """Give the sampler the learner's weights, if they have changed.

        Raises:
            HandoverError: the sampler did not take them.
        """
        if self.evaluator and self.learner.version != self.evaluator.sampler.version:
            hand_over(self.learner, self.evaluator.sampler, self.ranks)

    def evaluate(self, step: int) -> None:
        """Evaluate the learner's weights after a step where that is due: before training, after it, and in between as
        `evaluation.every` has it. One that was made before the run was interrupted is not made again.

        Raises:
            RunError: the hand-over, the sampler, the scoring service or the disk failed.
        """
        every = self.config.evaluation.every if self.config.evaluation else 0
        when = {0: "before training", self.config.run.steps: "after training"}.get(step)
        due = when is not None or (every and step % every == 0)
        if self.evaluator and due and step not in self.run.evaluations:
            self.publish()
            self.evaluator.evaluate(step, when or f"after step {step}")

    @contextmanager
    def sampler_asleep(self) -> Iterator[None]:
        """The sampler gives its memory back meanwhile."""
        if self.evaluator:
            self.evaluator.sampler.sleep()
        yield
        if self.evaluator:
            self.evaluator.sampler.wake()

    def commit(self, step: int, batches: Mapping[Source, Batch], report: UpdateReport, timer: Timer) -> None:
        """Measure the step, write it to the run folder and show it.

        Raises:
            RunError: the disk is full, or the updates of too many steps in a row were not finite.
        """
        metrics = report.metrics | timer.metrics | memory_metrics(self.device)
        groups = batches["online"].groups if "online" in batches else ()
        if groups:
            metrics |= rollout_metrics(groups)
            metrics["tokens/sampled"] = float(self.sampled_tokens)
            metrics["score/seconds"] = self.scoring_s
            metrics["groups/no_credit"] = 1 - report.informative / len(groups)
            metrics["tokens_per_s/sample"] = metrics["tokens/sampled"] / metrics["time/sample"]
        if self.config.sampling.refills:
            metrics |= {"groups/kept": float(len(groups)), "groups/draws": float(self.draws)}
        if self.curriculum:
            metrics |= self.curriculum.metrics
        evidence = self.run.keep_suspects(step, report.suspects) if report.suspects else None
        metrics = self.ranks.of_first(as_read(metrics))  # schedules read them, and must be the same everywhere
        warnings = self.watch.look([*self.history, metrics], list(self.run.evaluations.items()))
        self.run.warn([warned for warned in warnings if warned.step == step])
        self.run.commit(step, metrics, to_rollouts(step, groups, report.credits, report.weights))
        self.keeper.committed()
        self.view.step(step, self.config.run.steps, metrics, warnings)
        self.events.emit("step_finished", step=step, metrics=metrics)
        for reason in report.skipped:
            self.view.message(f"step {step}: {reason}")
        if evidence:
            self.view.message(f"step {step}: {explain(report.suspects)}; {evidence}")
            stop_after(self.history, self.config.learning.max_not_finite, report.suspects, evidence)

    def save_model(self) -> Path:
        """Save the trained model, and the critic beside it, into the run folder.

        Raises:
            RunError: the disk is full.
        """
        with self.run.saving_model() as folder:
            self.learner.save(folder)
            if self.critic:
                self.critic.save(folder / "critic")
        return self.run.model_folder

    def finish(self, model: Path) -> None:
        """Remove what only an interrupted run needs, and show the summary."""
        self.keeper.finish()
        before, after = (self.run.evaluations.get(step) for step in (0, self.config.run.steps))
        complete = self.run.folder / "config.toml"
        commands = {"Repeat this run exactly": f"reasoner run {complete}"}
        if self.config.run.keep_last:
            commands["Train it further"] = (
                f"reasoner run --resume {self.run.folder} --steps {2 * self.config.run.steps}"
            )
        if self.config.evaluation is not None:
            compared = f"reasoner eval {complete} --model {self.config.model.path} --model {model}"
            commands = {"Compare the trained model with the initial one": compared} | commands
        self.view.finished(
            Summary(
                task=self.config.task,
                correct=self.config.evaluation.correct if self.config.evaluation else "",
                history=self.history,
                warnings=self.watch.given,
                evaluations=(before, after) if before and after else None,
                set_up_s=self.set_up_s,
                evaluation_s=self.evaluator.seconds if self.evaluator else 0.0,
                total_s=self.earlier_s + seconds_since_start(),
                run_folder=self.run.folder,
                model_folder=model,
                next_commands=commands,
            )
        )


def seed_generators(seed: int, step: int) -> None:
    """Seed this process's generators for a step. Nothing of ours draws from them, but a plugin's credit or link may: it
    draws the same in a repeated and in a resumed run."""
    of_step = int.from_bytes(hashlib.sha256(f"{seed}:{step}".encode()).digest()[:4])
    random.seed(of_step)
    np.random.seed(of_step)
    torch.manual_seed(of_step)
