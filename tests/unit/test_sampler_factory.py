"""What the sampler is given of a model, decided before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasoner.benchmarks.parts import BenchmarkPart
from reasoner.cli.train import serve as serving
from reasoner.config import Config, LoraConfig
from reasoner.config.decisions import Decisions
from reasoner.errors import ConfigError, UserError
from reasoner.loading import load_config
from reasoner.models.size import ModelSize
from reasoner.planning import decide
from reasoner.planning import feasibility as refusals
from reasoner.planning.memory.sampler import sampler_bytes
from reasoner.sampling import factory
from reasoner.sampling.factory import check_sampler, engine_start, merge_reason, open_engine
from reasoner.sampling.vllm.messages import StartEngine
from tests.architectures import BY_NAME, tiny_config
from tests.tiny import build_tiny_model


def config(path: str = "x", device: str = "cpu", engine: str = "vllm", dtype: str = "float32", **more: Any) -> Config:
    return Config.model_validate(
        {
            "task": "t",
            "profile": "laptop",
            "model": {"path": path, "device": device, "dtype": dtype},
            "data": {"eval": {"path": "x.jsonl"}},
            "rewards": [{"source": "exact"}],
            "evaluation": {"correct": "exact"},
            "sampling": {"engine": engine, **more},
        }
    )


def check(found: Config, folder: Path) -> None:
    check_sampler(found, folder, decisions_of(found))


def decisions_of(found: Config, *, training: bool = True) -> Decisions:
    """What is decided where both engines are installed, on the device that the configuration names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decide, "resolve_device", lambda device: device)
        patch.setattr(decide, "choose_engine", lambda sampling: factory.choose_engine(sampling))
        return decide.decide(found, training=training)


def load_online(gpus: int) -> Config:
    return load_config("math-gsm8k", "gpu", sets=["sampling.engine=vllm", f"sampling.tensor_parallel={gpus}"]).config


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "choose_engine", lambda sampling: sampling.engine)


@pytest.mark.parametrize(
    ("settings", "lora", "why"),
    [
        ({}, {}, ""),
        ({}, {"rank": 512, "handover": "adapter"}, ""),
        ({"device": "cuda", "dtype": "bfloat16"}, {}, ""),
        ({"device": "cuda"}, {}, "model.dtype = 'bfloat16'"),
        ({}, {"rank": 513}, "ranks up to 512"),
        ({"engine": "hf"}, {}, "the sampler is hf"),
        # they add it to the model, whatever its rank and number format
        ({"servers": ["http://a:1"]}, {}, ""),
        ({"servers": ["http://a:1"], "device": "cuda"}, {"rank": 513, "handover": "adapter"}, ""),
    ],
)
def test_the_adapter_goes_alone_where_the_sampler_takes_it(
    settings: dict[str, Any], lora: dict[str, Any], why: str, tmp_path: Path
) -> None:
    asked = LoraConfig(**lora)
    found = config(**settings).model_copy(update={"lora": asked})
    engine = "servers" if found.sampling.servers else found.sampling.engine
    assert why in merge_reason(found, engine, found.model.device)
    assert bool(why) == bool(merge_reason(found, engine, found.model.device))
    if why:
        impossible = found.model_copy(update={"lora": asked.model_copy(update={"handover": "adapter"})})
        with pytest.raises(ConfigError, match=r"lora.handover = 'adapter' is impossible: .*'auto' or 'merged'"):
            merge_reason(impossible, engine, found.model.device)
    assert (
        merge_reason(found.model_copy(update={"lora": LoraConfig(handover="merged")}), "vllm", "cpu") == "lora.handover"
    )


@pytest.mark.parametrize("key", ["lora.quantization", "sampling.quantization"])
@pytest.mark.parametrize(
    ("engine", "device", "why"),
    [
        ("vllm", "cpu", ""),
        ("hf", "cpu", "the sampler is hf"),
        ("servers", "cpu", ""),  # lora.quantization; the other one is refused with servers by `check_quantization`
        ("vllm", "cuda", "model.dtype = 'bfloat16'"),
    ],
)
def test_rounded_weights_need_a_sampler_that_takes_the_adapter_alone(
    key: str, engine: str, device: str, why: str
) -> None:
    found = config()
    lora = LoraConfig(quantization="nf4" if key == "lora.quantization" else None)
    sampling = found.sampling.model_copy(update={"quantization": "fp8" if key == "sampling.quantization" else None})
    found = found.model_copy(update={"lora": lora, "sampling": sampling})
    if not why:
        assert merge_reason(found, engine, device) == ""
        return
    with pytest.raises(ConfigError, match=rf"{key} has the adapter handed over alone .*impossible: .*{why}.*{key} out"):
        merge_reason(found, engine, device)


