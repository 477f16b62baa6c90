"""The program's side of tests in a driver: does with the program's objects what the tests do with them.

Beside what `stub.py` takes, a request holds the tests' changes of shared objects and what they have dropped, and an
answer what the program changed, printed, and which types it is the first to name (`heap.py`, `remote.py`):

    {"op": ..., "values": [...], "keywords": {...}, "timeout_s": s, "heap": [...], "forget": [number, ...]}
    {"value" or "raised" ..., "heap": [...], "types": [[number, {...}], ...], "printed": [text, text]}
    {"call": number, "values": ..., ...}       a function of the tests is called; a request `return` or `raise` answers

    ["h", number, type], ["h", number, type, value]    an object; one whose type extends a plain one, with its value
    ["C", number]                                      a class
    ["n", name]                                        a builtin class, an exception among them
    ["x", name, args]                                  a builtin exception
    ["T", number, ...], ["I", number]                  a function and an iterator of the tests
    ["m", module, name]                                something of the standard library that the tests hand over
"""

from __future__ import annotations

import _thread
import builtins
import io
import operator
import sys
import types

import codec  # type: ignore[import-not-found]
import heap  # type: ignore[import-not-found]

TYPE_CHECKING = False  # as in codec.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_PRINTED = 2**20
"""characters of what the program prints between two answers that the tests may see"""
VALUES: tuple[Any, ...] = (int, float, complex, str, bytes, tuple, frozenset)
"""what a class may extend and still be handed over with its value"""
SPECIAL: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__bytes__": bytes,
    "__hash__": hash,
    "__int__": int,
    "__float__": float,
    "__complex__": complex,
    "__index__": operator.index,
    "__round__": round,
    "__abs__": abs,
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__invert__": operator.invert,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__contains__": operator.contains,
    **{f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}
"""what the operators of Python do with an object, by the name under which a class defines them"""
for _name in "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "xor", "or":
    _do = getattr(operator, f"__{_name}__")
    SPECIAL[f"__{_name}__"] = _do
    SPECIAL[f"__i{_name}__"] = getattr(operator, f"__i{_name}__")
    SPECIAL[f"__r{_name}__"] = lambda own, other, do=_do: do(other, own)
SPECIAL["__divmod__"] = divmod
SPECIAL["__rdivmod__"] = lambda own, other: divmod(other, own)
for _name in "missing", "trunc", "floor", "ceil", "enter", "exit", "aiter", "anext", "aenter", "aexit":
    SPECIAL[f"__{_name}__"] = lambda own, *values, name=f"__{_name}__": getattr(type(own), name)(own, *values)
KNOWN = {*SPECIAL, "__call__", "__await__"}


class Printed(io.TextIOBase):
    """Standard output or errors of the program, kept for the tests."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._left = MAX_PRINTED

    def write(self, text: str) -> int:
        """Keep it, as long as there is room."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._left > 0:
            self._texts.append(text[: self._left])
            self._left -= len(text)
        return len(text)

    def writable(self) -> bool:
        """Yes."""
        return True

    def taken(self) -> str:
        """What was written since this was asked last."""
        text = "".join(self._texts)
        self._texts.clear()
        self._left = MAX_PRINTED
        return text


