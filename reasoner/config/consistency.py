"""What must hold between the sections of a configuration. Checked when it is loaded, before any model is touched."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.config.rewards import RewardConfig
from reasoner.config.sections import PartConfig, Sections
from reasoner.errors import nearest
from reasoner.gro.spec.schedules import mistake
from reasoner.gro.spec.terms import SOURCES, Advantage, Linear, PassAtK, Teacher


def mistake_of_conditions(rewards: Sequence[RewardConfig]) -> str:
    """What is wrong with the rewards' `when`, or an empty string."""
    names = [reward.source for reward in rewards]
    for index, reward in enumerate(rewards):
        if reward.when is None or reward.when in names[:index]:
            continue
        place = f"rewards[{index}].when = {reward.when!r}"
        if reward.when == reward.source:
            return f"{place} is the source itself; name an earlier one"
        if reward.when in names:
            return f"{place} comes after {reward.source!r}; a condition comes first: put its entry before this one"
        earlier = ", ".join(names[:index]) or "none"
        return f"{place} is not among the rewards.{nearest(reward.when, names[:index])} Earlier ones: {earlier}"
    return ""


def _check_rewards(config: Sections) -> None:
    names = [reward.source for reward in config.rewards]
    if len(set(names)) != len(names):
        raise ValueError(f"rewards: each source may appear once, got {names}")
    if reason := mistake_of_conditions(config.rewards):
        raise ValueError(reason)
    if config.evaluation is not None and config.evaluation.correct not in ("", *names):
        raise ValueError(
            f"evaluation.correct = {config.evaluation.correct!r} is not among the rewards: "
            f"{', '.join(names) or 'none'}; name one of them, or nothing "
            "where no responses are evaluated: --set evaluation.correct="
        )


def _check_evaluation(config: Sections) -> None:
    """There is something to evaluate on, and what decides where responses are sampled."""
    evaluation = config.evaluation
    if evaluation is None:
        return
    samples = config.online or not config.gro.terms or (config.data.eval is not None and bool(config.rewards))
    if samples and not evaluation.correct:
        raise ValueError(
            "evaluation.correct is needed and not set: the reward source that decides whether a response is correct, "
            f"one of {', '.join(reward.source for reward in config.rewards) or 'the rewards, which are not set either'}"
        )
    if evaluation.every and config.gro.terms and not config.has_sampler and config.data.holdout is None:
        raise ValueError(
            f"evaluation.every = {evaluation.every} has nothing to evaluate on: hold out a share of the rows, "
            "data.holdout = 0.05, or set data.eval, rewards and evaluation.correct to have responses sampled"
        )


def _check_sources(config: Sections) -> None:
    """Every term has what it reads."""
    for name, term in config.gro.terms.items():
        if term.source == "online":
            missing = [
                key
                for key, value in (
                    ("data.train", config.data.train),
                    ("data.eval (or data.holdout = 0.05)", config.data.eval or config.data.holdout),
                    ("rewards", config.rewards),
                    ("evaluation", config.evaluation),
                )
                if not value
            ]
            if missing:
                raise ValueError(
                    f"gro.terms.{name} reads online groups and needs {', '.join(missing)}, which is not set"
                )
        elif getattr(config.data, term.source) is None:
            instead = (
                ""
                if term.source == "demos"
                else f"; to use online groups instead: --set gro.terms.{name}.source=online"
            )
            raise ValueError(
                f"gro.terms.{name}.source = {term.source!r} needs the data set [data.{term.source}], which is not set: "
                f"--set data.{term.source}.path=FILE{instead}"
            )


def _check_groups(config: Sections) -> None:
    size = config.sampling.group_size
    for name, term in config.gro.terms.items():
        if term.source == "online" and term.term.compares and size < 2:
            raise ValueError(
                f"sampling.group_size = {size} with gro.terms.{name}: it compares the responses of a group, which "
                "needs at least 2; raise sampling.group_size, or take a method that does not, such as "
                "reinforce or remax"
            )
        if isinstance(term.credit, PassAtK) and term.source == "online" and term.credit.k >= size:
            raise ValueError(
                f"gro.terms.{name}.credit.k = {term.credit.k} compares the subsets of k responses of a group, and "
                f"sampling.group_size = {size} has one at most: raise sampling.group_size, or lower k"
            )
        if term.source == "labelled" and term.anchor.kind == "kl" and config.per_step("labelled") < 2:
            raise ValueError(
                f"gro.terms.{name}.anchor.kind = 'kl' estimates the KL from responses put to each other's prompts and "
                "needs at least 2 rows per step; raise data.labelled.per_step"
            )


