"""Imports the module of a plugin: a distribution's, a file's or a package's. A file is executed once per process."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from reasoner.errors import UserError

_executed: dict[str, str] = {}
"""module of a plugin file -> SHA-256 of what was executed"""


class _TextLoader(SourceFileLoader):
    """Compiles the text of the file as it is now. Compiled files beside it are neither read nor written: Python takes
    one for that of a text with the same length and the same second of change, which an edit can leave as they were."""

    def get_code(self, fullname: str) -> CodeType:
        """The compiled text."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class PluginError(UserError):
    """A plugin cannot be imported, or claims a name that is taken; the message names its distribution or file."""


def import_plugin(origin: str, load: Callable[[], object]) -> ModuleType:
    """The module that `load` returns.

    Raises:
        PluginError: it cannot be imported, or is no module.
    """
    try:
        module = load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{origin} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(module, ModuleType):
        raise PluginError(f"{origin} must name a module, got {type(module).__name__}")
    return module


def import_file(path: Path) -> ModuleType:
    """The module of a file, or the package of an `__init__.py`. It is executed again only when its text has changed."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    resolved = path.resolve()
    if resolved.name == "__init__.py" and resolved.parent.name.isidentifier():
        return _import_package(resolved)
    name = f"reasoner_plugin_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    content = hashlib.sha256(resolved.read_bytes()).hexdigest()
    known = sys.modules.get(name)
    if known is not None and _executed.get(name) == content:
        return known
    if resolved.suffix != ".py":
        raise ImportError(f"{path} is not a Python file")
    spec = importlib.util.spec_from_file_location(name, resolved, loader=_TextLoader(name, str(resolved)))
    assert spec is not None
    module = _execute(name, spec)
    _executed[name] = content
    return module


def _import_package(init: Path) -> ModuleType:
    """The package of that `__init__.py` under its own name, so that its modules can import each other."""
    name = init.parent.name
    known = importlib.util.find_spec(name)
    if known is not None:
        if known.origin is None or Path(known.origin).resolve() != init:
            raise ImportError(f"there is another module {name!r}: {known.origin or 'built in'}; rename the folder")
        return importlib.import_module(name)
    loader = _TextLoader(name, str(init))
    spec = importlib.util.spec_from_file_location(
        name, init, loader=loader, submodule_search_locations=[str(init.parent)]
    )
    assert spec is not None
    return _execute(name, spec)


def _execute(name: str, spec: ModuleSpec) -> ModuleType:
    """A new module, under its name while it is executed and afterwards; not where that fails."""
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
