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
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` of chat templates, which marks what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _shown(value: Any) -> Any:
    """What a template writes: a value of JSON, and no `<built-in method upper of str object>`."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | jinja2.Undefined):
        return value
    raise TypeError(
        f"it writes a {type(value).__name__}, which is not text; call a function with (), write {{{{ ...|list }}}} "
        f"for the result of a filter, and row['name'] for a field of that name"
    )


def environment(kind: str) -> ImmutableSandboxedEnvironment:
    """That of prompt templates, or for `chat` one with what transformers gives to chat templates."""
    if kind == "prompt":
        return ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_shown
        )
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    found.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    found.globals["raise_exception"] = _refuse
    found.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return found


def main() -> None:
    """Arguments: bytes of memory, seconds and characters that a rendering may take."""
    memory, seconds, characters = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    asked = json.loads(sys.stdin.buffer.readline())
    template = None
    for line in sys.stdin.buffer:
        signal.alarm(seconds)
        try:
            template = template or environment(asked["kind"]).from_string(asked["template"])
            text = template.render(json.loads(line))
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
