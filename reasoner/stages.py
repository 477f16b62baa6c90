"""What a run works with, and the stages that need several of its parts.

Built once from the configuration, cheapest and likeliest to fail first; closed in reverse, whatever happens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from reasoner import plugins
from reasoner.config import Config
from reasoner.data import ProblemStream, Splits, load_problems, load_splits
from reasoner.evaluation import Evaluation, counted, evaluate
from reasoner.learning.policy import TorchPolicy
from reasoner.learning.torch_engine import TorchLearner
from reasoner.measure import Timer, memory_metrics, rollout_metrics
from reasoner.models import resolve_device, resolve_model
from reasoner.plan import describe_plan
from reasoner.prompts import render
from reasoner.records import Problem, Prompt, SamplingParams, ScoredGroup
from reasoner.reporting.choose import open_view
from reasoner.reporting.view import Summary, View
from reasoner.runs.folder import MINIMUM_FREE, Run, open_run
from reasoner.runs.rollouts import to_rollouts
from reasoner.sampling.base import Sampler
from reasoner.sampling.factory import choose_engine, open_sampler
from reasoner.scoring.service import ScoringService
from reasoner.settings import Resolved, to_toml
from reasoner.update import UpdateReport

EVALUATION_SEED = 715_827_883
"""added to the run's seed: every evaluation of a run draws with the same one, and training steps with others"""


@dataclass
class Evaluator:
    """What an evaluation needs; training needs it too."""

    config: Config
    run: Run
    view: View
    held_out: Sequence[Prompt]
    scorer: ScoringService
    sampler: Sampler
    seconds: float = 0.0
    """spent in evaluations"""

    def evaluate(self, step: int, when: str) -> Evaluation:
        """Sample and score the held-out problems with the sampler's weights; the result is in the run folder.

        Raises:
            RunError: the sampler, the scoring service or the disk failed.
        """
        started = time.perf_counter()
        config = self.config.evaluation
        params = SamplingParams(
            temperature=config.temperature,
            max_tokens=config.max_tokens or self.config.sampling.max_tokens,
            stop=tuple(self.config.sampling.stop),
            seed=self.config.run.seed + EVALUATION_SEED,
        )
        progress = partial(self.view.stage, "evaluation")
        evaluation, groups = evaluate(
            self.sampler, self.scorer, self.held_out, params, config.samples, config.correct, progress
        )
        self.run.commit_evaluation(step, evaluation, to_rollouts(step, groups, None))
        self.view.evaluated(when, evaluation)
        self.seconds += time.perf_counter() - started
        return evaluation


@dataclass
class Stages:
    """A training run's parts."""

    config: Config
    device: str
    run: Run
    view: View
    problems: ProblemStream
    prompts: Mapping[str, Prompt]
    """training prompts by problem id"""
    evaluator: Evaluator
    scorer: ScoringService
    sampler: Sampler
    learner: TorchLearner
    reference: TorchPolicy | None
    """frozen copy of the initial model; None: no term asks for it"""
    set_up_s: float
    """seconds from the start of the process until everything was ready"""
    history: list[dict[str, float]] = field(default_factory=list)
    """the metrics of every committed step"""

    def sample_and_score(self, step: int, timer: Timer) -> tuple[ScoredGroup, ...]:
        """Sample the step's groups and score each as soon as it is complete; returned in the order of the problems.

        Raises:
            RunError: the sampler or the scoring service failed.
        """
        config = self.config.sampling
        prompts = [self.prompts[problem.id] for problem in self.problems.at(step)]
        params = SamplingParams(
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            stop=tuple(config.stop),
            seed=self.config.run.seed + step,
        )
        total = len(prompts) * config.group_size
        drawn = counted(
            self.sampler.sample(prompts, config.group_size, params), total, partial(self.view.stage, "sample")
        )
        groups = {scored.group.problem.id: scored for scored in self.scorer.score(timer.iterate("sample", drawn))}
        timer.rest("score_wait")
        return tuple(groups[prompt.problem.id] for prompt in prompts)

    def commit(self, step: int, groups: Sequence[ScoredGroup], report: UpdateReport, timer: Timer) -> None:
        """Measure the step, write it to the run folder and show it.

        Raises:
            RunError: the disk is full.
        """
        metrics = rollout_metrics(groups) | report.metrics | timer.metrics | memory_metrics(self.device)
        metrics["groups/no_credit"] = 1 - report.informative / len(groups)
        metrics["tokens_per_s/sample"] = metrics["tokens/sampled"] / metrics["time/sample"]
        self.run.commit(step, metrics, to_rollouts(step, groups, report.credits))
        self.history.append(metrics)
        self.view.step(step, self.config.run.steps, metrics)
        for result in report.steps:
            if not result.applied:
                self.view.message(f"step {step}: no update: {result.reason}")

    def save_model(self) -> Path:
        """Save the trained model into the run folder.

        Raises:
            RunError: the disk is full.
        """
        with self.run.saving_model() as folder:
            self.learner.save(folder)
        return self.run.model_folder

    def finish(self, before: Evaluation, after: Evaluation, model: Path) -> None:
        """Show the summary."""
        task, profile = self.config.task, self.config.profile
        summary = Summary(
            task=task,
            correct=self.config.evaluation.correct,
            history=self.history,
            before=before,
            after=after,
            set_up_s=self.set_up_s,
            evaluation_s=self.evaluator.seconds,
            total_s=seconds_since_start(),
            run_folder=self.run.folder,
            model_folder=model,
            next_commands={
                "Evaluate the trained model again": f"reasoner eval {task} --profile {profile} --model {model}",
                "Repeat this run exactly": f"reasoner run {task} --config {self.run.folder / 'config.toml'}",
            },
        )
        self.view.finished(summary)


