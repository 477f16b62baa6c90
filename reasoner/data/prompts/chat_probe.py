"""What a model's chat template does, found by rendering short conversations, within the bounds of `templates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from reasoner.data.prompts.control_tokens import ControlTokens
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError
from reasoner.data.prompts.thinking import closed_at_end, opened_at_end
from reasoner.errors import ConfigError
from reasoner.records import SamplingParams

USER, ANSWER, NEXT, SYSTEM = "qzuserqz", "qzanswerqz", "qznextqz", "qzsystemqz"
"""messages that no template treats in a way of its own"""

ChatTurn = Mapping[str, Any]
"""a message as chat templates take it"""


_CALL = {"type": "function", "id": "call00000", "function": {"name": USER, "arguments": {"value": ANSWER}}}


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What follows a response in a chat, so that it ends there."""

    token: int | None = None
    """id of the control token"""
    text: str = ""
    """the token as it is spelled, or text that the tokenizer has no single token for; empty: nothing is known"""

    def added_to(self, params: SamplingParams) -> SamplingParams:
        """The parameters with this end beside those of the model: as a token, or as a stop string."""
        if self.token is not None:
            return replace(params, end_tokens=(self.token,))
        if self.text and self.text not in params.stop:
            return replace(params, stop=(*params.stop, self.text))
        return params


class ChatProbe:
    """Renders conversations with a chat template in a process of its own; to be closed.

    Args:
        values: what the template has beside the messages.
    """

    def __init__(self, template: str, values: Mapping[str, Any]) -> None:
        self._template, self._values = Template(template, "chat"), values

    def __enter__(self) -> ChatProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._template.close()

    @property
    def has_tools(self) -> bool:
        """Whether the template is given tools."""
        return bool(self._values.get("tools"))

    def render(self, turns: Sequence[ChatTurn], *, generation: bool = True) -> str:
        """The conversation as text.

        Args:
            generation: with what the template writes before a response.

        Raises:
            FailedError: the template raises something.
            UnboundedError: it takes too long, too much memory, or is too long.
        """
        try:
            values = {**self._values, "add_generation_prompt": generation, "messages": turns}
            return self._template.render(values)
        except jinja2.UndefinedError as error:
            raise FailedError(f"UndefinedError: {error.message}") from None


@dataclass(frozen=True, slots=True)
class ChatTraits:
    """What a template writes beside the messages."""

    frame: str = ""
    """a short conversation, with the beginning of a second response"""
    last: str = ""
    """what follows the response that ends a conversation"""
    between: str = ""
    """what follows a response, up to the next question"""
    tools: str = ""
    """a short conversation with tools, where there are any: their control tokens are in it"""
    drops_thinking: bool = False
    """whether it leaves the thinking of earlier responses out"""
    rewrites: bool = False
    """whether it writes the beginning of a conversation in another way once there is more"""

    @classmethod
    def of(cls, probe: ChatProbe) -> ChatTraits:
        """Nothing is known of a template that refuses such conversations.

        Raises:
            ConfigError: the template goes beyond its bounds.
        """
        asked = [{"role": "user", "content": USER}]
        answered = [*asked, {"role": "assistant", "content": ANSWER}]
        continued = [*answered, {"role": "user", "content": NEXT}]
        system = {"role": "system", "content": SYSTEM}
        calls = [{"role": "assistant", "content": "", "tool_calls": [_CALL]}]
        result = [{"role": "tool", "name": USER, "content": NEXT, "tool_call_id": _CALL["id"]}]
        thought = [*asked, {"role": "assistant", "content": f"<think>\n{SYSTEM}\n</think>\n\n{ANSWER}"}, continued[-1]]
        once, twice = _render_probe(probe, answered, generation=False), _render_probe(probe, continued)
        return cls(
            frame=twice or _render_probe(probe, asked),
            last=once.partition(ANSWER)[2],
            between=twice.partition(ANSWER)[2].partition(NEXT)[0],
            drops_thinking=SYSTEM not in _render_probe(probe, thought),
            rewrites=_rewrites(probe, asked, continued) or _rewrites(probe, [system, *asked], [system, *continued]),
            tools=_render_probe(probe, [*asked, *calls, *result]) if probe.has_tools else "",
        )

    @property
    def opened(self) -> str:
        """The mark with which the template opens the thinking of a response, and the white space after it."""
        return opened_at_end(self.frame)

    @property
    def closed(self) -> str:
        """The empty thinking block that the template writes before a response."""
        return closed_at_end(self.frame)

    def turn_end(self, control: ControlTokens) -> TurnEnd:
        """What ends a response: the first control token after it, or else the first line of what follows it.

        At the end of a conversation a template may write less than between messages, or more (an end of the text): what
        it writes at the end counts, as far as there is something.
        """
        for written in (self.last, self.between):
            if token := control.first_in(written):
                return TurnEnd(control.id_of(token[0]), token[0])
            if text := written.strip():
                line = text.splitlines()[0].rstrip()
                before = written[: written.index(line)]
                return TurnEnd(text="\n" + line if "\n" in before else line)
        return TurnEnd()


def _rewrites(probe: ChatProbe, asked: Sequence[ChatTurn], continued: Sequence[ChatTurn]) -> bool:
    """Whether what comes before the first response differs once there is a second question."""
    before, twice = _render_probe(probe, asked), _render_probe(probe, continued)
    before = before.removesuffix(opened_at_end(before)).removesuffix(closed_at_end(before))
    return bool(twice) and not twice.startswith(before)


def _render_probe(probe: ChatProbe, turns: Sequence[ChatTurn], *, generation: bool = True) -> str:
    try:
        return probe.render(turns, generation=generation)
    except FailedError:
        return ""
    except UnboundedError as error:
        raise ConfigError(f"the model's chat template fails on a short conversation: {error}.") from None
