"""`reasoner plan` as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from reasoner.io.parsing import parse_toml
from reasoner.loading import load_config, settings_of
from reasoner.planning.estimate import RunEstimate
from tests.command import Cli
from tests.tiny import build_tiny_model

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture
def seven(tmp_path: Path) -> str:
    """A folder with the configuration of a model of 7.6 billion parameters, and nothing else."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return str(tmp_path)


@pytest.mark.parametrize("gpus", ["1", "8"])
def test_a_plan_fits_80_columns_and_names_what_to_change(cli: Cli, seven: str, gpus: str) -> None:
    outcome = cli("plan", "math-gsm8k", "--profile", "gpu", "--gpus", gpus, "--gpu-memory", "80", "--model", seven)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line for line in outcome.out.splitlines() if len(line) > 80] == []
    assert "7,615.6 million parameters" in " ".join(outcome.out.split())
    last = outcome.out[outcome.out.index("sum ") :]
    if gpus == "1":
        assert "does not fit" in last
        assert "--set learning.deepspeed.offload_optimizer=true" in last
    else:
        assert "fits" in last
        assert "Nothing must change." in last
        assert "not known" in last  # the memory of that node


def test_a_plan_as_json_loads_and_starts_nothing(cli: Cli, seven: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safetensors.safe_open", None)
    command = ("plan", "math-gsm8k", "--profile", "gpu", "--gpus", "4", "--nodes", "2", "--gpu-memory", "80", "--json")
    result = json.loads(cli(*command, "--model", seven).out)
    assert (result["ranks"], result["model"]["parameters"]) == (8, 7_615_616_512)
    first = result["moments"][0]
    assert (first["memory"], first["when"]) == ("GPU memory", "while sampling")
    assert first["total"] == pytest.approx(sum(first["certain"].values()) + sum(first["estimated"].values()))
    node = next(each for each in result["moments"] if each["memory"] == "memory")
    assert (node["when"], node["certain"]) == ("while loading", {"model, loaded": 2 * 7_615_616_512})  # one at a time
    assert result["longest_context"] == 32768
    assert result["change"] == {}


def test_a_plan_for_this_machine(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = str(build_tiny_model(tmp_path / "tiny"))
    shorter = ("sampling.max_prompt_tokens=400", "prompt.examples=[]", "prompt.system=", "data.on_bad_row=drop")
    lengths = [argument for each in (*shorter, "sampling.engine=hf") for argument in ("--set", each)]
    text = cli("plan", "math-gsm8k", "--profile", "laptop", "--model", model, *lengths).out
    assert "cpu, 1 rank" in text
    assert "at the hand-over" in text
    assert "through memory (/dev/shm)" in text
    monkeypatch.setattr("reasoner.processes.machine.MEMORY_FOLDER", tmp_path / "gone")
    why = f"which is slower than memory: {tmp_path / 'gone'} is not there: mount a tmpfs on it"
    for command in (("plan",), ("plan", "--json"), ("run", "--dry-run")):
        told = cli(*command, "math-gsm8k", "--profile", "laptop", "--set", f"model.path={model}", *lengths)
        assert why.replace(" ", "") in "".join(told.out.split()), told
    refused = cli("plan", "math-gsm8k", "--profile", "laptop", "--model", model, "--set", "sampling.engine=hf")
    assert (refused.code, refused.out) == (2, "")
    assert "is 576, and the model knows 512 positions" in refused.err


def _quantised(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    return "are quantised (fp8)"


def _quantised_without_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return _quantised(folder)


def _incomplete(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return "model.layers.1.mlp.up_proj.weight"


def _adapted(folder: Path) -> str:
    (folder / "adapter_config.json").write_text("{}")
    return "has an adapter (adapter_config.json)"


@pytest.mark.parametrize("spoil", [_quantised, _quantised_without_weights, _incomplete, _adapted])
def test_plan_and_dry_run_refuse_the_weights_that_a_run_refuses(
    cli: Cli, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    lengths = ("sampling.max_prompt_tokens=400", "prompt.examples=[]", "data.on_bad_row=drop", "sampling.engine=hf")
    sets = [part for each in (*lengths, "prompt.system=") for part in ("--set", each)]
    task = ("math-gsm8k", "--profile", "laptop", "--model", str(model), *sets)
    commands = [["plan"], ["plan", "--gpu-memory", "80"], ["run", "--dry-run"]]
    for command in commands[:2]:
        assert cli(*command, *task).code == 0
    why = spoil(model)
    for command in commands:
        refused = cli(*command, *task)
        assert refused.code == 2
        assert why in " ".join(refused.err.split())


def test_bad_input_is_one_message(cli: Cli, seven: str) -> None:
    command = ("plan", "math-gsm8k", "--profile", "laptop", "--gpu-memory", "80", "--model", seven)
    assert "model.device is 'cpu'" in cli(*command, "--set", "model.device=cpu").err
    outcome = cli("plan", "math-gsm8k", "--model", "/no/such/folder")
    assert (outcome.code, "there is no such folder" in outcome.err) == (2, True)
    assert cli("plan").code == 2


PLAN = ("plan", "math-gsm8k", "--profile", "gpu", "--gpu-memory", "80", "--model")


def test_what_fits_is_written_as_a_file_that_can_be_used(cli: Cli, seven: str, tmp_path: Path) -> None:
    file = tmp_path / "fits.toml"
    outcome = cli(*PLAN, seven, "--write", str(file))
    assert (outcome.code, outcome.err) == (0, "")
    assert f"--config {file}" in "".join(outcome.out.splitlines())
    written = parse_toml(file.read_text())
    assert written["model"]["path"] == seven
    assert written["learning"]["deepspeed"]["offload_optimizer"] is True
    again = json.loads(
        cli("plan", "math-gsm8k", "--profile", "gpu", "--gpu-memory", "80", "--config", str(file), "--json").out
    )
    assert again["change"] == {}
    assert {moment["verdict"] for moment in again["moments"]} <= {"fits", "not known"}
    refused = cli(*PLAN, seven, "--write", str(file))
    assert refused.code == 2
    assert "is there already" in refused.err
    nowhere = cli(*PLAN, seven, "--write", str(tmp_path / "no" / "fits.toml"))
    assert nowhere.code == 2
    assert "cannot be written: No such file or directory" in "".join(nowhere.err.split("\n"))


def test_nothing_is_written_where_nothing_fits(cli: Cli, seven: str, tmp_path: Path) -> None:
    file = tmp_path / "fits.toml"
    outcome = cli(*PLAN[:5], "8", "--model", seven, "--write", str(file))
    assert outcome.code == 2
    assert "nothing is written to" in outcome.err
    assert "No setting makes it fit: take a smaller model" in " ".join(outcome.err.split())
    assert not file.exists()


SMALL = ("plan", "math-gsm8k", "--gpu-memory", "24", "--profile")


def test_on_a_small_gpu_a_base_of_4_bits_is_proposed_where_nothing_else_fits(
    cli: Cli, seven: str, tmp_path: Path
) -> None:
    file = tmp_path / "fits.toml"
    outcome = cli(*SMALL, "gpu", "--model", seven, "--write", str(file))
    assert (outcome.code, outcome.err) == (0, "")
    message = " ".join(outcome.out.split())
    assert "Without weights of fewer bits nothing fits: with an adapter and all other settings at their" in message
    written = parse_toml(file.read_text())
    assert (written["lora"]["quantization"], written["sampling"]["quantization"]) == ("nf4", "fp8")
    assert written["gro"]["terms"]["grpo"]["correction"]["kind"] == "truncate"
    again = json.loads(cli(*SMALL, "gpu", "--config", str(file), "--json").out)
    assert again["change"] == {}
    assert {moment["verdict"] for moment in again["moments"]} == {"fits", "not known"}


@pytest.mark.parametrize("task", ["calc", "code-contests", "code-mbpp", "code-stdin", "guess-number", "math-python"])
def test_the_profiles_for_a_small_gpu_fit_there(cli: Cli, seven: str, task: str) -> None:
    fitting = json.loads(
        cli("plan", task, "--gpu-memory", "24", "--profile", "small-gpu", "--model", seven, "--json").out
    )
    assert fitting["change"] == {}
    assert {moment["verdict"] for moment in fitting["moments"]} == {"fits", "not known"}


def test_the_profile_for_a_small_gpu_fits_there(cli: Cli, seven: str) -> None:
    fitting = json.loads(cli(*SMALL, "small-gpu", "--model", seven, "--json").out)
    assert fitting["change"] == {}
    assert {moment["verdict"] for moment in fitting["moments"]} == {"fits", "not known"}
    for key in ("lora", "sampling"):  # both are needed
        other = json.loads(
            cli(*SMALL, "small-gpu", "--model", seven, "--json", "--set", f"{key}.quantization=none").out
        )
        assert "does not fit" in {moment["verdict"] for moment in other["moments"]}


WRITTEN: dict[str, tuple[str, list[str], dict[str, object]]] = {
    "entries and tables of the user's keys": (
        "math-gsm8k",
        ["rewards.math.weight=2.0", "rewards.0.options.tolerance=0.1", "data.train.columns.answer=final"],
        {},
    ),
    "a relative file, an empty table": ("math-gsm8k", ["data.train.path=rows.jsonl", "data.train.columns={}"], {}),
    "parts of a mixture": (
        "math-gsm8k=2 code-stdin=1",
        ["mixture.math-gsm8k.rewards.math.weight=2.0", "mixture.code-stdin.weight=4", "evaluation.every=3"],
        {},
    ),
    "an open choice, none, a preset": (
        "math-gsm8k",
        ["learning.gradient_checkpointing=auto", "data.holdout=none", "gro.preset=rloo"],
        {"learning.token_budget": 4096},
    ),
    "advice for what was set, and in a section that is none": (
        "math-gsm8k",
        ["lora=none", "learning.token_budget=8192"],
        {"lora.rank": 16, "learning.token_budget": 4096},
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written_loads_as_it_was_set(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    task, sets, advice = WRITTEN[case]
    monkeypatch.setattr(RunEstimate, "advice", advice)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    file = tmp_path / "there" / "fits.toml"
    options = [part for setting in sets for part in ("--set", setting)]
    outcome = cli("plan", *task.split(), "--profile", "laptop", *options, "--write", str(file))
    assert (outcome.code, outcome.err) == (0, "")
    advised = [f"{key}={json.dumps(value)}" for key, value in advice.items()]
    kept = [setting for setting in sets if not any(key.startswith(setting.partition("=")[0]) for key in advice)]
    wanted = settings_of(load_config(task.split(), "laptop", (), [*kept, *advised]).config)
    written = settings_of(load_config(task.split(), "laptop", [file]).config)
    absolute: dict[tuple[str, ...], str] = (
        {("data", "train", "path"): str(tmp_path / "rows.jsonl")} if "file" in case else {}
    )
    assert {key: leaf.value for key, leaf in written.items()} == {
        key: absolute.get(key, leaf.value) for key, leaf in wanted.items()
    }