def _check_refills(config: Sections) -> None:
    """Dynamic sampling keeps groups with differences: every term must be one that needs them."""
    for name, term in config.gro.terms.items():
        if config.sampling.refills and term.source == "online" and not term.term.compares:
            raise ValueError(
                f"sampling.refills = {config.sampling.refills} drops groups whose rewards are all equal, and "
                f"gro.terms.{name} learns from such groups too: set sampling.refills = 0, or take a method that "
                "compares the responses of a group (grpo, rloo, dapo)"
            )


def _check_staleness(config: Sections) -> None:
    """Responses of older weights are corrected for that where they have to be."""
    most, over = config.sampling.max_staleness, config.sampling.over_sample
    if over and config.gro.terms and not config.online:
        raise ValueError(f"sampling.over_sample = {over:g} begins more online groups, and no term reads any")
    if over and not most:
        raise ValueError(
            f"sampling.over_sample = {over:g} continues responses in the next step, whose weights are newer than those "
            "that began them, and sampling.max_staleness = 0 allows no such response: set sampling.max_staleness = 1, "
            "or sampling.over_sample = 0"
        )
    if not most:
        return
    if config.gro.terms and not config.online:
        raise ValueError(
            f"sampling.max_staleness = {most} samples online groups during the update, and no term reads any"
        )
    for name, term in config.gro.terms.items():
        if term.term.is_corrected_when_stale and term.correction.kind == "none":
            steps = "one step older" if most == 1 else f"up to {most} steps older"
            raise ValueError(
                f"gro.terms.{name}.correction.kind = 'none' with sampling.max_staleness = {most}: its responses come "
                f"from weights {steps} than those that learn from them; use 'truncate' or 'mask', or "
                "sampling.max_staleness = 0"
            )


def _check_tensor_parallel(config: Sections) -> None:
    gpus, ranks = config.sampling.tensor_parallel, config.run.ranks
    if gpus > 1 and config.sampling.engine == "hf":
        raise ValueError(f"sampling.tensor_parallel = {gpus} needs vLLM, and sampling.engine is 'hf'; leave one out")
    if gpus > 1 and config.sampling.servers:
        raise ValueError(
            f"sampling.tensor_parallel = {gpus} has no effect with sampling.servers: spread the model where it is "
            f"served, `reasoner serve TASK --tensor-parallel {gpus}`"
        )
    if ranks > 1 and ranks % gpus:
        fitting = [str(count) for count in range(1, ranks + 1) if ranks % count == 0]
        raise ValueError(
            f"sampling.tensor_parallel = {gpus} does not divide the {ranks} ranks into groups that share an engine; "
            f"set it to {', '.join(fitting[:-1])} or {fitting[-1]}"
        )


def _check_sequence_parallel(config: Sections) -> None:
    count, ranks = config.learning.sequence_parallel, config.run.ranks
    if count == 1:
        return
    if ranks % count:
        fitting = [str(number) for number in range(1, ranks + 1) if ranks % number == 0]
        raise ValueError(
            f"learning.sequence_parallel = {count} does not divide the {ranks} rank{'s' if ranks > 1 else ''} into "
            f"neighbours that share rows; possible: {', '.join(fitting)} (run.ranks, or --gpus, is the number of ranks)"
        )
    if config.learning.packing == "padded":
        raise ValueError(
            f"learning.sequence_parallel = {count} shares packed rows, and learning.packing is 'padded'; use 'auto'"
        )


def _check_mlp_tile(config: Sections) -> None:
    tile, learning = config.learning.mlp_tile, config.learning
    if tile is not None and config.learner == "deepspeed" and learning.deepspeed.zero_stage == 3:
        raise ValueError(
            f"learning.mlp_tile = {tile} with learning.deepspeed.zero_stage = 3: ranks collect a layer's weights "
            "together, once for every tile, and those with longer rows have more tiles; use zero_stage 2, or "
            "learning.gradient_checkpointing = true without tiles"
        )


