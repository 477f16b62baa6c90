"""Token ids of text that comes after other tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from reasoner.data.prompts.control_tokens import ControlTokens

_ANCHORS = ("a", ".", "\n", "1", ")", ">")
"""what may come before a fragment"""


def fragment_ids(
    control: ControlTokens, decode: Callable[[Sequence[int]], str], text: str, after: Sequence[str] = ()
) -> tuple[int, ...]:
    """The token ids of a text that continues another one.

    Alone, a text can get a token that only the beginning of a text has: Llama 2's tokenizer writes a space there. So it
    is tokenised after something else, whose tokens are then left out.

    Args:
        text: with stand-ins (`ControlTokens`).
        after: what comes before the fragment, where that is known; else, or where its tokens would not stay what they
            are, it is something that could.

    Raises:
        NotTextError: it spells control tokens that cannot be written as text.
    """
    if not text:
        return ()
    first: tuple[int, ...] | None = None
    for anchor in (*after, *_ANCHORS):
        begin, whole = control.token_ids(anchor), control.token_ids(anchor + text)
        if not begin or whole[: len(begin)] != begin:
            continue
        ids = whole[len(begin) :]
        if decode(whole) == decode(begin) + control.restore(text):
            return ids
        first = ids if first is None else first  # a tokenizer that changes text, as one without capital letters does
    return control.token_ids(text) if first is None else first


def parts_of(
    control: ControlTokens, ids: tuple[int, ...], text: str, contents: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """The ids of a text, cut between the messages in it.

    Args:
        text: what the ids were made of, with stand-ins.
        contents: the messages as they are in the text; what cannot be found there goes to the messages after it.
    """
    parts: list[tuple[int, ...]] = []
    begin, place, plain = 0, 0, control.without_tokens(text)
    for content, following in pairwise(contents):
        content_at = plain.find(content, place)
        place = content_at + len(content) if content_at >= 0 else place
        following_at = plain.find(following, place)
        cut = _boundary(control, text, place, following_at) if following_at >= 0 and content_at >= 0 else place
        end = min(max(len(control.token_ids(text[:cut])), begin), len(ids)) if content_at >= 0 else begin
        parts.append(ids[begin:end])
        begin = end
    return (*parts, ids[begin:])


def _boundary(control: ControlTokens, text: str, end: int, begin: int) -> int:
    """Where between the end of a message and the beginning of the next one what belongs to the next one begins: at the
    second control token, of which the first closes the message, or at the only one."""
    places = control.places_in(text[end:begin])[:2]
    return end + places[-1] if places else begin
