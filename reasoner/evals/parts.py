"""What is evaluated: every task with every model, checked as far as it can be before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from transformers import AutoTokenizer

from reasoner import plugins
from reasoner.config import Config
from reasoner.data import load_problems
from reasoner.errors import ConfigError, UserError
from reasoner.evaluation import evaluation_params
from reasoner.models import context_of, describe_model, resolve_device, resolve_model
from reasoner.plan import describe_source
from reasoner.prompts import render
from reasoner.records import Problem, Prompt, SamplingParams
from reasoner.runs.checksums import identify
from reasoner.sampling.factory import choose_engine
from reasoner.settings import Resolved

ALONE_SHARE = 0.85
"""of the GPU's memory for the engine, where the configuration leaves it open: there is no learner beside it"""


@dataclass(frozen=True, slots=True)
class Part:
    """One task with one model."""

    letter: str
    """of the model, in tables and folders"""
    config: Config
    model: Path
    """the model's folder"""
    engine: str
    """`vllm` or `hf`"""
    prompts: tuple[Prompt, ...]

    @property
    def name(self) -> str:
        """`math-500/A`; its folder has that name."""
        return f"{self.config.task}/{self.letter}"

    @property
    def samples(self) -> int:
        """Responses per problem."""
        return self.config.required_evaluation.samples

    @property
    def params(self) -> SamplingParams:
        """How responses are drawn."""
        return evaluation_params(self.config)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest response."""
        return max(len(prompt.token_ids) for prompt in self.prompts) + self.params.max_tokens

    @property
    def loaded(self) -> tuple[object, ...]:
        """What an engine is opened with: parts with equal ones share it."""
        model, sampling = self.config.model, self.config.sampling
        return (
            self.model,
            model.dtype,
            model.device,
            model.trust_remote_code,
            self.engine,
            sampling.memory_share,
            sampling.kv_cache_gib,
        )

    def identity(self) -> dict[str, str]:
        """What its results depend on beside its configuration: checksums of model, prompts and plugins, the engine."""
        return identify({"model": self.model}, {"prompts": self.prompts}, self.config.plugins, self.engine)


def letters_of(resolved: Sequence[Resolved]) -> dict[str, str]:
    """Model -> A, B, ..., Z, A2, ...: in the order in which they were named."""
    names = dict.fromkeys(each.config.model.path for each in resolved)
    return {model: chr(65 + at % 26) + (str(at // 26 + 1) if at >= 26 else "") for at, model in enumerate(names)}


def prepare(resolved: Sequence[Resolved], letters: Mapping[str, str], stream: TextIO) -> tuple[Part, ...]:
    """The parts of an evaluation, in the order of their configurations.

    Args:
        resolved: one configuration per task and model; those of a task differ in their model only.
        letters: of the models.
        stream: where it says what takes time.

    Raises:
        UserError: a task has nothing to evaluate with, data or a model are not there, or something is named twice.
    """
    configs = [_alone(each) for each in resolved]
    for config in configs:
        _check(config)
    _refuse_twice([f"{config.task} with model {config.model.path}" for config in configs])
    problems: dict[str, list[Problem]] = {}
    for config in configs:
        if config.task not in problems:
            problems[config.task] = _problems(config)
    engines = [choose_engine(config.sampling.engine) for config in configs]
    for config in configs:
        resolve_device(config.model.device)
    folders = _folders(list(dict.fromkeys(config.model.path for config in configs)), stream)
    return tuple(
        _part(letters[config.model.path], config, folders[config.model.path], engine, problems[config.task])
        for config, engine in zip(configs, engines, strict=True)
    )


def describe(parts: Sequence[Part]) -> dict[str, str]:
    """What is evaluated, and how, in a few lines."""
    facts: dict[str, str] = {}
    for part in parts:
        config, params = part.config, part.params
        assert config.data.eval is not None
        how = "greedy" if params.temperature == 0.0 else f"temperature {params.temperature:g}"
        facts[f"task {config.task}"] = (
            f"{describe_source(config.data.eval, len(part.prompts))}; {part.samples} "
            f"{'response' if part.samples == 1 else 'responses'} each, {how}, up to {params.max_tokens} tokens; "
            f"correct by {config.required_evaluation.correct}"
        )
    for part in parts:
        dtype, device = part.config.model.dtype, resolve_device(part.config.model.device)
        facts[f"model {part.letter}"] = (
            f"{describe_model(part.config.model.path)}, {dtype}, on {device} with {part.engine}"
        )
    return facts


def _alone(resolved: Resolved) -> Config:
    """The configuration of an evaluation that has the machine for itself."""
    config = resolved.config
    if resolved.origins["sampling.memory_share"] != "default":
        return config
    sampling = config.sampling.model_copy(update={"memory_share": ALONE_SHARE})
    return config.model_copy(update={"sampling": sampling})


def _check(config: Config) -> None:
    if config.data.eval is None:
        raise ConfigError(
            f"task {config.task!r} has nothing to evaluate on: data.eval is not set, for example --set "
            "data.eval.path=FILE."
        )
    if not config.rewards:
        raise ConfigError(f"task {config.task!r} has no rewards to score with; add [[rewards]] with --config FILE.")
    config.required_evaluation  # noqa: B018  it refuses


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is there twice; name each once, and give task files different names.")


def _problems(config: Config) -> list[Problem]:
    assert config.data.eval is not None
    generators = plugins.generators(plugins.build_manager(config.plugins))
    return load_problems(config.data.eval, config.prompt, generators, config.run.seed, "data.eval")


def _folders(models: Sequence[str], stream: TextIO) -> Mapping[str, Path]:
    """Model -> its folder; an embedded one is converted, one from the hub downloaded where that is needed."""
    folders: dict[str, Path] = {}
    for model in models:
        print(f"preparing model {describe_model(model)}", file=stream, flush=True)
        folder = resolve_model(model)
        for other, known in folders.items():
            if known == folder:
                raise UserError(f"--model {other} and --model {model} are the same: {folder}.")
        folders[model] = folder
    return folders


def _part(letter: str, config: Config, folder: Path, engine: str, problems: Sequence[Problem]) -> Part:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
    prompts = render(problems, tokenizer, config.model.chat_template_kwargs, config.sampling.max_prompt_tokens)
    part = Part(letter, config, folder, engine, tuple(prompts))
    context = context_of(folder)
    if context is not None and part.longest > context:
        raise ConfigError(
            f"model {config.model.path} takes {context} tokens, and task {config.task!r} needs {part.longest}: its "
            f"longest prompt and a response of {part.params.max_tokens}. Lower evaluation.max_tokens."
        )
    return part
