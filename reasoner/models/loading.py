"""The one way in which a model's weights get into memory: complete, or refused by name.

transformers fills what a folder lacks with random numbers and passes over what it does not know, with a warning that
nobody reads. Here both end a command before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from reasoner.errors import DataError, MissingDependencyError, UserError
from reasoner.io.parsing import list_of, read_model_json, table_of
from reasoner.models.checkpoint_names import CheckpointNames
from reasoner.models.files import CONFIG
from reasoner.models.resolve import first_line, folder_at_hand, local_file, no_progress_bars
from reasoner.models.weight_files import INDEX, SINGLE, read_shapes

_PLAIN = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, {method}
plain = {method}(dequantize=True)
model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype="bfloat16", quantization_config=plain)
with torch.device("meta"):
    plain = type(model)(model.config)
plain.load_state_dict(model.state_dict(), assign=True)  # without what it remembers of the other format
plain.save_pretrained("PLAIN")
AutoTokenizer.from_pretrained({folder!r}).save_pretrained("PLAIN")"""
"""writes quantised weights as plain numbers"""
_DEQUANTISED = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
"""quantisation that transformers can take off while it loads -> its configuration"""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model without its numbers, and what its tensors are called."""

    model: Any
    """On torch's meta device."""
    names: CheckpointNames

    @property
    def generation(self) -> str | None:
        """What transformers would write into `generation_config.json`; None: the model does not generate."""
        config = getattr(self.model, "generation_config", None)
        return None if config is None else f"{config.to_json_string().rstrip()}\n"