def _check_offload(config: Sections) -> None:
    if config.learning.offload_activations and config.learning.gradient_checkpointing is not True:
        raise ValueError(
            "learning.offload_activations moves the inputs of recomputed layers: set "
            "learning.gradient_checkpointing = true with it, or leave it out"
        )


def _check_routing_replay(config: Sections) -> None:
    if not config.learning.routing_replay:
        return
    if not config.online:
        raise ValueError(
            "learning.routing_replay has no effect without online groups: nothing is sampled to learn from; leave it "
            "out"
        )
    if config.sampling.servers:
        raise ValueError(
            "learning.routing_replay needs a sampler that says which experts it chose, and sampling.servers are not "
            "asked for them; leave one of them out"
        )


def _check_optimizer(config: Sections) -> None:
    learning = config.learning
    deepspeed = learning.engine == "deepspeed" or (learning.engine == "auto" and config.run.ranks > 1)
    if learning.optimizer != "adamw" and deepspeed:
        raise ValueError(
            f"learning.optimizer = {learning.optimizer!r} needs the torch engine on one rank, and DeepSpeed spreads "
            "AdamW's moments over the ranks instead; use 'adamw'"
        )
    if learning.optimizer == "paged-adamw-8bit" and config.model.device == "cpu":
        raise ValueError(
            "learning.optimizer = 'paged-adamw-8bit' moves moments off a GPU, and model.device is 'cpu'; use "
            "'adamw-8bit'"
        )


def _check_quantization(config: Sections) -> None:
    """Weights of few bits stay as they are, and what they differ by is corrected."""
    lora, sampling = config.lora, config.sampling
    keys = {"lora.quantization": lora.quantization if lora else None, "sampling.quantization": sampling.quantization}
    settings = [f"{key} = {value!r}" for key, value in keys.items() if value]
    if not settings or not config.gro.terms:
        return
    if lora is None:
        raise ValueError(
            f"{settings[0]} rounds weights that must not change, and all weights are trained: train an adapter "
            "(--set lora.rank=16), or leave it out"
        )
    if lora.handover == "merged":
        raise ValueError(
            f"{settings[0]} has the adapter handed over alone, because rounded weights are not replaced, and "
            "lora.handover is 'merged'; use 'auto'"
        )
    if sampling.quantization and (sampling.servers or sampling.engine == "hf"):
        place = "sampling.servers" if sampling.servers else "sampling.engine = 'hf'"
        raise ValueError(
            f"{settings[-1]} is of a vLLM engine that the run starts, and not of {place}; leave one of them out"
        )
    if sampling.quantization and config.model.device == "cpu":
        raise ValueError(
            f"{settings[-1]} needs CUDA, because vLLM's CPU build has no kernels for it, and model.device is 'cpu'; "
            "leave it out"
        )
    if lora.quantization and config.learner == "deepspeed" and config.learning.deepspeed.zero_stage == 3:
        raise ValueError(
            "lora.quantization = 'nf4' with learning.deepspeed.zero_stage = 3: DeepSpeed would spread 4-bit numbers "
            "without the scales that belong to them; use zero_stage 2, whose ranks hold all of them"
        )
    for name, term in config.gro.terms.items():
        if term.term.is_corrected_when_stale and term.correction.kind == "none":
            raise ValueError(
                f"gro.terms.{name}.correction.kind = 'none' with {settings[0]}: the sampler's probabilities are not "
                "the learner's, and without a correction the gradient would be of neither; use 'truncate' or 'mask' "
                f"(--set gro.terms.{name}.correction.kind=truncate)"
            )


def _check_budgets(config: Sections) -> None:
    """A budget of calls is divided over the ranks that score: those with an engine."""
    scoring = config.run.ranks // config.sampling.tensor_parallel
    for reward in config.rewards:
        if reward.max_calls and reward.max_calls < scoring:
            raise ValueError(
                f"rewards.{reward.source}.max_calls = {reward.max_calls} is divided over the {scoring} ranks that "
                f"score, and leaves some of them none: allow at least {scoring}, or set run.ranks (--gpus) lower"
            )


