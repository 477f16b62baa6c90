"""What the sampler is given of a model, decided before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasoner.config import Config, LoraConfig
from reasoner.errors import ConfigError
from reasoner.sampling import factory
from reasoner.sampling.factory import check_sampler, why_merged
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
    ],
)
def test_the_adapter_goes_alone_where_the_sampler_takes_it(
    settings: dict[str, Any], lora: dict[str, Any], why: str, tmp_path: Path
) -> None:
    asked = LoraConfig(**lora)
    found = config(**settings).model_copy(update={"lora": asked})
    assert why in why_merged(found)
    assert bool(why) == bool(why_merged(found))
    if why:
        impossible = found.model_copy(update={"lora": asked.model_copy(update={"handover": "adapter"})})
        folder = build_tiny_model(tmp_path)
        with pytest.raises(ConfigError, match=r"lora.handover = 'adapter' is impossible: .*'auto' or 'merged'"):
            check_sampler(impossible, folder, training=True)
    assert why_merged(found.model_copy(update={"lora": LoraConfig(handover="merged")})) == "lora.handover"


def test_heads_that_cannot_be_spread_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path)  # two heads, one of keys and values
    with pytest.raises(ConfigError, match=r"tensor_parallel = 3 does not fit the model's 2 .*\(1 of.* it can be 1, 2$"):
        check_sampler(config(tensor_parallel=3), folder, training=True)
    check_sampler(config(tensor_parallel=2), folder, training=True)