def check_weights(folder: Path, trust_remote_code: bool, *, head: bool = True) -> Skeleton:
    """See whether the model in `folder` can be loaded, trained and saved whole. No weight is read.

    Args:
        trust_remote_code: run Python code that comes with the model.
        head: with its output layer; otherwise what gives its hidden states.

    Raises:
        UserError: its weights are quantised, are an adapter beside another model, or are not those of its
            configuration, or transformers has no language model of that kind; the message says what to do.
        MissingDependencyError: transformers needs a package for it.
    """
    _refuse_untrainable(folder)
    with _readable_errors(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = (AutoModelForCausalLM if head else AutoModel).from_config(
                config, trust_remote_code=trust_remote_code
            )
    if not head and model.get_output_embeddings() is not None:
        raise UserError(
            f"{folder}: transformers has {type(model).__name__} with its output layer alone, so that a critic cannot "
            "read its hidden states. Take a folder with the text's part of the model, of which it has both."
        )
    shapes = read_shapes(folder)
    if not shapes:
        raise DataError(f"{folder} has no {SINGLE} and no {INDEX}: weights are read from safetensors files alone.")
    # a folder with images of which transformers has the text's part as a model of its own
    part = config.get_text_config() is not config and model.config.get_text_config() is model.config
    return Skeleton(model, CheckpointNames(model, shapes, str(folder), head=head, part=part))


def check_weights_at_hand(path: str, trust_remote_code: bool, *, head: bool = True) -> None:
    """As `check_weights`, as far as the model is on this machine: nothing is downloaded or converted for it, and a
    folder with a configuration alone is enough.

    Args:
        path: as `model.path`.
    """
    folder = folder_at_hand(path)
    if folder is not None and any((folder / name).is_file() for name in (SINGLE, INDEX)):
        check_weights(folder, trust_remote_code, head=head)
    elif (config := local_file(path, CONFIG)) is not None:  # of the hub's files some may not be here yet
        _refuse_untrainable(config.parent)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its weights."""

    model: Any
    skeleton: Skeleton

    @property
    def names(self) -> CheckpointNames:
        return self.skeleton.names


def load_model(
    folder: Path,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    head: bool = True,
    weights: Path | None = None,
    **options: Any,
) -> Loaded:
    """Load all weights of the model in `folder`, and freeze what is neither its text part nor its output layer.

    Args:
        device: where to put it.
        dtype: of its parameters.
        trust_remote_code: run Python code that comes with the model.
        head: with its output layer.
        weights: take them from this folder, which was saved from that model; None: from `folder`.
        options: `config` and `attn_implementation`, as transformers takes them.

    Raises:
        UserError, MissingDependencyError: as `check_weights`.
    """
    skeleton = check_weights(folder, trust_remote_code, head=head)
    if weights is not None:
        _refuse_others(weights, skeleton.names)
    with no_progress_bars(), _readable_errors(folder):
        model, report = (AutoModelForCausalLM if head else AutoModel).from_pretrained(
            folder if weights is None else weights,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    lost = [name for name in ("missing_keys", "mismatched_keys", "error_msgs", "conversion_errors") if report.get(name)]
    if lost:
        raise DataError(f"{folder}: transformers did not load all of it: {lost[0]}: {report[lost[0]]}")
    _freeze_all_but_text(model)
    if torch.device(device).type == "cpu":
        _own_memory(model)
    return Loaded(model.to(device), skeleton)


def _own_memory(model: Any) -> None:
    """transformers maps the file into memory, where a tensor begins anywhere: the last bits of what is computed depend
    on that, and a checkpoint would go on with others."""
    for value in (*model.parameters(), *model.buffers()):
        value.data = value.data.clone()


def _refuse_others(weights: Path, names: CheckpointNames) -> None:
    """See whether a folder has the tensors that a saved model has."""
    shapes, wanted = read_shapes(weights), names.written
    for name in sorted(wanted.keys() | (shapes.keys() - set(names.kept))):
        in_folder = list(shapes[name]) if name in shapes else "missing"
        in_memory = list(wanted[name]) if name in wanted else "missing"
        if in_folder != in_memory:
            raise DataError(
                f"{weights} does not hold the weights of this model: {name} is {in_folder} there and "
                f"{in_memory} in the model. The checkpoint was made with another model or another version of "
                "transformers."
            )


def _freeze_all_but_text(model: Any) -> None:
    """Prompts are text: what reads images or sound gets no gradient, and weight decay must not change it."""
    if model.config.get_text_config() is model.config:
        return
    text = [model.get_decoder(), model.get_output_embeddings()]
    trained = {id(value) for part in text if part is not None for value in part.parameters()}
    for value in model.parameters():
        value.requires_grad_(value.requires_grad and id(value) in trained)


def _refuse_untrainable(folder: Path) -> None:
    """Trained weights are plain numbers, and a saved model says in which format; an adapter is no model."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} has an adapter (adapter_config.json) beside or instead of the model: merge the two with peft "
            "(merge_and_unload, then save_pretrained) and take that folder, or remove the adapter's files."
        )
    config = read_model_json(folder / CONFIG)
    quant = table_of(config, "quantization_config") or table_of(table_of(config, "text_config"), "quantization_config")
    if not quant:
        return
    method = str(quant.get("quant_method", "of an unknown kind"))
    way = "Take the model that it was made from, whose weights are bfloat16 or float32."
    if method in _DEQUANTISED:
        code = _PLAIN.format(folder=str(folder), method=_DEQUANTISED[method])
        way = f"Write them as bfloat16 once, with this, and set model.path to the new folder PLAIN:\n{code}"
    raise UserError(
        f"the weights in {folder} are quantised ({method}): a training step is smaller than the distance between two "
        f"of their numbers, and what was trained could not be saved in them. {way}"
    )


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """What transformers raises for a model that it cannot build, as an error that names the folder.

    Raises:
        UserError: it does not know the model, or has no language model of its kind.
        MissingDependencyError: a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(f"the model in {folder} needs a package: {first_line(error)}") from error
    except Exception as error:  # of a configuration that does not hold together it raises whatever it meets
        if isinstance(error, UserError | MemoryError | torch.OutOfMemoryError):
            raise
        if "Unrecognized configuration class" in str(error):
            config = read_model_json(folder / CONFIG)
            name = next(iter(map(str, list_of(config, "architectures"))), "") or str(config.get("model_type"))
            raise UserError(
                f"the model in {folder} is a {name}, and transformers {transformers.__version__} has no language model "
                "for text alone that reads its folder: it cannot be trained. Take a text model, or one with images "
                "whose text part transformers has, such as Gemma 3 or Qwen 3.5."
            ) from error
        raise UserError(
            f"transformers cannot open the model in {folder}: {type(error).__name__}: {first_line(error)}"
        ) from error
