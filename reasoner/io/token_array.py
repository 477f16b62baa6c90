"""One number per token, as a read-only array.

Responses have millions of tokens a step. A tuple of Python's numbers takes tens of bytes for each and is walked number
by number wherever it is copied, compared, sent or written; here a token takes one to eight bytes, and all of that
happens at the speed of memory. It stands on a buffer and not on numpy, which the processes that call reward sources
need not import; `numpy.asarray(values)` is free.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pickle import PickleBuffer
from typing import Any, Literal, TypeVar, overload

V = TypeVar("V", int, float, bool, covariant=True)
Kind = Literal["int32", "uint16", "bool", "float32", "float64"]

_FORMATS: dict[str, str] = {"int32": "i", "uint16": "H", "bool": "?", "float32": "f", "float64": "d"}
_KINDS: dict[str, Kind] = {"i": "int32", "H": "uint16", "?": "bool", "f": "float32", "d": "float64"}


class TokenArray(Sequence[V]):
    """A read-only sequence of numbers of one kind, equal to a tuple or list of the same numbers.

    >>> values = TokenArray([5, 6, 7], "int32")
    >>> values[0], values[1:], len(values), values == (5, 6, 7)
    (5, TokenArray([6, 7], 'int32'), 3, True)
    >>> import numpy as np
    >>> np.asarray(values) + 1
    array([6, 7, 8], dtype=int32)
    >>> TokenArray(np.log(np.array([0.5, 0.25])), "float32")  # what is in another format is converted
    TokenArray([-0.6931471824645996, -1.3862943649291992], 'float32')

    Args:
        values: Python's numbers, or an array of one dimension. An array in the format of `kind` is not copied; whoever
            made it must not change it any more.
        kind: format of a number.

    Raises:
        ValueError: a value that this format does not have; a float too large for it becomes infinite.
    """

    __slots__ = ("_view",)

    def __init__(self, values: Sequence[V] | Any, kind: Kind) -> None:
        self._view: memoryview[Any] = _view_of(values, _FORMATS[kind]).toreadonly()

    @property
    def kind(self) -> Kind:
        """The format of a number."""
        return _KINDS[self._view.format]

    def tobytes(self) -> bytes:
        """The numbers in the format of this machine."""
        return self._view.tobytes()

    @classmethod
    def frombytes(cls, data: bytes | memoryview[int] | PickleBuffer, kind: Kind) -> TokenArray[V]:
        """The inverse of `tobytes`."""
        # by way of bytes: a buffer that pickle passes out of band comes with the format that it had
        return cls(memoryview(data).cast("B").cast(_FORMATS[kind]), kind)  # type: ignore[call-overload]

    @classmethod
    def fromruns(cls, runs: bytes) -> TokenArray[bool]:
        """A mask from the lengths of its runs (int32), which are True and False by turns; the first is True."""
        parts = (length * (b"\0" if index % 2 else b"\1") for index, length in enumerate(memoryview(runs).cast("i")))
        return TokenArray(memoryview(b"".join(parts)).cast("?"), "bool")

    @classmethod
    def joined(cls, parts: Sequence[Sequence[V]], kind: Kind) -> TokenArray[V]:
        """The numbers of all parts, one after the other."""
        return cls.frombytes(b"".join(TokenArray(part, kind).tobytes() for part in parts), kind)

    def count(self, value: Any) -> int:
        """How often the number is there; of a mask without a look at every token."""
        if self.kind == "bool":
            return self.tobytes().count(bytes([value])) if value in (True, False) else 0
        return self.tolist().count(value)

    def tolist(self) -> list[Any]:
        """Python's numbers."""
        return self._view.tolist()

    def __len__(self) -> int:
        return len(self._view)

    @overload
    def __getitem__(self, at: int) -> V: ...

    @overload
    def __getitem__(self, at: slice) -> TokenArray[V]: ...

    def __getitem__(self, at: int | slice) -> V | TokenArray[V]:
        part: Any = self._view[at]
        return TokenArray(part, self.kind) if isinstance(at, slice) else part

    def __iter__(self) -> Iterator[V]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenArray):
            return self._view == other._view
        if isinstance(other, tuple | list):
            return len(self) == len(other) and self.tolist() == list(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))  # that of the tuple that it is equal to

    def __repr__(self) -> str:
        return f"TokenArray({self.tolist()}, {self.kind!r})"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        runs = _runs_of(self.tobytes()) if self.kind == "bool" else None
        if runs:
            return TokenArray.fromruns, (runs.tobytes(),)
        # from protocol 5 on whoever pickles can take the numbers as they are (`reasoner.distributed.exchange`)
        data = PickleBuffer(self._view) if protocol >= 5 else self.tobytes()
        return TokenArray.frombytes, (data, self.kind)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        array_T = np.asarray(self._view)
        return array_T.astype(dtype or array_T.dtype) if copy else array_T.astype(dtype or array_T.dtype, copy=False)


