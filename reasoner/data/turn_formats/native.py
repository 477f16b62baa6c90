"""The model's own format of tool calls, through its chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from reasoner.data.prompts.chat import ChatRenderer
from reasoner.data.prompts.control_tokens import NotTextError
from reasoner.data.prompts.next_turn import NextTurnError
from reasoner.data.prompts.renderer import prompt_ids
from reasoner.data.prompts.thinking import after_thinking
from reasoner.data.turn_formats.arguments import ToolInputs, limited
from reasoner.data.turn_formats.dialects import DIALECTS, CallDialect, NativeCall
from reasoner.data.turn_formats.turn_tokens import TurnTokens, cannot_write
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem, ToolCall, ToolDescription

_NAME, _VALUE = "qznameqz", "qzvalueqz"
_ID = re.compile(r"[A-Za-z0-9]{9}")
"""of a call that the policy gave one, as Mistral's models do"""
_INSTEAD = "Take a format of plain text instead: --set environment.format=tags (or fenced)."


class NativeFormat:
    """See `reasoner.data.turn_formats.base.TurnFormat`."""

    name = "native"
    stop: tuple[str, ...] = ()

    def __init__(
        self, tokenizer: Any, renderer: ChatRenderer, tools: Sequence[ToolDescription], end_tokens: Collection[int]
    ) -> None:
        self.renderer = renderer
        self._tools = tools
        self._inputs = ToolInputs(tools)
        self._tokens = TurnTokens(tokenizer, renderer, end_tokens)

    @cached_property
    def dialect(self) -> CallDialect:
        """How the model writes calls; see `_recognise`."""
        return self._recognise()

    def _recognise(self) -> CallDialect:
        """The dialect that reads a call as the chat template writes it.

        Raises:
            ConfigError: its chat template writes none, or in a way that is not known here.
        """
        probe = ToolInputs(
            [ToolDescription(_NAME, "", {"type": "object", "properties": {"value": {"type": "string"}}})]
        )
        written = self.renderer.call_texts(_NAME, _VALUE)
        for dialect in DIALECTS:
            if any([call.call for call in dialect.read(text, probe)] == [_PROBED] for text in written):
                return dialect
        if not any(_NAME in text for text in written):
            raise ConfigError(
                f"environment.format = 'native': the model's chat template writes no tool calls. {_INSTEAD}"
            )
        shown = next(text for text in written if _NAME in text)
        known = ", ".join(dialect.name for dialect in DIALECTS)
        raise ConfigError(
            f"environment.format = 'native': the model's chat template writes tool calls in a way that is not known "
            f"here, such as {shown[:200]!r} (known are: {known}). {_INSTEAD}"
        )

    def check(self) -> None:
        if self._tools:
            self._check_descriptions()
            self._recognise()
            self._tokens.check([Message("tool", "", tool.name) for tool in (*self._tools, *self._tools)[:2]], _INSTEAD)
        self._tokens.check([Message("user", "")])

    def _check_descriptions(self) -> None:
        """The policy is told of every tool.

        Raises:
            ConfigError: it is not.
        """
        for tool in self._tools:
            if self.renderer.control.is_in(json.dumps(tool_json(tool), ensure_ascii=False)):
                raise ConfigError(
                    f"environment.tools: the description of {tool.name!r} spells a control token of the model. Take it "
                    "out of the description."
                )
        text = self.renderer.prompt(Problem("(a trial)", (Message("user", "-"),), ""))
        lost = [tool.name for tool in self._tools if tool.name not in text]
        if lost:
            raise ConfigError(
                f"environment.format = 'native': the model's chat template does not tell the policy of the tool "
                f"{lost[0]!r}. {_INSTEAD}"
            )

    def facts(self) -> dict[str, str]:
        calls = {"tool calls": f"as the model's chat template has them ({self.dialect.name})"} if self._tools else {}
        return calls | self._tokens.facts()

    def prompt(self, problem: Problem, opening: Sequence[Message]) -> tuple[int, ...]:
        return prompt_ids(problem, self.renderer, opening)

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        return limited([call.call for call in self._calls(written)]) if self._tools else ()

    def _calls(self, written: Sequence[int]) -> list[NativeCall]:
        """The calls, with their ids; marks of calls can be special tokens, which the text of a turn does not have."""
        text = self._tokens.decode_turn(written)
        answer = after_thinking(text)
        if answer is not None:
            return self.dialect.read(answer, self._inputs)
        if not self.dialect.read(text, self._inputs):
            return []
        return [NativeCall(ToolCall("", error="the thinking is not closed: close it before the call"))]

    def increment(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        tools = sum(message.role == "tool" for message in messages)
        ids = (
            [native_call.id if _ID.fullmatch(native_call.id) else "" for native_call in self._calls(written)]
            if tools
            else []
        )
        texts = [message.content for message in messages]
        try:
            return self._tokens.turns(written, messages, texts, ids if len(ids) == tools else ())
        except (NotTextError, NextTurnError) as error:
            raise cannot_write(error) from error


_PROBED = ToolCall(_NAME, {"value": _VALUE})


def tool_json(tool: ToolDescription) -> Mapping[str, Any]:
    """A tool as chat templates take it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
