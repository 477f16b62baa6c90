"""What of a model decides how much memory it takes, found out without loading a weight.

Shapes come from the headers of its safetensors files. Where only a configuration is at hand (a folder with nothing
else, the hub), they are those of the model that transformers builds of it on torch's meta device, without numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from reasoner.config import LoraConfig
from reasoner.errors import DataError, MissingDependencyError, UserError
from reasoner.io.parsing import list_of, read_model_json, table_of
from reasoner.models.embedded import EMBEDDED_PREFIX, embedded_gguf
from reasoner.models.hub import hub_reachable
from reasoner.models.model_config import context_in
from reasoner.models.resolve import folder_at_hand, is_hub_id, local_file
from reasoner.models.weight_files import read_shapes, weight_files

Shapes = Mapping[str, Sequence[int]]
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""names under which configurations of mixture-of-experts models count their experts"""
WIDTH = {"float32": 4, "bfloat16": 2}
"""bytes of a number, by `model.dtype`"""
VOCABULARY_PADDING = 64
"""vLLM rounds the vocabulary up to a multiple of this"""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The numbers of a model; 0 where it does not say."""

    parameters: int
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    adapter: int = 0
    """parameters of an adapter beside it; 0: all its own are trained"""
    heads: int = 0
    """of the queries"""
    kv_heads: int = 0
    head_size: int = 0
    context: int = 0
    """positions that it knows; 0: it does not say, or stretches them"""
    tied: bool = False
    """the output layer is the embedding"""
    experts: int = 0
    architecture: str = ""
    """name of its class, as in its configuration"""

    matrices: tuple[tuple[str, int, int], ...] = field(default=(), repr=False, compare=False)
    """name and shape of each weight beside which an adapter can be"""

    @property
    def trained(self) -> int:
        """The parameters that an optimiser changes."""
        return self.adapter or self.parameters

    @property
    def queries(self) -> int:
        """Values of a token's query in a layer."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Values of a token's key in a layer, and as many of its value."""
        return self.kv_heads * self.head_size

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of an output layer of its own."""
        return self.vocabulary * self.hidden

    @classmethod
    def of(cls, folder: Path, lora: LoraConfig | None = None) -> ModelSize:
        """Read from the headers of its weights, and from its configuration.

        Args:
            lora: the adapter that is trained; None: without.

        Raises:
            DataError: one of these files is not what it must be.
        """
        return cls.from_shapes(read_model_json(folder / "config.json"), read_shapes(folder), lora)

    @classmethod
    def from_shapes(cls, settings: Mapping[str, Any], shapes: Shapes, lora: LoraConfig | None = None) -> ModelSize:
        """From a configuration as a model has it and the shapes of its weights by name."""
        text = {**settings, **table_of(settings, "text_config")}
        hidden, heads = _number(text, "hidden_size"), _number(text, "num_attention_heads")
        vocabulary = _number(text, "vocab_size")
        size = cls(
            parameters=sum(map(prod, shapes.values())),
            layers=_number(text, "num_hidden_layers"),
            hidden=hidden,
            intermediate=_number(text, "intermediate_size"),
            vocabulary=vocabulary,
            heads=heads,
            kv_heads=_number(text, "num_key_value_heads") or heads,
            head_size=_number(text, "head_dim") or (hidden // heads if heads else 0),
            context=context_in(text) or 0,
            tied=bool(text.get("tie_word_embeddings")),
            experts=next((count for name in EXPERTS if (count := _number(text, name))), 0)
            if has_experts(shapes)
            else 0,
            architecture=next(iter(map(str, list_of(settings, "architectures"))), ""),
            matrices=tuple((name, *shape) for name, shape in shapes.items() if len(shape) == 2),  # type: ignore[misc]
        )
        return size if lora is None else size.with_adapter(lora)

    def with_adapter(self, lora: LoraConfig) -> ModelSize:
        """With an adapter beside the matrices of `lora.targets`; `all-linear`: all but the vocabulary's.

        Experts have none, although a published folder has a matrix for each.
        """
        names = tuple(f".{target}.weight" for target in lora.targets)
        beside = [
            rows + columns
            for name, rows, columns in self.matrices
            if ".experts." not in name
            if (rows != self.vocabulary if lora.targets == ["all-linear"] else name.endswith(names))
        ]
        return replace(self, adapter=lora.rank * sum(beside))


def find_size(path: str, lora: LoraConfig | None, trust_remote_code: bool) -> ModelSize:
    """The size of the model that `model.path` names, as it is here or on the hub. No weight is read or downloaded.

    Args:
        trust_remote_code: let the model's own Python code say what layers it has, where only its configuration is here.

    Raises:
        UserError: there is no such model, or its configuration cannot be read.
        MissingDependencyError: what reads it is not installed.
    """
    folder = folder_at_hand(path)
    if folder is not None and weight_files(folder):
        return ModelSize.of(folder, lora)
    if path.startswith(EMBEDDED_PREFIX):
        gguf = embedded_gguf(path.removeprefix(EMBEDDED_PREFIX))
        return _on_meta(gguf.parent, lora, trust_remote_code, gguf_file=gguf.name)
    return _on_meta(_config_folder(path, folder), lora, trust_remote_code)


def tensor_parallel_obstacle(model: ModelSize, parts: int) -> str:
    """Why vLLM cannot spread the model over `parts` GPUs, with the numbers that it can; empty: it can.

    Its layers are cut by attention heads, by the width between the two matrices of an MLP, and by the vocabulary, which
    is padded; each must divide evenly. Heads of keys and values are cut too, or, where there are fewer of them than
    parts, copied as often.
    """
    if not model.heads or not _uneven(model, parts):
        return ""
    fitting = [n for n in range(1, model.heads + 1) if not _uneven(model, n)]
    return f"does not fit the model's {' and '.join(_uneven(model, parts))}: it can be {', '.join(map(str, fitting))}"


def _uneven(model: ModelSize, parts: int) -> list[str]:
    """What does not divide into `parts`."""
    keys, words = model.kv_heads, -(-model.vocabulary // VOCABULARY_PADDING) * VOCABULARY_PADDING
    uneven = {
        f"{model.heads} attention heads": model.heads % parts,
        f"{keys} heads of keys and values": keys % parts if keys >= parts else parts % keys,
        f"MLPs of width {model.intermediate}": 0 if model.experts else model.intermediate % parts,
        f"vocabulary of {words} (padded)": words % parts,
    }
    return [name for name, rest in uneven.items() if rest]


def has_experts(names: Iterable[str]) -> bool:
    """Whether weights of these names are of experts: a hybrid model's configuration counts them also where no layer has
    any."""
    return any("expert" in name or "moe" in name for name in names)


def _config_folder(path: str, folder: Path | None) -> Path:
    """Where config.json is: in the folder, in the hub's local cache, or fetched from the hub."""
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise DataError(f"model folder {folder} has no config.json: there is nothing to estimate from.")
        return folder
    if not is_hub_id(path):
        raise UserError(
            f"model.path = {path!r}: there is no such folder. Give a folder (its config.json is enough here) or a hub "
            "id such as 'Qwen/Qwen2.5-0.5B-Instruct'."
        )
    cached = local_file(path, "config.json")
    if cached is not None:
        return cached.parent
    if not hub_reachable():
        raise UserError(
            f"model.path = {path!r}: no such local folder, its configuration is not in the local hub cache, and the "
            "Hugging Face hub cannot be reached. Put its config.json into a folder and pass that: --model FOLDER."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(path, "config.json")).parent
    except (HfHubHTTPError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"model.path = {path!r}: config.json cannot be had from the hub: {first}") from error


def _on_meta(folder: Path, lora: LoraConfig | None, trust_remote_code: bool, **where: str) -> ModelSize:
    """The size of the model that transformers would build there."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise MissingDependencyError(
            f"the size of a model whose weights are not here takes torch and transformers: {error.name} is not "
            "installed; `pip install 'reasoner[train]'`"
        ) from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, **where)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, OSError, ImportError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"transformers cannot tell the size of the model in {folder}: {first}") from error
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    return ModelSize.from_shapes(model.config.to_dict() | {"architectures": [type(model).__name__]}, shapes, lora)


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    if not 0 <= value < 2**40:
        raise DataError(f"config.json: {name} = {str(value)[:40]}, which is not the size of a model.")
    return value
