"""What a run takes of memory, and what happens where it is not there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reasoner.config import Config, LoraConfig
from reasoner.distributed.sharding import rows_by_group
from reasoner.errors import UserError
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.loading import load_config
from reasoner.models import tensor_files as weights
from reasoner.models.size import ModelSize, find_size
from reasoner.planning.memory.activations import activation_bytes, layer_bytes, logit_bytes
from reasoner.planning.memory.learner import BUCKET
from reasoner.planning.memory.needs import SHARD_BYTES, Need, check_memory, describe_memory, needs
from reasoner.planning.memory.sampler import cache_token_bytes, hf_cache_bytes, published_bytes, route_bytes
from reasoner.planning.memory.tokens import longest_row, micro_batch_tokens, share_tokens
from reasoner.processes import machine
from reasoner.processes.machine import GIB, Machine, free_memory, planned_machine
from reasoner.training.build import open_trainer
from tests.architectures import build
from tests.ragged import make_group
from tests.tiny import build_tiny_model

BIG = ModelSize(10**9, 24, 2048, 5504, 32000, heads=16, kv_heads=4, head_size=128)
HERE = Machine("cpu", {"memory": 64 * GIB})


def config(*sets: str) -> Config:
    return load_config("math-gsm8k", "laptop", (), sets).config


def moments(*sets: str, model: ModelSize = BIG, on: Machine = HERE, engine: str = "hf") -> dict[str, Need]:
    """By memory and moment."""
    found = needs(config(*sets), model, model, on, engine)
    return {f"{need.where} {need.when}": need for need in found}


def test_a_teacher_is_counted_where_a_rank_holds_it() -> None:
    sets = ("gro.preset=opd", "teacher.path=big")
    teacher = replace(BIG, parameters=3 * 10**9)
    model = "gro.preset=opsd"
    for rank_holds, found in (
        ({"teacher": 12.0}, needs(config(*sets), BIG, BIG, HERE, "hf", teacher=teacher)),
        ({"reference": 4.0}, needs(config(model), BIG, BIG, HERE, "hf")),
    ):
        for need in found:
            parts = gb(need.certain)
            assert {name: parts[name] for name in ("teacher", "reference") if name in parts} == rank_holds
    assert config(*sets).loads_teacher
    assert not config(*sets, "teacher.servers=['http://a:1']").loads_teacher
    bf16 = config(*sets, "run.ranks=2", "teacher.dtype=bfloat16")
    assert gb(needs(bf16, BIG, BIG, gpus(2), "vllm", teacher=teacher)[0].certain)["teacher"] == 6.0


def gpus(count: int = 1, gib: float = 80.0) -> Machine:
    return planned_machine(gib, count)


def gb(parts: object) -> dict[str, float]:
    assert isinstance(parts, dict)
    return {name: round(size / 1e9, 2) for name, size in parts.items()}


def test_the_size_of_a_model_is_read_without_loading_it(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny", tied=False)
    policy = TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", token_budget=64, logit_chunk=64))
    parameters = sum(p.numel() for p in policy.model.parameters())
    expected = ModelSize(
        parameters,
        *(2, 64, 128, 260),
        heads=2,
        kv_heads=1,
        head_size=32,
        context=512,
        architecture="LlamaForCausalLM",
    )
    assert ModelSize.of(folder) == expected
    assert ModelSize.of(build_tiny_model(tmp_path / "tied")) == replace(
        expected, parameters=parameters - 260 * 64, tied=True
    )
    (folder / "model.safetensors").unlink()
    assert find_size(str(folder), None, False) == expected  # from its configuration alone
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"text_config": {"hidden_size": settings["hidden_size"]}}))
    assert (ModelSize.of(folder).hidden, ModelSize.of(folder).layers) == (64, 0)


def test_a_model_whose_size_cannot_be_known_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoner.models.size.hub_reachable", lambda: False)
    with pytest.raises(UserError, match=r"Put its config\.json into a folder"):
        find_size("some/model-that-is-nowhere", None, False)
    with pytest.raises(UserError, match="there is no such folder"):
        find_size("./nowhere", None, False)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UserError, match="cannot tell the size of the model"):
        find_size(str(tmp_path), None, False)
    with pytest.raises(UserError, match=r"has no config\.json"):
        find_size(str(tmp_path.parent), None, False)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_an_adapter_is_counted_as_peft_makes_it(tmp_path: Path, targets: list[str]) -> None:
    lora = LoraConfig(rank=4, targets=targets)
    folder = build_tiny_model(tmp_path / "tiny", tied=False)
    policy = TorchPolicy(
        folder, ModelOptions(device="cpu", dtype="float32", token_budget=64, logit_chunk=64, lora=lora)
    )
    assert ModelSize.of(folder, lora).trained == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)


def test_an_adapter_leaves_the_model_without_gradient_and_optimiser() -> None:
    size = replace(BIG, adapter=10**7)
    found = moments("lora.rank=4", "gro.terms.grpo.kl.coefficient=0.1", model=size, engine="")
    assert gb(found["memory in the update"].certain) == {
        **{"weights": 0.04, "optimiser": 0.08, "frozen weights": 4.0, "gradient": 0.04}
    }
    sets = ("learning.engine=deepspeed", "learning.deepspeed.zero_stage=3", "run.ranks=2", "model.dtype=bfloat16")
    found = moments("lora.rank=4", *sets, model=size, on=gpus(2), engine="")
    assert gb(found["GPU memory in the update"].certain) == {
        **{"weights": 0.01, "optimiser": 0.06, "frozen weights": 1.0, "gradient": 0.02}
    }


def test_a_frozen_model_of_torch_s_takes_two_bytes_for_what_is_multiplied_in_bfloat16() -> None:
    """The embedding, and an output layer of its own, are float32, as experts are, which are no linear layers."""
    size = ModelSize(
        10**9,
        2,
        2000,
        vocabulary=32000,
        matrices=(("q", 2000, 100_000), ("mlp.experts.0.up", 2000, 1000), ("lm_head", 32000, 2000)),
    )
    sets = ("gro.preset=grpo", "gro.terms.grpo.kl.coefficient=0.1", "learning.engine=torch")

    def reference(*more: str) -> float:
        return gb(moments(*sets, *more, model=size)["memory in the update"].certain)["reference"]

    assert reference("model.dtype=bfloat16") == 4.0 - 0.4
    assert reference() == 4.0


def test_one_device_holds_everything_on_a_cpu() -> None:
    sets = ("gro.preset=ppo", "gro.terms.ppo.kl.coefficient=0.1")
    found = moments(*sets, engine="vllm", model=replace(BIG, tied=True))
    held = {"weights": 4.0, "optimiser": 8.0, "reference": 4.0, "critic": 12.0}
    sampler = {"sampler": round(4 + 4 * 32000 * 2048 / 1e9, 2), "KV cache": round(2 * GIB / 1e9, 2)}
    assert gb(found["memory while sampling"].certain) == held | sampler
    assert gb(found["memory in the update"].certain) == held | sampler | {"gradient": 4.0, "its gradient": 4.0}
    assert set(found["memory in the update"].likely) == {"activations", "logits", "processes"}
    handing = found["memory at the hand-over"]
    assert gb(handing.certain) == held | sampler | {"published": 4.0}
    assert handing.likely["kept"] == 8e9 + found["memory in the update"].likely["activations"]


def test_a_run_on_offline_data_has_no_sampler_and_an_evaluation_no_learner() -> None:
    (needed,) = needs(config(), BIG, BIG, HERE, "")
    assert (needed.when, gb(needed.certain)) == ("in the update", {"weights": 4.0, "optimiser": 8.0, "gradient": 4.0})
    (needed,) = needs(config("model.dtype=bfloat16"), BIG, BIG, HERE, "hf", training=False)
    assert (needed.when, gb(needed.certain)) == ("while sampling", {"sampler": 2.0})
    assert set(needed.likely) == {"KV cache", "processes"}


def test_what_is_published_is_put_together_in_files_where_it_is_no_plain_copy() -> None:
    assert SHARD_BYTES == weights.SHARD_BYTES
    assert "being written" not in moments()["memory at the hand-over"].likely
    assert moments("model.dtype=bfloat16")["memory at the hand-over"].likely["being written"] == GIB


def test_servers_take_no_memory_of_this_machine() -> None:
    assert "sampler" not in moments(engine="servers")["memory in the update"].certain


def test_on_a_gpu_sampling_and_the_update_are_looked_at_on_their_own() -> None:
    sets = ("model.dtype=bfloat16", "sampling.memory_share=0.5")
    found = moments(*sets, on=gpus(gib=40.0), engine="vllm")
    sampling = found["GPU memory while sampling"]
    assert round((sampling.least - 12e9) / GIB, 6) == 20.0  # vLLM's share
    assert sampling.certain["sampler"] == 2e9
    assert gb(found["GPU memory in the update"].certain) == {"weights": 4.0, "optimiser": 8.0, "gradient": 4.0}
    assert found["GPU memory in the update"].likely["vLLM asleep"] == 1.5 * GIB
    assert "memory in the update" not in found  # asleep, its weights are given up: loading takes more
    offloaded = (*sets, "learning.engine=deepspeed", "learning.deepspeed.offload_optimizer=true", "lora.rank=4")
    adapter = moments(*offloaded, on=gpus(gib=40.0), model=replace(BIG, adapter=10**9), engine="vllm")
    assert gb(adapter["memory in the update"].certain)["sampler"] == 2.0  # the model that the adapter is for
    assert (
        gb(moments(*offloaded, on=gpus(gib=40.0), model=replace(BIG, adapter=10**9))["memory in the update"].certain)[
            "sampler"
        ]
        == 2.0
    )
    assert gb(found["memory at the hand-over"].certain) == {"published": 2.0}
    ahead = moments(*sets, "sampling.max_staleness=1", on=gpus(gib=40.0), engine="vllm")["GPU memory in the update"]
    assert round((ahead.least - 16e9) / GIB, 6) == 20.0  # it cannot sleep
    assert "vLLM asleep" not in ahead.likely


def test_weights_pass_through_host_memory_on_their_way_to_a_gpu() -> None:
    """Ranks take turns, but under ZeRO 3 each has to hold the whole until DeepSpeed has spread it."""
    for sets, loaded in (
        (["run.ranks=1"], 4.0),
        (["run.ranks=4", "model.dtype=bfloat16"], 2.0),
        (["run.ranks=4", "model.dtype=bfloat16", "learning.deepspeed.zero_stage=3"], 8.0),
    ):
        found = moments(*sets, on=gpus(4), engine="vllm")["memory while loading"]
        assert gb(found.certain) == {"model, loaded": loaded}
    assert "memory while loading" not in moments()


def test_only_vllms_cpu_build_packs_a_tied_output_layer() -> None:
    tied = replace(BIG, tied=True)
    assert gb(moments(model=tied, on=gpus(), engine="vllm")["GPU memory while sampling"].certain)["sampler"] == 4.0
    assert gb(moments(model=tied, engine="vllm")["memory while sampling"].certain)["sampler"] > 4.2


def test_attention_by_segment_keeps_keys_as_wide_as_they_are() -> None:
    sets = ("learning.share_prompts=never", "model.dtype=bfloat16", "learning.engine=deepspeed")
    narrow, on_cpu = (layer_bytes(config(*sets), BIG, device) for device in ("cuda", "cpu"))
    assert narrow == on_cpu
    wide = layer_bytes(config("learning.share_prompts=never"), BIG, "cuda")
    assert wide - layer_bytes(config("learning.share_prompts=never"), BIG) == 4 * 2 * (BIG.queries - BIG.keys)


def test_logits_of_a_chunk_as_large_as_the_gpu_lets_it_be() -> None:
    assert logit_bytes(config(), BIG, 80 * GIB) == 8 * 8192 * 32000 + 4 * 32000 * 2048
    on_gpu = moments(on=gpus(gib=80.0))["GPU memory in the update"]
    assert on_gpu.likely["logits"] == logit_bytes(config(), BIG, 80 * GIB)


@pytest.mark.parametrize(
    ("sets", "on_device", "in_memory"),
    [
        (["learning.deepspeed.zero_stage=0"], 16.0, 0.0),
        (["learning.deepspeed.zero_stage=2"], 20.0, 0.0),
        (["model.dtype=bfloat16", "learning.deepspeed.zero_stage=3"], 18.0, 0.0),
        (["model.dtype=bfloat16", "learning.deepspeed.offload_optimizer=true"], 6.0, 18.0),
        (
            [
                *("model.dtype=bfloat16", "learning.deepspeed.zero_stage=3"),
                *("learning.deepspeed.offload_optimizer=true", "learning.deepspeed.offload_parameters=true"),
            ],
            4.0,
            20.0,
        ),
    ],
)
def test_deepspeed_takes_what_its_page_says(sets: list[str], on_device: float, in_memory: float) -> None:
    found = moments("learning.engine=deepspeed", *sets, on=gpus(), engine="")
    assert sum(gb(found["GPU memory in the update"].certain).values()) == on_device
    if in_memory:
        assert sum(gb(found["memory in the update"].certain).values()) == in_memory
    else:  # the weights on their way to the GPU take more
        assert "memory while loading" in found


def test_deepspeed_has_buffers(tmp_path: Path) -> None:
    """Of a GPU a whole bucket is taken, of a CPU what is written to; ZeRO 3 gathers up to 10^9 parameters."""
    sets = ("learning.engine=deepspeed", "learning.deepspeed.zero_stage=3", "model.dtype=bfloat16")
    assert gb(moments(*sets, on=gpus())["GPU memory in the update"].likely)["gathered"] == 2.0
    assert moments(*sets, on=gpus())["GPU memory in the update"].likely["buckets"] == (2 + 4) * BUCKET
    small = replace(BIG, parameters=10**8)
    assert moments(*sets, model=small)["memory in the update"].likely["buckets"] == 6e8
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"reduce_bucket_size": 1000}}')
    own = moments(*sets, f"learning.deepspeed.config={tmp_path}/ds.json", on=gpus())
    assert own["GPU memory in the update"].likely["buckets"] == 6000


def test_ranks_share_what_zero_spreads_and_the_memory_of_their_node() -> None:
    """ZeRO 2 in float32: 4 + 16 / N bytes per parameter and rank; what is published is there once."""
    found = moments("run.ranks=4", "learning.deepspeed.zero_stage=2")
    assert gb(found["memory in the update"].certain) == {
        **{"weights": 16.0, "optimiser": 12.0, "sampler": 16.0, "gradient": 4.0}
    }
    assert gb(found["memory at the hand-over"].certain)["published"] == 4.0
    offloaded = (
        "learning.deepspeed.offload_optimizer=true",
        "lora.rank=4",
        "lora.handover=adapter",
        "model.dtype=bfloat16",
    )
    size = replace(BIG, adapter=10**9)
    two_nodes = moments("run.ranks=4", *offloaded, on=gpus(2), engine="vllm", model=size)
    assert gb(two_nodes["memory in the update"].certain)["sampler"] == 4.0


def test_activations_by_hand() -> None:
    """24 layers of 6 H + 3 Q + 2 K + 4 I values of 4 bytes per token, and 7 H + 3 I outside of them."""
    sets = ("learning.token_budget=1000", "learning.share_prompts=never")
    layer = 6 * 2048 + 3 * 2048 + 2 * 512 + 4 * 5504
    assert layer_bytes(config(*sets), BIG) == 4 * layer
    plain = activation_bytes(config(*sets), BIG)
    assert plain == 4 * 1000 * (24 * layer + 7 * 2048 + 3 * 5504)
    less = activation_bytes(config(*sets, "learning.gradient_checkpointing=true"), BIG)
    assert less == 4 * 1000 * (24 * 2048 + layer + 7 * 2048 + 3 * 5504)
    assert activation_bytes(config("learning.token_budget=700", "learning.share_prompts=never"), BIG) == 0.7 * plain
    assert logit_bytes(config(), BIG) == 8 * 256 * 32000 + 4 * 32000 * 2048
    assert logit_bytes(config("lora.rank=4", "gro.terms.grpo.entropy=0.01"), BIG) == 12 * 256 * 32000


def test_nothing_is_kept_of_an_update_whose_blocks_are_returned() -> None:
    """With recomputation or an adapter (`learning.device.return_freed_blocks`)."""
    assert moments()["memory at the hand-over"].likely["kept"] > 0
    for sets in (["lora.rank=4"], ["learning.gradient_checkpointing=true"]):
        found = moments(*sets, model=replace(BIG, adapter=10**7 if "lora.rank=4" in sets else 0))
        assert set(found["memory in the update"].likely) == {"activations", "logits", "processes"}
        assert "kept" not in found["memory at the hand-over"].likely


def test_tiled_mlps_by_hand() -> None:
    """7 I of 4 bytes for the tokens of a tile, not 4 I and 3 I for all; and two gradients of the three weights."""
    sets = ("learning.token_budget=1000", "learning.share_prompts=never", "learning.gradient_checkpointing=true")
    tiled = (*sets, "learning.mlp_tile=100")
    attention = 6 * 2048 + 3 * 2048 + 2 * 512
    rest = 4 * 1000 * (24 * 2048 + attention + 7 * 2048)
    gradients = 2 * 4 * 3 * 2048 * 5504
    assert activation_bytes(config(*tiled), BIG) == rest + 4 * 100 * 7 * 5504 + gradients
    assert activation_bytes(config(*tiled, "lora.rank=4"), BIG) == rest + 4 * 100 * 7 * 5504 - 2 * 4 * 1000 * 2048
    assert activation_bytes(config(*sets, "learning.mlp_tile=1000"), BIG) == activation_bytes(config(*sets), BIG)


def test_inputs_of_layers_are_in_host_memory_instead() -> None:
    sets = ("learning.gradient_checkpointing=true", "model.dtype=bfloat16", "learning.engine=deepspeed")
    here, there = (
        moments(*sets, *more, on=gpus(), engine="vllm") for more in ((), ("learning.offload_activations=true",))
    )
    tokens = micro_batch_tokens(config(*sets))
    gpu = "GPU memory in the update"
    assert here[gpu].likely["activations"] - there[gpu].likely["activations"] == tokens * 23 * 2 * 2048
    moved = needs(config(*sets, "learning.offload_activations=true"), replace(BIG, parameters=10**6), BIG, gpus(), "")
    (host,) = (need for need in moved if need.where == "memory" and need.when == "in the update")
    assert host.likely["activations, offloaded"] == tokens * 24 * 2 * 2048


def test_lengths_and_tokens_by_hand() -> None:
    """The laptop's 4 problems x 8 responses of 512 + 64 tokens, each group's prompt in a row once."""
    assert share_tokens(config()) == 4 * (512 + 8 * 64)
    assert share_tokens(config("learning.share_prompts=never")) == 4 * 8 * (512 + 64)
    assert share_tokens(config("run.ranks=4")) == 512 + 8 * 64
    assert longest_row(config()) == 576
    assert micro_batch_tokens(config()) == 1024
    assert micro_batch_tokens(config("learning.token_budget=100")) == 576
    assert micro_batch_tokens(config("learning.token_budget=100000")) == share_tokens(config())
    published = published_bytes(config("model.dtype=bfloat16"), BIG, "vllm", "cuda")
    assert published == 2 * 10**9
    adapted = config("model.dtype=bfloat16", "lora.rank=8")
    assert published_bytes(adapted, replace(BIG, adapter=10**6), "vllm", "cuda") == 4e6
    assert published_bytes(adapted, replace(BIG, adapter=10**6), "servers", "cuda") == 4e6
    merged = config("model.dtype=bfloat16", "lora.rank=8", "lora.handover=merged")
    assert published_bytes(merged, replace(BIG, adapter=10**6), "servers", "cuda") == 2e9
    assert hf_cache_bytes(config(), BIG, "cpu") == 4 * 8 * 576 * 2 * 512 * 24 * 4


@pytest.mark.parametrize(
    ("sets", "dtype"),
    [
        (("learning.share_prompts=never",), "float32"),
        (("learning.share_prompts=always",), "float32"),
        (("learning.share_prompts=never", "lora.rank=4"), "float32"),
        (("learning.share_prompts=never", "model.dtype=bfloat16"), "bfloat16"),
        (("learning.share_prompts=never", "model.dtype=bfloat16", "learning.engine=deepspeed"), "bfloat16"),
    ],
)
def test_activations_are_what_autograd_keeps(tmp_path: Path, sets: tuple[str, ...], dtype: str) -> None:
    compare_activations(build_tiny_model(tmp_path / "tiny"), sets, dtype)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen3"])
def test_activations_of_experts_and_normalised_queries(tmp_path: Path, name: str) -> None:
    compare_activations(build(name, tmp_path), ("learning.share_prompts=never",), "float32")


def compare_activations(folder: Path, sets: tuple[str, ...], dtype: str) -> None:
    """Counted in a real forward pass: storages that are saved for the backward pass, weights left out."""
    lengths = ("sampling.max_prompt_tokens=24", "sampling.max_tokens=40", "sampling.group_size=4")
    configured = config(*lengths, *sets)
    policy = TorchPolicy(
        folder,
        ModelOptions(
            device="cpu",
            dtype=dtype,  # type: ignore[arg-type]
            token_budget=4096,
            logit_chunk=64,
            share_prompts=configured.learning.share_prompts,
            autocast=configured.learner == "torch",
            lora=configured.lora,
        ),
    )
    groups = [make_group(f"p{number}", [5] * 24, [[7] * 40] * 4) for number in range(4)]
    (batch,) = policy.packing.micro_batches(rows_by_group(groups))
    own = {value.untyped_storage().data_ptr() for value in policy.model.parameters()}
    shapes = {tuple(value.shape) for value in policy.model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        cast = value.dim() == 2 and {tuple(value.shape), tuple(value.mT.shape)} & shapes  # of a weight, under autocast
        if storage.data_ptr() not in own and not cast:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        hidden = policy.hidden(policy.inputs(batch))
    assert hidden.requires_grad
    size = ModelSize.of(folder, configured.lora)
    outside = 3 * 4 * size.hidden  # the last normalisation
    expected = batch.tokens * (size.layers * layer_bytes(configured, size) + outside)
    assert sum(kept.values()) == pytest.approx(expected, rel=0.07)


def test_what_cannot_work_is_refused_and_what_is_tight_is_warned_of() -> None:
    needed = Need("memory", "in the update", {"learner": 8 * GIB, "sampler": 1 * GIB}, {"activations": 2 * GIB})
    with pytest.raises(
        UserError, match=r"at least 9.0 GiB of memory \(learner 8.0, sampler 1.0, act.*8.5 GiB are free"
    ):
        check_memory([needed], {"memory": 8.5 * GIB})
    (warning,) = check_memory([needed], {"memory": 12 * GIB})
    assert "tight in the update: about 11.0 GiB" in warning
    assert "take a smaller model" in warning.lower()
    assert check_memory([needed], {"memory": 20 * GIB}) == ()
    assert describe_memory([needed], {"memory": 20 * GIB}) == (
        "about 11.0 of 20.0 GiB memory in the update (learner 8.0, sampler 1.0, activations 2.0 GiB)"
    )


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    for folder, limit, used in ((tmp_path, 8 * GIB, 1 * GIB), (tmp_path / "a" / "b", 4 * GIB, 3 * GIB)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    assert list(machine._container_free(tmp_path, "0::/a/b\n")) == [2 * GIB, 8 * GIB]
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text(str(4 * GIB))
    (old / "memory.usage_in_bytes").write_text(str(GIB))
    (old / "memory.stat").write_text("total_inactive_file 0\n")
    # inside a container the path may be the host's
    assert list(machine._container_free(tmp_path, "4:memory:/docker/123\n3:cpu:/\n")) == [3 * GIB]
    assert list(machine._container_free(tmp_path / "none", "0::/\n")) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert list(machine._container_free(tmp_path, "0::/\n")) == []


TASK = """
[model]
path = "{folder}/tiny"
device = "cpu"
[data.demos]
path = "{folder}/demos.jsonl"
[gro]
preset = "sft"
[run]
output = "{folder}/runs"
"""


def test_a_run_without_memory_for_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_tiny_model(tmp_path / "tiny")
    (tmp_path / "demos.jsonl").write_text("".join(f'{{"prompt": "say {n}", "completion": "yes"}}\n' for n in range(8)))
    (tmp_path / "trial.toml").write_text(TASK.format(folder=tmp_path))
    resolved = load_config(tmp_path / "trial.toml")
    monkeypatch.setattr("reasoner.processes.machine.free_memory", lambda device: {"memory": 10_000.0})
    with pytest.raises(UserError, match="this run cannot work here"), open_trainer(resolved):
        raise AssertionError("it was opened")
    assert not (tmp_path / "runs").exists()
    least = 16.0 * ModelSize.of(tmp_path / "tiny").parameters
    monkeypatch.setattr("reasoner.processes.machine.free_memory", lambda device: {"memory": least + 1})
    with open_trainer(resolved) as trainer:
        log = (trainer.run.folder / "log.txt").read_text()
    assert "WARNING: memory will be tight in the update" in log
    assert re.search(r"memory +about \d", log)


def test_there_is_memory_here() -> None:
    assert 0.1 * GIB < free_memory("cpu")["memory"] < 10**15


def test_gpus_that_share_an_engine_have_a_part_of_its_weights_and_cache_each() -> None:
    gpu = "GPU memory while sampling"
    settings = ("run.ranks=4", "model.device=cuda", "model.dtype=bfloat16", "sampling.tensor_parallel=2")
    alone, shared = (moments(*settings[:count], on=gpus(4), engine="vllm")[gpu] for count in (3, 4))
    assert (gb(alone.certain)["sampler"], gb(shared.certain)["sampler"]) == (2.0, 1.0)
    one, both = (cache_token_bytes(config(*settings[:count]), BIG) for count in (3, 4))
    assert one == 2 * both
    on_cpu = "memory while sampling"
    together = moments("sampling.tensor_parallel=2", engine="vllm")[on_cpu]
    assert gb(together.certain)["sampler"] == 4.0  # both parts are in one memory


@pytest.mark.parametrize(
    ("name", "experts"), [("mixtral", 4), ("granitemoe", 4), ("nemotron3", 4), ("nemotron_h", 0), ("llama", 0)]
)
def test_experts_are_counted_where_a_layer_has_them(tmp_path: Path, name: str, experts: int) -> None:
    """A hybrid model's configuration counts experts also where no layer has any."""
    assert ModelSize.of(build(name, tmp_path)).experts == experts


