"""The tests' side of the program's objects: classes made like the program's, whose instances ask for what they do.

A class of the program is a class here: with its name, its bases and, by name, what it defines. So `isinstance`,
`except`, `callable` and `is` need no help. What extends a plain type *is* of that type here: its operators are Python's
own, on the value that was sent. Anything else is asked of the program's side when a test asks for it.

One thing is not taken from the program: that an object of its own equals, contains or is near a value of the tests.
Otherwise a program could return an object that agrees with everything. Operators are asked for where a class of the
reference program defines them (`Operators`), and believed beside values only of what a test made itself with that class
(`MADE`).
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import codec  # type: ignore[import-not-found]
import heap  # type: ignore[import-not-found]

MAX_NOTE = 300
"""characters"""
COMPARING = frozenset(f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge", "contains"))
_BINARY = "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "divmod", "lshift", "rshift"
ARITHMETIC = {f"__{kind}{name}__": f"__{name}__" for name in (*_BINARY, "and", "xor", "or") for kind in ("", "r", "i")}
"""binary operators, by the plain form of each"""
AWAITED = frozenset({"__anext__", "__aenter__", "__aexit__"})
ASKED = AWAITED | {
    f"__{name}__"
    for name in (
        *("len", "iter", "next", "reversed", "bool", "str", "repr", "format", "bytes", "hash", "int", "float"),
        *("complex", "index", "round", "abs", "neg", "pos", "invert", "getitem", "setitem", "delitem", "missing"),
        *("trunc", "floor", "ceil", "enter", "exit", "aiter", "call", "await"),
    )
}
"""what an object is asked for whatever the problem says: none of it takes a value of the tests and calls it right"""
BASES: dict[str, Any] = {
    builtin.__name__: builtin
    for builtin in (int, float, complex, str, bytes, tuple, frozenset, bool, range, object, type, type(None))
} | {tag.__name__: tag for tag in heap.TAGS}
TAME = {
    name: builtin
    for name, builtin in vars(builtins).items()
    if isinstance(builtin, type)
    and (issubclass(builtin, Exception) or builtin in (BaseException, SystemExit, KeyboardInterrupt))
    and not issubclass(builtin, StopIteration)
}
"""exceptions that end nothing but what is tried: a StopIteration would end the loops of a test"""
NATIVE: dict[str, type] = {
    "function": types.FunctionType,
    "builtin_function_or_method": types.BuiltinFunctionType,
    "method": types.MethodType,
    "generator": types.GeneratorType,
    "coroutine": types.CoroutineType,
    "async_generator": types.AsyncGeneratorType,
    "code": types.CodeType,
    "module": types.ModuleType,
}
"""types of Python's own that what is asked of the program stands for"""
UNASKED = frozenset({"__dataclass_fields__", "__reduce__", "__reduce_ex__", "__getstate__", "__weakref__"})
"""attributes that are about an object's inside: what reads them cannot do it from here"""


class BrokenError(BaseException):
    """The tests cannot be run, or not be judged as plain Python does; no `except Exception` of a test stops it."""


class RefusedError(BaseException):
    """The program is gone, or did what no test can go on with."""


class Link(Protocol):
    """What objects need of the program's process (`driver.py`)."""

    operators: Operators

    def ask(self, operation: str, /, *values: Any, **keywords: Any) -> Any:
        """Have something done."""

    def cannot_judge(self, why: str) -> BrokenError:
        """To be raised; a test that swallows it does not pass by that."""


LINK: list[Link] = []
"""the program of this process"""


class Operators:
    """Which operators the problem asks the program for: those that classes of its reference program define."""

    def __init__(self, classes: dict[str, list[str]] | None) -> None:
        """Operators by class; None: there is no reference program that says it."""
        self._classes = classes
        self._all = None if classes is None else {name for names in classes.values() for name in names}

    def asked(self, name: str) -> bool | None:
        """Whether any class defines it; None: nobody knows."""
        return None if self._all is None else not self._all.isdisjoint(_forms(name))

    def has(self, own: Any) -> bool:
        """Whether the problem asks for this class."""
        return self._classes is not None and isinstance(own, RemoteType) and own.__name__ in self._classes

    def of(self, own: type, name: str) -> bool:
        """Whether this very class defines it."""
        defined = () if self._classes is None else self._classes.get(own.__name__, ())
        return not _forms(name).isdisjoint(defined)