class RemoteArray(Sequence[V]):
    """A `TokenArray` that another rank has: its length is known here, its numbers are not.

    >>> array = RemoteArray(3, owner=1)
    >>> len(array)
    3
    >>> array[0]
    Traceback (most recent call last):
    RuntimeError: these 3 numbers are on rank 1, and were read before they were fetched; this is a bug

    Args:
        owner: the rank that has them.
        digest: `digest_of` them.
    """

    __slots__ = ("_length", "digest", "owner")

    def __init__(self, length: int, owner: int, digest: bytes = b"") -> None:
        self._length, self.owner, self.digest = length, owner, digest

    def __len__(self) -> int:
        return self._length

    def _refuse(self, *_: object, **__: object) -> Any:
        raise RuntimeError(
            f"these {self._length} numbers are on rank {self.owner}, and were read before they were fetched; this is a "
            "bug"
        )

    __getitem__ = __iter__ = __contains__ = count = __array__ = _refuse

    def __repr__(self) -> str:
        return f"RemoteArray({self._length}, owner={self.owner})"


def digest_of(token_ids: Sequence[int]) -> bytes:
    """8 bytes that tell these ids from others, on every rank the same."""
    if isinstance(token_ids, RemoteArray):
        return token_ids.digest
    return blake2b(TokenArray(token_ids, "int32").tobytes(), digest_size=8).digest()


def here_or_remote(values: Any, kind: Kind) -> TokenArray[Any] | RemoteArray[Any]:
    """An array that another rank has as it is, and anything else as a `TokenArray`."""
    return values if isinstance(values, RemoteArray) else TokenArray(values, kind)


def _view_of(values: Any, format_: str) -> Any:
    """The values as a contiguous buffer of this format, copied only where they are in another."""
    if isinstance(values, TokenArray):
        values = values._view
    if hasattr(values, "__array__") and not isinstance(values, memoryview):
        values = _converted(values, format_)
    if isinstance(values, memoryview):
        if values.ndim == 1 and values.format == format_ and values.contiguous:
            return values
        values = values.tolist()
    try:
        # what can be read once only is read here; and `array` would take bytes for numbers of its own format
        numbers = values if isinstance(values, list | tuple) else list(values)
        if format_ == "?":
            return memoryview(_flags(numbers)).cast("?")
        return memoryview(array(format_, numbers))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"not a number of the format {_KINDS[format_]}: {error}") from error


def _converted(values: Any, format_: str) -> Any:
    """An array of numpy or torch."""
    import numpy as np

    numbers = np.asarray(values)
    wanted = np.dtype(_KINDS[format_])
    if numbers.ndim != 1:
        raise ValueError(f"numbers in one dimension are needed, got an array of the shape {numbers.shape}")
    if numbers.dtype != wanted and not np.can_cast(numbers.dtype, wanted, "same_kind"):
        raise ValueError(f"numbers of the format {_KINDS[format_]} are needed, got {numbers.dtype}")
    if numbers.dtype.kind in "iu" and numbers.dtype != wanted and (numbers != numbers.astype(wanted)).any():
        raise ValueError(f"a number is too large for the format {_KINDS[format_]}")
    return np.ascontiguousarray(numbers, dtype=wanted).data


def _runs_of(mask: bytes) -> array[int] | None:
    """What `fromruns` reads; None: it would be longer than the mask."""
    runs = array("i")
    start, flag = 0, b"\1"
    while start < len(mask):
        flag = b"\0" if flag == b"\1" else b"\1"
        end = mask.find(flag, start)  # where the run of the other one ends
        runs.append((len(mask) if end < 0 else end) - start)
        start += runs[-1]
        if runs.itemsize * len(runs) > len(mask):
            return None
    return runs


def _flags(values: Sequence[bool]) -> bytes:
    if any(value is not True and value is not False for value in values):
        raise ValueError("True and False are needed, got something else")
    return bytes(values)
