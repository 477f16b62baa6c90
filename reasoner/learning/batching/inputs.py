"""A micro-batch as tensors.

Legend: B sequences, L their length, S response tokens of the micro-batch, R its responses, T tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from reasoner.io.token_array import Kind, TokenArray
from reasoner.learning.batching.packing import MicroBatch
from reasoner.learning.batching.routes import UNKNOWN
from reasoner.learning.batching.shapes import Segments, SequenceShape
from reasoner.records import Response

_Numbers = NDArray[np.int64]
ModelOutputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""(S,) log-probabilities, (S,) entropies, (R,) balance of the routers, and (S,) the share of the layers in which a
router would have chosen other experts than those that it was given, -1 where it was given none; None: not asked for."""


@dataclass(frozen=True, slots=True)
class RowSlice:
    """What response tokens the slices of a flat input predict."""

    counts: tuple[int, ...]
    """The number of them, by slice."""
    places_S: Tensor
    """Where each response token is among those of all slices, one slice after the other."""


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """The tokens that go through the model, and the positions that predict the response tokens."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    """Positions that restart after each prompt; in padded sequences they count up to the last token, and padding
    repeats its position."""
    shapes: tuple[SequenceShape, ...] | None
    """The shapes of the packed sequences, all in one flat input (B = 1); None: one response per sequence, padded on the
    right."""
    predictors_S: Tensor
    """Index of the flattened (B * L) position whose hidden state predicts each response token."""
    targets_S: Tensor
    """The ids of the response tokens."""
    lengths_R: tuple[int, ...]
    """The number of tokens of each response; S is their sum."""
    segments: Segments | None = None
    """The shapes as one call of attention; None: padded sequences, or a CPU, which has no kernel for it."""
    row_slice: RowSlice | None = None
    """Ids, positions, predictors and targets are those of a slice of the flat input; None: they are whole."""
    routes_LW: Tensor | None = None
    """(B * L, layers x choices) The experts of every token, -1 where they are not known; None: routers choose."""

    def cut(self, index: int, count: int) -> ModelInputs:
        """The slice that one of `count` ranks has of a flat input, which is filled up to equal slices.

        >>> from reasoner.learning.batching.packing import PackedSequence
        >>> batch = MicroBatch((PackedSequence((1, 2), ((7, 8, 9), (5, 6)), rows=(0, 1)),))
        >>> first, second = (flat_inputs(batch, torch.device("cpu")).cut(index, 2) for index in range(2))
        >>> first.input_ids_BL, second.input_ids_BL
        (tensor([[1, 2, 7]]), tensor([[8, 5, 0]]))
        >>> first.targets_S, second.targets_S  # of 7, 8, 9, 5, 6
        (tensor([7, 8, 5]), tensor([9, 6]))
        >>> second.predictors_S, second.row_slice
        (tensor([0, 1]), RowSlice(counts=(3, 2), places_S=tensor([0, 1, 3, 2, 4])))
        """
        length = -(-self.input_ids_BL.shape[1] // count)
        own = slice(index * length, (index + 1) * length)
        filled = (0, length * count - self.input_ids_BL.shape[1])
        owners_S = self.predictors_S // length
        order_S = owners_S.argsort(stable=True)
        places_S = torch.empty_like(order_S)
        places_S[order_S] = torch.arange(len(order_S), device=order_S.device)
        selected_S = owners_S == index
        return replace(
            self,
            input_ids_BL=pad(self.input_ids_BL, filled)[:, own],
            position_ids_BL=pad(self.position_ids_BL, filled)[:, own],
            predictors_S=self.predictors_S[selected_S] - index * length,
            targets_S=self.targets_S[selected_S],
            routes_LW=None if self.routes_LW is None else pad(self.routes_LW, (0, 0, *filled), value=UNKNOWN)[own],
            row_slice=RowSlice(tuple(owners_S.bincount(minlength=count).tolist()), places_S),
        )

    def parts(self, values_S: Tensor) -> list[Tensor]:
        """(S,) -> (T,) of each response."""
        return list(torch.split(values_S, list(self.lengths_R)))

    def by_row(self, batch: MicroBatch, values_S: Tensor) -> dict[int, Sequence[float]]:
        """(S,) -> (T,) of each response, by its row of the batch."""
        kind: Kind = "float64" if values_S.dtype == torch.float64 else "float32"
        parts = self.parts(values_S.float().cpu() if kind == "float32" else values_S.cpu())
        return {row: TokenArray(part.numpy(), kind) for row, part in zip(batch.rows, parts, strict=True)}

    def padded(self, values_S: Tensor) -> Tensor:
        """(S,) -> (R, T), zeros on the right."""
        return pad_sequence(self.parts(values_S), batch_first=True)

    def flat(self, values_RT: Tensor) -> Tensor:
        """(R, T) -> (S,), the inverse of `padded`."""
        return torch.cat([values_RT[row, :length] for row, length in enumerate(self.lengths_R)])

    def weights(self, weights_RT: Tensor, like_S: Tensor) -> Tensor:
        """(S,) weights in the format of `like_S`, without gradient.

        Raises:
            ValueError: the weights are not (R, T).
        """
        needed = (len(self.lengths_R), max(self.lengths_R))
        if weights_RT.shape != needed:
            raise ValueError(f"weights of shape {needed} are needed, got {tuple(weights_RT.shape)}")
        return self.flat(weights_RT.detach().to(like_S))


def policy_mask(batch: MicroBatch, responses: Sequence[Response], device: torch.device) -> Tensor:
    """(S,) bool: tokens that the policy wrote, in the order of the micro-batch's rows.

    >>> from reasoner.learning.batching.packing import PackedSequence
    >>> batch = MicroBatch((PackedSequence((1,), ((7, 8), (5,)), rows=(1, 0)),))
    >>> responses = [Response("", ids, written, (0.0,) * len(ids), "stop", 0)
    ...              for ids, written in (((5,), (True,)), ((7, 8), (True, False)))]
    >>> policy_mask(batch, responses, torch.device("cpu"))
    tensor([ True, False,  True])

    Args:
        responses: all of the batch, in group order.
    """
    return _tensor([np.asarray(responses[row].policy_mask) for row in batch.rows], device)


def flat_inputs(batch: MicroBatch, device: torch.device) -> ModelInputs:
    """All packed sequences in one, without padding; the positions of every response restart after its prompt.

    >>> from reasoner.learning.batching.packing import PackedSequence
    >>> batch = MicroBatch((PackedSequence((1, 2), ((7, 8, 9), (5, 6)), rows=(0, 1)),))
    >>> inputs = flat_inputs(batch, torch.device("cpu"))
    >>> inputs.input_ids_BL, inputs.position_ids_BL  # 9 and 6 are predicted, and predict nothing
    (tensor([[1, 2, 7, 8, 5]]), tensor([[0, 1, 2, 3, 2]]))
    >>> inputs.predictors_S, inputs.targets_S  # the prompt's last token predicts 7 and 5
    (tensor([1, 2, 3, 1, 4]), tensor([7, 8, 9, 5, 6]))
    """
    ids: list[_Numbers] = []
    positions: list[_Numbers] = []
    predictors: list[_Numbers] = []
    targets: list[_Numbers] = []
    shapes: list[SequenceShape] = []
    end = 0
    for sequence in batch.sequences:
        start, prompt, tree = end, len(sequence.prompt_ids), sequence.pieces
        shapes.append(SequenceShape(start, prompt, tuple(map(len, tree.pieces)), tree.parents))
        ids.append(_numbers(sequence.prompt_ids))
        positions.append(np.arange(prompt))
        end += prompt
        places: list[_Numbers] = []
        ends = {-1: prompt}
        for piece, parent in zip(tree.pieces, tree.parents, strict=True):
            ends[len(places)] = ends[parent] + len(piece)
            places.append(np.arange(end, end + len(piece)))
            ids.append(_numbers(piece))
            positions.append(np.arange(ends[parent], ends[parent] + len(piece)))
            end += len(piece)
        for response, path in zip(sequence.responses, tree.paths, strict=True):
            targets.append(_numbers(response))
            before = np.concatenate([_numbers((start + prompt - 1,)), *(places[place] for place in path)])
            predictors.append(before[: len(response)])
    return ModelInputs(
        _tensor(ids, device).unsqueeze(0),
        _tensor(positions, device).unsqueeze(0),
        tuple(shapes),
        _tensor(predictors, device),
        _tensor(targets, device),
        tuple(map(len, targets)),
        None if device.type == "cpu" else Segments.of(shapes, device),
    )


def padded_inputs(batch: MicroBatch, device: torch.device) -> ModelInputs:
    """One response per sequence, padded on the right: a causal model, recurrent or not, never sees the padding.

    >>> from reasoner.learning.batching.packing import PackedSequence
    >>> long, short = PackedSequence((1, 2), ((7, 8, 9),), rows=(0,)), PackedSequence((1, 2), ((5,),), rows=(1,))
    >>> padded_inputs(MicroBatch((long, short)), torch.device("cpu")).input_ids_BL
    tensor([[1, 2, 7, 8],
            [1, 2, 0, 0]])
    """
    sequences = batch.sequences
    longest = max(sequence.tokens for sequence in sequences)
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    positions = np.empty_like(ids)
    predictors: list[_Numbers] = []
    targets: list[_Numbers] = []
    for place, sequence in enumerate(sequences):
        (response,) = sequence.responses
        prompt = len(sequence.prompt_ids)
        targets.append(_numbers(response))
        ids[place, :prompt] = sequence.prompt_ids
        ids[place, prompt : sequence.tokens] = targets[-1][:-1]
        positions[place] = np.minimum(np.arange(longest), sequence.tokens - 1)
        first = place * longest + prompt - 1
        predictors.append(np.arange(first, first + len(response)))
    return ModelInputs(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(positions).to(device),
        None,
        _tensor(predictors, device),
        _tensor(targets, device),
        tuple(map(len, targets)),
    )


def _numbers(values: Sequence[int]) -> _Numbers:
    return np.asarray(values, dtype=np.int64)


def _tensor(parts: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """The parts, one after the other: a GPU waits meanwhile, and from a list of Python's numbers this takes seven times
    as long."""
    return torch.from_numpy(np.concatenate(parts)).to(device)
