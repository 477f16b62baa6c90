"""A model of a run as a folder to hand on: weights, tokenizer, settings of generation, and a card that describes it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from reasoner.config import LearningConfig, LoraConfig, PolicyConfig
from reasoner.data.prompts.end_of_turn import add_turn_end
from reasoner.errors import DataError, UserError
from reasoner.io.atomic_files import replacing_folder
from reasoner.io.bounded_files import LARGE_BYTES, is_folder, is_there, open_regular, read_object
from reasoner.io.parsing import table_of
from reasoner.io.safe_text import printable
from reasoner.models.resolve import Origin, origin, resolve_model
from reasoner.models.run_models import FOLDER, record_step
from reasoner.models.weight_files import read_shapes
from reasoner.monitoring.format import duration, interval
from reasoner.monitoring.lines import size
from reasoner.report.compare import before_and_after, when
from reasoner.report.text import comparison_text, escaped, table
from reasoner.report.words import ABOUT_EVALUATION, hide_home_folder, short, versions
from reasoner.runs.checkpoints import Checkpoints
from reasoner.runs.checksums import differences, identify
from reasoner.runs.folder import IDENTITY
from reasoner.runs.model import RunModel
from reasoner.runs.reader import SavedRun, disk_use

KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja", ".py")
"""suffixes of what a model consists of; a pickle is none of it"""
NEEDED = {
    "config.json": "the model's configuration",
    "generation_config.json": "what ends a response",
}
CONFIG = "training/config.toml"
FACTS = ("training data", "evaluation data", "rewards", "method", "steps", "device", "engine", "responses end")


def export(run: SavedRun, model: RunModel, target: Path) -> int:
    """Write a model of a run, of whichever step, into the new folder `target`; returns its bytes.

    Raises:
        UserError: a file of the model is missing, or `target` is not empty or cannot be written.
        DataError: a file of the model is damaged, or is a link, a pipe or the like, which is not copied.
    """
    of_end = model.folder == run.folder / FOLDER
    if of_end:
        _check_whole(model.folder)
    else:
        Checkpoints(run.folder).verify(model.step, FOLDER)
    files = [file for file in sorted(model.folder.iterdir()) if file.suffix in KEPT and not is_folder(file)]
    size_of_all = sum(map(_size, files))
    target = target.expanduser().resolve()  # "new/../old" is old
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target} is there already and not empty; name a new folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if size_of_all >= (free := shutil.disk_usage(target.parent).free):
            raise UserError(f"--to {target}: {size_of_all:,} bytes do not fit into the {free:,} that are free there.")
        with replacing_folder(target, new=True) as folder:
            if of_end:
                _copy(files, folder)
            else:
                _write_trained(run, model, folder)
                record_step(folder, model.step)
            read_shapes(folder)  # a file that was cut short is refused
            end = add_turn_end(folder, run.config)
            (folder / CONFIG).parent.mkdir()
            (folder / CONFIG).write_text(printable(hide_home_folder(run.config_text)), encoding="utf-8")
            (folder / "README.md").write_text(printable(model_card(run, model, target.name, end)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--to {target} cannot be written: {error.strerror or error}.") from error
    return disk_use(target)


def _check_whole(model: Path) -> None:
    for name, what in NEEDED.items():
        if not is_there(model / name):
            raise UserError(f"{model} has no {name} ({what}): it is not complete.")
    if not any(model.glob("*.safetensors")):
        raise UserError(f"{model} has no *.safetensors: only those are exported, never pickled weights.")


def _copy(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        with open_regular(file) as source, (folder / file.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)


def _write_trained(run: SavedRun, model: RunModel, folder: Path) -> None:
    """Write what training would have saved after the step: a checkpoint has float32 numbers, or an adapter alone."""
    from reasoner.learning.model.policy import ModelOptions, TorchPolicy

    try:
        config = PolicyConfig.model_validate(run.config["model"])
        lora = LoraConfig.model_validate(run.config["lora"]) if model.is_adapter else None
    except (KeyError, ValidationError) as error:
        raise DataError(f"{run.folder / 'config.toml'} does not say what model was trained: {error}") from error
    base = model.folder
    if lora:
        lora = lora.model_copy(update={"quantization": None})  # it is merged into the original weights
        base = resolve_model(config.path)
        before = read_object(run.folder / IDENTITY)
        now = identify({"model": base}, {}, (), "")
        if changed := differences({name: before.get(name, "") for name in now}, now):
            raise UserError(
                f"{run.folder} has trained an adapter of {base}, and that model has changed since:\n  "
                + "\n  ".join(changed)
            )
    # no forward pass is made, so it does not matter what `[learning]` says of one
    options = ModelOptions.of(LearningConfig(), "cpu", config.dtype, trust_remote_code=config.trust_remote_code)
    policy = TorchPolicy(base, replace(options, weights=model.folder, lora=lora))
    policy.weights.save(folder)


def _size(file: Path) -> int:
    """Bytes of a file that is copied; only weights are many."""
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
    if size > LARGE_BYTES and file.suffix != ".safetensors":
        raise DataError(f"{file} is larger than {LARGE_BYTES:,} bytes, which is more than such a file has.")
    return size


def model_card(run: SavedRun, model: RunModel, name: str, end: str = "") -> str:
    """The model card: Markdown with the head that the Hugging Face hub reads.

    Args:
        end: what became of the end of a turn (`add_turn_end`); empty: nothing.
    """
    base = origin(str(run.config["model"]["path"]))
    return "\n\n".join([_head(run, base), *_body(run, model, name, base, end)]) + "\n"


def _head(run: SavedRun, base: Origin) -> str:
    method = re.match(r"[\w.+-]*", run.config.get("gro", {}).get("preset", ""))
    lines = [
        *([f"license: {base.licence}"] if base.licence else []),
        *([f"base_model: {base.hub}"] if base.hub else []),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("reasoner", "reinforcement-learning", method[0] if method else "") if tag),
    ]
    return "\n".join(["---", *lines, "---"])


def _body(run: SavedRun, model: RunModel, name: str, base: Origin, end: str) -> Iterator[str]:
    initial = base.hub or Path(str(run.config["model"]["path"])).name
    yield f"# {escaped(name)}"
    linked = f"[{escaped(initial)}](https://huggingface.co/{base.hub})" if base.hub else escaped(initial)
    copy = f" (a copy {base.copy})" if base.copy else ""
    task = escaped(run.chosen.get("task", str(run.config.get("task", ""))))
    yield f"{linked}{copy}, post-trained with verifiable rewards by `reasoner`. Task: {task}."
    yield "## Use"
    plain = table_of(run.config, "prompt").get("format") == "plain"
    yield _usage(name, _PLAIN if plain else _CHAT)
    yield "## Evaluation"
    yield from _evaluation(run, model.step)
    yield "## Training"
    facts = {fact: run.chosen[fact] for fact in FACTS if fact in run.chosen}
    facts |= {fact: text for fact, text in run.chosen.items() if fact.startswith("term ")}
    facts |= {"end of a turn": end} if end else {}
    facts["weights"] = f"after step {model.step} of {run.planned_steps}"
    facts["run"] = run.state if run.state == "finished" else f"{run.state} after step {run.steps}"
    if run.seconds is not None and model.step == run.steps:
        facts["time"] = duration(run.seconds)
    facts["versions"] = versions(run)
    yield table(("", ""), [(fact, hide_home_folder(text)) for fact, text in facts.items()]).replace("---:", "---")
    command = f"reasoner run {CONFIG}"
    yield f"Every setting is in [{CONFIG}]({CONFIG}): `{command}` repeats the run."
    yield "## Licence"
    if base.licence:
        yield f"That of the base model: {base.licence}."
    else:
        yield "That of the base model, which is not known here: look at its own page before you hand this one on."


_CHAT = """chat = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""
_PLAIN = 'inputs = tokenizer("...", add_special_tokens=True, return_tensors="pt")'