def _check_curriculum(config: Sections) -> None:
    if config.curriculum.kind != "none" and config.gro.terms and not config.online:
        raise ValueError(
            f"curriculum.kind = {config.curriculum.kind!r} chooses the problems of online groups, and no term reads any"
        )


def _check_weights(config: Sections) -> None:
    if config.gro.terms and not any(term.weight for term in config.gro.terms.values()):
        raise ValueError(f"gro.terms: every weight is 0, so nothing would be learned: {', '.join(config.gro.terms)}")
    for name, term in config.gro.terms.items():
        if reason := mistake(term.schedule, config.run.steps):
            raise ValueError(f"gro.terms.{name}.schedule: {reason}")


def _check_critic(config: Sections) -> None:
    """One critic serves all its terms, so they must agree on what it predicts."""
    terms = [term for term in config.gro.terms.values() if term.term.needs_critic]
    for other in terms[1:]:
        if (other.credit, other.kl) != (terms[0].credit, terms[0].kl):
            raise ValueError(
                "gro.terms: terms with credit.baseline = 'critic' share one critic: give them equal credit and kl"
            )


def _check_engine(config: Sections) -> None:
    """DeepSpeed can do what it is asked for, and its section is not there in vain."""
    learning = config.learning
    if learning.engine == "torch" and learning.deepspeed != type(learning.deepspeed)():
        raise ValueError("learning.deepspeed has no effect with learning.engine = 'torch'; leave one of them out")
    if learning.engine == "torch" and config.run.ranks > 1:
        raise ValueError(
            f"learning.engine = 'torch' trains with one rank, and run.ranks is {config.run.ranks}; use 'auto' or "
            "'deepspeed'"
        )
    if config.learner != "deepspeed":
        return
    if learning.deepspeed.zero_stage == 0 and config.model.dtype == "bfloat16":
        raise ValueError(
            "learning.deepspeed.zero_stage = 0 with model.dtype = 'bfloat16': DeepSpeed would add gradients up in "
            "bfloat16; use zero_stage 1, 2 or 3"
        )


def _check_updates(config: Sections) -> None:
    learning = config.learning
    updates = learning.updates_per_step * learning.epochs
    for source in SOURCES:
        if config.gro.reads(source) and config.per_step(source) % learning.updates_per_step:
            key = "learning.problems_per_step" if source == "online" else f"data.{source}.per_step"
            raise ValueError(
                f"{key} = {config.per_step(source)} is not divisible by learning.updates_per_step = "
                f"{learning.updates_per_step}: every mini-batch holds whole groups"
            )
    for name, term in config.gro.terms.items():
        online = term.source == "online" and isinstance(term.credit, Advantage | Teacher)
        if isinstance(term.link, Linear) and online and updates > 1:
            raise ValueError(
                f"learning.updates_per_step x learning.epochs = {updates} with gro.terms.{name}.link.kind = 'linear': "
                "without a ratio the second update would be off-policy and wrong; use 1, or link.kind = 'clip'"
            )
    if learning.warmup_steps > config.optimizer_steps:
        raise ValueError(
            f"learning.warmup_steps = {learning.warmup_steps} is more than the run's {config.optimizer_steps} "
            "optimiser steps"
        )


