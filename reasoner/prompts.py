"""Problems as the policy sees them: chat template, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import jinja2

from reasoner.errors import ConfigError
from reasoner.records import Problem, Prompt
from reasoner.row_report import RowError, RowReport
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
    report: RowReport | None = None,
    section: str = "data.train",
) -> list[Prompt]:
    """Each problem's conversation through the chat template, with the generation prompt, as token ids.

    Args:
        report: collects prompts that are too long, which are left out of the result; None: they are refused here.
        section: the configuration section of the problems' source, for messages.

    Raises:
        ConfigError: the tokenizer has no chat template, or the template refuses the conversation or its arguments.
        DataError: a prompt is longer than `max_prompt_tokens`; the message names the longest ones and how many there
            are.
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
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= max_prompt_tokens]
    if len(fitting) < len(prompts):
        bad = report or RowReport()
        too_long = [prompt for prompt in prompts if len(prompt.token_ids) > max_prompt_tokens]
        for prompt in sorted(too_long, key=lambda prompt: -len(prompt.token_ids)):  # the longest one is named
            bad.add(section, _too_long(prompt, max_prompt_tokens))
        if report is None:
            bad.keep(section, len(fitting))
            bad.settle()
    return fitting


def _too_long(prompt: Prompt, most: int) -> RowError:
    limit = f"sampling.max_prompt_tokens = {most}"
    return RowError(
        f"problem {prompt.problem.id}",
        f"its prompt has {len(prompt.token_ids):,} tokens, more than {limit}. Raise the limit.",
        f"with a prompt longer than {limit}",
    )


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