def _usage(name: str, inputs: str) -> str:
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name!r})
model = AutoModelForCausalLM.from_pretrained({name!r})
{inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=256)[0][inputs["input_ids"].shape[1]:]))
```

The template of the prompt that it was trained with, the system message and the worked examples are under `[prompt]` in
[{CONFIG}]({CONFIG})."""


def _evaluation(run: SavedRun, step: int) -> Iterator[str]:
    """The evaluation of the step's weights, or of the last ones before it that were evaluated, with a sentence that
    says so."""
    evaluations = [evaluated for evaluated in run.evaluations if evaluated.step <= step]
    if not evaluations:
        yield "The run made none."
        return
    if evaluations[-1].step != step:
        time = when(run, evaluations[-1])
        yield f"After step {step} the run made none; these are the figures {time}, not of these weights."
    if comparison := before_and_after(run, step):
        last = evaluations[-1].evaluation
        yield f"On {size(last)}{f'; correct by `{run.correct}`' if last.samples else ''}."
        yield comparison_text(comparison)
        yield ABOUT_EVALUATION
    else:
        estimates = evaluations[-1].evaluation.figures
        yield table(
            ("", "[95% interval]"), [(short(e.name), interval(e.value, e.low, e.high, e.unit)) for e in estimates]
        )
