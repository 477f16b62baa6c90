"""Whether a run fits, what to change, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoner.config import Config
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import UserError
from reasoner.loading import load_config
from reasoner.models.size import ModelSize
from reasoner.planning.estimate import RunEstimate, _merged
from reasoner.planning.feasibility import refuse_impossible
from reasoner.planning.memory.needs import TIGHT
from reasoner.planning.memory.sampler import cache_token_bytes
from reasoner.planning.memory.tokens import micro_batch_tokens
from reasoner.processes.machine import GIB, Machine, planned_machine, this_machine
from reasoner.training.build.run_base import _with_recomputation
from tests.unit.test_sharded_sampler import on_ranks

TRUNCATED = "gro.terms.grpo.correction.kind=truncate"
OFF = "learning.gradient_checkpointing=false"
SEVEN = ModelSize(
    7_600_000_000, 28, 3584, 18944, 152064, heads=28, kv_heads=4, head_size=128, context=32768, architecture="Qwen2"
)
SMALL = ModelSize(135_000_000, 30, 576, 1536, 49152, heads=9, kv_heads=3, head_size=64, context=8192, tied=True)
SIZES = {
    "small": SMALL,
    "1.5B": ModelSize(1_500_000_000, 28, 1536, 8960, 151936, heads=12, kv_heads=2, head_size=128, context=32768),
    "7B": SEVEN,
}


def config(*sets: str, profile: str = "gpu") -> Config:
    return load_config("math-gsm8k", profile, (), sets).config


def estimate(*sets: str, model: ModelSize = SEVEN, on: Machine | None = None, engine: str = "vllm") -> RunEstimate:
    found = config(*sets)
    return RunEstimate(found, model, model, on or planned_machine(80.0, found.run.ranks), engine)


def fits(found: RunEstimate) -> bool:
    """Written apart from the code: every moment of which the memory is known, and a sequence in the cache."""
    known = [(need, found.machine.free[need.where]) for need in found.needs if need.where in found.machine.free]
    cached = found.engine != "vllm" or found.cached_sequences >= 1
    return cached and all(need.total <= TIGHT * there for need, there in known)


def test_what_fits_needs_no_change() -> None:
    found = estimate("run.ranks=8", "learning.deepspeed.zero_stage=3")
    assert set(found.verdicts) == {"fits", "not known"}
    assert (found.advice, found.advise()) == ({}, "Nothing must change.")
    assert found.check() == ()


def test_one_setting_is_advised_where_one_is_enough_and_the_mildest() -> None:
    sets = ("run.ranks=8", "sampling.memory_share=0.35")
    memory = next(need.total for need in estimate(*sets).needs if need.when == "in the update")
    found = estimate(*sets, on=planned_machine(0.99 * memory / GIB / TIGHT, 8))
    assert found.advice == {"learning.token_budget": 16384}
    assert "Set learning.token_budget = 16384" in found.advise()
    alone = estimate(on=planned_machine(80.0, 1))
    assert [found for found in alone.verdicts if found != "not known"] == ["does not fit", "does not fit"]
    assert alone.advice is not None
    assert alone.advice["learning.deepspeed.offload_optimizer"] is True
    with pytest.raises(UserError, match=r"it needs at least .* GiB of GPU memory .*Set learning\.engine"):
        alone.check()


def test_recomputation_is_decided_by_the_estimate() -> None:
    """0.5B with 32k tokens: activations fit beside learner and sleeping sampler on a large GPU, not on a small one."""
    small = replace(SMALL, parameters=494_000_000, hidden=896, intermediate=4864, layers=24, vocabulary=151936)
    for gib, recomputes in ((141.0, False), (24.0, True), (4.0, True)):
        found = estimate("learning.gradient_checkpointing=auto", model=small, on=planned_machine(gib, 1)).decided
        assert found.config.learning.gradient_checkpointing is recomputes
        assert recomputes == (not fits(estimate(OFF, model=small, on=planned_machine(gib, 1))))
    assert estimate(OFF, on=planned_machine(4.0, 1)).decided.config.learning.gradient_checkpointing is False


def test_ranks_recompute_together() -> None:
    """Under ZeRO 3 a rank that recomputes gathers parameters where another one does not."""
    recomputes, keeps = (estimate(f"learning.gradient_checkpointing={value}") for value in ("true", "false"))
    config = estimate("learning.gradient_checkpointing=auto").config

    def rank(ranks: Ranks) -> object:
        own = recomputes if ranks.index == 1 else keeps
        return _with_recomputation(config, own, ranks).learning.gradient_checkpointing

    assert on_ranks(3, rank) == [True, True, True]
    assert _with_recomputation(config, keeps, ALONE).learning.gradient_checkpointing is False
    assert _with_recomputation(recomputes.config, keeps, ALONE) is recomputes.config


def test_where_nothing_helps_that_is_said() -> None:
    found = estimate(on=planned_machine(8.0, 1))
    assert found.advice is None
    assert "No setting makes it fit: take a smaller model" in found.advise()


def test_a_cache_that_holds_no_sequence_is_made_larger() -> None:
    sets = ("sampling.max_tokens=30000", "sampling.memory_share=0.22", "run.ranks=8", "learning.token_budget=32768")
    found = estimate(*sets)
    assert found.cached_sequences < 1
    assert found.verdicts[0] == "does not fit"
    assert found.advice is not None
    changed = found.changed(found.advice)
    assert changed is not None
    assert changed.config.sampling.memory_share > 0.22
    assert fits(changed)
    on_cpu = estimate("sampling.kv_cache_gib=0.01", model=SMALL, on=Machine("cpu", {"memory": 64 * GIB}))
    assert on_cpu.advice is not None
    one = on_cpu.advice["sampling.kv_cache_gib"] * GIB / (1024 * cache_token_bytes(on_cpu.config, SMALL))
    assert 1 <= one < 2


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(SIZES)),
    ranks=st.sampled_from([1, 2, 8]),
    gib=st.sampled_from([12.0, 24.0, 40.0, 80.0]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    budget=st.sampled_from([1024, 8192, 65536]),
    tokens=st.sampled_from([256, 4096]),
    checkpointing=st.booleans(),
    gpu=st.booleans(),
)
def test_what_is_advised_makes_it_fit_and_none_of_it_is_needless(
    name: str, ranks: int, gib: float, dtype: str, budget: int, tokens: int, checkpointing: bool, gpu: bool
) -> None:
    on = planned_machine(gib, ranks) if gpu else Machine("cpu", {"memory": gib * GIB})
    sets = [f"run.ranks={ranks}", f"model.dtype={dtype}", f"learning.token_budget={budget}"]
    sets += [f"sampling.max_tokens={tokens}", f"learning.gradient_checkpointing={str(checkpointing).lower()}"]
    found = estimate(*sets, model=SIZES[name], on=on)
    advice = found.advice
    assert (advice == {}) == fits(found)
    if advice:
        changed = found.changed(advice)
        assert changed is not None
        assert fits(changed)
        assert changed.advice == {}
    else:
        assert advice == {} or not fits(found)


def test_the_longest_context_is_the_longest_that_fits() -> None:
    sets, on = ("run.ranks=8", "learning.token_budget=8192"), planned_machine(50.0, 8)
    found = estimate(*sets, on=on)
    tokens, by = found.longest_context
    assert by == "GPU memory in the update"
    for length, holds in ((tokens, True), (tokens + 1, False)):
        other = estimate(*sets, f"sampling.max_tokens={length - 512}", on=on)
        assert ("does not fit" not in other.verdicts) is holds
    assert estimate("run.ranks=8").longest_context == (32768, "the positions that the model knows")
    unknown = estimate("run.ranks=8", model=replace(SEVEN, context=0), on=planned_machine(400.0, 8))
    assert unknown.longest_context[1] in ("nothing longer was looked for", "GPU memory in the update")
    none = estimate(on=planned_machine(8.0, 1))
    assert none.longest_context[0] == 0
    assert none.described_context.startswith("none: already the shortest does not fit (GPU memory")
    demos = ("gro.preset=sft", "data.demos.path=demos.jsonl", "run.ranks=8", "learning.token_budget=8192")
    offline = estimate(*demos, on=planned_machine(45.0, 8), engine="")
    assert 8192 < offline.longest_context[0] < 32768


@pytest.mark.parametrize(
    ("max_tokens", "slices", "expected"),
    [
        (3584, 1, 4096),  # the budget
        (3584, 2, 4096),  # which grows with the ranks of a row
        (15872, 1, 16384),  # a longer row
        (15872, 2, 8192),
        (15872, 8, 4096),
        (15873, 2, 8193),
    ],
)
def test_ranks_that_share_a_row_have_a_slice_each(max_tokens: int, slices: int, expected: int) -> None:
    lengths = ("sampling.max_prompt_tokens=512", f"sampling.max_tokens={max_tokens}", "learning.token_budget=4096")
    found = config(*lengths, "run.ranks=8", "learning.problems_per_step=64", f"learning.sequence_parallel={slices}")
    assert micro_batch_tokens(found) == expected


def test_what_doubles_the_longest_context_is_the_mildest_that_does() -> None:
    sets, on = (
        ("run.ranks=4", "learning.token_budget=1024", "learning.deepspeed.zero_stage=3", OFF),
        planned_machine(60.0, 4),
    )
    model = replace(SEVEN, context=0)
    found = estimate(*sets, model=model, on=on)
    tokens, _ = found.longest_context
    assert list(found.doubling) == ["learning.gradient_checkpointing"]
    changed = found.changed(found.doubling)
    assert changed is not None
    assert changed.longest_context[0] >= 2 * tokens
    assert f"twice that with {next(iter(found.doubling))} = true" in found.described_context
    further = changed.doubling
    assert further["learning.sequence_parallel"] in (2, 4)
    again = changed.changed(further)
    assert again is not None
    assert again.longest_context[0] >= 2 * changed.longest_context[0]
    assert estimate("run.ranks=8").doubling == {}  # the model knows no more positions
    assert estimate(on=planned_machine(8.0, 1)).doubling == {}  # nothing fits


def test_an_adapter_can_be_advised() -> None:
    model = replace(SMALL, matrices=(("model.layers.0.self_attn.q_proj.weight", 576, 576),))
    changed = estimate(model=model).changed({"lora.rank": 16})
    assert changed is not None
    assert changed.model.trained == 16 * 2 * 576
    assert estimate().changed({"learning.deepspeed.zero_stage": 0, "learning.engine": "deepspeed"}) is None


def test_disk_by_hand() -> None:
    """A model in float32, and checkpoints of 12 bytes per parameter: two, the best, and one that is being written."""
    found = estimate(model=SMALL)
    assert found.checkpoint_bytes == 12 * SMALL.parameters
    assert found.disk_bytes == (4 + 4 * 12) * SMALL.parameters
    assert estimate("run.keep_last=0", model=SMALL).disk_bytes == 4 * SMALL.parameters


@pytest.mark.parametrize(
    ("sets", "model", "reason"),
    [
        (["learning.routing_replay=true"], SEVEN, "learning.routing_replay: Qwen2 has no experts; set it to false"),
        (["learning.experts=eager"], SEVEN, "learning.experts = 'eager': Qwen2 has no experts"),
        (["learning.router_loss=0.01"], SEVEN, "learning.router_loss = 0.01: Qwen2 has no experts"),
        (
            ["run.ranks=8", "learning.sequence_parallel=8"],
            SEVEN,
            "Qwen2 has 28 attention heads, which 8 ranks cannot share equally; possible: 1, 2, 4, 7",
        ),
        (
            ["lora.quantization=nf4", TRUNCATED],
            replace(SEVEN, experts=8),
            "lora.quantization = 'nf4': the experts of Qwen2 are no linear layers",
        ),
        (["sampling.max_tokens=40000"], SEVEN, "40512, and the model knows 32768 positions"),
        (
            ["run.ranks=3", "sampling.tensor_parallel=3"],
            SEVEN,
            "28 attention heads and 4 heads of keys and values and MLPs of width 18944: it can be 1, 2, 4",
        ),
        (["run.ranks=8", "learning.problems_per_step=4"], SEVEN, "set learning.problems_per_step = 8 or more"),
    ],
)
def test_what_is_known_to_fail_is_refused(sets: list[str], model: ModelSize, reason: str) -> None:
    with pytest.raises(UserError, match="this run cannot work") as refused:
        refuse_impossible(estimate(*sets, model=model), None)
    assert reason in str(refused.value)
    refuse_impossible(estimate(), None)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (["learning.optimizer=paged-adamw-8bit"], "'paged-adamw-8bit' moves moments off a GPU.*use 'adamw-8bit'"),
        (
            ["lora.rank=4", TRUNCATED, "sampling.quantization=fp8"],
            "'fp8': vLLM's CPU build has no kernels.*leave it out",
        ),
    ],
)
def test_what_needs_a_gpu_is_refused_where_there_is_none(sets: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        refuse_impossible(estimate(*sets, on=Machine("cpu", {"memory": 64 * GIB})), None)
    refuse_impossible(estimate(*sets), None)


def test_a_machine_is_asked_for_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine("cuda", {"GPU memory": 80 * GIB, "memory": 500 * GIB}, 80 * GIB, per_node=2)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Old GPU")
    with pytest.raises(UserError) as refused:
        refuse_impossible(estimate("run.ranks=4", on=here), nodes=1)
    assert "run.ranks is 4, and this machine has 2 GPUs" in str(refused.value)
    assert "Old GPU has no bfloat16 arithmetic" in str(refused.value)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    refuse_impossible(estimate("run.ranks=4", on=here), nodes=2)
    monkeypatch.setenv("WORLD_SIZE", "4")  # under a launcher the nodes are not counted here
    refuse_impossible(estimate("run.ranks=4", on=here), nodes=1)


def test_a_rank_that_has_been_started_is_not_refused_for_the_one_gpu_that_it_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What its launcher told it is hidden by then (`open_ranks`)."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (80 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    refuse_impossible(estimate("run.ranks=4", on=this_machine("cuda", 4)), None)
    assert [this_machine("cuda", ranks).ranks(16) for ranks in (0, 1, 8)] == [1, 1, 8]  # host memory is for all of them
    assert [this_machine("cpu", ranks).ranks(16) for ranks in (0, 8)] == [16, 8]


@pytest.mark.parametrize(
    ("sets", "on", "way"),
    [
        ((), "cuda", "on the GPU (CUDA IPC) if the trial at the first one passes; else through "),
        (("sampling.tensor_parallel=2",), "cuda", "through "),
        (("sampling.max_staleness=2",), "cuda", "through "),
        (("lora.rank=8",), "cuda", "through "),
        ((), "cpu", "through "),
        (("sampling.servers=['http://a:1']",), "cpu", "through "),
    ],
)
def test_the_way_of_the_weights_is_said(sets: tuple[str, ...], on: Literal["cpu", "cuda"], way: str) -> None:
    found = estimate(*sets, on=Machine(on, {}, 80 * GIB)).described_handover
    assert found.startswith(way)
    assert found.endswith("to servers that see it; by HTTP pull to others") == any(
        "servers" in setting for setting in sets
    )
    assert estimate(*sets, on=planned_machine(80.0, 8)).described_handover == ""


def test_zero_3_is_advised_in_place_of_tiles_which_it_does_not_take() -> None:
    tiles, stages = {"learning.mlp_tile": 2048}, [{"learning.deepspeed.zero_stage": stage} for stage in (2, 3)]
    assert _merged([tiles, stages[0]]) == tiles | stages[0]
    assert _merged([tiles, stages[1]]) == stages[1]
    assert estimate("run.ranks=8").changed(_merged([tiles, stages[1]])) is not None
