"""Rows with responses that somebody else wrote, as conversations and what continues them.

    pairs       prompt, chosen, rejected (or chosen and rejected alone, as whole conversations)
    labelled    prompt, completion, label
    demos       messages; or prompt, completion; or question, answer

Each is text or a list of {role, content} messages. A prompt that is text is asked like the task's own questions: it is
the `question` of `prompt.template`, after `prompt.system` and `prompt.examples`. Messages are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from reasoner.config import PromptConfig
from reasoner.data.problems import conversation
from reasoner.data.prompts.templates import Template
from reasoner.data.row_report import RowError
from reasoner.data.rows import Row, field_names, text_field
from reasoner.data.turns import ends_with_user, last_turn, opening_of
from reasoner.records import Message, Problem

VERDICTS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""spellings of a label, in lower case"""


@dataclass(frozen=True, slots=True)
class _Completion:
    """One response as the data have it."""

    field: str
    text: str
    reward: float


Written = tuple[tuple[Message, ...], tuple[_Completion, ...]]
"""a conversation and what continues it"""


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """One row: a conversation and what continues it."""

    row: Row
    messages: tuple[Message, ...]
    completions: tuple[_Completion, ...]

    @property
    def problem(self) -> Problem:
        """What it asks."""
        return Problem(self.row.id, self.messages, "", self.row.fields)

    def texts(self) -> list[str]:
        """All that it says."""
        asked = [f"{message.role}: {message.content}" for message in self.messages]
        return asked + [f"{completion.reward}: {completion.text}" for completion in self.completions]


@dataclass(frozen=True, slots=True)
class RowShape:
    """How the rows of a source are read."""

    section: str
    prompt: PromptConfig
    template: Template

    def pair(self, row: Row) -> Written:
        before, chosen = self._completion(row, "chosen")
        before_rejected, rejected = self._completion(row, "rejected")
        if before != before_rejected:
            raise RowError(
                row.place,
                "it continues another conversation than 'chosen'. Both must be the same up to their last message, or "
                "both the response alone, with the conversation in 'prompt'.",
                "whose two responses continue different conversations",
                where="field 'rejected'",
            )
        messages = self._opening(row, before, "chosen")
        return (messages, (_Completion("chosen", chosen, 1.0), _Completion("rejected", rejected, 0.0)))

    def labelled(self, row: Row) -> Written:
        before, text = self._completion(row, "completion")
        messages = self._opening(row, before, "completion")
        return (messages, (_Completion("completion", text, float(self._verdict(row))),))

    def demo(self, row: Row) -> Written:
        if "messages" in row.fields:
            before, text = last_turn(row, "messages")
            return (ends_with_user(row, before, "messages"), (_Completion("messages", text, 1.0),))
        if "prompt" in row.fields or "completion" in row.fields:
            before, text = self._completion(row, "completion")
            return (self._opening(row, before, "completion"), (_Completion("completion", text, 1.0),))
        if "question" in row.fields and "answer" in row.fields:
            text = text_field(row, "answer", self.section)
            asked = conversation(row, self.prompt, self.template, self.section)
            return (asked, (_Completion("answer", text, 1.0),))
        raise RowError(
            row.place,
            "a demonstration needs 'messages', or 'prompt' and 'completion', or 'question' and 'answer'. The row has: "
            f"{field_names(row.fields)}. Map what has another name: --set {self.section}.columns.messages=FIELD.",
            "without the fields of a demonstration",
        )

    def _completion(self, row: Row, field: str) -> tuple[tuple[Message, ...], str]:
        """The messages that the field itself has before the response, and the response."""
        if isinstance(row.fields.get(field), list):
            return last_turn(row, field)
        return (), self._text(row, field)

    def _opening(self, row: Row, before: tuple[Message, ...], field: str) -> tuple[Message, ...]:
        """The conversation that is continued: the field `prompt`, or what `field` has before the response."""
        if before and "prompt" not in row.fields:
            return ends_with_user(row, before, field)
        if isinstance(row.fields.get("prompt"), list):
            messages = opening_of(row, "prompt")
            repeated = not before or before == messages
        else:
            question = self._text(row, "prompt")
            asked = replace(row, fields={**row.fields, "question": question})
            messages = before or conversation(asked, self.prompt, self.template, self.section)
            repeated = not before or before[-1] == Message("user", question)
        if not repeated:
            raise RowError(
                row.place,
                "it holds a whole conversation that does not repeat the field 'prompt'. Give the response alone, or "
                "the same prompt in both.",
                f"whose field {field!r} does not repeat 'prompt'",
                where=f"field {field!r}",
            )
        return ends_with_user(row, messages, field if before else "prompt")

    def _text(self, row: Row, field: str) -> str:
        value = row.fields.get(field, "")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowError(
                row.place,
                f"text or a list of messages is needed, got {str(value)[:60]!r}.",
                f"whose field {field!r} is neither text nor messages",
                where=f"field {field!r}",
            )
        return text_field(row, field, self.section)

    def _verdict(self, row: Row) -> bool:
        value = row.fields.get("label")
        spelling = (str(value) if isinstance(value, bool) else text_field(row, "label", self.section)).lower()
        if spelling not in VERDICTS:
            raise RowError(
                row.place,
                f"true or false (or 1 or 0) is needed, got {value!r}. A rating must be made a verdict first, with a "
                "threshold of your choice.",
                "whose label is no verdict",
                where="field 'label'",
            )
        return VERDICTS[spelling]


def question_of(row: Row, written: WrittenRow) -> Any:
    """What a row has in the place of a question: text for `prompt.template`, or the messages that are taken as they
    are."""
    fields = ("messages", "prompt", *(completion.field for completion in written.completions))
    conversations = [row.fields[name] for name in fields if isinstance(row.fields.get(name), list)]
    return conversations[0] if conversations else row.fields.get("prompt")
