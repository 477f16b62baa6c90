"""What DeepSpeed is told, and a user's own DeepSpeed file against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import LearningConfig
from reasoner.distributed.ranks import Ranks
from reasoner.errors import ConfigError
from reasoner.learning.deepspeed import engine
from reasoner.learning.deepspeed.settings import deepspeed_settings
from reasoner.learning.model.options import ModelOptions


def settings(tmp_path: Path, theirs: Any = None, dtype: str = "float32", **learning: Any) -> dict[str, Any]:
    deepspeed = learning.pop("deepspeed", {})
    if theirs is not None:
        file = tmp_path / "ds.json"
        file.write_text(theirs if isinstance(theirs, str) else json.dumps(theirs))
        deepspeed = deepspeed | {"config": str(file)}
    return deepspeed_settings(LearningConfig(deepspeed=deepspeed, **learning), dtype)


def test_clipping_is_always_said(tmp_path: Path) -> None:
    assert settings(tmp_path, max_grad_norm=None)["gradient_clipping"] == 0.0
    assert settings(tmp_path, max_grad_norm=0.3)["gradient_clipping"] == 0.3


def test_a_file_adds_settings_and_may_agree(tmp_path: Path) -> None:
    theirs = {
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 1000, "offload_param": {"device": "none"}},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "gradient_clipping": 0.5,
        "train_batch_size": "auto",
        "comms_logger": {"enabled": True},
    }
    result = settings(tmp_path, theirs, "bfloat16", max_grad_norm=0.5, deepspeed={"zero_stage": 3})
    assert result["zero_optimization"]["stage3_prefetch_bucket_size"] == 1000
    assert result["comms_logger"] == {"enabled": True}
    assert result["bf16"] == {"enabled": True}
    assert "train_batch_size" not in result
    assert "fp16" not in result


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"gradient_clipping": 2.0}, "gradient_clipping = 2.0 contradicts 1.0; set learning.max_grad_norm instead"),
        (
            {"zero_optimization": {"stage": 1}},
            "zero_optimization.stage = 1 contradicts 2; set learning.deepspeed.zero_stage instead",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer: set learning.deepspeed.offload_optimizer instead",
        ),
        ({"bf16": {"enabled": True}}, "bf16.enabled = true contradicts false; set model.dtype instead"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: learning.learning_rate, betas and weight_decay say it"),
        ({"fp16": {"enabled": True}}, "fp16: float16 is not supported"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps = 4 contradicts 1"),
        ({"coms_logger": {}}, "Did you mean 'comms_logger'?"),
        ({"zero_optimization": 3}, "zero_optimization = 3 contradicts"),
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_file_that_contradicts_is_refused(tmp_path: Path, theirs: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"learning\.deepspeed\.config = ") as refused:
        settings(tmp_path, theirs)
    assert said in str(refused.value)


def test_every_contradiction_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, {"gradient_clipping": 2.0, "scheduler": {"type": "x"}, "bf16": {"enabled": True}})
    assert [line.strip().split(" ")[0].rstrip(":") for line in str(refused.value).splitlines()[1:]] == [
        "scheduler",
        "gradient_clipping",
        "bf16.enabled",
    ]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        settings(tmp_path, deepspeed={"config": str(tmp_path / "none.json")})


@pytest.mark.parametrize("zero", [{"zero_stage": 2}, {"zero_stage": 3, "offload_parameters": True}])
def test_what_is_offloaded_from_a_gpu_is_pinned_unless_a_file_says_otherwise(
    tmp_path: Path, zero: dict[str, Any]
) -> None:
    config = LearningConfig.model_validate({"deepspeed": {**zero, "offload_optimizer": True}})
    parts = ["offload_optimizer", *(["offload_param"] if len(zero) > 1 else [])]
    on_gpu = deepspeed_settings(config, "bfloat16", "cuda")["zero_optimization"]
    assert [on_gpu[part] for part in parts] == [{"device": "cpu", "pin_memory": True}] * len(parts)
    on_cpu = deepspeed_settings(config, "bfloat16", "cpu")["zero_optimization"]
    assert [on_cpu[part] for part in parts] == [{"device": "cpu"}] * len(parts)
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"offload_optimizer": {"pin_memory": false}}}')
    own = config.model_copy(update={"deepspeed": config.deepspeed.model_copy(update={"config": str(file)})})
    result = deepspeed_settings(own, "bfloat16", "cuda")["zero_optimization"]
    assert result["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


def test_gradients_of_ranks_are_summed_in_float32_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, dtype="bfloat16")["communication_data_type"] == "fp32"
    assert settings(tmp_path, {"communication_data_type": "bf16"}, "bfloat16")["communication_data_type"] == "bf16"


@pytest.mark.parametrize(("stage", "place"), [(1, "cuda"), (2, "cuda"), (3, "cpu")])
def test_ranks_load_in_turn_and_hold_nothing_in_host_memory_that_their_gpu_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, place: str
) -> None:
    """Under ZeRO 3 no GPU holds the whole model."""
    loading: list[str] = []

    class Stop(Exception):  # noqa: N818
        """The model would be loaded now."""

    def load(folder: Path, options: ModelOptions) -> None:
        loading.append(options.device)
        assert turns == ["begin"]
        raise Stop

    class Turn(Ranks):
        @contextmanager
        def in_turn(self) -> Iterator[None]:
            turns.append("begin")
            yield
            turns.append("end")

    turns: list[str] = []
    monkeypatch.setattr(engine, "_deepspeed", lambda device: None)
    monkeypatch.setattr(engine, "TorchPolicy", load)
    config = LearningConfig.model_validate({"deepspeed": {"zero_stage": stage}})
    with pytest.raises(Stop):
        engine.DeepspeedLearner(tmp_path, device="cuda", dtype="bfloat16", config=config, total_steps=1, ranks=Turn())
    assert loading == [place]