SPREAD = [
    # heads, of keys and values, MLP, vocabulary, GPUs, what does not divide
    (14, 2, 4864, 151936, 7, "2 heads of keys and values and MLPs of width 4864 and vocabulary of 151936"),
    (14, 2, 4900, 448, 7, "2 heads of keys and values"),
    (14, 2, 4864, 151936, 2, ""),
    (14, 2, 4864, 151936, 4, "14 attention heads"),
    (28, 4, 18944, 152064, 4, ""),
    (28, 4, 18928, 448, 7, "4 heads of keys and values"),
    (28, 4, 18928, 448, 14, "4 heads of keys and values"),
    (32, 8, 14336, 128256, 16, ""),
    (32, 8, 14336, 128256, 8, ""),
    (32, 8, 14336, 128256, 3, "32 attention heads and 8 heads of keys and values and MLPs of width 14336"),
    (32, 8, 14336, 128256, 64, "32 attention heads"),
    (12, 12, 3072, 31990, 3, "vocabulary of 32000"),
    (12, 12, 3072, 50304, 4, ""),
    (12, 4, 3072, 192, 6, "4 heads of keys and values"),
    (12, 1, 3072, 192, 6, ""),
    (12, 8, 3072, 192, 12, "8 heads of keys and values"),
    (0, 0, 0, 0, 5, ""),
    (12, 4, 3072, 192, 1, ""),
]


@pytest.mark.parametrize(("heads", "kv_heads", "width", "vocabulary", "gpus", "why"), SPREAD)
def test_plan_and_run_agree_on_how_many_gpus_can_share_a_model(
    tmp_path: Path, heads: int, kv_heads: int, width: int, vocabulary: int, gpus: int, why: str
) -> None:
    model = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocabulary,
    }
    (tmp_path / "config.json").write_text(json.dumps({"text_config": model}))
    size = ModelSize.of(tmp_path)
    planned = list(refusals._sampler_obstacles(load_online(gpus), size))
    if not why:
        check(config(tensor_parallel=gpus), tmp_path)
        assert planned == []
        return
    with pytest.raises(ConfigError) as refused:
        check(config(tensor_parallel=gpus), tmp_path)
    assert f"sampling.tensor_parallel = {gpus} does not fit the model's {why}" in str(refused.value)
    assert planned == [str(refused.value)]
    for fitting in map(int, str(refused.value).rpartition("can be ")[2].split(", ")):
        check(config(tensor_parallel=fitting), tmp_path)


def test_weights_that_only_vllm_would_load_are_refused_with_it(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"has consolidated\.safetensors beside model\.safetensors, and vLLM would load"
    ):
        check(config(), folder)
    check(config(engine="hf"), folder)


def test_heads_that_cannot_be_spread_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path)  # two heads, one of keys and values
    with pytest.raises(
        ConfigError, match=r"tensor_parallel = 3 does not fit the model's 2 attention .*: it can be 1, 2$"
    ):
        check(config(tensor_parallel=3), folder)
    check(config(tensor_parallel=2), folder)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt_oss", "qwen3_moe", "deepseek_v3", "gemma3_vl"])
def test_vllm_keeps_prefixes_of_models_with_attention_alone(tmp_path: Path, name: str) -> None:
    tiny_config(BY_NAME[name]).save_pretrained(tmp_path)
    start = engine_start(config(), "cpu", tmp_path, 256)
    assert (start.prefix_caching, start.max_sequences) == (True, 128)
    assert engine_start(config(), "cuda", tmp_path, 256).max_sequences is None  # vLLM knows the GPU


@pytest.mark.parametrize(
    "name", ["mamba2", "falcon_h1", "qwen3_5", "qwen3_5_vl", "qwen3_next", "lfm2", "granite4", "nemotron_h", "jamba"]
)
def test_vllm_keeps_no_prefixes_of_recurrent_layers(tmp_path: Path, name: str) -> None:
    """With them vLLM ends with an IndexError for Mamba 2 and Falcon-H1."""
    tiny_config(BY_NAME[name]).save_pretrained(tmp_path)
    assert not engine_start(config(), "cpu", tmp_path, 256).prefix_caching


DELTA_NETS = ("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_vl")


