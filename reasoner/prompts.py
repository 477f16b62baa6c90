"""Problems as the policy sees them: chat template, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import jinja2

from reasoner.errors import ConfigError, DataError
from reasoner.records import Problem, Prompt
from reasoner.templates import FailedError, Template, UnboundedError

_tried: set[str] = set()
"""chat templates that did not go beyond their bounds"""


class ChatTokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]: ...

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> Any: ...


def render(
    problems: Iterable[Problem],
    tokenizer: ChatTokenizer,
    chat_template_kwargs: Mapping[str, Any],
    max_prompt_tokens: int,
) -> list[Prompt]:
    """Each problem's conversation through the chat template, with the generation prompt, as token ids.

    Raises:
        ConfigError: the tokenizer has no chat template, or the template refuses the conversation or its arguments.
        DataError: a prompt is longer than `max_prompt_tokens`; the message names the longest and how many there are.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            "model.path: its tokenizer has no chat template, so that a conversation cannot be written for it. Take an "
            "instruction-tuned model, or put a chat_template.jinja into the model's folder."
        )
    problems = list(problems)
    if problems:
        _try_chat_template(tokenizer, chat_template_kwargs, problems)
    prompts = [Prompt(problem, _token_ids(problem, tokenizer, chat_template_kwargs)) for problem in problems]
    too_long = [prompt for prompt in prompts if len(prompt.token_ids) > max_prompt_tokens]
    if too_long:
        longest = max(too_long, key=lambda prompt: len(prompt.token_ids))
        raise DataError(
            f"{len(too_long)} of {len(prompts)} prompts are longer than sampling.max_prompt_tokens = "
            f"{max_prompt_tokens}; the longest is problem {longest.problem.id} with {len(longest.token_ids)} tokens. "
            "Raise the limit, or leave such problems out."
        )
    return prompts


def _try_chat_template(tokenizer: ChatTokenizer, kwargs: Mapping[str, Any], problems: Sequence[Problem]) -> None:
    """Render the first conversation and the longest one within bounds, before transformers does it without any.

    Once per template and process. What else is wrong with the template, transformers tells.

    Raises:
        ConfigError: it takes more time or memory than a template may.
    """
    template = kwargs.get("chat_template") or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str) or template in _tried:
        return
    values = {**tokenizer.special_tokens_map, "tools": None, "documents": None, "add_generation_prompt": True, **kwargs}
    longest = max(problems, key=lambda problem: sum(len(message.content) for message in problem.messages))
    with Template(template, "chat") as trial:
        for problem in (problems[0], longest):
            try:
                with suppress(FailedError, jinja2.UndefinedError):
                    trial.render({**values, "messages": _turns(problem)})
            except UnboundedError as error:
                raise ConfigError(f"the model's chat template fails on problem {problem.id}: {error}.") from None
    _tried.add(template)


def _turns(problem: Problem) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in problem.messages]


def _token_ids(problem: Problem, tokenizer: ChatTokenizer, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    try:
        ids = tokenizer.apply_chat_template(
            _turns(problem), add_generation_prompt=True, tokenize=True, return_dict=False, **kwargs
        )
    except (
        Exception
    ) as error:  # templates raise their own errors, for example for a system message that they do not take
        raise ConfigError(
            f"the model's chat template fails on problem {problem.id}: {type(error).__name__}: {error}. "
            "See prompt.system and model.chat_template_kwargs."
        ) from error
    return tuple(ids)
