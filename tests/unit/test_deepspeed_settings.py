"""What DeepSpeed is told, and a user's own DeepSpeed file against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import LearningConfig
from reasoner.errors import ConfigError
from reasoner.learning.deepspeed.settings import deepspeed_settings


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
    found = settings(tmp_path, theirs, "bfloat16", max_grad_norm=0.5, deepspeed={"zero_stage": 3})
    assert found["zero_optimization"]["stage3_prefetch_bucket_size"] == 1000
    assert found["comms_logger"] == {"enabled": True}
    assert found["bf16"] == {"enabled": True}
    assert "train_batch_size" not in found
    assert "fp16" not in found


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
