"""What a task asks, of which data, and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner.config.rewards import RewardConfig
from reasoner.config.sections import Sections
from reasoner.errors import nearest


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


def check_rewards(config: Sections) -> None:
    """Reward sources have different names, and what they say of each other is there."""
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


def check_evaluation(config: Sections) -> None:
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


def check_data(config: Sections) -> None:
    """Training and evaluation have different problems."""
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


def check_prompt(config: Sections) -> None:
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


def check_curriculum(config: Sections) -> None:
    """A curriculum chooses problems that are sampled."""
    if config.curriculum.kind != "none" and config.gro.terms and not config.online:
        raise ValueError(
            f"curriculum.kind = {config.curriculum.kind!r} chooses the problems of online groups, and no term reads any"
        )


def check_environment(config: Sections) -> None:
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


def check_budgets(config: Sections) -> None:
    """A budget of calls is divided over the ranks that score: those with an engine."""
    scoring = config.run.ranks // config.sampling.tensor_parallel
    for reward in config.rewards:
        if reward.max_calls and reward.max_calls < scoring:
            raise ValueError(
                f"rewards.{reward.source}.max_calls = {reward.max_calls} is divided over the {scoring} ranks that "
                f"score, and leaves some of them none: allow at least {scoring}, or set run.ranks (--gpus) lower"
            )
