"""What the rollouts ask of a format of turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reasoner.data.prompts.renderer import Renderer
from reasoner.records import Message, Problem, ToolCall


class TurnFormat(Protocol):
    """How the policy writes tool calls, and how results and other messages come back to it."""

    name: str
    """`tags`, `fenced` or `native`"""
    stop: tuple[str, ...]
    """strings that end a turn of the policy, because a tool's result follows them"""

    @property
    def renderer(self) -> Renderer:
        """What writes the prompts, with what the policy must know of the tools."""
        ...

    def check(self) -> None:
        """Try what a run will need of the model's chat template and tokenizer.

        Raises:
            ConfigError: they cannot do it; the message says what to do.
        """
        ...

    def facts(self) -> dict[str, str]:
        """What is worth knowing of it, by name."""
        ...

    def prompt(self, problem: Problem, opening: Sequence[Message]) -> tuple[int, ...]:
        """The token ids that the first turn continues.

        Args:
            opening: what an environment adds to the problem's last message.

        Raises:
            RowError: it cannot be written.
        """
        ...

    def read(self, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        """The calls in a turn of the policy, in their order; none: the turn is an answer.

        A call that cannot be read has an `error`, which tells the policy what is wrong with it.

        Args:
            written: the token ids of the turn, with the one that ended it.
            text: the same as text without special tokens, not cut before the stop strings of this format.
        """
        ...

    def increment(self, written: Sequence[int], messages: Sequence[Message]) -> tuple[tuple[int, ...], ...]:
        """The token ids that come after a turn of the policy up to where its next turn begins, in one part for each
        message: what stands around a message belongs to it.

        Args:
            written: the token ids of the turn, with the one that ended it, if one did.
            messages: at least one, of the roles `tool` and `user`.

        Raises:
            DataError: the tokenizer or the chat template cannot write one of them.
        """
        ...