class Objects(heap.Heap):  # type: ignore[misc]
    """Answers requests about the program's namespace and its objects."""

    REFERENCES = frozenset({"h", "n", "x", "T", "I", "m"})

    def __init__(self, say: Callable[[dict[str, Any]], None], listen: Callable[[], Any]) -> None:
        """Answer with `say`, and get the next request, or None, with `listen`."""
        super().__init__(1)
        self._say, self._listen = say, listen
        self._names: dict[str, Any] = {}
        self._types: list[list[Any]] = []
        self._theirs: dict[int, Any] = {}
        self._lock = _thread.RLock()
        self._loop: Any = None
        self.printed = Printed(), Printed()
        sys.stdout, sys.stderr = self.printed

    def to(self, names: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked for in this namespace. What the program raises is an answer, too."""
        self._names = names
        values, keywords = self._given(request)
        operation = request["op"]
        try:
            return self._message(value=self._do(operation, values, keywords))
        except StopIteration as error:
            if operation == "__next__":
                return self._message(stop=True, value=error.value)
            return self._raised(error)
        except BaseException as error:
            return self._raised(error)

    def _given(self, request: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        self.receive(request["heap"])
        named = {name: self.decode(value) for name, value in request["keywords"].items()}
        values = [self.decode(value) for value in request["values"]]
        for number in request["forget"]:
            self.forget(number)
        return values, named

    def _do(self, operation: str, values: list[Any], keywords: dict[str, Any]) -> Any:
        if operation == "call":
            function, *rest = values
            return function(*rest, **keywords)
        if operation == "global":
            if values[0] not in self._names:
                raise NameError(f"the program does not define {values[0]!r}")
            return self._names[values[0]]
        if operation == "getattr":
            return getattr(*values)
        if operation == "await":
            return self._awaited(values[0])
        return OPERATIONS[operation](*values, **keywords)

    def _awaited(self, awaitable: Any) -> Any:
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()

        async def wait() -> Any:
            return await awaitable

        return self._loop.run_until_complete(wait())

    def _raised(self, error: BaseException) -> dict[str, Any]:
        try:
            return self._message(raised=error, cause=error.__cause__)
        except codec.CodecError:  # what it was raised with cannot be handed over
            return self._message(raised=RuntimeError(type(error).__name__), cause=None)

    def _message(self, **values: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in values.items():
            fields[name] = self.encode(value)
        fields["heap"] = self.changes()
        fields["types"], self._types = self._types, []
        fields["printed"] = [stream.taken() for stream in self.printed]
        return fields

    # What is not plain, on its way out.

    def refer(self, value: Any, depth: int) -> Any:
        """A class, an exception, a function of the tests, or an object of the program's."""
        own = type(value)
        if value is NotImplemented or value is ...:
            return ["n", str(value)]
        if issubclass(own, type):
            return ["n", value.__name__] if is_known(value) else ["C", self.type_number(value)]
        if own is HarnessFunction or own is HarnessIterator:
            return [own.TAG, value.number]
        if issubclass(own, BaseException) and is_known(own):
            return ["x", own.__name__, self.encode(arguments(value), depth - 1)]
        if heap.kind_of(own) is not None:
            return ["@", self.number(value)]
        handle = ["h", self.number(value), self.type_number(own)]
        base = next((kind for kind in VALUES if issubclass(own, kind)), None)
        if issubclass(own, BaseException):
            handle.append(self.encode(arguments(value), depth - 1))
        elif base is not None:
            handle.append(self.encode(plain(base, value), depth - 1))
        elif own in codec.VIEWS:
            return codec.encode(value)
        return handle

    def type_number(self, own: type) -> int:
        """The number of a class, which is described when it is first named."""
        known = id(own) in self.numbers
        number: int = self.number(own)
        if not known:
            self._types.append([number, self._described(own)])
        return number

    def _described(self, own: type) -> dict[str, Any]:
        bases: list[Any] = []
        for base in type.__getattribute__(own, "__bases__"):
            if base is not object:
                bases.append(base.__name__ if is_known(base) else self.type_number(base))
        chain = [cls for cls in type.mro(own) if not is_known(cls)]
        defined = {name: value for cls in reversed(chain) for name, value in vars(cls).items()}
        return {
            "name": str(own.__name__),
            "module": str(own.__module__),
            "bases": bases,
            "names": [name for name in defined if not (name.startswith("__") and name.endswith("__"))],
            "special": [name for name in defined if name in KNOWN and defined[name] is not None],
            "unhashable": defined.get("__hash__", True) is None,
        }

    # What the tests sent.

    def referred(self, data: list[Any]) -> Any:
        """What a test names: the tests are trusted."""
        tag, name, *rest = data
        if tag == "h":
            return self.objects[name]
        if tag == "n":
            return getattr(builtins, name)
        if tag == "x":
            return getattr(builtins, name)(*self.decode(rest[0]))
        if tag == "m":
            __import__(name)
            return operator.attrgetter(rest[0])(sys.modules[name])
        if name not in self._theirs:
            self._theirs[name] = (
                HarnessFunction(name, self.ask, *rest) if tag == "T" else HarnessIterator(name, self.ask)
            )
        return self._theirs[name]

    def ask(self, number: int, values: Any, keywords: dict[str, Any]) -> Any:
        """Call a function of the tests; meanwhile the tests may ask for more."""
        with self._lock:
            fields = self._message(values=values, keywords=keywords)
            self._say({"call": number, **fields})
            while (request := self._listen()) is not None:
                if request["op"] in ("return", "raise"):
                    (value,), _ = self._given(request)
                    if request["op"] == "raise":
                        raise value
                    return value
                self._say(self.to(self._names, request))
        raise EOFError


class HarnessFunction:
    """A function of the tests."""

    TAG = "T"

    def __init__(self, number: int, ask: Callable[..., Any], name: str, text: str | None, parameters: Any) -> None:
        self.number, self._ask, self._parameters = number, ask, parameters
        self.__name__ = self.__qualname__ = name
        self.__doc__ = text

    def __call__(self, /, *values: Any, **keywords: Any) -> Any:
        return self._ask(self.number, values, keywords)

    @property
    def __signature__(self) -> Any:
        import inspect

        if self._parameters is None:
            raise AttributeError("__signature__")
        parts = [
            inspect.Parameter(name, inspect._ParameterKind(kind), default=default[0] if default else inspect._empty)
            for name, kind, *default in self._parameters
        ]
        return inspect.Signature(parts)

    @property
    def __code__(self) -> Any:
        names = [name for name, kind, *_ in self._parameters or () if kind < 2]
        return types.SimpleNamespace(co_argcount=len(names), co_varnames=tuple(names))


class HarnessIterator:
    """An iterator of the tests."""

    TAG = "I"

    def __init__(self, number: int, ask: Callable[..., Any]) -> None:
        self.number, self._ask = number, ask

    def __iter__(self) -> HarnessIterator:
        return self

    def __next__(self) -> Any:
        return self._ask(self.number, (), {})


def plain(base: Any, value: Any) -> Any:
    """The value of an object whose class extends a plain one; nothing that the class redefines is asked."""
    if base in (int, float, complex):
        return base.__pos__(value)
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes(memoryview(value))
    return base(base.__iter__(value))


def arguments(error: BaseException) -> tuple[Any, ...]:
    """What an exception is made of."""
    if isinstance(error, OSError) and len(error.args) == 2 and error.filename is not None:
        return *error.args, error.filename
    return error.args


def is_known(own: Any) -> bool:
    """Whether the tests' side has the class itself: plain types and builtin exceptions."""
    if own in VALUES or own in heap.TAGS or own in (bool, type(None), object, range, type):
        return True
    return own.__module__ == "builtins" and issubclass(own, BaseException) and vars(builtins).get(own.__name__) is own


OPERATIONS: dict[str, Callable[..., Any]] = {
    **SPECIAL,
    "setattr": setattr,
    "delattr": delattr,
    "dir": dir,
    "copy": lambda own: __import__("copy").copy(own),
    "recursion": sys.setrecursionlimit,
    "seed": lambda *values, **keywords: __import__("random").seed(*values, **keywords),
    "deepcopy": lambda own: __import__("copy").deepcopy(own),
}