@pytest.mark.parametrize("name", [*DELTA_NETS, "olmo_hybrid", "qwen3", "qwen3_moe"])
@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, True),
        ({"dtype": "bfloat16"}, False),
        ({"engine": "hf"}, False),
        ({"engine": "servers"}, False),
        ({"device": "cuda"}, False),
    ],
)
def test_gated_delta_nets_are_refused_where_vllm_has_them_in_another_number_format_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, str], refused: bool
) -> None:
    tiny_config(BY_NAME[name]).save_pretrained(tmp_path)
    monkeypatch.setattr(ModelSize, "of", lambda folder: ModelSize(0))
    engine = settings.get("engine", "vllm")
    found = config(**{**settings, "engine": "vllm" if engine == "servers" else engine})
    monkeypatch.setattr(factory, "choose_engine", lambda sampling: engine)
    if refused and name in DELTA_NETS:
        with pytest.raises(ConfigError, match=r"delta nets of qwen3_.*'bfloat16', or sampling\.engine = 'hf'"):
            check(found, tmp_path)
    else:
        check(found, tmp_path)


@pytest.mark.parametrize(
    ("engine", "device", "why"),
    [
        ("vllm", "cpu", "vLLM's CPU build does not \\(its second model runner does, which needs Triton\\)"),
        ("vllm", "cuda", ""),
        ("hf", "cpu", ""),
    ],
)
def test_a_sampler_that_does_not_say_its_experts_is_refused_for_their_replay(
    engine: str, device: str, why: str, tmp_path: Path
) -> None:
    build_tiny_model(tmp_path)
    plain = config(path=str(tmp_path), engine=engine, device=device)
    check(plain, tmp_path)
    replaying = plain.model_copy(update={"learning": plain.learning.model_copy(update={"routing_replay": True})})
    if why:
        with pytest.raises(
            ConfigError, match=f"learning.routing_replay needs a sampler .*{why}. Set sampling.engine = 'hf'"
        ):
            check(replaying, tmp_path)
    else:
        check(replaying, tmp_path)
    check_sampler(replaying, tmp_path, decisions_of(replaying, training=False))  # nothing is replayed


QUANTIZED = {"quantization": "fp8", "device": "cuda", "dtype": "bfloat16"}


def engine_of(found: Config, folder: Path, decisions: Decisions, monkeypatch: pytest.MonkeyPatch) -> StartEngine:
    """What vLLM is started with."""
    monkeypatch.setattr("reasoner.sampling.vllm.engine.VllmSampler", lambda start, log: start)
    start: Any = open_engine(found, decisions, folder, folder / "log")
    assert isinstance(start, StartEngine)
    return start


@pytest.mark.parametrize("training", [True, False])
def test_weights_are_quantised_wherever_none_are_loaded_over_them_and_counted_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    folder = build_tiny_model(tmp_path)
    plain = config(path=str(folder), device="cuda", dtype="bfloat16")
    found = config(path=str(folder), **QUANTIZED)
    if training:
        found = found.model_copy(update={"lora": LoraConfig(rank=4)})
    decisions = decisions_of(found, training=training)
    check_sampler(found, folder, decisions)
    started = engine_of(found, folder, decisions, monkeypatch)
    assert (started.quantization, started.adapter_rank) == ("fp8", 4 if training else 0)
    assert engine_of(plain, folder, decisions_of(plain, training=False), monkeypatch).quantization is None
    model = ModelSize.of(folder)
    counted, whole = (sampler_bytes(each, model, "vllm", "cuda")["sampler"] for each in (found, plain))
    assert counted < whole


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"engine": "hf"}, {"engine": "servers"}])
def test_a_sampler_that_would_not_quantise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """An evaluation alone, which nothing else has checked."""
    engine = settings.get("engine", "vllm")
    monkeypatch.setattr(factory, "choose_engine", lambda sampling: engine)
    found = config(**QUANTIZED | settings | {"engine": "auto"})
    with pytest.raises(ConfigError, match=f"quantization = 'fp8' needs .*the sampler is {engine} on .*=none"):
        check_sampler(found, tmp_path, decisions_of(found, training=False))


def test_models_that_are_rounded_differently_do_not_share_an_engine(tmp_path: Path) -> None:
    engines = []
    for more in ({}, {"quantization": "fp8"}, {"tensor_parallel": 2}):
        found = config(device="cuda", **more)
        resources: Any = SimpleNamespace(config=found, folder=tmp_path, decisions=decisions_of(found, training=False))
        engines.append(BenchmarkPart("A", resources).engine)
    assert len(set(engines)) == 3


def test_a_server_holds_whole_weights_which_runs_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = list[StartEngine]()
    monkeypatch.setattr(serving, "choose_engine", lambda sampling: "vllm")
    monkeypatch.setattr(serving, "run_server", lambda start, *_: started.append(start))
    model = str(build_tiny_model(tmp_path))
    for sets in ([], ["sampling.quantization=fp8"]):
        serving.serve(model, sets=sets)
        assert ("sampling.quantization is left out" in capsys.readouterr().out) == bool(sets)
    assert [start.quantization for start in started] == [None, None]
