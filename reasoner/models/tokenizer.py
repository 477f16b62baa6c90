"""The tokenizer of a model, with or without its weights, and what is missing where it cannot be opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from reasoner.errors import MissingDependencyError, UserError
from reasoner.io.parsing import read_model_json
from reasoner.models.embedded import EMBEDDED_PREFIX, embedded_gguf, gguf_tokenizer
from reasoner.models.hub import hub_reachable
from reasoner.models.resolve import check_hub_id, first_line, folder_at_hand, hub_download


def open_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """The tokenizer of a folder in Hugging Face format, whose configuration is read too.

    Raises:
        UserError: transformers cannot read one of them, or would have to run Python code that comes with the model.
        MissingDependencyError: it needs a package to read one of them.
    """
    from transformers import AutoConfig, AutoTokenizer

    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (folder / name).exists():
            read_model_json(folder / name)
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (
        Exception
    ) as error:  # of a malformed file each reader raises whatever it meets; the tokenizers' is no subclass
        if missing := _missing_for_tokenizer(folder):
            raise MissingDependencyError(
                f"the model in {folder} has its tokenizer as tokenizer.model, which takes {' and '.join(missing)} to "
                f"read: `pip install {' '.join(missing)}`"
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(f"the model in {folder} needs a package: {first_line(error)}") from error
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise UserError(
                f"transformers cannot open the model in {folder}: {type(error).__name__}: {first_line(error)}"
            ) from error
        code = ", ".join(sorted(path.name for path in folder.glob("*.py"))) or "in another repository"
        raise UserError(
            f"the model in {folder} needs Python code that comes with it ({code}), and that code would run with all "
            "your rights. Read it; to allow it: --set model.trust_remote_code=true"
        ) from None


def open_tokenizer_alone(path: str, trust_remote_code: bool) -> Any:
    """The tokenizer of a model, without its weights: nothing is converted, and of a model on the hub the small files
    are downloaded at most.

    Args:
        path: as `model.path`.

    Raises:
        UserError, MissingDependencyError: as `resolve_model` and `open_tokenizer`.
    """
    folder = folder_at_hand(path)
    if folder is None and path.startswith(EMBEDDED_PREFIX):
        return gguf_tokenizer(embedded_gguf(path.removeprefix(EMBEDDED_PREFIX)))
    if folder is None:
        check_hub_id(path)
        folder = hub_download(path, hub_reachable())
    return open_tokenizer(folder, trust_remote_code)


def _missing_for_tokenizer(folder: Path) -> list[str]:
    """Packages that are not installed and that transformers needs for a tokenizer which is no tokenizer.json: without
    them it tries other readers, and what it says in the end is about those."""
    if (folder / "tokenizer.json").is_file() or not (folder / "tokenizer.model").is_file():
        return []
    packages = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    return [package for package, module in packages.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
