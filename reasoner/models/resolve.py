"""Where the policy comes from: a local folder, the hub, or the model that an installed package carries.

Whatever was named, the result is a local folder in Hugging Face format, so that every engine loads the same files and
none of them asks the network again.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from reasoner.errors import DataError, MissingDependencyError, UserError
from reasoner.models.embedded import (
    EMBEDDED,
    EMBEDDED_PREFIX,
    embedded_folder,
    embedded_names,
    embedded_paths,
    embedded_target,
)
from reasoner.models.hub import hub_reachable
from reasoner.models.run_models import model_folders, recorded_step
from reasoner.models.weight_files import INDEX, SINGLE, named_files, read_shapes

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
"""all of a repository but its weights"""
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "consolidated*.safetensors", "*.gguf")


def resolve_model(path: str) -> Path:
    """The local folder, in Hugging Face format, of `embedded:NAME`, a folder, or a hub id.

    An embedded model is converted on first use (half a minute) and kept in the cache folder.

    Raises:
        UserError: there is no such model, folder or hub id, or the hub cannot be reached; it says what to pass instead.
        MissingDependencyError: the package that carries the embedded model, or one that converts it, is not installed.
    """
    if path.startswith(EMBEDDED_PREFIX):
        return _check_folder(embedded_folder(path.removeprefix(EMBEDDED_PREFIX)))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _check_folder(folder.resolve())
    check_hub_id(path)
    return _hub_folder(path)


def folder_at_hand(path: str) -> Path | None:
    """The local folder of a model, as it is, where nothing must be converted or downloaded for it; None: something
    must."""
    if path.startswith(EMBEDDED_PREFIX):
        folder = embedded_target(path.removeprefix(EMBEDDED_PREFIX))
    else:
        folder = Path(path).expanduser()
    return folder.resolve() if folder.is_dir() else None


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars out of the run's own view, and what DeepSpeed says of the device that it finds: saving a
    model imports it where it is installed."""
    import torch
    from transformers.utils import logging as bars

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

    if not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def describe_model(path: str) -> str:
    """One line that says where the model is, without converting, downloading or loading anything.

    Raises:
        UserError, MissingDependencyError: as `resolve_model`, as far as that is known without a network.
    """
    if path.startswith(EMBEDDED_PREFIX):
        target = embedded_target(path.removeprefix(EMBEDDED_PREFIX))
        return f"{path} ({'converted: ' + str(target) if target.is_dir() else 'to be converted once, half a minute'})"
    if (folder := Path(path).expanduser()).is_dir():
        step = recorded_step(folder)
        return f"{path} (local folder{'' if step is None else f', step {step} of its run'})"
    check_hub_id(path)
    return f"{path} (from the Hugging Face hub or its local cache)"


def local_file(path: str, name: str) -> Path | None:
    """A file of a model as far as it is on this machine, without converting or downloading anything; None: it is not.

    Args:
        path: as `model.path`.
    """
    if path.startswith(EMBEDDED_PREFIX):
        try:
            folder = embedded_target(path.removeprefix(EMBEDDED_PREFIX))
        except (UserError, MissingDependencyError):
            return None
    else:
        folder = Path(path).expanduser()
    if folder.is_dir() or not is_hub_id(path):
        return folder / name if (folder / name).is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cached = try_to_load_from_cache(path, name)
    return Path(cached) if isinstance(cached, str) else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from, as far as that is known on this machine."""

    hub: str | None
    """hub id; None: a local folder"""
    licence: str | None
    """as the hub writes it (`apache-2.0`); None: not known"""
    copy: str = ""
    """how the weights differ from the hub's; empty: they do not"""


