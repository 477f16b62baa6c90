"""Problems as the policy reads them: through the chat template or as plain text, and as token ids."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from reasoner.config import PromptConfig
from reasoner.data.prompts.chat import ChatRenderer, ChatTokenizer
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.data.prompts.control_tokens import ControlTokens, NotTextError, not_text
from reasoner.data.prompts.plain import PlainRenderer
from reasoner.data.row_report import RowError, RowReport
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import ReasonerError
from reasoner.records import Message, Problem, Prompt

T = TypeVar("T")
U = TypeVar("U")


class Renderer(Protocol):
    """Writes problems, and responses to them, as one text with stand-ins (`ControlTokens`), and as token ids."""

    end_token: str | None
    """the tokenizer's own end token, as it is spelled"""

    @property
    def control(self) -> ControlTokens:
        """The control tokens of the tokenizer."""
        ...

    def check(self, problems: Sequence[Problem]) -> None:
        """See whether the problems can be written as they are meant to be, and what that takes.

        Raises:
            ConfigError: they cannot.
        """
        ...

    def prompt(self, problem: Problem, opening: Sequence[Message] = ()) -> str:
        """The text that a response continues.

        Args:
            opening: what an environment adds to the problem's last message.

        Raises:
            ConfigError: the template fails.
            RowError: it spells control tokens that cannot be written as text, or is a conversation where one text is
                needed.
        """
        ...

    def whole(self, problem: Problem, response: str) -> str:
        """The same text with a response and what ends it.

        Raises:
            ConfigError, RowError: as `prompt`.
        """
        ...

    def following(self, messages: Sequence[Message], call_ids: Sequence[str] = ()) -> str:
        """The text from the end of a response to the beginning of the next one, with messages between them.

        Args:
            call_ids: those of the calls that the messages of the role `tool` answer, where the policy gave them any.

        Raises:
            NextTurnError: the chat template cannot write them there.
            NotTextError: they spell control tokens that cannot be written as text.
        """
        ...

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Of what `prompt` and `whole` give.

        Raises:
            NotTextError: it spells control tokens that cannot be written as text.
        """
        ...

    def turn_end(self) -> TurnEnd:
        """What ends a response beside the model's own end tokens."""
        ...

    def end_of_turn_fact(self, own: Collection[int]) -> str:
        """Where responses end, in words.

        Args:
            own: the model's end tokens.
        """
        ...

    def facts(self) -> dict[str, str]:
        """What else is worth knowing of it, by name."""
        ...


def open_renderer(
    tokenizer: ChatTokenizer,
    prompt: PromptConfig,
    template_kwargs: Mapping[str, Any] | None = None,
    instructions: str = "",
) -> Renderer:
    """The renderer of `prompt.format`.

    Args:
        template_kwargs: arguments of the chat template, `model.chat_template_kwargs`.
        instructions: how tools are called, for the system message, or for the beginning of a plain text.

    Raises:
        ConfigError: the tokenizer has no chat template, and one is needed.
    """
    if prompt.format == "plain":
        return PlainRenderer(tokenizer, prompt, instructions)
    return ChatRenderer(tokenizer, prompt, template_kwargs or {}, instructions)


def render(
    problems: Iterable[Problem],
    renderer: Renderer,
    max_prompt_tokens: int,
    report: RowReport | None = None,
    section: str = "data.train",
    ranks: Ranks = ALONE,
) -> list[Prompt]:
    """Each problem as token ids, up to where its response begins.

    Rendering and tokenising takes long for much data: each rank does its share, and all have the whole result, so that
    a prompt that cannot be used is known to all of them before anything is trained.

    Args:
        report: collects problems that cannot be written and prompts that are too long, which are left out of the
            result; None: they are refused here.
        section: the configuration section of the problems' source, for messages.
        ranks: those that have the same problems and call this together.

    Raises:
        ConfigError: the chat template refuses the conversation or its arguments.
        DataError: a prompt is longer than `max_prompt_tokens`, or spells control tokens that cannot be written as
            text; the message names the first ones, of those that are too long the longest, and how many there are.
    """
    problems, bad = list(problems), report or RowReport()
    renderer.check(problems)
    rendered = share_out(problems, lambda problem: _packed_prompt(problem, renderer), renderer.control, ranks)
    prompts: list[Prompt] = []
    for problem, ids in zip(problems, rendered, strict=True):
        if isinstance(ids, RowError):
            bad.add(section, ids)
        else:
            prompts.append(Prompt(problem, unpack_ids(ids)))
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= max_prompt_tokens]
    too_long = [prompt for prompt in prompts if len(prompt.token_ids) > max_prompt_tokens]
    for prompt in sorted(too_long, key=lambda prompt: -len(prompt.token_ids)):  # the longest one is named
        bad.add(section, _too_long_error(prompt, max_prompt_tokens))
    if report is None:
        bad.keep(section, len(fitting))
        bad.settle()
    return fitting


