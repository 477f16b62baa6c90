"""Responses that somebody else wrote, as the same records as fresh ones: nothing downstream knows a difference.

    rows --shape--> conversation and completions --renderer--> ScoredGroup

A preference pair is a group of two with rewards 1 and 0, a labelled response a group of one with reward 1 or 0, a
demonstration a group of one with reward 1. The columns are those of the common preference data sets (`written_rows`).

The response is what the chat template writes after the generation prompt, up to the token that ends the turn. Every
complaint names the source, the row (a file's line) and the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from reasoner.config import OfflineConfig, PromptConfig
from reasoner.data.problems import example_turns, open_template
from reasoner.data.prompts.control_tokens import NotTextError, not_text
from reasoner.data.prompts.renderer import Renderer, packed_ids, share_out, typed_ids, unpack_ids
from reasoner.data.row_report import RowError, RowReport
from reasoner.data.row_selection import build, load_rows, ordered, split_items
from reasoner.data.rows import Row
from reasoner.data.written_rows import RowShape, WrittenRow, question_of
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import ConfigError, DataError
from reasoner.plugins.hookspecs import Generator
from reasoner.records import Group, Message, Problem, Response, ScoredGroup

OfflineKind = Literal["pairs", "labelled", "demos"]


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


def read_offline(
    kind: OfflineKind,
    config: OfflineConfig,
    prompt: PromptConfig,
    generators: Mapping[str, Generator],
    seed: int,
    holdout: float | None,
    report: RowReport,
) -> OfflineRows:
    """The rows of `data.<kind>` as conversations: all that can be said of them without a model's tokenizer. Ids are
    `<stem>:<row>`, as those of problems.

    Args:
        seed: the run's seed, for the shuffle.
        holdout: share of the problems that is not trained on.
        report: collects bad rows, for a caller that settles it.

    Raises:
        DataError: the source is missing, empty, or malformed as a whole.
        ConfigError: the prompt's template or a generator does not fit.
    """
    section = f"data.{kind}"
    rows = load_rows(config, generators, section, report)
    with open_template(prompt, config.missing) as template:
        shape = RowShape(section, prompt, template)
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
    """The conversations as the policy sees them. A pair of two equal responses says nothing and is left out; the notes
    count them.

    Args:
        rows: what `read_offline` read, with this seed and share.
        renderer: of the prompts and the model.
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
        if question := question_of(row, written):
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
