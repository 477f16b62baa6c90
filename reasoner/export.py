"""A run's model as a folder to hand on: weights, tokenizer, settings of generation, and a card that says what it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from reasoner.atomic import replacing_folder
from reasoner.bounded_files import LARGE_BYTES, is_folder, is_there, open_regular
from reasoner.errors import DataError, UserError
from reasoner.models import Origin, origin
from reasoner.parsing import table_of
from reasoner.report.compare import before_and_after
from reasoner.report.text import comparison_text, escaped, table
from reasoner.report.words import ABOUT_EVALUATION, homeless, short, versions
from reasoner.reporting.format import duration, interval
from reasoner.reporting.lines import size
from reasoner.runs.saved import SavedRun, disk_use
from reasoner.safe_text import printable

KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja", ".py")
"""suffixes of what a model consists of; a pickle is none of it"""
NEEDED = {
    "config.json": "the model's configuration",
    "generation_config.json": "what ends a response",
    "tokenizer_config.json": "the tokenizer's configuration",
}
CONFIG = "training/config.toml"
FACTS = ("training data", "evaluation data", "rewards", "method", "steps", "device", "engine", "responses end")


def export(run: SavedRun, target: Path) -> int:
    """Write the trained model of a run into the new folder `target`; returns its bytes.

    Raises:
        UserError: the run has no trained model, a file of it is missing, or `target` is not empty or cannot be written.
        DataError: a file of the model is a link, a pipe or the like, which is not copied.
    """
    model = run.folder / "model"
    if not is_folder(model):
        raise UserError(f"{run.folder} has no trained model: the run is {run.state} after {run.steps} steps.")
    for name, what in NEEDED.items():
        if not is_there(model / name):
            raise UserError(f"{model} has no {name} ({what}): it is not complete.")
    if not any(model.glob("*.safetensors")):
        raise UserError(f"{model} has no *.safetensors: only those are exported, never pickled weights.")
    files = [file for file in sorted(model.iterdir()) if file.suffix in KEPT and not is_folder(file)]
    size_of_all = sum(map(_size, files))
    target = target.expanduser().resolve()  # "new/../old" is old
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--to {target} is there already and not empty; name a new folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if size_of_all >= (free := shutil.disk_usage(target.parent).free):
            raise UserError(f"--to {target}: {size_of_all:,} bytes do not fit into the {free:,} that are free there.")
        with replacing_folder(target, new=True) as folder:
            for file in files:
                with open_regular(file) as source, (folder / file.name).open("wb") as copy:
                    shutil.copyfileobj(source, copy, 2**20)
            (folder / CONFIG).parent.mkdir()
            (folder / CONFIG).write_text(printable(homeless(run.config_text)), encoding="utf-8")
            (folder / "README.md").write_text(printable(model_card(run, target.name)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--to {target} cannot be written: {error.strerror or error}.") from error
    return disk_use(target)


def _size(file: Path) -> int:
    """Bytes of a file that is copied; only weights are many."""
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
    if size > LARGE_BYTES and file.suffix != ".safetensors":
        raise DataError(f"{file} is larger than {LARGE_BYTES:,} bytes, which is more than such a file has.")
    return size


def model_card(run: SavedRun, name: str) -> str:
    """The model card: Markdown with the head that the Hugging Face hub reads."""
    base = origin(str(run.config["model"]["path"]))
    return "\n\n".join([_head(run, base), *_body(run, name, base)]) + "\n"


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


def _body(run: SavedRun, name: str, base: Origin) -> Iterator[str]:
    model = base.hub or Path(str(run.config["model"]["path"])).name
    yield f"# {escaped(name)}"
    linked = f"[{escaped(model)}](https://huggingface.co/{base.hub})" if base.hub else escaped(model)
    copy = f" (a copy {base.copy})" if base.copy else ""
    task = escaped(run.chosen.get("task", str(run.config.get("task", ""))))
    yield f"{linked}{copy}, post-trained with verifiable rewards by `reasoner`. Task: {task}."
    yield "## Use"
    plain = table_of(run.config, "prompt").get("format") == "plain"
    yield _usage(name, _PLAIN if plain else _CHAT)
    yield "## Evaluation"
    yield from _evaluation(run)
    yield "## Training"
    facts = {fact: run.chosen[fact] for fact in FACTS if fact in run.chosen}
    facts |= {fact: text for fact, text in run.chosen.items() if fact.startswith("term ")}
    facts["steps made"] = f"{run.steps} of {run.planned_steps} ({run.state})"
    if run.seconds is not None:
        facts["time"] = duration(run.seconds)
    facts["versions"] = versions(run)
    yield table(("", ""), [(fact, homeless(text)) for fact, text in facts.items()]).replace("---:", "---")
    again = f"reasoner run {run.config.get('task')} --config {CONFIG}"
    yield f"Every setting is in [{CONFIG}]({CONFIG}): `{again}` repeats the run."
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


def _evaluation(run: SavedRun) -> Iterator[str]:
    if comparison := before_and_after(run):
        yield f"On {size(run.evaluations[-1].evaluation)}; correct by `{run.correct}`."
        yield comparison_text(comparison)
        yield ABOUT_EVALUATION
    elif run.evaluations:
        estimates = run.evaluations[-1].evaluation.estimates
        yield table(
            ("", "[95% interval]"), [(short(e.name), interval(e.value, e.low, e.high, e.unit)) for e in estimates]
        )
    else:
        yield "The run made none."