def test_experts_to_replay_wait_in_host_memory() -> None:
    """Two bytes for 4 experts in each of 24 layers, for the 512 + 64 tokens of 4 problems x 8 responses."""
    mixture = replace(BIG, experts=16, experts_per_token=4, expert_width=512)
    replay = "learning.routing_replay=true"
    step = 2 * 24 * 4 * 4 * 8 * (512 + 64)
    of_all = {name: need.likely.get("experts to replay") for name, need in moments(replay, model=mixture).items()}
    assert of_all == dict.fromkeys(("memory while sampling", "memory in the update", "memory at the hand-over"), step)
    plain = moments(model=mixture)
    assert not any("experts to replay" in need.likely for need in plain.values())
    ahead, over = "sampling.max_staleness=2", "sampling.over_sample=0.5"
    assert route_bytes(config(replay, ahead), mixture) == 3 * step
    assert route_bytes(config(replay, ahead, over), mixture) == 2 * step + step / 2  # 2 groups more are begun
    on_gpus = moments(replay, "run.ranks=2", "model.device=cuda", model=mixture, on=gpus(2), engine="vllm")
    assert on_gpus["memory at the hand-over"].likely["experts to replay"] == step  # two ranks with half of it each
    assert not any("experts" in name for name in on_gpus["GPU memory in the update"].likely)
    for need in needs(config(replay), mixture, mixture, HERE, "hf", training=False):
        assert "experts to replay" not in need.likely
