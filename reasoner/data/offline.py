"""Responses that somebody else wrote, as the same records as fresh ones: nothing downstream knows a difference.

    rows --shape--> conversation and completions --renderer--> ScoredGroup

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
from typing import Any, Literal

from reasoner.config import OfflineConfig, PromptConfig
from reasoner.data.problems import conversation, example_turns, open_template
from reasoner.data.prompts.control_tokens import NotTextError, not_text
from reasoner.data.prompts.renderer import Renderer, packed_ids, share_out, typed_ids, unpack_ids
from reasoner.data.prompts.templates import Template
from reasoner.data.row_report import RowError, RowReport
from reasoner.data.row_selection import build, load_rows, ordered, split_items
from reasoner.data.rows import Row, field_names, text_field
from reasoner.data.turns import ends_with_user, last_turn, opening_of
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import ConfigError, DataError
from reasoner.plugins.hookspecs import Generator
from reasoner.records import Group, Message, Problem, Response, ScoredGroup

OfflineKind = Literal["pairs", "labelled", "demos"]
VERDICTS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
"""spellings of a label, in lower case"""


@dataclass(frozen=True, slots=True)
class OfflineData:
    """The groups of one source of offline data."""

    groups: tuple[ScoredGroup, ...]
    """to train on, in the order of the chosen rows"""
    notes: tuple[str, ...]
    """what was left out and what the chat template changed, in sentences"""
    held_out: tuple[ScoredGroup, ...] = ()
    """those that are not trained on (`data.holdout`), the same for every `run.seed`"""


@dataclass(frozen=True, slots=True)
class OfflineRows:
    """The rows of one source as conversations, before a tokenizer is there."""

    config: OfflineConfig
    section: str
    written: tuple[WrittenRow, ...]
    """in their own order where a share is held out, otherwise in the order in which they are taken"""
    examples: tuple[Message, ...]
    """the task's worked examples"""


def load_offline(
    kind: OfflineKind,
    config: OfflineConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    renderer: Renderer,
    seed: int,
    *,
    holdout: float | None = None,
    report: RowReport | None = None,
) -> OfflineData:
    """The rows of `data.<kind>` as scored groups. Ids are `<stem>:<row>`, as those of problems.

    A pair of two equal responses says nothing and is left out; the notes count them.

    Args:
        renderer: of `prompt` and the model.
        seed: the run's seed, for the shuffle.
        holdout: share of the problems that is not trained on.
        report: collects bad rows, for a caller that settles it; None: bad rows are refused here.

    Raises:
        DataError: the source is missing, empty or malformed, or its responses cannot be told apart from what the chat
            template writes around them.
        ConfigError: the prompt's or the chat template, a generator or the tokenizer does not fit.
    """
    own = report or RowReport()
    rows = read_offline(kind, config, prompt, generators, seed, holdout, own)
    data = render_offline(rows, renderer, seed, holdout, own)
    notes = () if report else own.settle()
    return replace(data, notes=(*notes, *data.notes))


def read_offline(
    kind: OfflineKind,
    config: OfflineConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    holdout: float | None,
    report: RowReport,
) -> OfflineRows:
    """The rows of `data.<kind>` as conversations: all that can be said of them without a model's tokenizer. Arguments
    as in `load_offline`.

    Raises:
        DataError: the source is missing, empty, or malformed as a whole.
        ConfigError: the prompt's template or a generator does not fit.
    """
    section = f"data.{kind}"
    rows = load_rows(config, generators, section, report)
    with open_template(prompt, config.missing) as template:
        shape = _Shape(section, prompt, template)
        read = {"pairs": shape.pair, "labelled": shape.labelled, "demos": shape.demo}[kind]
        chosen, limit = (ordered(rows, config, seed), config.limit) if holdout is None else (rows, None)
        written = build(chosen, limit, section, report, lambda row: WrittenRow(row, *read(row)), WrittenRow.texts)
    return OfflineRows(config, section, tuple(written), example_turns(prompt))


def render_offline(
    rows: OfflineRows,
    renderer: Renderer,
    seed: int,
    holdout: float | None,
    report: RowReport,
    ranks: Ranks = ALONE,
) -> OfflineData:
    """The conversations as the policy sees them. Arguments as in `load_offline`.

    Args:
        ranks: those that have the same rows and call this together: each tokenises a share, and all have the result.

    Raises:
        ConfigError: the chat template or the tokenizer does not fit.
        DataError: every pair is a tie.
    """
    section, config = rows.section, rows.config
    tokens_of_rows = share_out(rows.written, _Writer(renderer).tokens, renderer.control, ranks)
    built: list[tuple[Row, ScoredGroup, bool]] = []
    for written, tokens in zip(rows.written, tokens_of_rows, strict=True):
        if isinstance(tokens, RowError):
            report.add(section, tokens)
        else:
            built.append((written.row, tokens.group(written), tokens.is_changed))
    different = [item for item in built if not _is_tie(item[1])]
    kept = [item for item in different if _tokens(item[1]) <= config.max_tokens]
    too_long = [item for item in different if _tokens(item[1]) > config.max_tokens]
    for row, group, _ in sorted(too_long, key=lambda item: -_tokens(item[1])):  # the longest one is named
        report.add(section, _too_long_error(row, section, _tokens(group), config.max_tokens))
    report.keep(section, len(kept))
    counts = {
        "were left out: their two responses are the same": len(built) - len(different),
        "have other white space around a response once the chat template has written it": sum(
            entry[2] for entry in kept
        ),
    }
    count = len(rows.written)
    notes = tuple(f"{section}: {number} of {count} rows {what}." for what, number in counts.items() if number)
    groups = tuple(group for _, group, _ in kept)
    if built and not different:
        raise DataError(f"no row is left to train on. {' '.join(notes)}")
    if holdout is None or not groups:
        return OfflineData(groups, notes)
    train, held_out = split_items(groups, problem_of, config, seed, holdout, rows.examples, section, report)
    return OfflineData(train, notes, held_out)


