"""Problems as the policy sees them: chat template, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from reasoner.errors import ConfigError, DataError
from reasoner.records import Problem, Prompt


class ChatTokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

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


def _token_ids(problem: Problem, tokenizer: ChatTokenizer, kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    conversation = [{"role": message.role, "content": message.content} for message in problem.messages]
    try:
        ids = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False, **kwargs
        )
    except (
        Exception
    ) as error:  # templates raise their own errors, for example for a system message that they do not take
        raise ConfigError(
            f"the model's chat template fails on problem {problem.id}: {type(error).__name__}: {error}. "
            "See prompt.system and model.chat_template_kwargs."
        ) from error
    return tuple(ids)
