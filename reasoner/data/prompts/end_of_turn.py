"""The end of a turn in `generation_config.json`: without it, whoever serves an exported model gets responses that run
past the end at which training had them stop."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reasoner.config import PolicyConfig, PromptConfig
from reasoner.data.prompts.renderer import open_renderer
from reasoner.errors import DataError, MissingDependencyError, UserError
from reasoner.io.bounded_files import SMALL_BYTES, read_text
from reasoner.io.parsing import parse_json, read_model_json
from reasoner.models.files import CONFIG, GENERATION
from reasoner.models.tokenizer import open_tokenizer

_KEY = "eos_token_id"
_ENTRY = re.compile(rf'"{_KEY}"\s*:\s*(\[[^\]]*\]|null|-?\d+)')


def add_turn_end(folder: Path, run_config: Mapping[str, Any]) -> str:
    """Have the model in `folder` end its responses where its chat template ends a turn; returns what was done, in
    words, or nothing where its configuration says so already.

    No code of the model is run, and only the one entry of `generation_config.json` is written.

    Args:
        run_config: of the run that trained it.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        prompt = PromptConfig.model_validate(run_config.get("prompt", {}))
        model = PolicyConfig.model_validate(run_config["model"])
        if prompt.format == "plain":
            return ""
        end = open_renderer(open_tokenizer(folder, False), prompt, model.chat_template_kwargs).turn_end()
        known = _end_tokens(folder)
        if end.token is None or end.token in known:
            return ""
        written = folder / GENERATION
        text = read_text(written, SMALL_BYTES) if written.exists() else "{}\n"
        written.write_text(with_end_tokens(text, [*known, end.token]), encoding="utf-8", newline="")
    except (KeyError, ValidationError, UserError, DataError, MissingDependencyError) as error:
        reason = " ".join(str(error).split())
        return f"not compared with {GENERATION}: {reason}. Where a served response runs on, add the token to {_KEY}"
    return f"{end.text} ({end.token}), with which the chat template ends a turn, was added to {_KEY} in {GENERATION}"


def _end_tokens(folder: Path) -> list[int]:
    """Those of the generation configuration, or else of the model's."""
    for name in (GENERATION, CONFIG):
        value = read_model_json(folder / name).get(_KEY) if (folder / name).is_file() else None
        if value is not None:
            return list(value) if isinstance(value, list) else [value]
    return []


def with_end_tokens(text: str, ids: list[int]) -> str:
    """A generation configuration with these end tokens, and everything else of it as it is written.

    Raises:
        ValueError: it is no JSON object.
    """
    wanted, entry = {**parse_json(text), _KEY: ids}, f'"{_KEY}": {json.dumps(ids)}'
    for match in _ENTRY.finditer(text):
        changed = text[: match.start()] + entry + text[match.end() :]
        if parse_json(changed) == wanted:  # and not an entry of a table inside
            return changed
    begin, rest = text.index("{") + 1, text[text.index("{") + 1 :]
    return f"{text[:begin]}{entry}{rest}" if rest.strip() == "}" else f"{text[:begin]}\n  {entry},{rest}"
