"""Responses that somebody else wrote, as the same records as fresh ones: nothing downstream knows a difference.

    rows --shape--> conversation and completions --chat template--> ScoredGroup

A preference pair is a group of two with rewards 1 and 0, a labelled response a group of one with reward 1 or 0, a
demonstration a group of one with reward 1. The columns are those of the common preference data sets:

    pairs       prompt, chosen, rejected (or chosen and rejected alone, as whole conversations)
    labelled    prompt, completion, label
    demos       messages; or prompt, completion; or question, answer

Each is text or a list of {role, content} messages. A prompt that is text is asked like the task's own questions: it is
the `question` of `prompt.template`, after `prompt.system` and `prompt.examples`. Messages are taken as they are.

The response is what the chat template writes after the generation prompt, up to the token that ends the turn. Every
complaint names the source, the row (a file's line) and the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from reasoner.config import OfflineConfig, PromptConfig
from reasoner.control_tokens import NotTextError, not_text
from reasoner.data import conversation, open_template
from reasoner.errors import ConfigError, DataError, nearest
from reasoner.hookspecs import Generator
from reasoner.prompts import Renderer, prompt_ids
from reasoner.records import Group, Message, Problem, Response, ScoredGroup
from reasoner.rows import Row, field_names, load_rows, stem_of, text_field
from reasoner.templates import Template

Kind = Literal["pairs", "labelled", "demos"]
Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
VERDICTS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""spellings of a label, in lower case"""


@dataclass(frozen=True, slots=True)
class OfflineData:
    """The groups of one source of offline data."""

    groups: tuple[ScoredGroup, ...]
    """in the order of the chosen rows"""
    notes: tuple[str, ...]
    """what was left out and what the chat template changed, in sentences"""


def load_offline(
    kind: Kind,
    config: OfflineConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    writer: Renderer,
    seed: int,
) -> OfflineData:
    """The rows of `data.<kind>` as scored groups. Ids are `<stem>:<row>`, as those of problems.

    A pair of two equal responses says nothing and is left out; a row that is too long is refused or left out, as
    `too_long` says. The notes count both.

    Args:
        writer: of `prompt` and the model.
        seed: the run's seed, for the shuffle.

    Raises:
        DataError: the source is missing, empty, malformed or too long, or its responses cannot be told apart from what
            the chat template writes around them.
        ConfigError: the prompt's or the chat template, a generator or the tokenizer does not fit.
    """
    section = f"data.{kind}"
    renderer = _Renderer(writer)
    stem = stem_of(config)
    rows = load_rows(config, generators, seed, section)
    with open_template(prompt) as template:
        shape = _Shape(section, prompt, template)
        read = {"pairs": shape.pair, "labelled": shape.labelled, "demos": shape.demo}[kind]
        built = [(row.place, *renderer.group(row, f"{stem}:{row.number}", read(row))) for row in rows]
    different = [each for each in built if not _is_tie(each[1])]
    kept = [each for each in different if _tokens(each[1]) <= config.max_tokens]
    if len(kept) < len(different) and config.too_long == "refuse":
        place, group, _ = max(different, key=lambda each: _tokens(each[1]))
        raise DataError(
            f"{len(different) - len(kept)} of {len(rows)} rows are longer than {section}.max_tokens = "
            f"{config.max_tokens}; the longest is {place} with {_tokens(group)} tokens (prompt and longest response). "
            f"Raise the limit, or leave such rows out: --set {section}.too_long=drop."
        )
    counts = {
        "were left out: their two responses are the same": len(built) - len(different),
        f"were left out: they are longer than max_tokens = {config.max_tokens}": len(different) - len(kept),
        "have other white space around a response once the chat template has written it": sum(each[2] for each in kept),
    }
    notes = tuple(f"{section}: {count} of {len(rows)} rows {what}." for what, count in counts.items() if count)
    if not kept:
        raise DataError(f"no row is left to train on. {' '.join(notes)}")
    return OfflineData(tuple(group for _, group, _ in kept), notes)


def _is_tie(scored: ScoredGroup) -> bool:
    responses = scored.group.responses
    return len(responses) == 2 and responses[0].token_ids == responses[1].token_ids


def _tokens(scored: ScoredGroup) -> int:
    """Tokens of the prompt and its longest response."""
    return len(scored.group.prompt_ids) + max(len(response.token_ids) for response in scored.group.responses)


@dataclass(frozen=True, slots=True)
class _Completion:
    """One response as the data have it."""

    field: str
    text: str
    reward: float


