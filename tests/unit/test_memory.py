"""What a run takes of memory, and what happens where it is not there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reasoner import memory
from reasoner.config import Config, LoraConfig
from reasoner.errors import UserError
from reasoner.learning.policy import TorchPolicy
from reasoner.memory import GIB, ModelSize, Need, activation_bytes, check_memory, describe_memory, free_memory, needs
from reasoner.opening import open_stages
from reasoner.settings import load_config
from tests.tiny import build_tiny_model

BIG = ModelSize(10**9, 24, 2048, 5504, 32000)


def config(*sets: str) -> Config:
    return load_config("math-gsm8k", "laptop", None, sets).config


def test_the_size_of_a_model_is_read_without_loading_it(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny", tied=False)
    policy = TorchPolicy(folder, device="cpu", dtype="float32", token_budget=64, logit_chunk=64)
    assert ModelSize.of(folder) == ModelSize(sum(p.numel() for p in policy.model.parameters()), 2, 64, 128, 260)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"text_config": {"hidden_size": settings["hidden_size"]}}))
    assert ModelSize.of(folder).hidden == 64
    assert ModelSize.of(folder).layers == 0


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_an_adapter_is_counted_as_peft_makes_it(tmp_path: Path, targets: list[str]) -> None:
    lora = LoraConfig(rank=4, targets=targets)
    folder = build_tiny_model(tmp_path / "tiny", tied=False)
    policy = TorchPolicy(folder, device="cpu", dtype="float32", token_budget=64, logit_chunk=64, lora=lora)
    assert ModelSize.of(folder, lora).trained == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)


def test_an_adapter_leaves_the_model_without_gradient_and_optimiser() -> None:
    size = replace(BIG, adapter=10**7)
    (needed,) = needs(config("lora.rank=4", "gro.terms.grpo.kl.coefficient=0.1"), size, BIG, "cpu", "")
    assert gib(needed) == {"learner": 0.12, "frozen weights": 4.0, "gradient": 0.04}
    sets = ("learning.engine=deepspeed", "learning.deepspeed.zero_stage=3", "run.ranks=2", "model.dtype=bfloat16")
    _, update, _ = needs(config("lora.rank=4", *sets), size, BIG, "cuda", "", 80e9)
    assert gib(update) == {"learner": 0.07, "frozen weights": 1.0, "gradient": 0.02}


def gib(needed: Need) -> dict[str, float]:
    return {name: round(size / 1e9, 2) for name, size in needed.certain.items()}


def test_one_device_holds_everything_on_a_cpu() -> None:
    (needed,) = needs(config("gro.preset=ppo", "gro.terms.ppo.kl.coefficient=0.1"), BIG, BIG, "cpu", "vllm")
    assert gib(needed) == {
        **{"learner": 12.0, "reference": 4.0, "critic": 12.0, "gradient": 4.0, "its gradient": 4.0, "sampler": 4.0},
        "KV cache": round(2 * GIB / 1e9, 2),
    }
    assert set(needed.likely) == {"activations", "processes"}


def test_a_run_on_offline_data_has_no_sampler_and_an_evaluation_no_learner() -> None:
    (needed,) = needs(config(), BIG, BIG, "cpu", "")
    assert gib(needed) == {"learner": 12.0, "gradient": 4.0}
    (needed,) = needs(config("model.dtype=bfloat16"), BIG, BIG, "cpu", "hf", training=False)
    assert gib(needed) == {"sampler": 2.0}
    assert set(needed.likely) == {"processes"}


def test_on_a_gpu_sampling_and_the_update_are_looked_at_on_their_own() -> None:
    bf16 = config("model.dtype=bfloat16", "sampling.memory_share=0.5")
    sampling, update, host = needs(bf16, BIG, BIG, "cuda", "vllm", 40e9)
    assert (sampling.where, update.where, host.where) == ("GPU memory", "GPU memory", "memory")
    assert gib(sampling) == {"learner": 12.0, "vLLM, sampling.memory_share": 20.0}
    assert gib(update) == {"learner": 12.0, "gradient": 4.0}
    assert gib(host) == {"sampler": 2.0}  # asleep


@pytest.mark.parametrize(
    ("sets", "on_device", "in_memory"),
    [
        (["learning.deepspeed.zero_stage=0"], 16.0, 0.0),
        (["learning.deepspeed.zero_stage=2"], 20.0, 0.0),
        (["model.dtype=bfloat16", "learning.deepspeed.zero_stage=3"], 18.0, 0.0),
        (["model.dtype=bfloat16", "learning.deepspeed.offload_optimizer=true"], 6.0, 12.0),
        (
            [
                *("model.dtype=bfloat16", "learning.deepspeed.zero_stage=3"),
                *("learning.deepspeed.offload_optimizer=true", "learning.deepspeed.offload_parameters=true"),
            ],
            4.0,
            14.0,
        ),
    ],
)
def test_deepspeed_takes_what_its_page_says(sets: list[str], on_device: float, in_memory: float) -> None:
    _, update, host = needs(config("learning.engine=deepspeed", *sets), BIG, BIG, "cuda", "", 80e9)
    assert sum(gib(update).values()) == on_device
    assert sum(gib(host).values()) == in_memory


def test_ranks_share_what_zero_spreads_and_the_memory_of_their_node() -> None:
    """ZeRO 2 in float32: 4 + 16 / N bytes per parameter and rank."""
    sets = ["run.ranks=4", "learning.deepspeed.zero_stage=2", "sampling.engine=hf"]
    (needed,) = needs(config(*sets), BIG, BIG, "cpu", "hf")
    assert gib(needed) == {"learner": 4 * (4 + 3), "gradient": 4.0, "sampler": 16.0}


def test_activations_shrink_with_recomputation_and_the_budget() -> None:
    """1000 tokens x 24 layers x (9 x 2048 + 3 x 5504) values of 4 bytes, and 3 x 256 x 32000 logits."""
    plain = activation_bytes(config("learning.token_budget=1000"), BIG)
    assert plain == 4 * 1000 * 24 * (9 * 2048 + 3 * 5504) + 3 * 4 * 256 * 32000
    less = activation_bytes(config("learning.token_budget=1000", "learning.gradient_checkpointing=true"), BIG)
    assert less < plain / 5
    assert activation_bytes(config("learning.token_budget=500"), BIG) < 0.6 * plain


def test_what_cannot_work_is_refused_and_what_is_tight_is_warned_of() -> None:
    needed = Need("memory", "in the update", {"learner": 8 * GIB, "sampler": 1 * GIB}, {"activations": 2 * GIB})
    with pytest.raises(
        UserError, match=r"at least 9.0 GiB of memory \(learner 8.0, sampler 1.0, act.*8.5 GiB are free"
    ):
        check_memory([needed], {"memory": 8.5 * GIB})
    (warning,) = check_memory([needed], {"memory": 12 * GIB})
    assert "tight in the update: about 11.0 GiB" in warning
    assert "learning.token_budget" in warning
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
    assert list(memory._container_free(tmp_path, "0::/a/b\n")) == [2 * GIB, 8 * GIB]
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text(str(4 * GIB))
    (old / "memory.usage_in_bytes").write_text(str(GIB))
    (old / "memory.stat").write_text("total_inactive_file 0\n")
    # inside a container the path may be the host's
    assert list(memory._container_free(tmp_path, "4:memory:/docker/123\n3:cpu:/\n")) == [3 * GIB]
    assert list(memory._container_free(tmp_path / "none", "0::/\n")) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert list(memory._container_free(tmp_path, "0::/\n")) == []


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
    (tmp_path / "demos.jsonl").write_text('{"prompt": "say", "completion": "yes"}\n' * 8)
    (tmp_path / "trial.toml").write_text(TASK.format(folder=tmp_path))
    resolved = load_config(tmp_path / "trial.toml")
    monkeypatch.setattr("reasoner.opening.free_memory", lambda device: {"memory": 10_000.0})
    with pytest.raises(UserError, match="this run cannot work here"), open_stages(resolved):
        raise AssertionError("it was opened")
    assert not (tmp_path / "runs").exists()
    least = 16.0 * ModelSize.of(tmp_path / "tiny").parameters
    monkeypatch.setattr("reasoner.opening.free_memory", lambda device: {"memory": least + 1})
    with open_stages(resolved) as stages:
        log = (stages.run.folder / "log.txt").read_text()
    assert "WARNING: memory will be tight in the update" in log
    assert re.search(r"memory +about \d", log)


def test_there_is_memory_here() -> None:
    assert 0.1 * GIB < free_memory("cpu")["memory"] < 10**15
