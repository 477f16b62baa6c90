"""The exported model: what is in the folder, what its card says, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.__main__ import main
from reasoner.config import LearningConfig, LoraConfig
from reasoner.data.prompts.end_of_turn import with_end_tokens
from reasoner.errors import DataError, UserError
from reasoner.evaluation.metrics import Estimate, Evaluation
from reasoner.gro.weights import Weights
from reasoner.io.atomic_files import append_line
from reasoner.io.serialization import to_json
from reasoner.learning.torch_engine import TorchLearner
from reasoner.loading import load_config, to_toml
from reasoner.models import resolve as models
from reasoner.models.resolve import Origin, describe_model, origin, resolve_model
from reasoner.report.model_card import export, model_card
from reasoner.runs.checksums import identify
from reasoner.runs.folder import Evaluated, open_run
from reasoner.runs.model import RunModel, run_model
from reasoner.runs.reader import SavedRun, disk_use, read_run
from tests.command import Cli
from tests.made_up import made_up_run
from tests.ragged import ragged_groups
from tests.tiny import build_tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """A run with the files of a model, next to empty ones; it is only read."""
    folder = made_up_run(tmp_path_factory.mktemp("made"), steps=2, problems=1)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (folder / "model" / name).write_text("{}")
    save_file({"weight": torch.zeros(8)}, folder / "model" / "model.safetensors")
    for name in ("pytorch_model.bin", "training_args.pt"):
        (folder / "model" / name).write_text("pickled")
    (folder / "model" / "critic").mkdir()
    (folder / "model" / "critic" / "model.safetensors").write_text("a value model")
    return read_run(folder)


def test_the_folder_holds_the_model_its_card_and_the_settings(run: SavedRun, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "my-model"
    assert export(run, run_model(run), target) == disk_use(target)
    files = {file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "run.json",
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
    assert "apply_chat_template(chat" in model_card(run, run_model(run), "mine")
    plain = replace(run, config={**run.config, "prompt": {"format": "plain"}})
    card = model_card(plain, run_model(plain), "mine")
    assert 'tokenizer("...", add_special_tokens=True' in card
    assert "apply_chat_template" not in card


def test_a_base_without_a_known_licence_is_said_and_not_guessed(run: SavedRun, tmp_path: Path) -> None:
    local = replace(run, config={**run.config} | {"model": {"path": str(tmp_path)}})
    card = model_card(local, run_model(run), "mine")
    assert "license:" not in card
    assert "base_model:" not in card
    assert "not known here" in card
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# a model\nlicense: no\n")
    assert origin(str(tmp_path)) == Origin(None, "mit")
    assert "license: mit" in model_card(local, run_model(run), "mine")
    (tmp_path / "README.md").write_text("# a model\n\nlicense: no\n")
    assert origin(str(tmp_path)) == Origin(None, None)
    assert origin("embedded:nothing") == Origin(None, None)


def test_the_card_of_a_hub_model_in_the_local_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    cached = {"README.md": str(tmp_path / "README.md")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: cached.get(name))
    assert origin("some/model") == Origin("some/model", "apache-2.0")
    assert models.local_file("some/model", "tokenizer.json") is None


def test_weights_that_were_cut_short_are_not_exported(run: SavedRun, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    cut = read_run(tmp_path / "run")
    weights = cut.folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        export(cut, run_model(cut), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_exported_says_why(run: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=r"--to .*full is there already and not empty"):
        export(run, run_model(run), tmp_path / "full")
    with pytest.raises(UserError, match=r"--to .*file is there already"):
        export(run, run_model(run), tmp_path / "full" / "file")
    with pytest.raises(UserError, match=r"--to .* cannot be written: "):
        export(run, run_model(run), tmp_path / "full" / "file" / "model")
    with pytest.raises(UserError, match="is there already"):  # by a detour over a folder that is not there yet
        export(run, run_model(run), tmp_path / "nowhere" / ".." / "full")
    assert (tmp_path / "full" / "file").exists()
    folder = made_up_run(tmp_path / "runs", steps=1, problems=1)
    incomplete = read_run(folder)
    with pytest.raises(UserError, match=r"has no config\.json \(the model's configuration\)"):
        export(incomplete, run_model(incomplete), tmp_path / "new")
    for file in (folder / "model").iterdir():
        file.unlink()
    (folder / "model").rmdir()
    with pytest.raises(UserError, match="has no trained model: the run is finished after 1 steps"):
        export(incomplete, run_model(incomplete), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reasoner", "export", str(run.folder), "--to", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    message = capsys.readouterr().out
    assert message.startswith(f"{tmp_path / 'out'}: ")
    assert message.endswith(f", after step 2 of 2 ({run.folder / 'model'})\n")


STEPS, PLANNED = 5, 20


def interrupted_run(tmp_path: Path, lora: LoraConfig | None = None, dtype: str = "float32") -> tuple[Path, Path]:
    """A run of two steps that was resumed and interrupted after the fifth, with `model/` of step 2 and the checkpoints
    of steps 3 and 5; also what `save` wrote at every step. Steps 2 and 4 were evaluated."""
    tiny, saved = build_tiny_model(tmp_path / "tiny"), tmp_path / "saved"
    sets = [f"run.steps={PLANNED}", f"model.path={tiny}", f"model.dtype={dtype}"]
    if lora:
        sets += [f"lora.rank={lora.rank}"]
    if lora and lora.quantization:
        sets += [f"lora.quantization={lora.quantization}", "gro.terms.grpo.correction.kind=truncate"]
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    learner = TorchLearner(
        tiny,
        device="cpu",
        dtype=config.model.dtype,
        config=LearningConfig(learning_rate=1e-2, token_budget=60),
        total_steps=STEPS,
        lora=config.lora,
    )
    groups, identity = ragged_groups(), identify({"model": tiny}, {}, (), "hf")
    with (
        suppress(KeyboardInterrupt),
        open_run(tmp_path / "runs", "t", to_toml(config), {"steps": ""}, identity=identity, reserve_bytes=0) as run,
    ):
        for step in range(1, STEPS + 1):
            learner.accumulate(groups, lambda _, logprobs_RT, __: Weights(torch.ones_like(logprobs_RT)), 1.0)
            assert learner.step().applied
            run.commit(step, {"reward/mean": 0.0}, [])
            learner.save(saved / str(step))
            if step == 2:
                with run.saving_model() as folder:
                    learner.save(folder)
            elif step in (3, 5):
                with run.saving_checkpoint() as folder:
                    learner.checkpoint(folder)
            if step in (2, 3, 4):
                accuracy = Estimate("avg@1", "share", {2: 0.25, 3: 0.75, 4: 0.5}[step], None, None, "none", {})
                line = to_json(Evaluated(step, Evaluation(8, 1, 0, (accuracy,))))
                append_line(run.folder / "evaluations.jsonl", line)
        raise KeyboardInterrupt
    return run.folder, saved


def same_model(folder: Path, other: Path) -> bool:
    """Whether both hold the same weights, in the same number format, with the same configuration."""
    assert (folder / "config.json").read_text() == (other / "config.json").read_text()
    own, theirs = (AutoModelForCausalLM.from_pretrained(each, dtype="auto").state_dict() for each in (folder, other))
    assert own.keys() == theirs.keys()
    return all(own[name].dtype == theirs[name].dtype and torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "lora", [None, LoraConfig(rank=4), LoraConfig(rank=4, quantization="nf4")], ids=["whole", "lora", "qlora"]
)
def test_the_weights_of_an_interrupted_run_are_those_of_its_newest_checkpoint(
    tmp_path: Path, lora: LoraConfig | None, dtype: str
) -> None:
    """`model/` is of the step at which the run had ended before it was resumed."""
    folder, saved = interrupted_run(tmp_path, lora, dtype)
    run = read_run(folder)
    wanted = {"last": 5, "best": 3, 2: 2, 3: 3, 5: 5}
    for which, step in wanted.items():
        model = run_model(run, which)  # type: ignore[arg-type]
        target = tmp_path / f"exported-{which}"
        assert model.step == step
        export(run, model, target)
        assert same_model(target, saved / str(step))
        assert not same_model(target, saved / str(2 if step == 5 else 5))
        AutoTokenizer.from_pretrained(target)
        assert describe_model(str(target)) == f"{target} (local folder, step {step} of its run)"
        card = (target / "README.md").read_text()
        assert f"| weights | after step {step} of 20 |" in card
        assert "| run | interrupted after step 5 |" in card
        assert ("| time |" in card) is (step == 5)  # of the whole run
        assert ("After step 5 the run made none; these are the figures after step 4, not of" in card) is (step == 5)


def test_a_step_whose_weights_are_gone_is_refused_with_those_that_are_there(tmp_path: Path, cli: Cli) -> None:
    folder, _ = interrupted_run(tmp_path)
    run = read_run(folder)
    with pytest.raises(UserError, match=r"after step 4 are not there .*after step 2, 3 and 5: --step 5"):
        run_model(run, 4)
    with pytest.raises(UserError, match=r"after step 20 are not there"):
        run_model(run, PLANNED)
    (folder / "checkpoints" / "step-000003" / "model" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model/.* cannot be read"):
        export(run, run_model(run, 3), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert (
        f"after step 5 of 20, interrupted ({folder / 'checkpoints' / 'step-000005' / 'model'})"
        in cli("export", str(folder), "--to", str(tmp_path / "out")).out
    )
    with pytest.raises(UserError, match=f"Did you mean {folder}/checkpoints/step-000005/model, after step 5"):
        resolve_model(str(folder))
    shown = cli("runs", "show", str(folder)).out
    assert re.search(r"after step 2 +model *\n", shown)
    assert re.search(r"after step 5 +checkpoints/step-000005/model *\n", shown)
    assert "Export the model after step 5:" in shown
    assert "after step 2" in (head := shown.partition("Evaluation [95% interval]\n")[2].splitlines()[0])
    assert "after step 4" in head


def test_the_best_step_needs_an_evaluation_and_its_weights(tmp_path: Path) -> None:
    run = read_run(made_up_run(tmp_path, steps=3, problems=1, every=2))
    with pytest.raises(UserError, match=r"after step 2, which has the best evaluation, are not there"):
        run_model(replace(run, evaluations=run.evaluations[:2]), "best")
    with pytest.raises(UserError, match="no step after the start was evaluated"):
        run_model(replace(run, evaluations=run.evaluations[:1]), "best")
    assert run_model(run) == RunModel(3, run.folder / "model")


@pytest.mark.parametrize("text", ["0.5", "-1", "lst", "", "\u00b2"])
def test_a_step_that_is_none_is_refused(text: str, run: SavedRun, tmp_path: Path, cli: Cli) -> None:
    assert (
        "must be the number of a step, last or best"
        in cli("export", str(run.folder), f"--step={text}", "--to", str(tmp_path / "out")).err
    )


def test_an_adapter_is_not_laid_over_another_model(tmp_path: Path) -> None:
    folder, _ = interrupted_run(tmp_path, LoraConfig(rank=4))
    run = read_run(folder)
    with pytest.raises(UserError, match=rf"adapter alone; `reasoner export {folder} --step 5 --to DIR`"):
        resolve_model(str(run_model(run).folder))
    build_tiny_model(tmp_path / "tiny", seed=1)
    with pytest.raises(UserError, match=r"that model has changed since:\n  model: model.safetensors: was sha256"):
        export(run, run_model(run), tmp_path / "new")
    assert not (tmp_path / "new").exists()


GENERATION = '{\n    "_from": "a base model",\n  "eos_token_id" : 256,"top_p":0.80,\r\n "temperature": 0.7}'
"""as nobody's program writes it; `<|im_end|>`, with which the template ends a turn, is 258"""


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (GENERATION, GENERATION.replace('"eos_token_id" : 256', '"eos_token_id": [256, 258]')),
        ('{"eos_token_id": [256]}', '{"eos_token_id": [256, 258]}'),
        ('{"eos_token_id": null, "top_k": 5}', '{"eos_token_id": [5, 258], "top_k": 5}'),
        ("{}", '{"eos_token_id": [5, 258]}'),
        ('{"eos_token_id": 258}', None),
        ('{"eos_token_id": [256,258]}', None),
    ],
)
def test_an_exported_model_ends_its_responses_where_training_had_them_end(
    tmp_path: Path, generation: str, expected: str | None
) -> None:
    folder = made_up_run(tmp_path / "runs", steps=1, problems=1)
    build_tiny_model(folder / "model")
    config = folder / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 5}))  # which counts where none is
    (folder / "model" / "generation_config.json").write_bytes(generation.encode())
    run = read_run(folder)
    export(run, run_model(run), tmp_path / "out")
    written = (tmp_path / "out" / "generation_config.json").read_bytes().decode()
    card = (tmp_path / "out" / "README.md").read_text()
    message = (
        "| end of a turn | <|im_end|> (258), with which the chat template ends a turn, was added to eos_token_id in"
    )
    assert written == (generation if expected is None else expected)
    assert ("end of a turn |" in card) is (expected is not None)
    assert (message in unescape(card).replace("\\", "")) is (expected is not None)
    for file in (folder / "model").iterdir():
        if file.name != "generation_config.json" and file.is_file():
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_an_end_that_cannot_be_found_out_is_said_and_plain_prompts_have_none(run: SavedRun, tmp_path: Path) -> None:
    export(run, run_model(run), tmp_path / "out")
    assert (
        "| end of a turn | not compared with generation_config.json: " in (tmp_path / "out" / "README.md").read_text()
    )
    assert (tmp_path / "out" / "generation_config.json").read_text() == "{}"
    plain = replace(run, config={**run.config, "prompt": {"format": "plain"}})
    export(plain, run_model(plain), tmp_path / "plain")
    assert "end of a turn" not in (tmp_path / "plain" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"eos_token_id": 1}, "eos_token_id": 1}', '{"a": {"eos_token_id": 1}, "eos_token_id": [1, 2]}'),
        ('{"a": {"eos_token_id": 1}}', '{\n  "eos_token_id": [1, 2],"a": {"eos_token_id": 1}}'),
        ('{"a": "\\"eos_token_id\\": 1"}', '{\n  "eos_token_id": [1, 2],"a": "\\"eos_token_id\\": 1"}'),
        ('{"eos_token_id": [\n 1\n ]\n}\n', '{"eos_token_id": [1, 2]\n}\n'),
        ("{ }\n", '{"eos_token_id": [1, 2] }\n'),
    ],
)
def test_nothing_but_the_end_tokens_of_the_table_itself_is_written_anew(text: str, expected: str) -> None:
    assert with_end_tokens(text, [1, 2]) == expected
