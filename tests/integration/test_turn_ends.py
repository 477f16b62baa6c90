"""Models as they are published: an end of the turn that is no end token, and base models without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reasoner.benchmarks import session
from reasoner.errors import UserError
from reasoner.io.parquet import read_parquet
from reasoner.loading import Resolved, load_config
from reasoner.pipeline import train
from reasoner.records import Response, Rollout
from reasoner.training.build import open_trainer
from tests.resources import resources_of
from tests.tasks import write_task
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

SETTINGS = {
    "data.eval.limit": 2,
    "sampling.group_size": 16,
    "sampling.max_tokens": 48,
    "sampling.max_prompt_tokens": 128,
    "scoring.workers": 1,
    "learning.problems_per_step": 2,
    "evaluation.samples": 16,
    "evaluation.temperature": 1.0,
    "run.steps": 1,
}
LETTERS = str(Path(__file__).with_name("rewarding_letters.py"))
OWN, TURN_END = 256, 258
"""`<|endoftext|>`, the only end token, and `<|im_end|>`, with which the template ends a turn"""


def base_model(folder: Path, **tokenizer: Any) -> Path:
    """A model that knows no end but that of the text, as base models with a chat template are published."""
    build_tiny_model(folder)
    values: dict[str, dict[str, Any]] = {
        "config.json": {"eos_token_id": OWN},
        "generation_config.json": {"eos_token_id": OWN},
        "tokenizer_config.json": {"eos_token": "<|endoftext|>", **tokenizer},
    }
    for name, changed in values.items():
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


def without_end(folder: Path) -> Path:
    """The model without any end token."""
    for name, key in (
        ("config", "eos_token_id"),
        ("generation_config", "eos_token_id"),
        ("tokenizer_config", "eos_token"),
    ):
        file = folder / f"{name}.json"
        values = json.loads(file.read_text())
        del values[key]
        file.write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    base_model(folder / "tiny")
    problems = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    return write_task(folder, "letters", SETTINGS)


def resolved(task: Path, *sets: str) -> Resolved:
    return load_config(task, sets=sets, plugins=[LETTERS])


def responses_in(folder: Path) -> dict[str, list[Response]]:
    return {
        file.stem: [rollout.response for rollout in read_parquet(file, Rollout)]
        for file in sorted(folder.rglob("*.parquet"))
        if "checkpoints" not in file.parts
    }


def check_ended(responses: list[Response]) -> None:
    ended = [response for response in responses if TURN_END in response.token_ids]
    assert ended
    for response in ended:
        assert (response.finish_reason, response.token_ids.index(TURN_END)) == ("stop", len(response.token_ids) - 1)


def test_responses_of_training_and_evaluation_end_where_the_template_ends_a_turn(task: Path) -> None:
    with open_trainer(resolved(task)) as trainer:
        train(trainer)
        folder = trainer.run.folder
    result = responses_in(folder)
    assert {name.partition("-")[0] for name in result} == {"eval", "step"}
    for responses in result.values():
        check_ended(responses)
    message = json.loads((folder / "environment.json").read_text())["chosen"]["responses end"]
    assert message == "at <|im_end|>, as the chat template has it, and at the model's end tokens, of which it is none"


def test_responses_of_an_evaluation_end_there_too_without_any_end_token(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = session.start([resolved(task, f"model.path={without_end(base_model(task.parent / 'unended'))}")])
    [responses] = responses_in(folder).values()
    check_ended(responses)
    assert "responses end" in capsys.readouterr().out


@pytest.fixture
def plain(task: Path) -> Path:
    """The task with a base model that has no chat template."""
    folder = base_model(task.parent / "plain")
    for file in (folder / "chat_template.jinja",):
        file.unlink(missing_ok=True)
    own = task.parent / "plain.toml"
    own.write_text(task.read_text().replace("/tiny", "/plain"))
    return own


def test_a_base_model_without_a_chat_template_is_trained_on_plain_text(plain: Path) -> None:
    with pytest.raises(UserError, match=r"no chat template.*prompt\.format=plain"):
        resources_of(resolved(plain), training=True)
    sets = ["prompt.format=plain", "prompt.template=Q: {{ question }}\nA:", 'sampling.stop=["k"]']
    with open_trainer(resolved(plain, *sets)) as trainer:
        train(trainer)
        folder = trainer.run.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for responses in responses_in(folder).values():
        assert any(tokenizer.decode(response.token_ids).endswith("k") for response in responses)
        assert all("k" not in response.text for response in responses)
    assert trainer.collector is not None
    prompts = {tokenizer.decode(prompt.token_ids) for prompt in trainer.collector.prompts.values()}
    assert prompts == {f"Q: {n} + 1?\nA:" for n in range(4)}
    chosen = json.loads((folder / "environment.json").read_text())["chosen"]
    assert chosen["prompt"] == "plain text, without chat template"
    assert chosen["responses end"].startswith("before ['k'] (sampling.stop), and at the model's end tokens")


def test_a_model_that_nothing_ends_is_refused_before_it_is_loaded(task: Path) -> None:
    folder = without_end(base_model(task.parent / "endless"))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UserError, match=r"endless.*no end token, and its chat template writes nothing"):
        resources_of(resolved(task, f"model.path={folder}"), training=True)