def _forms(name: str) -> set[str]:
    """The operator and the one that stands for it."""
    return {name, "__eq__" if name == "__ne__" else ARITHMETIC.get(name, name)}


class RemoteType(type):
    """Of the classes that stand for the program's."""

    def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], mirror: bool = False) -> RemoteType:
        """Only this module makes one; a test that derives one of its own would need it on both sides."""
        if not mirror:
            raise LINK[0].cannot_judge(f"a test derives the class {name} from one of the program's")
        return super().__new__(cls, name, bases, space)

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], mirror: bool = False) -> None:
        super().__init__(name, bases, space)

    def __call__(cls, /, *values: Any, **keywords: Any) -> Any:
        return LINK[0].ask("call", cls, *values, **keywords)

    def __getattr__(cls, name: str) -> Any:
        return _attribute(cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if _is_special(name):
            super().__setattr__(name, value)
        else:
            LINK[0].ask("setattr", cls, name, value)

    def __getitem__(cls, key: Any) -> Any:
        return LINK[0].ask("__getitem__", cls, key)

    def __iter__(cls) -> Iterator[Any]:
        return iter(LINK[0].ask("__iter__", cls))

    def __len__(cls) -> int:
        return int(LINK[0].ask("__len__", cls))

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, value: Any) -> bool:
        return any(value is member or value == member for member in cls)


MADE: set[int] = set()
"""objects that a test made with a class that the problem asks for, and what it got from these; by `id`"""


class Remote(metaclass=RemoteType, mirror=True):
    """Something of the program's. It has nothing of its own: each attribute may be one of the object's."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_special(name) and isinstance(self, BaseException):
            object.__setattr__(self, name, value)
        else:
            LINK[0].ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        LINK[0].ask("delattr", self, name)

    def __dir__(self) -> Any:
        return LINK[0].ask("dir", self)

    def __copy__(self) -> Any:
        return LINK[0].ask("copy", self)

    def __deepcopy__(self, memo: Any) -> Any:
        return LINK[0].ask("deepcopy", self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise LINK[0].cannot_judge("a test takes an object of the program apart")


def _attribute(own: Any, name: str) -> Any:
    if name in UNASKED:
        raise LINK[0].cannot_judge(f"a test asks for {name} of an object of the program")
    return LINK[0].ask("getattr", own, name)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class Forward:
    """An attribute that a class of the program defines."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, own: Any, cls: Any) -> Any:
        return _attribute(cls if own is None else own, self.name)


def mirror_class(described: dict[str, Any], objects: dict[int, Any]) -> RemoteType:
    """The class for one of the program's, after those that it is derived from."""
    bases: list[Any] = [objects[base] if isinstance(base, int) else _known(base) for base in described["bases"]]
    name, module = str(described["name"]), str(described["module"])
    if (real := _library_exception(module, name)) is not None:
        bases = [real]
    if not any(issubclass(base, Remote) for base in bases):
        bases.insert(0, Remote)
    space: dict[str, Any] = {"__slots__": (), "__module__": module, "__doc__": Forward("__doc__")}
    space |= {name: Forward(name) for name in described["names"] if not _is_special(name)}
    space |= {name: _special(name) for name in described["special"] if _offered(name)}
    if described["unhashable"] and LINK[0].operators.asked("__eq__"):
        space["__hash__"] = None
    if module == "builtins" and name in NATIVE:
        space["__class__"] = property(lambda own: NATIVE[name])
    if name == "coroutine":
        space["send"], space["throw"], space["close"] = _send, _throw, _close
    with contextlib.suppress(TypeError):
        return RemoteType(name, tuple(dict.fromkeys(bases)), space, mirror=True)
    return RemoteType(name, (Remote,), space, mirror=True)  # no class here can extend all of these


def _known(name: str) -> Any:
    if name in BASES:
        return BASES[name]
    if isinstance(cls := vars(builtins).get(name), type) and issubclass(cls, BaseException):
        return TAME.get(name, RuntimeError)
    raise codec.CodecError("not a class that is known")


def _library_exception(module: str, name: str) -> type | None:
    """An exception of a module of the standard library that the tests use, too."""
    if module.partition(".")[0] in sys.stdlib_module_names and module != "builtins" and module in sys.modules:
        real = getattr(sys.modules[module], name, None)
        if isinstance(real, type) and issubclass(real, Exception) and not isinstance(real, RemoteType):
            return real
    return None