def _too_long_error(prompt: Prompt, most: int) -> RowError:
    limit = f"sampling.max_prompt_tokens = {most}"
    return RowError(
        f"problem {prompt.problem.id}",
        f"its prompt has {len(prompt.token_ids):,} tokens, more than {limit}. Raise the limit.",
        f"with a prompt longer than {limit}",
        too_long=True,
    )


@dataclass
class _Share(Generic[T]):
    """What one rank made of its items, to be sent to the others."""

    made: list[T | RowError] = field(default_factory=list)
    typed: Counter[str] = field(default_factory=Counter)
    """control token -> prompts that spell it as text"""
    failure: ReasonerError | None = None
    """what ends the run: every rank raises it, so that none waits for the others"""

    def make(self, items: Sequence[U], make: Callable[[U], tuple[T, Collection[str]]]) -> None:
        """Take what becomes of the items, or what is wrong with them."""
        try:
            for item in items:
                try:
                    item_or_error, typed = make(item)
                except RowError as error:
                    self.made.append(error)
                else:
                    self.made.append(item_or_error)
                    self.typed.update(typed)
        except ReasonerError as error:
            self.failure = error


def share_out(
    items: Sequence[U], make: Callable[[U], tuple[T, Collection[str]]], control: ControlTokens, ranks: Ranks
) -> list[T | RowError]:
    """What becomes of each item, in their order. Each rank makes a share of them, and all have the whole result.

    Args:
        make: makes something of an item that is small enough to be sent, and says which control tokens its prompt
            spells as text; it may raise `RowError`.
        control: remembers these tokens.
        ranks: those that have the same items and call this together.

    Raises:
        ReasonerError: what `make` raises on any rank, but for `RowError`.
    """
    own = _Share[T]()
    own.make(items[ranks.index :: ranks.count], make)
    shares = ranks.gather(own)
    for share in shares:
        if share.failure:
            raise share.failure
        control.count_typed(share.typed)
    return [shares[index % ranks.count].made[index // ranks.count] for index in range(len(items))]


def packed_ids(ids: Iterable[int]) -> bytes:
    """Token ids in 4 bytes each: a tenth of what a pickled tuple takes."""
    return array("I", ids).tobytes()


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """The token ids that `packed_ids` packed."""
    ids = array("I")
    ids.frombytes(packed)
    return tuple(ids)


def _packed_prompt(problem: Problem, renderer: Renderer) -> tuple[bytes, set[str]]:
    ids, typed = typed_ids(problem, renderer)
    return packed_ids(ids), typed


def prompt_ids(problem: Problem, renderer: Renderer, opening: Sequence[Message] = ()) -> tuple[int, ...]:
    """One problem as token ids; see `render`.

    Args:
        opening: as in `Renderer.prompt`.

    Raises:
        RowError: it cannot be written.
    """
    ids, typed = typed_ids(problem, renderer, opening)
    renderer.control.count_typed(Counter(typed))
    return ids


def typed_ids(
    problem: Problem, renderer: Renderer, opening: Sequence[Message] = ()
) -> tuple[tuple[int, ...], set[str]]:
    """Its token ids, and the control tokens that it spells as text.

    Raises:
        RowError: it cannot be written.
    """
    text = renderer.prompt(problem, opening)
    try:
        ids = renderer.token_ids(text)
    except NotTextError as error:
        raise not_text(f"problem {problem.id}", error) from error
    return ids, renderer.control.typed_in(text)
