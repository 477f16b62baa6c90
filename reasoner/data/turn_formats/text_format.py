"""Formats of plain text, which every model can learn: a call and its result are part of what the policy writes.

The result comes right after the call, inside the policy's turn, as ToRA, ReTool and Search-R1 have it: so it works with
every chat template, without one, and in the middle of thinking. Where the policy has ended its turn, and for messages
of an environment, a user's turn follows, as the chat template writes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from reasoner.data.prompts.control_tokens import NotTextError
from reasoner.data.prompts.next_turn import NextTurnError
from reasoner.data.prompts.renderer import Renderer, prompt_ids
from reasoner.data.turn_formats.arguments import ToolInputs
from reasoner.data.turn_formats.turn_tokens import TurnTokens, cannot_write
from reasoner.records import Message, Problem, ToolCall, ToolDescription


class TextFormat(ABC):
    """See `reasoner.data.turn_formats.base.TurnFormat`."""

    name: str
    stop: tuple[str, ...]

    def __init__(
        self, tokenizer: Any, renderer: Renderer, tools: Sequence[ToolDescription], end_tokens: Collection[int]
    ) -> None:
        self.renderer = renderer
        self.inputs = ToolInputs(tools)
        self._tokens = TurnTokens(tokenizer, renderer, end_tokens)

    def check(self) -> None:
        self._tokens.check([Message("user", "")])

    def facts(self) -> dict[str, str]:
        return self._tokens.facts()

    def prompt(self, problem: Problem, opening: Sequence[Message]) -> tuple[int, ...]:
        return prompt_ids(problem, self.renderer, opening)

    @abstractmethod
    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        """See `TurnFormat.read`."""

    @abstractmethod
    def result(self, content: str) -> str:
        """The result of a call as the policy reads it in a turn of its own."""

    @abstractmethod
    def inline(self, content: str) -> str:
        """The result of a call as it continues the policy's turn, right after its stop string."""

    def increment(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        try:
            if self._tokens.is_plain:
                return self._inline(written, messages)
            if all(message.role == "tool" for message in messages) and not self._tokens.ended(written):
                return self._inline(written, messages)
            texts = [
                self.result(message.content) if message.role == "tool" else message.content for message in messages
            ]
            return self._tokens.turn(written, texts)
        except (NotTextError, NextTurnError) as error:
            raise cannot_write(error) from error

    def _inline(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        """The messages as they continue the policy's turn.

        A token can hold more than the end of the stop string, such as the `<` of the result that is to come; that is
        not written twice.
        """
        parts = list[tuple[int, ...]]()
        _, asked, beyond = self._tokens.decode(written).rpartition(self.stop[0])
        for at, message in enumerate(messages):
            text = f"\n\n{message.content}\n\n" if message.role == "user" else self.inline(message.content)
            if at == 0 and message.role == "tool":
                text = text.removeprefix(beyond) if asked else self.unasked(text)
            parts.append(self._tokens.fragment(text, () if at else written))
        return tuple(parts)

    def unasked(self, text: str) -> str:
        """What `inline` gives, where the policy has not written the stop string."""
        return text
