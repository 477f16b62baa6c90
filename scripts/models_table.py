"""The table of docs/models.md: what `check_models` found, kept in docs/validation/models.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOUND = Path(__file__).resolve().parents[1] / "docs" / "validation" / "models.json"
COLUMNS: Mapping[str, str] = {
    "learner": "learner",
    "packing": "packing",
    "hf": "transformers sampler",
    "vllm": "vLLM (CPU)",
    "lora": "LoRA",
    "deepspeed": "DeepSpeed",
}
"""trial -> heading"""
NOT_TRIED = "not tried"


def read() -> dict[str, Any]:
    """`versions` of the packages, and per model its `class` and what each trial found: kind and words."""
    if not FOUND.exists():
        return {"versions": {}, "models": {}}
    measured: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8"))
    return measured


def write(measured: Mapping[str, Any]) -> None:
    """Keep what was found."""
    rows = [f" {json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in measured["models"].items()]
    models = ",\n".join(rows)
    FOUND.write_text(
        f'{{"versions": {json.dumps(measured["versions"])},\n"models": {{\n{models}\n}}}}\n', encoding="utf-8"
    )


def table(measured: Mapping[str, Any]) -> str:
    """One row per model, and the sentences of the refusals below it."""
    sentences: list[str] = []
    lines = [f"| model | class | {' | '.join(COLUMNS.values())} |", f"|{'---|' * (2 + len(COLUMNS))}"]
    for name, row in measured["models"].items():
        cells = [_cell(row.get(column), row["class"], sentences) for column in COLUMNS]
        lines.append(f"| {name} | {row['class']} | {' | '.join(cells)} |")
    versions = ", ".join(f"{package} {version}" for package, version in measured["versions"].items())
    notes = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return "\n".join([f"Tried with {versions}.", "", *lines, "", *notes]) + "\n"


def _cell(verdict: tuple[str, str] | None, model_class: str, sentences: list[str]) -> str:
    if verdict is None:
        return NOT_TRIED
    kind, words = verdict
    if kind == "works":
        return words or kind
    sentence = words.replace(model_class, "MODEL").replace("<", "&lt;").replace("|", "\\|")
    if sentence not in sentences:
        sentences.append(sentence)
    return f"{kind} ({sentences.index(sentence) + 1})"