def _offered(name: str) -> bool:
    """Operators that nobody asks for are not there, so that no object agrees with a test by itself."""
    if name not in COMPARING and name not in ARITHMETIC:
        return name in ASKED
    return LINK[0].operators.asked(name) is not False


def _special(name: str) -> Callable[..., Any]:
    if name == "__call__":
        return lambda own, /, *values, **keywords: LINK[0].ask("call", own, *values, **keywords)
    if name == "__await__":
        return _await
    if name in AWAITED:
        return lambda own, *values: _Awaitable(LINK[0].ask(name, own, *values))
    if name in COMPARING:
        return lambda own, other: _compared(name, own, other)
    if name in ARITHMETIC:
        return lambda own, *others: _calculated(name, own, *others)
    if name == "__exit__":
        return _exit
    return lambda own, *values: LINK[0].ask(name, own, *values)


def _compared(name: str, own: Any, other: Any) -> Any:
    """Two objects of the program say themselves how they compare; so does one that a test made, with a value."""
    _known_operator(name)
    answer = LINK[0].ask(name, own, other)
    differs = answer is (name == "__ne__") and name in ("__eq__", "__ne__", "__contains__")
    if isinstance(type(other), RemoteType) or _believed(own, name) or differs:
        return answer
    raise _doubt(own, name)


def _calculated(name: str, own: Any, *others: Any) -> Any:
    """As with comparing: `f(1) - 2` of an object that calls itself 0 would be near any value."""
    _known_operator(name)
    if not (_believed(own, name) or all(isinstance(type(other), RemoteType) for other in others)):
        raise _doubt(own, name)
    return LINK[0].ask(name, own, *others)


def _believed(own: Any, name: str) -> bool:
    return id(own) in MADE and LINK[0].operators.of(type(own), name)


def _doubt(own: Any, name: str) -> BaseException:
    kind = type(own).__name__
    if LINK[0].operators.of(type(own), name):
        return LINK[0].cannot_judge(f"a test uses {name} of a {kind}, which it has from a function, with a value")
    return RefusedError(
        f"an object of type {kind}, which the problem does not ask for, says that it agrees with a test"
    )


def _known_operator(name: str) -> None:
    if LINK[0].operators.asked(name) is None:
        raise LINK[0].cannot_judge(
            f"a test uses {name} of an object of the program, and the problem has no reference program that defines it"
        )


def _exit(own: Any, kind: Any, error: Any, traceback: Any) -> Any:
    return LINK[0].ask("__exit__", own, kind, error, None)


class _Awaitable:
    def __init__(self, own: Any) -> None:
        self._own = own

    def __await__(self) -> Generator[Any, Any, Any]:
        return _await(self._own)


def _await(own: Any) -> Generator[Any, Any, Any]:
    return _result(own)
    yield


def _result(own: Any) -> Any:
    import asyncio

    with contextlib.suppress(RuntimeError):
        if len(asyncio.all_tasks()) > 1:
            raise LINK[0].cannot_judge("a test runs coroutines of the program side by side")
    return LINK[0].ask("await", own)


def _send(own: Any, value: Any) -> Any:
    raise StopIteration(_result(own))


def _throw(own: Any, *error: Any) -> Any:
    raise error[0]


def _close(own: Any) -> None:
    """What was not begun needs no end."""


def is_instance(value: Any, kinds: Any) -> bool:
    """`isinstance` for the tests: classes of the standard library that the program's classes extend count by name."""
    if isinstance(value, kinds):
        return True
    return isinstance(type(value), RemoteType) and _is_named(type(value), kinds)


def is_subclass(own: Any, kinds: Any) -> bool:
    """`issubclass` for the tests."""
    if issubclass(own, kinds):
        return True
    return isinstance(own, RemoteType) and _is_named(own, kinds)


def _is_named(own: type, kinds: Any) -> bool:
    if isinstance(kinds, tuple):
        return any(_is_named(own, kind) for kind in kinds)
    place = getattr(kinds, "__module__", None), getattr(kinds, "__name__", None)
    return any((cls.__module__, cls.__name__) == place for cls in own.__mro__ if isinstance(cls, RemoteType))
