"""The tokens between two turns of the policy, made of what the renderer writes there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from reasoner.data.prompts.chat import ChatRenderer
from reasoner.data.prompts.control_tokens import NotTextError
from reasoner.data.prompts.next_turn import NextTurnError
from reasoner.data.prompts.plain import PlainRenderer
from reasoner.data.prompts.renderer import Renderer
from reasoner.data.turn_formats.fragments import fragment_ids, parts_of
from reasoner.errors import ConfigError, DataError
from reasoner.records import Message

_REMEDY = (
    "Correct the template (chat_template.jinja in the model's folder), look for an argument that changes it "
    "(model.chat_template_kwargs), or write plain text: --set prompt.format=plain."
)
_MARKERS = ("qzfirstqz", "qzsecondqz")


def cannot_write(error: Exception) -> DataError:
    """The error of messages that have no tokens: the tokenizer or the chat template refuses them."""
    return DataError(f"what the environment or a tool gave cannot be written as tokens: {error}.")


class TurnTokens:
    """See the module.

    Args:
        end_tokens: those with which the model ends a response, besides the tokenizer's own and the chat template's.
    """

    def __init__(self, tokenizer: Any, renderer: Renderer, end_tokens: Collection[int]) -> None:
        self._tokenizer, self._renderer = tokenizer, renderer
        own = getattr(tokenizer, "eos_token_id", None)
        ends = {*end_tokens, own, renderer.turn_end().token} - {None}
        self._ends = frozenset(ends)
        self.is_plain = isinstance(renderer, PlainRenderer)

    def facts(self) -> dict[str, str]:
        """See `ChatRenderer.history_facts`."""
        return self._renderer.history_facts() if isinstance(self._renderer, ChatRenderer) else {}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def decode_turn(self, written: Sequence[int]) -> str:
        """The text of a turn of the policy, special tokens included, but for the one that ended it."""
        return self.decode(written[:-1] if written and written[-1] in self._ends else written)

    def ended(self, written: Sequence[int]) -> bool:
        """Whether the policy has ended its turn as a chat: with an end token, or with the text that ends a turn."""
        if written and written[-1] in self._ends:
            return True
        end = self._renderer.turn_end()
        return end.token is None and bool(end.text) and self.decode(written).rstrip().endswith(end.text.strip())

    def fragment(self, text: str, written: Sequence[int] = ()) -> tuple[int, ...]:
        """The ids of a text within a turn; control tokens that it spells stay text.

        Args:
            written: what it comes after.

        Raises:
            NotTextError: they cannot.
        """
        control = self._renderer.control
        return fragment_ids(control, self.decode, control.protect(text), self._last(written))

    def _last(self, written: Sequence[int]) -> tuple[str, ...]:
        """The text of the last token, where it has one of its own."""
        text = self.decode(written[-1:])
        return () if "\ufffd" in text or self._renderer.control.is_in(text) else (text,)

    def turn(self, written: Sequence[int], texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The end of the policy's turn, one of the user with the texts, and the beginning of the policy's next turn.

        Raises:
            NotTextError, NextTurnError: they cannot be written.
        """
        return self.turns(written, [Message("user", "\n".join(texts))], texts)

    def turns(
        self,
        written: Sequence[int],
        messages: Sequence[Message],
        texts: Sequence[str],
        call_ids: Sequence[str] = (),
    ) -> tuple[tuple[int, ...], ...]:
        """As `turn`, with messages as they are, and the texts in them between which the tokens are parted.

        Raises:
            NotTextError, NextTurnError: as `turn`.
        """
        control = self._renderer.control
        text = self._renderer.following(messages, call_ids)
        before: Sequence[str] = ()
        own = control.spelling_of(written[-1]) if written else ""
        if self.ended(written) or (own and text.startswith(own)):  # as GLM's tool calls end with what comes next
            text, before = self._after_end(own, text)
        ids = fragment_ids(control, self.decode, text, before)
        return parts_of(control, ids, text, [control.protect(text) for text in texts])

    def _after_end(self, own: str, text: str) -> tuple[str, tuple[str, ...]]:
        """What is left of the text where the policy has ended its turn, and what its tokens come after.

        An end token of the model stands for that of the template, and is not followed by it.
        """
        for spelled in dict.fromkeys((own, self._renderer.turn_end().text)):
            before, separator, after = text.partition(spelled) if spelled else ("", "", text)
            if separator and not before.strip():
                text = after
        return text, (own,) if own else ()

    def check(self, messages: Sequence[Message], remedy: str = _REMEDY) -> None:
        """See whether the template writes such messages after a response, and in full.

        Args:
            messages: whose contents do not matter, at most two.
            remedy: what to do where it does not, for the message.

        Raises:
            ConfigError: it does not.
        """
        filled = [Message(message.role, text, message.name) for message, text in zip(messages, _MARKERS, strict=False)]
        roles = " and ".join(dict.fromkeys(message.role for message in filled))
        try:
            text = self._renderer.following(filled)
            lost = [message for message in filled if message.content not in text.casefold()]
            problem = f"leaves a message of the role {lost[0].role!r} after a response out" if lost else ""
        except (NextTurnError, NotTextError) as error:
            problem = f"cannot write a message of the role {roles!r} after a response ({error})"
        if problem:
            raise ConfigError(f"environment: the model's chat template {problem}. {remedy}")
