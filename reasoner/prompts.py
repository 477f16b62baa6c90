"""Problems as the policy reads them: through the chat template or as plain text, and as token ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from reasoner.chat_probe import TurnEnd
from reasoner.chat_renderer import ChatRenderer, ChatTokenizer
from reasoner.config import PromptConfig
from reasoner.control_tokens import ControlTokens, NotTextError, not_text
from reasoner.errors import DataError
from reasoner.plain_renderer import PlainRenderer
from reasoner.records import Problem, Prompt


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

    def prompt(self, problem: Problem) -> str:
        """The text that a response continues.

        Raises:
            ConfigError: the template fails.
            DataError: it spells control tokens that cannot be written as text.
        """
        ...

    def whole(self, problem: Problem, response: str) -> str:
        """The same text with a response and what ends it."""
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

    def said_end(self, own: Collection[int]) -> str:
        """Where responses end, in words.

        Args:
            own: the model's end tokens.
        """
        ...

    def facts(self) -> dict[str, str]:
        """What else is worth knowing of it, by name."""
        ...


def open_renderer(
    tokenizer: ChatTokenizer, prompt: PromptConfig, template_kwargs: Mapping[str, Any] | None = None
) -> Renderer:
    """The renderer of `prompt.format`.

    Args:
        template_kwargs: arguments of the chat template, `model.chat_template_kwargs`.

    Raises:
        ConfigError: the tokenizer has no chat template, and one is needed.
    """
    if prompt.format == "plain":
        return PlainRenderer(tokenizer, prompt)
    return ChatRenderer(tokenizer, prompt, template_kwargs or {})


def render(problems: Iterable[Problem], renderer: Renderer, max_prompt_tokens: int) -> list[Prompt]:
    """Each problem as token ids, up to where its response begins.

    Raises:
        ConfigError: the tokenizer has no chat template, or the template refuses the conversation or its arguments.
        DataError: a prompt is longer than `max_prompt_tokens` (the message names the longest and how many there are),
            or spells control tokens that cannot be written as text.
    """
    problems = list(problems)
    renderer.check(problems)
    prompts = [Prompt(problem, prompt_ids(problem, renderer)) for problem in problems]
    too_long = [prompt for prompt in prompts if len(prompt.token_ids) > max_prompt_tokens]
    if too_long:
        longest = max(too_long, key=lambda prompt: len(prompt.token_ids))
        raise DataError(
            f"{len(too_long)} of {len(prompts)} prompts are longer than sampling.max_prompt_tokens = "
            f"{max_prompt_tokens}; the longest is problem {longest.problem.id} with {len(longest.token_ids)} tokens. "
            "Raise the limit, or leave such problems out."
        )
    return prompts


def prompt_ids(problem: Problem, renderer: Renderer) -> tuple[int, ...]:
    """One problem as token ids; see `render`."""
    text = renderer.prompt(problem)
    renderer.control.count_typed(text)
    try:
        return renderer.token_ids(text)
    except NotTextError as error:
        raise not_text(f"problem {problem.id}", error) from error
