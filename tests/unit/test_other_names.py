"""What keys of TRL, verl and earlier versions are called here: every name of ours is there, and messages give it."""

from __future__ import annotations

from collections import Counter

import pytest

from reasoner.errors import ConfigError
from reasoner.loading import load_config
from reasoner.loading.introspection import last_parts
from reasoner.loading.other_names import RENAMED, renamed
from tests.unit.test_architecture import keys

TABLES = {"rewards", "plugins", "trackers"}


@pytest.mark.parametrize("each", RENAMED, ids=lambda each: f"{each.framework} {each.name}")
def test_every_name_of_ours_is_a_key(each: object) -> None:
    ours, note = each.key, each.note  # type: ignore[attr-defined]
    there = {key.replace(".entry", ".NAME") for key in keys()} | TABLES
    assert ours.replace("rewards.reward_model.", "rewards.NAME.") in there if ours else note


def test_the_names_are_those_that_people_know() -> None:
    counted = Counter(each.framework for each in RENAMED)
    assert min(counted["TRL"], counted["verl"]) >= 40
    assert len({(each.framework, each.name) for each in RENAMED}) == len(RENAMED)
    there = {each.name.rpartition(".")[2] for each in RENAMED}
    assert there >= {"beta", "num_generations", "kl_coef", "ppo_mini_batch_size", "max_completion_length", "n", "lr"}
    assert "vllm_gpu_memory_utilization" in there
    for each in RENAMED:  # a key that there is here needs no table
        assert each.name not in {key for key in keys() if key != each.key}, each


UNKNOWN = {
    "num_generations=8": "TRL's num_generations is sampling.group_size here.",
    "sampling.num_generations=8": "TRL's num_generations is sampling.group_size here.",
    "gro.terms.grpo.epsilon=0.1": "TRL's epsilon is gro.terms.grpo.link.low here.",
    "beta=0.04": "TRL's beta is gro.terms.grpo.kl.coefficient here (of GRPO",
    "rollout.n=8": "verl's actor_rollout_ref.rollout.n is sampling.group_size here.",
    "actor_rollout_ref.rollout.n=8": "verl's actor_rollout_ref.rollout.n is sampling.group_size here.",
    "rollout.val_kwargs.n=8": "verl's actor_rollout_ref.rollout.val_kwargs.n is evaluation.samples here.",
    "actor.lr=1e-5": "verl's actor_rollout_ref.actor.lr is learning.learning_rate here.",
    "critic.optim.lr=1e-5": "verl's critic.optim.lr is critic.learning_rate here.",
    "learning.lr=1e-5": "verl's actor_rollout_ref.actor.optim.lr is learning.learning_rate here. verl's critic.optim",
    "seed=7": "TRL's seed is run.seed here.",
    "data.max_response_length=9": "verl's data.max_response_length is sampling.max_tokens here.",
    "kl_coef=0.1": "verl's algorithm.kl_ctrl.kl_coef is gro.terms.grpo.kl.coefficient here.",
    "push_to_hub=true": "TRL's push_to_hub is not needed here: `reasoner export RUN --to DIR`",
    "top_p=0.9": "TRL's top_p is not needed here: training samples come from the very distribution",
    "rollout.top_k=5": "verl's actor_rollout_ref.rollout.top_k is not needed here: training samples",
    "sampling.temprature=1": "Did you mean 'temperature'?",
    "modle.path=x": "Did you mean 'model'?",
}
"""`--set` -> what the message says"""


@pytest.mark.parametrize(("given", "said"), UNKNOWN.items())
def test_an_unknown_key_is_answered_with_ours(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("math-gsm8k", "laptop", sets=[given])
    assert f"unknown key. {said}" in str(refused.value)


def test_keys_that_are_no_longer_there_are_one_short_line_each_reason() -> None:
    sets = ["sampling.top_k=0", "learning.reference=auto", "sampling.top_p=1.0"]
    with pytest.raises(ConfigError) as refused:
        load_config("math-gsm8k", "laptop", sets=sets)
    assert str(refused.value).splitlines() == [
        "sampling.top_k, sampling.top_p (--set): no longer there, leave out: training samples come from the very "
        "distribution whose log-probabilities are trained; use sampling.temperature.",
        "learning.reference (--set): no longer there, leave out: a reference policy is there exactly when a term "
        "compares with one.",
    ]
    with pytest.raises(ConfigError, match=r"^sampling\.top_q = 1 \(--set\): unknown key\.(?s:.*)\n.*no longer there"):
        load_config("math-gsm8k", "laptop", sets=["sampling.top_k=0", "sampling.top_q=1"])


@pytest.mark.parametrize("path", [("foo",), ("modle", "path"), ("mdoel", "dtyp"), ("rollouts", "seed"), ("x", "n_")])
def test_what_only_looks_like_theirs_is_not_translated(path: tuple[str, ...]) -> None:
    """`path`, `seed` and the like are keys here: their last part says nothing of what was meant."""
    assert renamed(path, last_parts()) == ""
