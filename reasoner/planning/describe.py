"""What a run is going to do, and why, in a few lines: printed before anything is loaded, and stored with the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from reasoner.config import Config, EnvironmentConfig, OfflineConfig, RunConfig, SourceConfig, TermConfig
from reasoner.config.decisions import Decisions
from reasoner.data.mixture import WHOLE, shares_of, weights_of
from reasoner.data.offline import OfflineData
from reasoner.data.problems import Splits
from reasoner.data.rows import describe_origin
from reasoner.evaluation.metrics import Criterion
from reasoner.gro.spec.describe import choices_of, schedule
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import SOURCES, Source
from reasoner.learning.factory import describe_learner
from reasoner.loading import Resolved
from reasoner.models.resolve import describe_model


def describe_plan(
    resolved: Resolved, splits: Splits, decisions: Decisions, *, training: bool = True
) -> Mapping[str, str]:
    """The facts of a run by name, in the order in which they matter.

    Args:
        decisions: what the configuration left open.
        training: False leaves out what an evaluation alone does not use.

    Raises:
        UserError, MissingDependencyError: the model or DeepSpeed is known not to be there, or its file contradicts us.
    """
    config = resolved.config
    asked, wanted = config.sampling.engine, config.model.device
    device, engine = decisions.device, decisions.engine
    facts = {
        "task": f"{config.task}: {config.title}" if config.title else config.task,
        "profile": f"{config.profile or 'none'} ({resolved.origins['profile']})",
        "model": f"{describe_model(config.model.path)}, {config.model.dtype}{_own_code(config)}",
        "device": f"{device} ({_device_reason(wanted, device)})",
    }
    if config.has_sampler or not training:
        facts["engine"] = f"{engine} ({_engine_reason(asked, engine)})"
    if (config.mixture or config.also) and training:
        facts |= _describe_tasks(config, splits)
    elif config.has_sampler or not training:
        if config.online and training and config.data.train:
            facts["training data"] = describe_source(config.data.train, len(splits.train))
        facts["evaluation data"] = _evaluation_data(config, len(splits.eval))
        if config.environment is not None:
            facts["environment"] = describe_environment(config.environment)
        facts["rewards"] = f"{describe_rewards(config)}; correct by {Criterion.of(config)}"
    elif config.data.holdout is None:
        facts["evaluation data"] = "none: data.holdout = 0.05 would hold rows out and measure them"
    if training:
        facts["learner"] = describe_learner(config)
        facts |= describe_method(config)
    facts |= resolved.preflights
    facts["output"] = config.run.output
    return facts | ({"note": " ".join(splits.notes)} if splits.notes else {})


def _evaluation_data(config: Config, count: int) -> str:
    if config.data.eval:
        return describe_source(config.data.eval, count)
    return f"{count} held out of the training data (data.holdout)"


def _describe_tasks(config: Config, splits: Splits) -> dict[str, str]:
    """One line for each of several tasks."""
    sizes = Counter(problem.part for problem in splits.train)
    shares = shares_of(weights_of(config, sizes)) if splits.train else {}
    facts: dict[str, str] = {}
    for name, task in config.evaluated.items():
        held_out = sum(problem.part == name for problem in splits.eval)
        parts = []
        if name in shares and task.data.train and name not in config.also:
            share = f"{100 * shares[name] / WHOLE:.1f}% of the problems, " if config.mixture else ""
            parts.append(f"{share}{describe_source(task.data.train, sizes[name])}")
        evaluation = task.required_evaluation
        every = f", every {evaluation.every} steps" if evaluation.every else ""
        samples = f", {evaluation.samples} responses each" if evaluation.samples > 1 else ""
        parts += [f"evaluated on {_evaluation_data(task, held_out)}{samples}{every}", describe_rewards(task)]
        parts += [f"correct by {Criterion.of(task)}", f"up to {task.sampling.max_tokens} tokens"]
        parts += [describe_environment(task.environment)] if task.environment else []
        facts[f"{'evaluation of' if name in config.also else 'task'} {name}"] = "; ".join(parts)
    whitened = [name for name, term in config.gro.terms.items() if getattr(term.credit, "scale", "") == "batch"]
    if config.mixture and whitened:
        facts["credit"] = (
            f"{', '.join(whitened)}: whitened over all tasks together, so that a task with lower rewards is pushed "
            f"down; gro.terms.{whitened[0]}.credit.scale = 'task' whitens within each"
        )
    return facts


def describe_environment(config: EnvironmentConfig) -> str:
    """`guess-number; tools python, calculator (tags); at most 8 turns and 16 calls`."""
    tools = f"tools {', '.join(config.tools)} ({config.format})" if config.tools else ""
    limits = f"at most {config.max_turns} turns and {config.max_tool_calls} calls"
    return "; ".join(filter(None, (config.name, tools, limits)))


def describe_method(config: Config) -> dict[str, str]:
    """The method, its terms with the choices that they stand for, the models that they need beside the policy, and the
    steps."""
    if not config.gro.terms:
        return {"method": "none: the task only evaluates"}
    facts = {"method": _method(config.gro.preset)}
    facts |= {f"term {name}": _describe_term(term) for name, term in config.gro.terms.items()}
    if config.gro.needs_reference:
        copy = "frozen copy of the initial model"
        facts["reference"] = copy if config.lora is None else "the model without its adapter"
    if config.gro.needs_teacher:
        facts["teacher"] = _teacher(config)
    if config.gro.needs_critic:
        facts["critic"] = f"value head on {config.critic.path or 'the initial model'}"
    return facts | {"steps": _steps(config)}


def _teacher(config: Config) -> str:
    """`Qwen/Qwen3-8B, bfloat16, on http://a:8000; it sees the solution`."""
    teacher = config.teacher
    if teacher.path is None:
        whose = "frozen copy of the initial model" if config.lora is None else "the model without its adapter"
    else:
        where = f"on {', '.join(teacher.servers)}" if teacher.servers else "loaded beside the policy"
        whose = f"{teacher.path}, {teacher.dtype or config.model.dtype}, {where}"
    return f"{whose}; it sees the {config.gro.teacher_sees}"


def _method(preset: str) -> str:
    """`grpo (2402.03300)`; a plugin's method by its name alone."""
    if not preset:
        return "the terms below"
    return f"{preset} ({PRESETS[preset].paper})" if preset in PRESETS else preset


