"""How the tensors of a model are called in its folder, which for many models is not how transformers calls them in
memory: it renames them, and joins or cuts some of them, when it loads.

    folder: model.layers.0.mlp.experts.7.up_proj.weight (I, H)
    memory: model.layers.0.mlp.experts.gate_up_proj (E, 2I, H)

Whatever leaves a model (published weights, saved models, checkpoints) has the folder's names and shapes: they are what
vLLM and every other reader of that folder know. The conversions are transformers' own; here they are applied to a few
tensors at a time, so that no second copy of a model is ever in memory, and compared with the folder before anything is
trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
)

from reasoner.errors import DataError

TensorShapes = Mapping[str, Sequence[int]]
_NAMED = 5
"""names that a message lists"""


@dataclass(frozen=True, slots=True)
class Conversion:
    """Tensors that are converted together, in one of the two directions."""

    sources: tuple[str, ...]
    """The names of the tensors that it takes."""
    results: Mapping[str, tuple[int, ...]]
    """The names and shapes of the tensors that it gives."""
    transform: WeightTransform
    patterns: tuple[str, ...]
    """For each source the pattern of `transform` that it matched."""
    key: str
    """transformers' name for the conversion: the first of its results."""
    renamed: Mapping[str, str]
    """Names that `transform` gives and that the results have instead."""
    model: Any

    def __call__(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The results, from a tensor for each of `sources`; they may share its memory."""
        results = _convert(self, tensors)
        return {self.renamed.get(name, name): tensor for name, tensor in results.items()}

    @property
    def plain(self) -> bool:
        """Whether it renames one tensor and leaves its numbers alone."""
        return not isinstance(self.transform, WeightConverter)


class CheckpointNames:
    """The names of one model's tensors in memory and in the folder that it is loaded from."""

    readers: tuple[Conversion, ...]
    """From the folder's tensors to those in memory."""
    writers: tuple[Conversion, ...]
    """From the tensors in memory to the folder's; what is tied in memory is written under the folder's name for it."""
    kept: tuple[str, ...]
    """Tensors of the folder that the model has no use for and transformers knows of, such as the layers that predict
    further tokens, or the images' part where only the text's is loaded: they go into a saved model as they are."""
    buffers: frozenset[str]
    """Tensors of the folder that are no parameters in memory: they keep their number format."""

    def __init__(self, model: Any, shapes: TensorShapes, where: str, *, head: bool = True, part: bool = False) -> None:
        """Compare a model with a folder.

        Args:
            model: of transformers, with or without numbers; conversions keep it.
            shapes: of the folder's tensors by name.
            where: the folder, for messages.
            head: whether the folder's output layer belongs to the model; otherwise it is left out.
            part: whether the model is only the text's part of the folder's, which has images or sound too.

        Raises:
            DataError: the folder lacks a tensor of the model, has one that the model has no place for, or of another
                shape, or transformers cannot write the model as the folder has it.
        """
        self._shapes = shapes
        state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        mapping = get_model_conversion_mapping(model)
        self.readers, left = _readers(model, state, shapes, mapping)
        self.kept = _left_over(model, left, where, head=head, beside=self._first_names if part else None)
        self.writers = _writers(model, state, shapes, mapping)
        self._check_read(model, state, shapes, where)
        self._check_written(shapes, where)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.buffers = frozenset(
            name for writer in self.writers if parameters.isdisjoint(writer.sources) for name in writer.results
        )

    @property
    def _first_names(self) -> set[str]:
        """What the names of the model's tensors in the folder begin with."""
        return {name.partition(".")[0] for reader in self.readers for name in reader.sources}

    def loaded(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors in memory, from those of the folder in any order, a few at a time.

        What is tied in memory comes once.

        Raises:
            DataError: a tensor has another name or shape than in the folder, or one is missing.
        """
        of, waiting = {name: reader for reader in self.readers for name in reader.sources}, dict[str, Tensor]()
        missing = self.written
        for name, tensor in tensors:
            if name in self.kept:
                continue
            if missing.pop(name, None) != tuple(tensor.shape):
                raise DataError(f"the tensor {name!r} of shape {list(tensor.shape)} is not one of the model's")
            waiting[name] = tensor
            if all(source in waiting for source in of[name].sources):
                yield from of[name]([waiting.pop(source) for source in of[name].sources]).items()
        if missing:
            raise DataError(f"{_list_names(list(missing))}: missing, of {len(self.written)} tensors of the model")

    @property
    def renamed(self) -> dict[str, str]:
        """For each tensor in memory that has the folder's numbers as they are, its name there."""
        return {writer.sources[0]: next(iter(writer.results)) for writer in self.writers if writer.plain}

    @property
    def sizes(self) -> list[int]:
        """Numbers in each of the folder's tensors that the model has."""
        return list(map(prod, self.written.values()))

    @property
    def saved(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors of a saved model."""
        return self.written | {name: tuple(self._shapes[name]) for name in self.kept}

    @property
    def written(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the folder's tensors that the model has."""
        return {name: shape for writer in self.writers for name, shape in writer.results.items()}

    def _check_read(self, model: Any, state: Mapping[str, Tensor], shapes: TensorShapes, where: str) -> None:
        by_name = {name: shape for reader in self.readers for name, shape in reader.results.items()}
        tied, ignored = {id(state[name]) for name in by_name}, _pattern(model, "_keys_to_ignore_on_load_missing")
        missing = [name for name in state if id(state[name]) not in tied and not (ignored and ignored.search(name))]
        wrong = sorted(name for name, shape in by_name.items() if tuple(state[name].shape) != shape)
        if missing or wrong:
            missing = [name for name in self.written if name not in shapes] or missing
        if missing:
            raise DataError(
                f"{where} lacks {_list_names(missing)}: {type(model).__name__} has them, and they would be filled with "
                "random numbers. The folder is not complete, or its config.json is that of another model; get both "
                "again from where the model comes from."
            )
        if wrong:
            raise DataError(
                f"{where}: {wrong[0]} is {list(by_name[wrong[0]])}, and the model of its config.json has "
                f"{list(state[wrong[0]].shape)} ({len(wrong)} such tensors): the two do not belong together."
            )

    def _check_written(self, shapes: TensorShapes, where: str) -> None:
        written = self.written
        read = {name for reader in self.readers for name in reader.sources}
        wrong = sorted(
            [name for name in written if name not in shapes or tuple(shapes[name]) != written[name]]
            + [name for name in read if name not in written]
        )
        if wrong:
            raise DataError(
                f"{where}: this version of transformers reads the model and cannot write {_list_names(wrong)} as they "
                "are there. Load it with transformers, call save_pretrained(FOLDER), and take that folder."
            )


def _readers(
    model: Any, state: Mapping[str, Tensor], shapes: TensorShapes, mapping: Sequence[WeightTransform]
) -> tuple[tuple[Conversion, ...], dict[str, str]]:
    """The conversions of loading, and the folder's tensors that no one takes, with their names in memory.

    As `convert_and_load_state_dict_in_model` of transformers finds them.
    """
    prefix = model.base_model_prefix
    renamings = [transform for transform in mapping if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in mapping if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    gathered = _Gathered(by_pattern)
    left: dict[str, str] = {}
    for name in sorted(shapes, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if renamed not in state and name in state:
            renamed, pattern = rename_source_key(name, [], [], prefix, state)
        if renamed in state:
            gathered.add(renamed, name, pattern)
        else:
            left[name] = renamed
    return gathered.conversions(model, shapes, lambda name: name), left


def _writers(
    model: Any, state: Mapping[str, Tensor], shapes: TensorShapes, mapping: Sequence[WeightTransform]
) -> tuple[Conversion, ...]:
    """The conversions of saving, without those of tied tensors that the folder has under another name.

    As `revert_weight_conversion` of transformers finds them.
    """
    backwards = [transform.reverse_transform() for transform in reversed(mapping) if transform.was_used()]
    renamings = [transform for transform in backwards if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in backwards if isinstance(transform, WeightConverter)]
    gathered = _Gathered({pattern: converter for converter in converters for pattern in converter.source_patterns})
    for name in sorted(state, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, reverse=True)
        gathered.add(renamed, name, pattern)
    prefix = f"{model.base_model_prefix}."

    def in_folder(name: str) -> str:
        """With or without the prefix of the model inside a model with a head: either loads the other's folder."""
        return next(
            (candidate for candidate in (name, prefix + name, name.removeprefix(prefix)) if candidate in shapes), name
        )

    every = gathered.conversions(model, {name: value.shape for name, value in state.items()}, in_folder)
    tied = {
        id(state[name])
        for conversion in every
        if shapes.keys() >= conversion.results.keys()
        for name in conversion.sources
    }
    ignored = _pattern(model, "_keys_to_ignore_on_load_missing")
    return tuple(
        conversion
        for conversion in every
        if shapes.keys() >= conversion.results.keys()
        or not (
            all(id(state[name]) in tied for name in conversion.sources)
            or (ignored and all(ignored.search(name) for name in conversion.sources))
        )
    )


class _Gathered:
    """Names on their way to conversions, by what transformers renames them to."""

    def __init__(self, by_pattern: Mapping[str, WeightConverter]) -> None:
        self._by_pattern = by_pattern
        self._found: dict[str, tuple[WeightTransform, list[str], list[str]]] = {}

    def add(self, renamed: str, name: str, pattern: str | None) -> None:
        transform = WeightRenaming(name, renamed) if pattern is None else self._by_pattern[pattern]
        _, names, patterns = self._found.setdefault(renamed, (transform, [], []))
        names.append(name)
        patterns.append(name if pattern is None else pattern)

    def conversions(self, model: Any, shapes: TensorShapes, rename: Callable[[str], str]) -> tuple[Conversion, ...]:
        """With the results that they have by a trial without numbers."""
        return tuple(self._try_conversion(model, key, shapes, rename) for key in self._found)

    def _try_conversion(self, model: Any, key: str, shapes: TensorShapes, rename: Callable[[str], str]) -> Conversion:
        transform, names, patterns = self._found[key]
        untried = Conversion(tuple(names), {}, transform, tuple(patterns), key, {}, model)
        found = untried([torch.empty(list(shapes[name]), device="meta") for name in names])
        renamed = {name: rename(name) for name in found}
        results = {renamed[name]: tuple(tensor.shape) for name, tensor in found.items()}
        return Conversion(tuple(names), results, transform, tuple(patterns), key, renamed, model)


def _convert(conversion: Conversion, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    transform = deepcopy(conversion.transform)
    for name, pattern, tensor in zip(conversion.sources, conversion.patterns, tensors, strict=True):
        transform.add_tensor(conversion.key, name, pattern, tensor)
    model = conversion.model
    converted = transform.convert(conversion.key, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in converted.items()}


def _left_over(
    model: Any, left: Mapping[str, str], where: str, *, head: bool, beside: set[str] | None
) -> tuple[str, ...]:
    """Those of the tensors that no one takes which transformers expects not to take, or which are of another part.

    Args:
        beside: first names of a model that is a part; None: it is the whole.

    Raises:
        DataError: there are others.
    """
    known = _pattern(model, "_keys_to_ignore_on_load_unexpected")
    former = re.compile(r"rotary_emb\.inv_freq|(^|\.)position_ids$")  # buffers that are computed today
    inside = {model.base_model_prefix, *(name for name, _ in model.named_children())}
    kept, strange = [], []
    for name, renamed in left.items():
        further = former.search(renamed) or (known and known.search(renamed)) or _predicts_further(model, renamed)
        if further or (beside is not None and name.partition(".")[0] not in beside):
            kept.append(name)
        elif head or renamed.partition(".")[0] in inside:
            strange.append(name)
    if strange:
        raise DataError(
            f"{where} has {_list_names(strange)}, which {type(model).__name__} has no place for: the model would "
            "compute something else without them, and a saved one would lack them. The "
            "folder's config.json is that of another model, or of another version of it."
        )
    return tuple(kept)


def _predicts_further(model: Any, name: str) -> bool:
    """Whether it is of a layer that predicts the tokens after the next: they come after those of the model."""
    config = model.config.get_text_config()
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    further = getattr(config, "num_nextn_predict_layers", None) or 0
    return layer is not None and 0 <= int(layer[1]) - config.num_hidden_layers < further


def _pattern(model: Any, attribute: str) -> re.Pattern[str] | None:
    patterns: Iterable[str] = getattr(model, attribute, None) or ()
    return re.compile("|".join(f"({pattern})" for pattern in patterns)) if patterns else None


def _list_names(names: Sequence[str]) -> str:
    """`a, b and 7 more tensors`."""
    shown, rest = sorted(names)[:_NAMED], len(names) - _NAMED
    return ", ".join(shown) + (f" and {rest} more tensors" if rest > 0 else "")