def _check_teacher(config: Sections) -> None:
    """One teacher serves all its terms, and knows something that the policy does not."""
    teacher, untouched = config.teacher, type(config.teacher)()
    credits = {name: term.credit for name, term in config.gro.terms.items() if isinstance(term.credit, Teacher)}
    if not credits:
        if config.gro.terms and teacher != untouched:
            raise ValueError(
                "teacher has no effect: no term's credit is a teacher's; take a method with one (opd, opsd, grpo+opd), "
                "or leave the section out"
            )
        return
    seen = {credit.sees for credit in credits.values()}
    if len(seen) > 1:
        raise ValueError(f"gro.terms: {', '.join(credits)} share one teacher: give them the same credit.sees")
    name = next(iter(credits))
    if teacher.path is None and seen == {"prompt"}:
        raise ValueError(
            f"gro.terms.{name} needs teacher.path, not set: the initial model knows no more than the policy that "
            "starts as it. Name a teacher with the same tokenizer, --set teacher.path=FOLDER, or let it see the "
            f"solution: --set gro.terms.{name}.credit.sees=solution"
        )
    if teacher.path is None:
        for key in ("servers", "dtype"):
            if getattr(teacher, key):
                raise ValueError(
                    f"teacher.{key} needs teacher.path; without it the initial model, loaded here, teaches"
                )
    if seen == {"prompt"} and teacher.template != untouched.template:
        raise ValueError(
            "teacher.template has no effect with credit.sees = 'prompt': the teacher reads what the policy does"
        )
    if teacher.servers and config.sampling.temperature != 1.0:
        raise ValueError(
            f"teacher.servers with sampling.temperature = {config.sampling.temperature}: vLLM gives the "
            "log-probabilities of given tokens at temperature 1; set sampling.temperature = 1, or leave servers out"
        )


def _check_prompt(config: Sections) -> None:
    """Of a plain prompt there is nothing that the chat template would do."""
    if config.prompt.format != "plain":
        return
    for key, value in (
        ("model.chat_template_kwargs", config.model.chat_template_kwargs),
        ("prompt.system_role", config.prompt.system_role == "user"),
    ):
        if value:
            raise ValueError(
                f"{key} has no effect with prompt.format = 'plain', which uses no chat template; leave it out"
            )


def _check_credit_by_turn(config: Sections) -> None:
    """There are rewards of single turns where a term credits turns."""
    names = [name for name, term in config.gro.terms.items() if getattr(term.credit, "level", "") == "turn"]
    if not names:
        return
    key = f"gro.terms.{names[0]}.credit.level = 'turn'"
    if config.environment is None or not config.environment.name:
        raise ValueError(
            f"{key} credits the turns of a response, and no environment gives them rewards: set environment.name"
        )
    paid = [reward for reward in config.rewards if reward.source == "environment"]
    if not paid or paid[0].gate or not paid[0].weight:
        raise ValueError(
            f"{key} credits each turn with what the environment gives from it on, which is no part of the reward: add "
            "the reward source 'environment', no gate and with a weight"
        )


def _check_environment(config: Sections) -> None:
    """Responses with turns are sampled, and their format is one that the prompt can have."""
    environment = config.environment
    if environment is None:
        for name, term in config.gro.terms.items():
            if term.evidence.tokens == "observed":
                raise ValueError(
                    f"gro.terms.{name}.evidence.tokens = 'observed' reads what tools and environments write, and there "
                    "are none: set environment.tools or environment.name, or leave the term out"
                )
        return
    if config.gro.terms and not config.has_sampler:
        raise ValueError(
            "environment has no effect: the method samples no responses, and there is nothing to evaluate with; leave "
            "the section out (--set environment=none), or set data.eval, rewards and evaluation.correct"
        )
    if environment.format == "native" and config.prompt.format == "plain":
        raise ValueError(
            "environment.format = 'native' writes calls as the chat template defines it, and prompt.format = 'plain' "
            "uses none: set environment.format = 'fenced' or 'tags'"
        )


def _check_data(config: Sections) -> None:
    train, held_out = config.data.train, config.data.eval
    offline = any((config.data.pairs, config.data.labelled, config.data.demos))
    if config.data.holdout is not None and held_out is not None and not offline:
        raise ValueError(
            f"data.holdout = {config.data.holdout} has no effect together with data.eval: leave one of them out "
            f"(--set data.eval=none)"
        )
    if train is None or held_out is None:
        return
    if train.generator is not None and train.generator == held_out.generator and train.seed == held_out.seed:
        raise ValueError(
            f"data.train.seed and data.eval.seed are both {train.seed}: the generator would give the same "
            "problems for training and evaluation"
        )


