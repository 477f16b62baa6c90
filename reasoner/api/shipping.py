"""A reward function of a notebook cell or a script as a plugin file, which the workers that call it import.

The file holds the function's source and everything that it uses, found by name:

    modules                                  imported
    functions and classes of packages        imported
    those of the notebook or script, and of  their source, with what they use in turn
      modules beside it
    text, numbers, lists, dicts, patterns,   the value that they have now
      paths

Nothing is pickled, and nothing is run to find out what a value is. What cannot be written down like this (an open file,
a model, a client, a variable of the function around it) is refused by name, with what to do: a file that silently lacks
it would fail in every worker, and one that holds a copy of it would not be what the user sees.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from reasoner.api.sources import (
    FUTURE,
    FUTURE_ANNOTATIONS,
    NoSourceError,
    dotted_names,
    is_decorated,
    names_in_annotations,
    names_used,
    source_of_class,
    source_of_function,
)
from reasoner.errors import UserError
from reasoner.io.redaction import HIDDEN, redact, why_secret
from reasoner.plugins.reward_api import RewardSource

LARGEST = 1_000_000
"""characters of one value"""
_OF_EVERY_MODULE = ("__name__", "__doc__", "__spec__", "__builtins__")
_HOOK = """

@_reasoner_hookimpl
def register_rewards():
    return [{name}]