def _describe_term(config: TermConfig) -> str:
    factor = schedule(config.schedule)
    choices = [f"{name} {text}" for name, text in choices_of(config.term).items()]
    return "; ".join([f"weight {config.weight:g}{f' x ({factor})' if factor else ''}", *choices])


def describe_offline(config: Config, source: Source, data: OfflineData) -> str:
    """Where offline responses come from, how many they are, and what was left out."""
    offline: OfflineConfig = getattr(config.data, source)
    held_out = f" and {len(data.held_out)} that are held out" if data.held_out else ""
    return " ".join([f"{describe_source(offline, len(data.groups))}{held_out}.", *data.notes])


def describe_checkpoints(config: RunConfig, size: int) -> str:
    """How often there is one, how many are kept, and how large one is at most, in bytes."""
    if not config.keep_last:
        return "none (run.keep_last = 0): the run cannot be resumed"
    often = (
        "as often as costs 2% of the time"
        if config.checkpoint_every is None
        else f"every {config.checkpoint_every} steps"
    )
    best = f" and the best {config.keep_best}" if config.keep_best else ""
    # One rank saves its last step on the way out; of several some may be gone.
    interrupted = "; an interrupted run of several ranks goes back to the last one" if config.ranks > 1 else ""
    return f"{often}, up to {size / 2**20:,.0f} MiB; the newest {config.keep_last}{best} are kept{interrupted}"


def describe_rewards(config: Config) -> str:
    """Sources and weights: `math x 1, boxed_format x 0.5`."""
    return ", ".join(f"{reward.source} x {reward.weight:g}" for reward in config.rewards)


def describe_source(source: SourceConfig, problems: int | None = None) -> str:
    """Where problems come from, and how many they are when that is known."""
    if source.generator is not None:
        return f"{source.limit if problems is None else problems} from generator {source.generator}, seed {source.seed}"
    origin = describe_origin(source) if source.path else f"{source.hub} ({source.split})"
    limit = "" if source.limit is None else f" (at most {source.limit})"
    return f"{origin}{limit}" if problems is None else f"{problems} from {origin}{limit}"


def _steps(config: Config) -> str:
    problems, size = config.learning.problems_per_step, config.sampling.group_size
    staleness, extra = config.sampling.max_staleness, config.extra_groups
    ahead = f", sampled during the updates before (up to {staleness} steps off-policy)" if staleness > 1 else ""
    ahead = ", sampled during the previous update (one step off-policy)" if staleness == 1 else ahead
    if extra:
        ahead = f", {extra} more of them begun and continued at the next step (up to {staleness} steps off-policy)"
    parts = [
        f"{problems} problems x {size} responses, up to {config.sampling.max_tokens} tokens each{ahead}"
        if source == "online"
        else f"{config.per_step(source)} {source}"
        for source in SOURCES
        if config.gro.reads(source)
    ]
    return f"{config.run.steps} of {', '.join(parts)}"


def _own_code(config: Config) -> str:
    return "; the Python code that comes with it is run" if config.model.trust_remote_code else ""


def _device_reason(wanted: str, device: str) -> str:
    if wanted != "auto":
        return "model.device"
    return "torch sees a CUDA device" if device == "cuda" else "torch sees no CUDA device"


def _engine_reason(asked: str, engine: str) -> str:
    if engine == "servers":
        return "sampling.servers"
    if asked != "auto":
        return "sampling.engine"
    return "installed" if engine == "vllm" else "vllm is not installed"