def check_parts(config: Sections) -> None:
    """The parts of a mixture, and the tasks that are evaluated beside what is trained on, go together.

    Raises:
        ValueError: they do not; it names the key.
    """
    names = [part.task for part in config.mixture]
    also = config.evaluation.also if config.evaluation else []
    for place, listed in (("mixture", names), ("evaluation.also", [part.task for part in also])):
        if twice := next((name for name in listed if listed.count(name) > 1), None):
            raise ValueError(f"{place} names the task {twice!r} twice; name each task once")
    own = names or [config.task]
    if known := next((part.task for part in also if part.task in own), None):
        raise ValueError(
            f"evaluation.also names {known!r}, which the run trains on and evaluates anyway: set its own keys "
            f"({'mixture.' + known + '.' if names else ''}evaluation.samples, data.eval.limit)"
        )
    for part in also:
        _check_also(part)
    _check_best(config, [*own, *(part.task for part in also)])
    _check_formats(config)
    if config.curriculum.parts != "fixed" and not config.mixture:
        raise ValueError(f"curriculum.parts = {config.curriculum.parts!r} has no effect without [[mixture]]")
    if config.mixture:
        _check_mixture(config)


def _check_best(config: Sections, names: Sequence[str]) -> None:
    best = config.evaluation.best if config.evaluation else ""
    if best not in ("", "mean", *names):
        raise ValueError(
            f"evaluation.best = {best!r} is no task of this run.{nearest(best, ['mean', *names])} It is one of: mean, "
            f"{', '.join(names)}"
        )


def _check_mixture(config: Sections) -> None:
    if config.gro.terms and not config.online:
        raise ValueError("mixture is of problems to sample responses to, and no term reads online groups")
    for part in config.mixture:
        if part.data.train is None:
            raise ValueError(
                f"mixture.{part.task}: the task only evaluates: data.train is not set. Evaluate on it beside the "
                f"training, [[evaluation.also]] task = {part.task!r}; or give it problems to train on: --set "
                f"mixture.{part.task}.data.train.path=FILE"
            )
    kinds = {isinstance(part.weight, str) for part in config.mixture}
    if len(kinds) > 1:
        weights = ", ".join(f"{part.task} = {part.weight}" for part in config.mixture)
        raise ValueError(f"mixture: give every part a number as its weight, or every one 'size'; got {weights}")
    for key in ("max_tokens", "max_prompt_tokens"):
        longest = max(getattr(part.sampling, key) for part in config.mixture)
        if getattr(config.sampling, key) != longest:
            raise ValueError(
                f"sampling.{key} = {getattr(config.sampling, key)} of a mixture must be the largest of its parts, "
                f"{longest}: change that of a part, mixture.{config.mixture[0].task}.sampling.{key}"
            )


def _check_also(part: PartConfig) -> None:
    place = f"evaluation.also.{part.task}"
    if part.evaluation is None or not part.evaluation.correct:
        raise ValueError(
            f"{place}.evaluation.correct is needed and not set: the reward source that decides whether a response is "
            "correct"
        )
    if part.data.eval is None and (part.data.holdout is None or part.data.train is None):
        raise ValueError(f"{place}: the task has nothing to evaluate on: {place}.data.eval is not set")


def _check_formats(config: Sections) -> None:
    """One model is asked in one format: it decides where a response ends."""
    also = config.evaluation.also if config.evaluation else []
    named = [(f"mixture.{part.task}.", part.prompt.format) for part in config.mixture] or [("", config.prompt.format)]
    named += [(f"evaluation.also.{part.task}.", part.prompt.format) for part in also]
    first, wanted = named[0]
    for place, section in named:
        if section != wanted:
            raise ValueError(
                f"{place}prompt.format = {section!r}, and {first}prompt.format = {wanted!r}: one model is asked in one "
                "format; give all tasks the same"
            )


CHECKS = (
    _check_rewards,
    _check_sources,
    _check_evaluation,
    _check_groups,
    _check_refills,
    _check_staleness,
    _check_tensor_parallel,
    _check_sequence_parallel,
    _check_mlp_tile,
    _check_offload,
    _check_routing_replay,
    _check_optimizer,
    _check_quantization,
    _check_budgets,
    _check_curriculum,
    _check_weights,
    _check_credit_by_turn,
    _check_critic,
    _check_engine,
    _check_updates,
    _check_teacher,
    _check_data,
    _check_prompt,
    _check_environment,
)
"""what must hold between sections, in the order in which it is looked at"""
