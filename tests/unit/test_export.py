"""The exported model: what is in the folder, what its card says, what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reasoner import models
from reasoner.__main__ import main
from reasoner.errors import UserError
from reasoner.export import export, model_card
from reasoner.models import Origin, origin
from reasoner.runs.saved import SavedRun, disk_use, read_run
from tests.made_up import made_up_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A run with the files of a model, empty ones; it is only read."""
    folder = made_up_run(tmp_path_factory.mktemp("made"), steps=2, problems=1)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / "model" / name).write_text("{}")
    for name in ("pytorch_model.bin", "training_args.pt"):
        (folder / "model" / name).write_text("pickled")
    (folder / "model" / "critic").mkdir()
    (folder / "model" / "critic" / "model.safetensors").write_text("a value model")
    return read_run(folder)


def test_the_folder_holds_the_model_its_card_and_the_settings(run: SavedRun, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "my-model"
    assert export(run, target) == disk_use(target)
    files = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training/config.toml",
    }
    assert (target / "training" / "config.toml").read_text() == run.config_text
    card = (target / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n")
    assert "\n- grpo\n---\n\n# my-model\n" in card
    assert "| accuracy (avg@1) |" in card
    assert "On 24 problems, 1 response each; correct by `math`." in card
    assert "AutoModelForCausalLM.from_pretrained('my-model')" in card
    assert "(a copy dequantised from SmolLM2-135M-Instruct.Q4_1.gguf), post-trained with verifiable rewards" in card
    assert "That of the base model: apache-2.0." in card
    assert "| term grpo |" in card


def test_the_card_says_how_the_model_is_asked(run: SavedRun) -> None:
    assert "apply_chat_template(chat" in model_card(run, "mine")
    card = model_card(replace(run, config={**run.config, "prompt": {"format": "plain"}}), "mine")
    assert 'tokenizer("...", add_special_tokens=True' in card
    assert "apply_chat_template" not in card


def test_a_base_without_a_known_licence_is_said_and_not_guessed(run: SavedRun, tmp_path: Path) -> None:
    local = replace(run, config={**run.config} | {"model": {"path": str(tmp_path)}})
    card = model_card(local, "mine")
    assert "license:" not in card
    assert "base_model:" not in card
    assert "not known here" in card
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# a model\nlicense: no\n")
    assert origin(str(tmp_path)) == Origin(None, "mit")
    assert "license: mit" in model_card(local, "mine")
    (tmp_path / "README.md").write_text("# a model\n\nlicense: no\n")
    assert origin(str(tmp_path)) == Origin(None, None)
    assert origin("embedded:nothing") == Origin(None, None)


def test_the_card_of_a_hub_model_in_the_local_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    cached = {"README.md": str(tmp_path / "README.md")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: cached.get(name))
    assert origin("some/model") == Origin("some/model", "apache-2.0")
    assert models.local_file("some/model", "tokenizer.json") is None


def test_what_cannot_be_exported_says_why(run: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=r"--to .*full is there already and not empty"):
        export(run, tmp_path / "full")
    with pytest.raises(UserError, match=r"--to .*file is there already"):
        export(run, tmp_path / "full" / "file")
    with pytest.raises(UserError, match=r"--to .* cannot be written: "):
        export(run, tmp_path / "full" / "file" / "model")
    with pytest.raises(UserError, match="is there already"):  # by a detour over a folder that is not there yet
        export(run, tmp_path / "nowhere" / ".." / "full")
    assert (tmp_path / "full" / "file").exists()
    folder = made_up_run(tmp_path / "runs", steps=1, problems=1)
    incomplete = read_run(folder)
    with pytest.raises(UserError, match=r"has no config\.json \(the model's configuration\)"):
        export(incomplete, tmp_path / "new")
    (folder / "model" / "tokenizer.json").unlink()
    (folder / "model").rmdir()
    with pytest.raises(UserError, match="has no trained model: the run is finished after 1 steps"):
        export(incomplete, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reasoner", "export", str(run.folder), "--to", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: ")
