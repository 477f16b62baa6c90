"""The process in which `templates.py` has a stranger's Jinja template rendered: a script that imports nothing of ours.

Standard input has a line for the template, then one for each rendering with its values; standard output answers each.
The system ends the process where a rendering takes too long, because a loop in C, such as that of a huge power, hears
nothing else; of memory it gets no more than its limit.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` of chat templates, which marks what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _finalize(value: Any) -> Any:
    """What a template writes: a value of JSON, and no `<built-in method upper of str object>`."""
    if isinstance(value, str | int | float | list | tuple | dict | jinja2.Undefined):
        return value
    raise TypeError(
        f"it writes a {type(value).__name__}, which is not text; call a function with (), write {{{{ ...|list }}}} "
        f"for the result of a filter, and row['name'] for a field of that name"
    )


class Null(jinja2.ChainableUndefined):
    """A null of a row: false, none and not defined to a template, and never the text "None"."""

    quiet = False
    """whether it is written as nothing; otherwise writing it is an error"""

    def __str__(self) -> str:
        return "" if self.quiet else self._fail_with_undefined_error()

    def __iter__(self) -> Iterator[Any]:
        return iter(()) if self.quiet else self._fail_with_undefined_error()

    def __len__(self) -> int:
        return 0 if self.quiet else self._fail_with_undefined_error()

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)


class QuietNull(Null):
    """A null that is written as nothing."""

    quiet = True


class QuietParts(jinja2.StrictUndefined):
    """A variable that is not defined is an error; what is missing inside of one is a quiet null."""

    def __new__(cls, hint: str | None = None, obj: Any = missing, *_: Any, **__: Any) -> Any:
        # A hint says what is wrong, such as that the sandbox forbids an attribute.
        return super().__new__(cls) if obj is missing or hint else QuietNull()


def is_variable(value: jinja2.Undefined) -> bool:
    """Whether it stands for a variable that is not defined, and not for what is missing inside of one."""
    return value._undefined_obj is missing


def nulls(value: Any, quiet: bool, name: str = "it") -> Any:
    """A row's value with `Null` in the place of each null, whose name errors say."""
    if value is None:
        return (QuietNull if quiet else Null)(f"{name!r} is null")
    if isinstance(value, dict):
        return {key: nulls(inner, quiet, str(key)) for key, inner in value.items()}
    return [nulls(inner, quiet, name) for inner in value] if isinstance(value, list) else value


def _without_nulls(value: Any, **options: Any) -> str:
    """JSON of a value that may hold some."""
    return json.dumps(value, default=lambda inner: None if isinstance(inner, Null) else _refuse(repr(inner)), **options)


def _prompt_sandbox(quiet: bool) -> ImmutableSandboxedEnvironment:
    sandbox = ImmutableSandboxedEnvironment(
        undefined=QuietParts if quiet else jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: _finalize(nulls(None, quiet) if value is None else value),
    )
    sandbox.policies["json.dumps_function"] = _without_nulls
    sandbox.tests["none"] = lambda value: value is None or isinstance(value, Null)
    return sandbox


def environment(kind: str, quiet: bool = False) -> ImmutableSandboxedEnvironment:
    """That of prompt templates, or for `chat` one with what transformers gives to chat templates.

    Args:
        quiet: whether a null is written as nothing, in a prompt template.
    """
    if kind == "prompt":
        return _prompt_sandbox(quiet)
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["strftime_now"] = datetime.now().strftime
    return sandbox


def chat_values(values: dict[str, Any]) -> dict[str, Any]:
    """With the function `strftime_now` in the place of the date that it is to write (`template_date.py`)."""
    date = values.get("strftime_now")
    return {**values, "strftime_now": datetime.fromisoformat(date).strftime} if date else values


def main() -> None:
    """Arguments: bytes of memory, seconds and characters that a rendering may take."""
    memory, seconds, characters = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    asked = json.loads(sys.stdin.buffer.readline())
    template = None
    for line in sys.stdin.buffer:
        signal.alarm(seconds)
        try:
            template = template or environment(asked["kind"], asked["quiet"]).from_string(asked["template"])
            values = json.loads(line)
            is_prompt = asked["kind"] == "prompt"
            text = template.render(nulls(values, asked["quiet"]) if is_prompt else chat_values(values))
            written = json.dumps({"length": str(len(text))} if len(text) > characters else {"text": text}).encode()
        except MemoryError:
            written = b'{"memory": ""}'
        except jinja2.UndefinedError as error:
            written = json.dumps({"undefined": str(error.message)[:1000]}).encode()
        except Exception as error:  # a template can raise anything: a filter on the wrong type, a forbidden attribute
            written = json.dumps({"failed": f"{type(error).__name__}: {error}"[:1000]}).encode()
        signal.alarm(0)
        sys.stdout.buffer.write(written + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