@contextmanager
def open_stages(resolved: Resolved) -> Iterator[Stages]:
    """Build a training run's parts and its folder.

    Raises:
        UserError: data, model, verifiers or the output folder are not as they must be; nothing was loaded yet.
        RunError: an engine did not start.
    """
    config = resolved.config
    with _open_evaluator(resolved, config.task, training=True) as (evaluator, folder, prompts):
        device = resolve_device(config.model.device)
        view = evaluator.view
        view.message("loading the learner")
        learner = TorchLearner(
            folder,
            device=device,
            dtype=config.model.dtype,
            config=config.learning,
            total_steps=config.run.steps * config.learning.updates_per_step,
            trust_remote_code=config.model.trust_remote_code,
        )
        view.message(f"learner: {learner.description}")
        seed = config.run.seed if config.data.train.shuffle else None
        yield Stages(
            config=config,
            device=device,
            run=evaluator.run,
            view=view,
            problems=ProblemStream([p.problem for p in prompts], config.learning.problems_per_step, seed),
            prompts={prompt.problem.id: prompt for prompt in prompts},
            evaluator=evaluator,
            scorer=evaluator.scorer,
            sampler=evaluator.sampler,
            learner=learner,
            reference=_reference(config, folder, device),
            set_up_s=seconds_since_start(),
        )


@contextmanager
def open_evaluator(resolved: Resolved) -> Iterator[Evaluator]:
    """Build what evaluates a model, without a learner. Raises as `open_stages`."""
    with _open_evaluator(resolved, f"eval-{resolved.config.task}", training=False) as (evaluator, _, _):
        yield evaluator


@contextmanager
def _open_evaluator(resolved: Resolved, name: str, *, training: bool) -> Iterator[tuple[Evaluator, Path, list[Prompt]]]:
    """The evaluator, the model's folder, and the training prompts (none unless training)."""
    config = resolved.config
    generators = plugins.generators(plugins.build_manager(config.plugins))
    if training:
        splits = load_splits(config.data, config.prompt, generators, config.run.seed)
    else:
        held_out = load_problems(config.data.eval, config.prompt, generators, config.run.seed, "data.eval")
        splits = Splits((), tuple(held_out), ())
    device, engine = resolve_device(config.model.device), choose_engine(config.sampling.engine)
    facts = dict(describe_plan(resolved, splits, device, engine, training=training))
    # Before there is a view: an embedded model is converted, or one from the hub downloaded, when it is used for the
    # first time.
    print(f"preparing model {facts['model']}", flush=True)  # noqa: T201
    folder = resolve_model(config.model.path)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)

    def prompts(problems: Sequence[Problem]) -> list[Prompt]:
        return render(problems, tokenizer, config.model.chat_template_kwargs, config.sampling.max_prompt_tokens)

    held_out_prompts, train_prompts = prompts(splits.eval), prompts(splits.train)
    reserve = MINIMUM_FREE + (2 * _size(folder) if training else 0)
    with ExitStack() as stack:
        run = stack.enter_context(open_run(Path(config.run.output), name, to_toml(config), facts, reserve))
        view = stack.enter_context(open_view(sys.stdout, run.log))
        view.started(facts | {"output": str(run.folder)}, config.run.steps if training else 0)
        scorer = stack.enter_context(ScoringService(config.rewards, config.scoring, config.plugins))
        view.message(f"starting the sampler ({engine})")
        sampler = stack.enter_context(open_sampler(config, folder, run.folder / "sampler.log"))
        view.message(f"sampler: {sampler.description}")
        yield Evaluator(config, run, view, held_out_prompts, scorer, sampler), folder, train_prompts


def _reference(config: Config, folder: Path, device: str) -> TorchPolicy | None:
    if config.gro.kl.coefficient == 0.0:
        return None
    return TorchPolicy(
        folder,
        device=device,
        dtype=config.model.dtype,
        token_budget=config.learning.token_budget,
        logit_chunk=config.learning.logit_chunk,
        share_prompts=config.learning.share_prompts,
        trust_remote_code=config.model.trust_remote_code,
    )


def _size(folder: Path) -> int:
    """Bytes of the model's files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def seconds_since_start() -> float:
    """Seconds since this process was started, imports included."""
    return time.time() - psutil.Process().create_time()
