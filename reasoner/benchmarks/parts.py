"""What is evaluated: every task with every model, checked as far as it can be before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasoner.config import Config
from reasoner.errors import ConfigError, UserError
from reasoner.evaluation.metrics import Criterion
from reasoner.loading import Resolved
from reasoner.models.model_config import context_of
from reasoner.planning.decide import alone, decide
from reasoner.planning.memory.needs import check_memory
from reasoner.planning.resources import Resources, load_resources
from reasoner.processes.machine import free_memory
from reasoner.records import Prompt, SamplingParams
from reasoner.runs.checksums import identify
from reasoner.training.evaluator import evaluation_params


@dataclass(frozen=True, slots=True)
class BenchmarkPart:
    """One task with one model."""

    letter: str
    """of the model, in tables and folders"""
    resources: Resources

    @property
    def name(self) -> str:
        """`math-500-A`; its folder has that name."""
        return f"{self.config.task}-{self.letter}"

    @property
    def config(self) -> Config:
        return self.resources.config

    @property
    def prompts(self) -> Sequence[Prompt]:
        return self.resources.held_out

    @property
    def samples(self) -> int:
        """Responses per problem."""
        return self.config.required_evaluation.samples

    @property
    def params(self) -> SamplingParams:
        """How responses are sampled."""
        return evaluation_params(self.config)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest response."""
        return max(len(prompt.token_ids) for prompt in self.prompts) + self.params.max_tokens

    @property
    def engine(self) -> tuple[object, ...]:
        """What an engine is opened with: parts with equal ones share it."""
        model, sampling = self.config.model, self.config.sampling
        decided = self.resources.decisions
        chosen = (self.resources.folder, decided.device, decided.engine)
        held = (sampling.quantization, sampling.tensor_parallel, sampling.memory_share, sampling.kv_cache_gib)
        return (*chosen, model.dtype, model.trust_remote_code, *held)


def letters_of(resolved: Sequence[Resolved]) -> dict[str, str]:
    """Model -> A, B, ..., Z, A2, ...: in the order in which they were named."""
    names = dict.fromkeys(task.config.model.path for task in resolved)
    return {model: chr(65 + at % 26) + (str(at // 26 + 1) if at >= 26 else "") for at, model in enumerate(names)}


def prepare(resolved: Sequence[Resolved], letters: Mapping[str, str]) -> tuple[BenchmarkPart, ...]:
    """The parts of an evaluation, in the order of their configurations.

    Args:
        resolved: one configuration per task and model; those of a task differ in their model only.
        letters: of the models.

    Raises:
        UserError: a task has nothing to evaluate with, data or a model are not there, or something is named twice.
    """
    for task in resolved:
        _check(task.config)
    _refuse_twice([f"{task.config.task} with model {task.config.model.path}" for task in resolved])
    parts = [
        BenchmarkPart(
            letters[task.config.model.path],
            load_resources(alone(task), decide(task.config, training=False), training=False),
        )
        for task in resolved
    ]
    _refuse_equal_models(parts)
    for part in parts:
        _check_length(part)
    return tuple(parts)


def memory_warnings(parts: Sequence[BenchmarkPart]) -> tuple[str, ...]:
    """Which models will be tight in memory, each alone.

    Raises:
        UserError: one of them does not fit.
    """
    first = {part.engine: part for part in parts}.values()
    return tuple(
        f"model {part.letter}: {warning}"
        for part in first
        for warning in check_memory(part.resources.evaluation_needs, free_memory(part.resources.decisions.device))
    )


def identities(parts: Sequence[BenchmarkPart]) -> dict[str, dict[str, str]]:
    """What the results of each part depend on beside its configuration, by its name: checksums of model, prompts and
    plugins, and the engine. A model is read once, however many tasks it does."""
    folders = dict.fromkeys(part.resources.folder for part in parts)
    models = {folder: identify({"model": folder}, {}, (), "") for folder in folders}
    return {
        part.name: models[part.resources.folder]
        | identify({}, {"prompts": part.prompts}, part.config.plugins, part.resources.decisions.engine)
        for part in parts
    }


def describe(parts: Sequence[BenchmarkPart]) -> dict[str, str]:
    """What is evaluated, and how, in a few lines."""
    facts: dict[str, str] = {}
    for part in parts:
        how = "greedy" if part.params.temperature == 0.0 else f"temperature {part.params.temperature:g}"
        facts[f"task {part.config.task}"] = (
            f"{part.resources.facts['evaluation data']}; {part.samples} "
            f"{'response' if part.samples == 1 else 'responses'} each, {how}, up to {part.params.max_tokens} tokens; "
            f"correct by {Criterion.of(part.config)}"
        )
    for part in parts:
        decided = part.resources.decisions
        facts[f"model {part.letter}"] = f"{part.resources.facts['model']}, on {decided.device} with {decided.engine}"
    return facts | _prompt_facts(parts)


def _prompt_facts(parts: Sequence[BenchmarkPart]) -> dict[str, str]:
    """What is worth knowing of prompts and the ends of responses: once where it is the same for all parts."""
    facts: dict[str, str] = {}
    for name in ("prompt", "responses end", "thinking", "control tokens"):
        texts = {part.name: part.resources.facts.get(name, "") for part in parts}
        if len(set(texts.values())) == 1:
            texts = {"": next(iter(texts.values()))}
        facts |= {f"{name} of {where}" if where else name: text for where, text in texts.items() if text}
    return facts


def _check(config: Config) -> None:
    if config.data.eval is None and (config.data.holdout is None or config.data.train is None):
        raise ConfigError(
            f"task {config.task!r} has nothing to evaluate on: data.eval is not set, for example --set "
            "data.eval.path=FILE."
        )
    if not config.rewards:
        raise ConfigError(f"task {config.task!r} has no rewards to score with; add [[rewards]] with --config FILE.")
    evaluation_params(config)  # it refuses what is not set


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; name each task once, and give task files different names.")


def _refuse_equal_models(parts: Sequence[BenchmarkPart]) -> None:
    named: dict[Path, str] = {}
    for part in parts:
        folder, path = part.resources.folder, part.config.model.path
        if named.setdefault(folder, path) != path:
            raise UserError(f"--model {named[folder]} and --model {path} are the same: {folder}.")


def _check_length(part: BenchmarkPart) -> None:
    context = context_of(part.resources.folder)
    if context is not None and part.longest > context:
        raise ConfigError(
            f"model {part.config.model.path} takes {context} tokens, and task {part.config.task!r} needs "
            f"{part.longest}: its longest prompt and a response of {part.params.max_tokens}. Lower "
            "evaluation.max_tokens."
        )