"""


def plugin_text(source: RewardSource) -> str:
    """The plugin file of a reward source.

    Raises:
        UserError: it, or something that it uses, cannot be written down; the message names it and says what to do.
    """
    function = source.function
    writer = _Writer(source.name)
    if not isinstance(function, FunctionType):
        writer.refuse(f"is made of {type(function).__name__} and not of a def")
    writer.add_source(function)
    return writer.text(inspect.unwrap(function).__name__)


def write_plugin(source: RewardSource, folder: Path) -> Path:
    """Write the plugin file of a reward source into `folder`, below a folder named after what is in it: a file that is
    there is never another one, and runs that go on find what they began with.

    Raises:
        UserError: as `plugin_text`, or the folder cannot be written.
    """
    text = plugin_text(source)
    file = folder / hashlib.sha256(text.encode()).hexdigest()[:8] / f"{_file_name(source.name)}.py"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}, the file of {source.name!r}, cannot be written: {error.strerror}.") from error
    return file


class _Writer:
    """Collects what a function needs, in the order in which the file must define it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._meanings: dict[str, object] = {}
        self._imports: dict[str, None] = {}
        self._paths: dict[str, None] = {}
        self._values: dict[str, str] = {}
        self._definitions: dict[str, str] = {}
        self._future = False

    def text(self, function: str) -> str:
        """The file, which registers `function`."""
        paths = [f"sys.path.append({path!r})" for path in self._paths]
        parts = [
            f"# Written by reasoner: the reward source {self._name!r} of a notebook or script, and what it used there.",
            "from __future__ import annotations" if self._future else "",
            "\n".join(["import sys", *paths]) if paths else "",
            "\n".join(["from reasoner import hookimpl as _reasoner_hookimpl", *self._imports]),
            "\n".join(f"{name} = {value}" for name, value in self._values.items()),
            *(f"\n{text.strip()}" for text in self._definitions.values()),
        ]
        return "\n\n".join(filter(None, parts)) + "\n" + _HOOK.format(name=function)

    def refuse(self, why: str) -> NoReturn:
        raise UserError(
            f"reward source {self._name!r} cannot be given to the workers that call it: it {why}. Or put it into a "
            "Python file with a hook register_rewards, and name the file: plugins=['my_verifier.py']."
        )

    def add_source(self, function: FunctionType) -> None:
        """The reward source's own function, with its decorator."""
        text = self._add_function(inspect.unwrap(function), "")
        if not is_decorated(text):
            self.refuse("was made without the decorator; write @reward(...) over its def")

    def _add_global(self, name: str, namespace: Mapping[str, Any], used_in: str) -> None:
        builtins = vars(sys.modules["builtins"])
        if name in _OF_EVERY_MODULE:
            return
        if name not in namespace and name not in builtins:
            self.refuse(f"uses {name!r}, which is not defined here; define it before")
        if name not in namespace and getattr(builtins[name], "__module__", "builtins") in ("builtins", "_io"):
            return
        value = namespace[name] if name in namespace else builtins[name]
        function = _function_of(value)
        if isinstance(value, ModuleType):
            self._add_module(name, value, used_in)
        elif self._add_value(name, value):
            return
        elif origin := _origin(name, value):
            module, attribute = origin
            self._import(name, f"from {module} import {attribute}", attribute, sys.modules[module])
        elif function is not None:
            text = self._add_function(function, name)
            if is_decorated(text) and name == function.__name__:
                return
            if function is not value or is_decorated(text):
                self.refuse(f"uses {name!r}, which is made of {function.__name__!r}; decorate that instead of its def")
            if name != function.__name__:
                self._define_text(name, function, f"{name} = {function.__name__}")
        elif isinstance(value, type):
            self._add_class(name, value, namespace)
        else:
            self.refuse(
                f"uses {name!r} ({_kind(value)}), which cannot be written into a file; make it in the function, or in "
                "one that @reward(..., prepare=...) calls once per worker host"
            )

    def _add_function(self, function: FunctionType, name: str) -> str:
        """The source of a function, after everything that it uses."""
        what = f"uses {name!r}, which " if name else ""
        if function.__closure__:
            of = ", ".join(repr(variable) for variable in function.__code__.co_freevars)
            self.refuse(
                f"{what}uses {of} of the function around it; make that an option (a keyword parameter), or a variable "
                "of the notebook or module"
            )
        try:
            text = source_of_function(function)
        except NoSourceError as error:
            self.refuse(f"{what}{error}")
        future = bool(function.__code__.co_flags & FUTURE_ANNOTATIONS)
        self._define(function.__name__, function, text, function.__globals__, future)
        return text

    def _add_class(self, name: str, kind: type, namespace: Mapping[str, Any]) -> None:
        try:
            text = source_of_class(kind)
        except NoSourceError as error:
            self.refuse(f"uses {name!r}, which {error}")
        if kind.__module__ != namespace.get("__name__"):
            namespace = vars(sys.modules[kind.__module__])
        self._define(kind.__name__, kind, text, namespace, namespace.get("annotations") is FUTURE)
        if name != kind.__name__:
            self._define_text(name, kind, f"{name} = {kind.__name__}")

    def _define(
        self, name: str, value: object, text: str, namespace: Mapping[str, Any], future_annotations: bool
    ) -> None:
        """A definition, after everything that it uses. Where annotations are text, of what they name what is there."""
        if self._means(name, value):
            return
        self._future |= future_annotations
        dotted = " ".join(sorted(dotted_names(text)))
        needed = names_used(text, future_annotations=future_annotations)
        needed += [used for used in names_in_annotations(text) if future_annotations and used in namespace]
        for used in dict.fromkeys(needed):
            own = namespace.get(used)
            if used != name or not (own is value or (own is not None and _function_of(own) is value)):
                self._add_global(used, namespace, dotted)
        self._definitions[name] = text  # what it uses comes first

    def _define_text(self, name: str, value: object, text: str) -> None:
        if not self._means(name, value):
            self._definitions[name] = text

    def _means(self, name: str, meaning: object) -> bool:
        """Whether the name is in the file already: there it stands for one thing, whatever module uses it."""
        known = self._meanings.get(name)
        if known is None:
            self._meanings[name] = meaning
            return False
        if known is not meaning and (not isinstance(meaning, str) or known != meaning):
            self.refuse(f"uses two different things that are both called {name!r}; rename one of them")
        return True

    def _add_module(self, name: str, module: ModuleType, used_in: str) -> None:
        if module.__name__ == "__main__" or getattr(module, "__spec__", None) is None:
            self.refuse(f"uses the module {name!r}, which was not imported from a file; use what is in it by its name")
        self._import(name, f"import {module.__name__}", module.__name__, module)
        top = module.__name__.partition(".")[0]
        for dotted in used_in.split():  # `import a.b` is found as `a`, and `a.b.c` in the text
            if name == top and dotted.startswith(f"{name}.") and isinstance(sys.modules.get(dotted), ModuleType):
                self._imports[f"import {dotted}"] = None

    def _import(self, name: str, line: str, called: str, module: ModuleType) -> None:
        line += f" as {name}" if name != called else ""
        self._means(name, line)
        self._imports[line] = None
        if folder := _loose_folder(module):
            self._paths[str(folder)] = None

    def _add_value(self, name: str, value: object) -> bool:
        """False: it is no plain value."""
        imports: dict[str, None] = {}
        try:
            text = _literal(value, imports)
        except (TypeError, RecursionError):
            return False
        if len(text) > LARGEST:
            self.refuse(
                f"uses {name!r}, whose value takes {len(text):,} characters; read it from a file in the function"
            )
        if why_secret(("options", name), value) or redact(f"{name} = {text}").count(HIDDEN) > text.count(HIDDEN):
            self.refuse(f"uses {name!r}, which looks like a secret; read it from the environment in the function")
        self._means(name, f"= {text}")
        self._values[name] = text
        self._imports |= imports
        return True


