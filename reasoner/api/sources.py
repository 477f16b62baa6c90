"""The source text of a function, and the names that it uses from outside."""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import symtable
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType

FUTURE = __future__.annotations
FUTURE_ANNOTATIONS = FUTURE.compiler_flag


class NoSourceError(Exception):
    """There is no source of it, or another one than what is running; the message says why, in a clause."""


def source_of_function(function: FunctionType) -> str:
    """The text of a `def`, with its decorators, that compiles to this very function.

    Raises:
        NoSourceError: it is a lambda or was made without a `def`, its text is not known, or has changed since.
    """
    if function.__name__ == "<lambda>":
        raise NoSourceError("is a lambda; write it with def")
    try:
        text = textwrap.dedent(inspect.getsource(function))
        file = "".join(inspect.findsource(function)[0])
    except (OSError, TypeError):
        raise NoSourceError(
            "has no source that can be read: it was typed at a prompt or in a cell with %%time, or made by a program; "
            "define it in a cell or a script"
        ) from None
    compiled_alone = _compile(text, function)
    if compiled_alone is None:
        raise NoSourceError("has a source that cannot stand alone")
    # What is compiled together matters: a call of `re.search` is another one where the text has the import of `re` too.
    # IPython compiles every statement of a cell alone, Python a whole file.
    if not any(
        _same(code, function.__code__) for unit in (compiled_alone, _compile(file, function)) for code in _codes(unit)
    ):
        raise NoSourceError("has changed in its file since it was defined; run its definition again")
    return text


def source_of_class(kind: type) -> str:
    """The text of a `class`.

    Raises:
        NoSourceError: its text is not known.
    """
    try:
        return textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        pass  # a notebook's `__main__` has no file: look where its cells are
    for lines in (entry[2] for entry in reversed(list(linecache.cache.values())) if len(entry) == 4):
        text = "".join(lines)
        if f"class {kind.__name__}" in text and (definition := _class_in(text, kind)):
            return definition
    raise NoSourceError("is a class whose source cannot be read")


def is_decorated(text: str) -> bool:
    """Whether a definition has decorators."""
    definition = ast.parse(text).body[0]
    return bool(getattr(definition, "decorator_list", ()))


def names_used(text: str, *, future_annotations: bool) -> list[str]:
    """The global names that a definition needs, in it and in whatever is defined in it.

    Args:
        future_annotations: whether annotations are text, so that nothing in them is needed.
    """
    text = f"from __future__ import annotations\n{text}" if future_annotations else text
    names = dict.fromkeys(_globals_of(symtable.symtable(text, "<source>", "exec"), top=True))
    return [name for name in names if name != "annotations" or not future_annotations]


def names_in_annotations(text: str) -> list[str]:
    """The names in the annotations of a definition: where these are text, it is looked up where options are read."""
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(text)):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                names |= dict.fromkeys(part.id for part in ast.walk(annotation) if isinstance(part, ast.Name))
    return list(names)


def dotted_names(text: str) -> set[str]:
    """`a.b` and `a.b.c` of every `a.b.c` in a definition."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if all(part.isidentifier() for part in dotted.split(".")):
                names.add(dotted)
    return names


def _globals_of(table: symtable.SymbolTable, *, top: bool = False) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() if top else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals_of(child)


def _class_in(text: str, kind: type) -> str | None:
    """The last definition of the class in a text, if it defines what the class has."""
    try:
        nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    except SyntaxError:  # not all that is kept is Python
        return None
    for node in reversed(nodes):
        methods = {
            statement.name for statement in node.body if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        if methods <= vars(kind).keys():
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno]) + "\n"
    return None


def _compile(text: str, function: FunctionType) -> CodeType | None:
    """The code of a text, as that of the function was made; None: it is no Python, as a cell with a magic."""
    flags = function.__code__.co_flags & FUTURE_ANNOTATIONS | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        code: CodeType = compile(text, "<source>", "exec", flags=flags, dont_inherit=True)
    except SyntaxError:
        return None
    return code


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    for constant in code.co_consts if code else ():
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _same(one: CodeType, other: CodeType) -> bool:
    """Whether two codes do the same, wherever they are from."""
    looked_at = ("co_name", "co_code", "co_names", "co_varnames")
    if any(getattr(one, name) != getattr(other, name) for name in looked_at):
        return False
    return len(one.co_consts) == len(other.co_consts) and all(
        _same(a, b)
        if isinstance(a, CodeType) and isinstance(b, CodeType)
        else type(a) is type(b) and (a == b or repr(a) == repr(b))
        for a, b in zip(one.co_consts, other.co_consts, strict=True)
    )