def origin(path: str) -> Origin:
    """The hub id and the licence of a model, as far as its card is on this machine.

    Args:
        path: as `model.path`.
    """
    if embedded := EMBEDDED.get(path.removeprefix(EMBEDDED_PREFIX) if path.startswith(EMBEDDED_PREFIX) else ""):
        return Origin(embedded.hub, embedded.licence, f"dequantised from {embedded.file}")
    card = local_file(path, "README.md")
    head = re.match(r"---\n.*?^---$", card.read_text("utf-8", "replace"), re.DOTALL | re.MULTILINE) if card else None
    match = re.search(r"^license: *([\w.-]+) *$", head[0], re.MULTILINE) if head else None
    local = Path(path).expanduser().is_dir() or not is_hub_id(path)
    return Origin(None if local else path, match[1] if match else None)


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """`auto`: cuda when torch sees a CUDA device, otherwise cpu.

    Raises:
        UserError: cuda was asked for and torch sees none.
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "torch is not installed: `pip install 'reasoner[laptop]'` on a CPU, `pip install 'reasoner[gpu]'` on a GPU"
        ) from error

    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise UserError(
            f"model.device = 'cuda', but torch {torch.__version__} sees no CUDA device. Install a CUDA build of "
            "torch and check `nvidia-smi`, or set model.device = 'cpu'."
        )
    if requested == "auto":
        return "cuda" if available else "cpu"
    return requested


def has_nvidia_gpu() -> bool:
    """Whether the machine has an NVIDIA GPU with its driver, found out without importing torch."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def is_hub_id(path: str) -> bool:
    """Whether a path that is no folder here can be a model's name on the hub."""
    return not path.startswith(("/", "./", "../", "~")) and _HUB_ID.fullmatch(path) is not None


def check_hub_id(path: str) -> None:
    """Refuse a path that is no folder and cannot be a model's name on the hub.

    Raises:
        UserError: it says what a path can be.
    """
    if not is_hub_id(path):
        raise UserError(
            f"model.path = {path!r}: there is no such folder. Give a folder in Hugging Face format, a hub id such as "
            f"'Qwen/Qwen2.5-0.5B-Instruct', or {embedded_names()}."
        )


def _hub_folder(hub_id: str) -> Path:
    online = hub_reachable()
    folder = hub_download(hub_id, online)
    if online:  # which files hold the weights stands in the index, where there is one
        weights = [glob.escape(name) for name in named_files(folder)]
        hub_download(hub_id, online, weights, revision=folder.name)  # the folder's name is the commit
    return _check_folder(folder)


def hub_download(hub_id: str, online: bool, patterns: Sequence[str] = _HUB_FILES, revision: str | None = None) -> Path:
    """The folder of some files of a model on the hub; offline those of the local cache.

    Raises:
        UserError: they cannot be had; it says what to pass instead.
    """
    instead = (
        "Download it elsewhere and pass the folder, `--set model.path=FOLDER`, or take the embedded model, "
        f"`--set model.path={next(embedded_paths())}`."
    )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns), local_files_only=not online)
        )
    except LocalEntryNotFoundError as error:
        reason = "no such local folder, the Hugging Face hub cannot be reached, and it is not in the local hub cache"
        raise UserError(f"model.path = {hub_id!r}: {reason}. {instead}") from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"model.path = {hub_id!r}: cannot be downloaded from the hub: {first_line(error)} {instead}"
        ) from error


def _check_folder(folder: Path) -> Path:
    """`folder` if it holds a model, weights as safetensors and a tokenizer.

    Raises:
        DataError: a file is missing; the message names it.
    """
    if not (folder / "config.json").is_file():
        hint = _run_model(folder)
        raise DataError(f"model folder {folder} has no config.json: it is not a model in Hugging Face format.{hint}")
    if not read_shapes(folder):
        pickled = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
        others = f", only {', '.join(pickled[:3])}" if pickled else ""
        raise DataError(
            f"model folder {folder} has no {SINGLE} and no {INDEX}{others}. Pickled weights are not read: they can "
            "run any code. Where you trust them, load them with transformers and call save_pretrained(FOLDER): it "
            "writes safetensors."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise DataError(
            f"model folder {folder} has no tokenizer (tokenizer.json): save the tokenizer into the same folder."
        )
    return folder


def _run_model(folder: Path) -> str:
    """What may be meant by a run's folder, or by a checkpoint that has an adapter alone."""
    if folder.parent.parent.name == "checkpoints" and any(folder.glob("adapter-*.safetensors")):
        run, step = quote(str(folder.parents[2])), int(folder.parent.name.rpartition("-")[2])
        export = f"reasoner export {run} --step {step} --to DIR"
        return f" It is an adapter alone; `{export}` writes the model with it."
    trained = model_folders(folder)
    return f" Did you mean {trained[max(trained)]}, after step {max(trained)} of the run?" if trained else ""


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