def _literal(value: object, imports: dict[str, None]) -> str:
    """The value as an expression that is the same in every process; what it needs is added to the imports.

    Raises:
        TypeError: it is no plain value.
    """
    kind = type(value)
    if kind is float and not isfinite(value):  # type: ignore[arg-type]
        return f"float({str(value)!r})"
    if kind in (str, bytes, int, float, complex, bool, type(None)):
        return repr(value)
    if isinstance(value, re.Pattern):
        imports["import re as _re"] = None
        return f"_re.compile({value.pattern!r}, {value.flags})"
    if isinstance(value, Path):
        imports["from pathlib import Path as _Path"] = None
        return f"_Path({str(value)!r})"
    if isinstance(value, dict) and kind is dict:
        entries = (f"{_literal(key, imports)}: {_literal(inner, imports)}" for key, inner in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list | tuple | set | frozenset) and kind in (list, tuple, set, frozenset):
        parts = [_literal(inner, imports) for inner in value]
        if isinstance(value, set | frozenset):
            return f"{kind.__name__}([{', '.join(sorted(parts))}])"
        return f"[{', '.join(parts)}]" if kind is list else f"({''.join(f'{part}, ' for part in parts)})"
    raise TypeError(kind)


def _origin(name: str, value: object) -> tuple[str, str] | None:
    """From which module a value can be imported, and under which name; None: it is of the notebook or script."""
    of = getattr(value, "__module__", None)
    own = [getattr(value, attribute, None) for attribute in ("__qualname__", "_name")]
    called = [part for part in (*own, name) if isinstance(part, str)]
    near = [sys.modules.get(module_name) for module_name in (of.partition(".")[0], of)] if isinstance(of, str) else []
    others = list(sys.modules.values())
    for module, attributes in [*((holder, called) for holder in near), *((holder, [name]) for holder in others)]:
        for attribute in attributes:
            if isinstance(module, ModuleType) and vars(module).get(attribute) is value and _is_importable(module):
                return module.__name__, attribute
    return None


def _is_importable(module: ModuleType) -> bool:
    """Whether a worker imports this very module, and it is no file beside the notebook or script."""
    return (
        getattr(module, "__spec__", None) is not None
        and module.__name__ != "__main__"
        and sys.modules.get(module.__name__) is module
        and _loose_folder(module) is None
    )


def _loose_folder(module: ModuleType) -> Path | None:
    """Where a module was found, unless every Python process finds it there; None: it is installed, or built in."""
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", ())), None)
    if file is None:
        return None
    place = Path(file).resolve()
    if any(place.is_relative_to(folder) for folder in _installation()) or _import_location(top.__name__) == str(file):
        return None
    return place.parent.parent if place.name == "__init__.py" else place.parent


def _installation() -> list[Path]:
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(place).resolve() for place in (*own, *site.getsitepackages(), site.getusersitepackages())]


@cache
def _import_location(module: str) -> str:
    """Where a process that is started anew finds a module (`PYTHONPATH`, editable installations); empty: nowhere."""
    program = "import importlib.util, sys; spec = importlib.util.find_spec(sys.argv[1]); print(spec and spec.origin)"
    command = [sys.executable, "-P", "-c", program, module]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _function_of(value: object) -> FunctionType | None:
    """The function that was defined where a value is a function, a reward source, or what a decorator made of one."""
    inner = value.function if isinstance(value, RewardSource) else value
    unwrapped = inspect.unwrap(inner) if callable(inner) else None
    return unwrapped if isinstance(unwrapped, FunctionType) else None


def _kind(value: object) -> str:
    kind = type(value)
    return (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )


def _file_name(name: str) -> str:
    """A source's name as one of a file: it may hold anything."""
    return re.sub(r"\W+", "_", name) or "reward"
