"""Jinja templates that somebody else wrote, rendered within bounds of time, memory and length.

A template is a program: nested loops run for years, `'x' * 10**9` fills the memory, also while it is compiled, when
constants are folded. So it is rendered in a process of its own (`template_process.py`), which the system ends at its
limits. What has no loop, call, filter or calculation cannot do that, and is rendered here.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import jinja2
from jinja2 import nodes

from reasoner.config import MissingPolicy
from reasoner.data.prompts import template_process

SECONDS = 10
"""for one rendering"""
MEMORY = 2**30
"""bytes for the process"""
CHARACTERS = 2**24
"""of what is rendered"""
DEEPEST = 60
"""levels of an expression: Jinja writes nested brackets for them, and Python takes 200, after minutes of looking"""
_PLAIN = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.Const,
    nodes.If,
    nodes.CondExpr,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
)
"""what a template may consist of to be rendered here: its output is no longer than its text with the values put in"""


class UnboundedError(ValueError):
    """A template needs more than a rendering may take."""


class FailedError(ValueError):
    """A template raised something."""


def parse(template: str) -> nodes.Template:
    """The template's syntax tree; nothing of it is evaluated.

    Raises:
        jinja2.TemplateSyntaxError: it is no Jinja template, or uses a filter or test that there is not.
    """
    environment = template_process.environment("prompt")
    try:
        tree = environment.parse(template)
    except jinja2.TemplateSyntaxError:
        raise
    except (RecursionError, ValueError) as error:  # brackets in brackets; a number of thousands of digits
        raise jinja2.TemplateSyntaxError(f"{type(error).__name__}: {str(error)[:200]}", 1) from None
    _check_depth(tree)
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
        if node.name not in known:
            raise jinja2.TemplateSyntaxError(f"No {type(node).__name__.lower()} named {node.name!r}", node.lineno)
    return tree


def variables_of(tree: nodes.Template) -> frozenset[str]:
    """The names that a template uses, those that it defines itself included. `jinja2.meta` would calculate what is
    constant in it, which may take years."""
    return frozenset(node.name for node in tree.find_all(nodes.Name) if node.ctx == "load")


def _check_depth(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise jinja2.TemplateSyntaxError(f"it is nested more than {DEEPEST} levels deep", level[0].lineno)


class Template:
    """A template that is ready to be rendered, and a process for it where one is needed; to be closed.

    Raises:
        jinja2.TemplateSyntaxError: as `parse`; of a chat template only `render` tells.
    """

    def __init__(
        self, template: str, kind: Literal["prompt", "chat"] = "prompt", missing: MissingPolicy = "refuse"
    ) -> None:
        """
        Args:
            kind: `chat`: with what transformers gives to chat templates.
            missing: of a prompt template: whether writing a null is an error, or writes nothing.
        """
        self._text, self._kind, self._quiet = template, kind, missing == "empty"
        self.names: frozenset[str] = frozenset()
        """the variables that a prompt template uses"""
        self._process: subprocess.Popen[bytes] | None = None
        self._here: jinja2.Template | None = None
        if kind == "chat":
            return
        tree = parse(template)
        self.names = variables_of(tree)
        if all(isinstance(node, _PLAIN) for node in tree.find_all(nodes.Node)):
            self._here = template_process.environment(kind, self._quiet).from_string(template)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def render(self, values: Mapping[str, Any]) -> str:
        """The template with the values, which are JSON values.

        Raises:
            UnboundedError: it takes too long, too much memory, or is too long.
            jinja2.UndefinedError: it uses what is not among the values, or writes a null.
            FailedError: it raises anything else.
        """
        if self._here is None:
            return self._render_in_process(values)
        try:
            return self._here.render(template_process.nulls(dict(values), self._quiet))
        except jinja2.UndefinedError:
            raise
        except Exception as error:  # a template can raise anything, such as for a forbidden attribute
            raise FailedError(f"{type(error).__name__}: {error}") from error

    def _render_in_process(self, values: Mapping[str, Any]) -> str:
        answer = self._exchange(json.dumps(dict(values), default=str).encode())
        if "undefined" in answer:
            raise jinja2.UndefinedError(answer["undefined"])
        if "memory" in answer:
            raise UnboundedError(f"it needs more than {MEMORY >> 20} MiB of memory")
        if "length" in answer:
            raise UnboundedError(f"it gives {answer['length']} characters, and a message may have {CHARACTERS}")
        if "failed" in answer:
            raise FailedError(answer["failed"])
        return answer["text"]

    def _exchange(self, line: bytes) -> Mapping[str, str]:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer.endswith(b"\n"):
            reply: Mapping[str, str] = json.loads(answer)
            return reply
        ended = process.wait()
        self.close()
        if ended == -signal.SIGALRM:
            raise UnboundedError(f"it takes longer than {SECONDS} seconds")
        raise UnboundedError(f"its process ended with {ended}: it needs more than {MEMORY >> 20} MiB of memory")

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(template_process.__file__)), *map(str, (MEMORY, SECONDS, CHARACTERS))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        process.stdin.write(
            json.dumps({"kind": self._kind, "template": self._text, "quiet": self._quiet}).encode() + b"\n"
        )
        return process