def problem_of(scored: ScoredGroup) -> Problem:
    """The problem that the group's responses answer."""
    return scored.group.problem


def _too_long_error(row: Row, section: str, tokens: int, most: int) -> RowError:
    return RowError(
        row.place,
        f"prompt and longest response have {tokens:,} tokens, more than {section}.max_tokens = {most}. "
        "Raise the limit.",
        f"longer than {section}.max_tokens = {most}",
        too_long=True,
    )


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
class _Shape:
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


def _question(row: Row, written: WrittenRow) -> Any:
    """What a row has in the place of a question: text for `prompt.template`, or the messages that are taken as they
    are."""
    fields = ("messages", "prompt", *(completion.field for completion in written.completions))
    conversations = [row.fields[name] for name in fields if isinstance(row.fields.get(name), list)]
    return conversations[0] if conversations else row.fields.get("prompt")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a response is, for messages."""

    row: str
    where: str

    def error(self, complaint: str) -> RowError:
        return RowError(self.row, complaint, "that the chat template does not fit", where=self.where)


@dataclass(frozen=True, slots=True)
class _RowTokens:
    """A row as the model reads and writes it, small enough to be sent to other ranks."""

    prompt: bytes
    responses: tuple[tuple[str | None, bytes], ...]
    """of each its text, None where it is as the row has it, and its tokens"""

    @property
    def is_changed(self) -> bool:
        """Whether the template writes the white space around a response in its own way."""
        return any(text is not None for text, _ in self.responses)

    def group(self, written: WrittenRow) -> ScoredGroup:
        """The row that it is made of as a group."""
        responses = tuple(
            _response(completion.text if text is None else text, unpack_ids(ids))
            for completion, (text, ids) in zip(written.completions, self.responses, strict=True)
        )
        rewards = tuple(completion.reward for completion in written.completions)
        group = Group(written.problem, unpack_ids(self.prompt), responses)
        return ScoredGroup(group, ((),) * len(responses), rewards)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Rows as the model reads and writes them."""

    renderer: Renderer

    def tokens(self, written: WrittenRow) -> tuple[_RowTokens, set[str]]:
        """The tokens of a row, and the control tokens that its prompt spells as text.

        Raises:
            RowError: the response cannot be told apart from what the template writes around it.
            ConfigError: the chat template or the tokenizer does not fit.
        """
        row, asked = written.row, written.problem
        if question := _question(row, written):
            asked = replace(asked, fields={**row.fields, "question": question})
        self.renderer.check([asked])
        prompt, (ids, typed) = self.renderer.prompt(asked), typed_ids(asked, self.renderer)
        responses = []
        for completion in written.completions:
            place = _Place(row.place, f"field {completion.field!r}")
            whole = self.renderer.whole(asked, completion.text)
            body, end = self._parts(prompt, whole, completion.text.strip(), place)
            text = self.renderer.control.restore(body)
            response_ids = self._token_ids(ids, prompt, body + end, place)
            responses.append((None if text == completion.text else text, packed_ids(response_ids)))
        return _RowTokens(packed_ids(ids), tuple(responses)), typed

    def _parts(self, prompt: str, whole: str, core: str, place: _Place) -> tuple[str, str]:
        """What the template writes of a response after the prompt, and the token that ends it.

        Args:
            core: the response without the white space around it: templates strip or add some.
        """
        advice = "Templates that add or drop thinking blocks do this: see model.chat_template_kwargs."
        if not whole.startswith(prompt):
            common = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
            raise place.error(
                "the chat template does not write the prompt in the same way with and without the response: "
                f"{prompt[common : common + 40]!r} without it is {whole[common : common + 40]!r} with it. {advice}"
            )
        rest = whole[len(prompt) :]
        start = len(rest) - len(rest.lstrip())
        written = self.renderer.control.protect(core)
        if not rest.startswith(written, start):
            raise place.error(
                f"the chat template changes the response: it writes {rest[:60]!r} for {core[:60]!r}. {advice}"
            )
        stop = start + len(written)
        token = self.renderer.control.first_in(rest[stop:])
        at, end = (stop + token.start(), token[0]) if token else (len(rest), self.renderer.end_token)
        if not end:
            raise ConfigError(
                "model.path: neither its chat template nor its tokenizer has a token that ends a response. Set "
                "eos_token in tokenizer_config.json."
            )
        if rest[stop:at].strip():
            raise place.error(f"the chat template writes {rest[stop:at][:60]!r} after it, which ends no turn.")
        if end in core:
            raise place.error(
                f"it contains {end!r}, the token that ends a response. Give the text alone: the chat template adds its "
                "tokens."
            )
        return rest[:at] if token else rest[:stop], end

    def _token_ids(self, prompt_ids: tuple[int, ...], prompt: str, response: str, place: _Place) -> tuple[int, ...]:
        try:
            ids = self.renderer.token_ids(prompt + response)
        except NotTextError as error:
            raise not_text(place.row, error, where=place.where) from error
        if ids[: len(prompt_ids)] != prompt_ids:
            raise place.error(
                f"a token spans the end of the prompt and the start of the response, {response[:20]!r}, so that the "
                "model could not have written it. Take away the white space that the response starts with."
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
