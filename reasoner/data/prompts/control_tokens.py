"""Control tokens, which part the turns of a chat, stay text where somebody typed them into a message.

A chat reaches the model as one text: a question with `<|im_end|>` in it would end the user's turn. So every such string
is replaced with a stand-in, one character, before the chat template is rendered. What comes out is then tokenised by a
copy of the tokenizer in which the control tokens have other spellings. Where the template wrote them, they are spelled
anew; the stand-ins become the strings again, and these now match no token. Everything else of the tokenizer is as it
was, so that the ids differ from the ordinary ones in nothing but this.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from reasoner.data.prompts.thinking import MARKS
from reasoner.data.row_report import RowError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FIRST = 0xF8000
"""code point of the first stand-in; from here to the end of the plane all are for private use, and no font uses them"""
_AROUND = "\U000ffffd"
"""around a new spelling"""
_OURS = re.compile(rf"[{chr(_FIRST)}-{_AROUND}]")


class EncodingTokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...

    @property
    def eos_token(self) -> str | None: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class NotTextError(ValueError):
    """The text of a message cannot be written without control tokens."""


def not_text(place: str, error: NotTextError, *, where: str = "") -> RowError:
    """The error of a problem or response whose control tokens cannot be written as text; arguments as of `RowError`."""
    complaint = f"{error}. Leave it out, or take the control tokens out of its text."
    return RowError(place, complaint, "with control tokens that cannot be written as text", where=where)


class ControlTokens:
    """The control tokens of a tokenizer: its special tokens, and what a chat template writes beside the messages.

    The marks of thinking are none of them: an example has its thinking between them, and a system message that names
    them means them.

    Args:
        frame: a short conversation as the chat template writes it; in it are control tokens that the tokenizer does not
            call special.
    """

    def __init__(self, tokenizer: EncodingTokenizer, frame: str = "") -> None:
        self._tokenizer = tokenizer
        added = {str(token): (id_, token) for id_, token in tokenizer.added_tokens_decoder.items()}
        self._ids = {
            text: id_
            for text, (id_, token) in added.items()
            if (token.special or text in frame or text == tokenizer.eos_token) and text.strip() and text not in MARKS
        }
        longest_first = sorted(self._ids, key=lambda text: (-len(text), text))
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._stand_ins = {spelling: chr(_FIRST + at) for at, spelling in enumerate(longest_first)}
        self._restored = {ord(stand_in): spelling for spelling, stand_in in self._stand_ins.items()}
        self._typed = Counter[str]()
        unknown = getattr(tokenizer, "unk_token_id", None)  # any text can become that one
        self._counted = frozenset(self._ids.values()) - {unknown}

    def first_in(self, text: str) -> re.Match[str] | None:
        """The first control token that the text spells."""
        return self._spelled.search(text)

    def places_in(self, text: str) -> list[int]:
        """Where the text spells control tokens."""
        return [spelled.start() for spelled in self._spelled.finditer(text)]

    def is_in(self, text: str) -> bool:
        """Whether the text spells control tokens, or has characters that are kept for stand-ins."""
        return self._spelled.search(text) is not None or _OURS.search(text) is not None

    def without_tokens(self, text: str) -> str:
        """The text with spaces in place of the control tokens that it spells."""
        return self._spelled.sub(lambda match: " " * len(match[0]), text)

    def spelling_of(self, id_: int) -> str:
        """How a token is spelled; empty: it is no control token."""
        return next((spelling for spelling, known in self._ids.items() if known == id_), "")

    def id_of(self, spelling: str) -> int:
        """The id of a control token."""
        return self._ids[spelling]

    def protect(self, text: str) -> str:
        """The text with a stand-in for every control token that it spells.

        Raises:
            NotTextError: the text has characters that are kept for stand-ins.
        """
        if own := _OURS.search(text):
            raise NotTextError(f"the private character U+{ord(own[0]):X} stands for a control token here")
        return self._spelled.sub(lambda match: self._stand_ins[match[0]], text)

    def protect_all(self, value: Any) -> Any:
        """As `protect`, of every text in a JSON value."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, Mapping):
            return {key: self.protect_all(inner) for key, inner in value.items()}
        return [self.protect_all(inner) for inner in value] if isinstance(value, list) else value

    def typed_in(self, text: str) -> set[str]:
        """The control tokens that the text of a prompt spells."""
        return {self._restored[ord(stand_in)] for stand_in in _OURS.findall(text)}

    def count_typed(self, prompts: Mapping[str, int]) -> None:
        """Remember for `facts` in how many more prompts control tokens are spelled."""
        self._typed.update(prompts)

    def facts(self) -> dict[str, str]:
        """What is worth knowing: which control tokens prompts have as text, and how many prompts."""
        if not self._typed:
            return {}
        named = ", ".join(f"{token} in {count}" for token, count in self._typed.most_common(3))
        more = f" and {len(self._typed) - 3} others" if len(self._typed) > 3 else ""
        return {"control tokens": f"spelled in prompts, where they stay text: {named}{more}"}

    def restore(self, text: str) -> str:
        """The text with the control tokens' spellings in place of their stand-ins."""
        return text.translate(self._restored) if _OURS.search(text) else text

    def token_ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a rendered text; stand-ins become text.

        Raises:
            NotTextError: the tokenizer cannot do that.
        """
        protected = _OURS.search(text) is not None
        if protected:
            spelled = self._spelled.sub(lambda match: _stand_in(self._ids[match[0]]), text)
            ids = self._copy.encode(self.restore(spelled), add_special_tokens=False).ids
        else:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
        written, counted = len(self._spelled.findall(text)), sum(id_ in self._counted for id_ in ids)
        if counted > written:
            raise NotTextError("the tokenizer makes control tokens of text that does not spell them")
        if protected and counted < written:
            raise NotTextError("the tokenizer cannot tell its own control tokens from typed text that spells them")
        return tuple(ids)

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with other spellings of its control tokens."""
        from tokenizers import Tokenizer

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise NotTextError(f"{type(self._tokenizer).__name__} has no tokenizer.json, and cannot write them as text")
        table = json.loads(backend.to_str())
        spellings = {spelling: _stand_in(id_) for spelling, id_ in self._ids.items()}
        for token in table["added_tokens"]:
            token["content"] = spellings.get(token["content"], token["content"])
        model = table["model"]
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, dict):
            model["vocab"] = {spellings.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
        else:
            model["vocab"] = [[spellings.get(piece, piece), score] for piece, score in vocabulary]
        if model.get("unk_token") in spellings:
            model["unk_token"] = spellings[model["unk_token"]]
        table |= {"truncation": None, "padding": None, "post_processor": None}
        return Tokenizer.from_str(json.dumps(table))


def _stand_in(id_: int) -> str:
    return f"{_AROUND}{id_}{_AROUND}"