@dataclass(frozen=True, slots=True)
class _Written:
    """One row: a conversation and what continues it."""

    messages: tuple[Message, ...]
    completions: tuple[_Completion, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the rows of a source are read."""

    section: str
    prompt: PromptConfig
    template: Template

    def pair(self, row: Row) -> _Written:
        before, chosen = self._completion(row, "chosen")
        before_rejected, rejected = self._completion(row, "rejected")
        if before != before_rejected:
            raise DataError(
                f"{row.place}, field 'rejected': it continues another conversation than 'chosen'. Both must be the "
                "same up to their last message, or both the response alone, with the conversation in 'prompt'."
            )
        messages = self._opening(row, before, "chosen")
        return _Written(messages, (_Completion("chosen", chosen, 1.0), _Completion("rejected", rejected, 0.0)))

    def labelled(self, row: Row) -> _Written:
        before, text = self._completion(row, "completion")
        messages = self._opening(row, before, "completion")
        return _Written(messages, (_Completion("completion", text, float(self._verdict(row))),))

    def demo(self, row: Row) -> _Written:
        if "messages" in row.fields:
            before, text = _last_turn(row, "messages")
            return _Written(self._checked(row, before, "messages"), (_Completion("messages", text, 1.0),))
        if "prompt" in row.fields or "completion" in row.fields:
            before, text = self._completion(row, "completion")
            return _Written(self._opening(row, before, "completion"), (_Completion("completion", text, 1.0),))
        if "question" in row.fields and "answer" in row.fields:
            text = text_field(row, "answer", self.section)
            asked = conversation(row, self.prompt, self.template, self.section)
            return _Written(asked, (_Completion("answer", text, 1.0),))
        raise DataError(
            f"{row.place}: a demonstration needs 'messages', or 'prompt' and 'completion', or 'question' and 'answer'. "
            f"The row has: {field_names(row.fields)}. Map what has another name: --set "
            f"{self.section}.columns.messages=FIELD."
        )

    def _completion(self, row: Row, field: str) -> tuple[tuple[Message, ...], str]:
        """The messages that the field itself has before the response, and the response."""
        if isinstance(row.fields.get(field), list):
            return _last_turn(row, field)
        return (), self._text(row, field)

    def _opening(self, row: Row, before: tuple[Message, ...], field: str) -> tuple[Message, ...]:
        """The conversation that is continued: the field `prompt`, or what `field` has before the response."""
        if before and "prompt" not in row.fields:
            return self._checked(row, before, field)
        if isinstance(row.fields.get("prompt"), list):
            messages = self._checked(row, _messages(row, "prompt"), "prompt")
            repeated = not before or before == messages
        else:
            question = self._text(row, "prompt")
            asked = replace(row, fields={**row.fields, "question": question})
            messages = before or conversation(asked, self.prompt, self.template, self.section)
            repeated = not before or before[-1] == Message("user", question)
        if not repeated:
            raise DataError(
                f"{row.place}, field {field!r}: it holds a whole conversation that does not repeat the field 'prompt'. "
                "Give the response alone, or the same prompt in both."
            )
        return self._checked(row, messages, field if before else "prompt")

    def _checked(self, row: Row, messages: tuple[Message, ...], field: str) -> tuple[Message, ...]:
        if not messages or messages[-1].role != "user":
            got = f"got one from {messages[-1].role!r}" if messages else "there is none"
            raise DataError(f"{row.place}, field {field!r}: a user message is needed just before the response; {got}.")
        return messages

    def _text(self, row: Row, field: str) -> str:
        value = row.fields.get(field, "")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(
                f"{row.place}, field {field!r}: text or a list of messages is needed, got {str(value)[:60]!r}."
            )
        return text_field(row, field, self.section)

    def _verdict(self, row: Row) -> bool:
        value = row.fields.get("label")
        spelling = (str(value) if isinstance(value, bool) else text_field(row, "label", self.section)).lower()
        if spelling not in VERDICTS:
            raise DataError(
                f"{row.place}, field 'label': true or false (or 1 or 0) is needed, got {value!r}. A rating must be "
                "made a verdict first, with a threshold of your choice."
            )
        return VERDICTS[spelling]


def _last_turn(row: Row, field: str) -> tuple[tuple[Message, ...], str]:
    """The messages before the last one, and the last one's text; it must be the assistant's."""
    messages = _messages(row, field)
    if messages[-1].role != "assistant":
        raise DataError(
            f"{row.place}, field {field!r}: the last message must be the assistant's, got {messages[-1].role!r}."
        )
    return messages[:-1], messages[-1].content


def _messages(row: Row, field: str) -> tuple[Message, ...]:
    value = row.fields[field]
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.place}, field {field!r}: a list of {{role, content}} messages is needed, got {str(value)[:60]!r}."
        )
    return tuple(_message(turn, f"{row.place}, field {field!r}, message {at}") for at, turn in enumerate(value, 1))


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise DataError(f"{place}: an object with role and content is needed, got {str(turn)[:60]!r}.")
    more = [key for key, value in turn.items() if key not in ("role", "content") and value is not None]
    if more:
        raise DataError(f"{place}: role and content are understood, got also {more[0]!r}. Leave it out.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise DataError(f"{place}: role = {role!r} is none of {', '.join(ROLES)}.{nearest(str(role), ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{place}: content must be text, got {str(content)[:60]!r}.")
    if not content.strip():
        raise DataError(f"{place}: content is empty.")
    return Message(role, content)


def _question(row: Row, written: _Written) -> Any:
    """What a row has in the place of a question: text for `prompt.template`, or the messages that are taken as they
    are."""
    fields = ("messages", "prompt", *(completion.field for completion in written.completions))
    conversations = [row.fields[name] for name in fields if isinstance(row.fields.get(name), list)]
    return conversations[0] if conversations else row.fields.get("prompt")


@dataclass(frozen=True, slots=True)
class _Renderer:
    """Rows as the model reads and writes them."""

    writer: Renderer

    def group(self, row: Row, problem_id: str, written: _Written) -> tuple[ScoredGroup, bool]:
        """The group, and whether the template writes the white space around a response in its own way."""
        problem = Problem(problem_id, written.messages, "", row.fields)
        asked = problem
        if question := _question(row, written):
            asked = replace(problem, fields={**row.fields, "question": question})
        self.writer.check([asked])
        prompt, ids = self.writer.prompt(asked), prompt_ids(asked, self.writer)
        responses, changed = [], False
        for completion in written.completions:
            place = f"{row.place}, field {completion.field!r}"
            whole = self.writer.whole(asked, completion.text)
            body, end = self._parts(prompt, whole, completion.text.strip(), place)
            text = self.writer.control.restore(body)
            changed |= text != completion.text
            responses.append(_response(text, self._token_ids(ids, prompt, body + end, place)))
        rewards = tuple(completion.reward for completion in written.completions)
        group = Group(problem, ids, tuple(responses))
        return ScoredGroup(group, ((),) * len(responses), rewards), changed

    def _parts(self, prompt: str, whole: str, core: str, place: str) -> tuple[str, str]:
        """What the template writes of a response after the prompt, and the token that ends it.

        Args:
            core: the response without the white space around it: templates strip or add some.
        """
        advice = "Templates that add or drop thinking blocks do this: see model.chat_template_kwargs."
        if not whole.startswith(prompt):
            common = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
            raise DataError(
                f"{place}: the chat template does not write the prompt in the same way with and without the response: "
                f"{prompt[common : common + 40]!r} without it is {whole[common : common + 40]!r} with it. {advice}"
            )
        rest = whole[len(prompt) :]
        start = len(rest) - len(rest.lstrip())
        written = self.writer.control.protect(core)
        if not rest.startswith(written, start):
            raise DataError(
                f"{place}: the chat template changes the response: it writes {rest[:60]!r} for {core[:60]!r}. {advice}"
            )
        stop = start + len(written)
        found = self.writer.control.first_in(rest[stop:])
        at, end = (stop + found.start(), found[0]) if found else (len(rest), self.writer.end_token)
        if not end:
            raise ConfigError(
                "model.path: neither its chat template nor its tokenizer has a token that ends a response. Set "
                "eos_token in tokenizer_config.json."
            )
        if rest[stop:at].strip():
            raise DataError(f"{place}: the chat template writes {rest[stop:at][:60]!r} after it, which ends no turn.")
        if end in core:
            raise DataError(
                f"{place}: it contains {end!r}, the token that ends a response. Give the text alone: the chat template "
                "adds its tokens."
            )
        return rest[:at] if found else rest[:stop], end

    def _token_ids(self, prompt_ids: tuple[int, ...], prompt: str, response: str, place: str) -> tuple[int, ...]:
        try:
            ids = self.writer.token_ids(prompt + response)
        except NotTextError as error:
            raise not_text(place, error) from error
        if ids[: len(prompt_ids)] != prompt_ids:
            raise DataError(
                f"{place}: a token spans the end of the prompt and the start of the response, {response[:20]!r}, so "
                "that the model could not have written it. Take away the white space that the response starts with."
            )
        return ids[len(prompt_ids) :]


def _response(text: str, token_ids: tuple[int, ...]) -> Response:
    return Response(
        text=text,
        token_ids=token_ids,
        policy_mask=(True,) * len(token_ids),
        sampler_logprobs=(0.0,) * len(token_ids),
        finish_reason="stop",
        policy_version=0,
    )
