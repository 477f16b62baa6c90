"""A run whose surroundings are full of secrets, with a verifier that leaks them: none is in its folder or output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasoner.io.parquet import read_parquet
from reasoner.records import Rollout
from tests.tasks import write_task
from tests.tiny import build_tiny_model

SECRETS = {
    "HF_TOKEN": "hf_ThisIsAFakeTokenForTheTest00",
    "OPENAI_API_KEY": "sk-proj-ThisIsAFakeKey0000000000",
    "MY_PASSWORD": "correct horse battery staple",
    "SCORER": "named-by-the-configuration",
    "HTTPS_PROXY": "http://me:pa55word@127.0.0.1:9",
}
VERIFIER = """
import os

from pydantic import BaseModel

from reasoner import hookimpl, reward


class Options(BaseModel):
    api_key_env: str


@reward("leaky", timeout_s=5.0)
def leaky(problem, response, *, options: Options) -> float:
    shown = [os.environ[name] for name in ("HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD", "HTTPS_PROXY")]
    print("calling with", shown, os.environ[options.api_key_env])
    if len(response.text) % 3 == 0:
        raise RuntimeError(f"401 for {shown}, {os.environ[options.api_key_env]}")
    return float(len(response.text) % 2)


@hookimpl
def register_rewards():
    return [leaky]


@hookimpl
def step_finished(step):
    raise RuntimeError(f"no upload with {os.environ['HF_TOKEN']}")
"""


@pytest.mark.slow
def test_no_secret_is_in_the_folder_or_the_output_of_a_run(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "tiny")
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(8)]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "leaky.py").write_text(VERIFIER)
    settings = {"sampling.max_tokens": 6, "sampling.max_prompt_tokens": 128, "scoring.max_failure_rate": 1.0}
    leaky = {"source": "leaky", "options": {"api_key_env": "SCORER"}}
    task = str(write_task(tmp_path, "leaky", settings | {"rewards": [leaky], "run.steps": 1}))
    plugin = str(tmp_path / "leaky.py")
    command = [sys.executable, "-m", "reasoner", "run", task, "--plugin", plugin]
    environment = {**os.environ, **SECRETS, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".parquet", ".safetensors"):
            texts[path.name] = path.read_text(encoding="utf-8")
    for path in (folder / "rollouts").glob("*.parquet"):
        texts[path.name] = repr(read_parquet(path, Rollout))
    assert {"config.toml", "environment.json", "log.txt", "status.json", "step-000001.parquet"} <= set(texts)
    assert "401 for" in texts["step-000001.parquet"]
    assert "no upload with ***" in texts["log.txt"]
    secrets = [*SECRETS.values(), "pa55word"]
    assert [(name, secret) for name, text in texts.items() for secret in secrets if secret in text] == []
