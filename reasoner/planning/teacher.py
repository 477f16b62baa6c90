"""The teacher of terms whose credit is a teacher's (`[teacher]`): its model, its tokenizer, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jinja2

from reasoner.config.config import Config
from reasoner.data.prompts.renderer import Renderer, prompt_ids
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError
from reasoner.data.row_report import RowError
from reasoner.data.rows import field_names
from reasoner.errors import ConfigError, DataError
from reasoner.io.safe_text import storable
from reasoner.models.size import ModelSize
from reasoner.records import Message, Problem, Prompt


class Vocabulary(Protocol):
    """What is compared of a Hugging Face tokenizer."""

    def get_vocab(self) -> dict[str, int]: ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]: ...


def check_same_tokenizer(policy: Vocabulary, teacher: Vocabulary, path: str) -> None:
    """Refuse a teacher for which the policy's token ids would be other texts.

    Args:
        path: of the teacher, for the message.

    Raises:
        ConfigError: the vocabularies or the special tokens differ; it names the first difference.
    """
    if different := next(_differences(policy, teacher), ""):
        raise ConfigError(
            f"teacher.path = {path!r} has another tokenizer than model.path: {different}. A teacher scores the "
            "policy's own tokens, so take one of the same family, with the same vocabulary and special tokens."
        )


def _differences(policy: Vocabulary, teacher: Vocabulary) -> Iterator[str]:
    own, others = policy.get_vocab(), teacher.get_vocab()
    for token, number in sorted(own.items(), key=lambda item: item[1]):
        if others.get(token) != number:
            other = f"number {others[token]}" if token in others else "not there"
            yield f"the token {token!r} is number {number} for the policy and {other} for the teacher"
    for token, number in sorted(others.items(), key=lambda item: item[1]):
        if token not in own:
            yield f"the token {token!r}, number {number} of the teacher, is not there for the policy"
    of_policy, of_teacher = policy.special_tokens_map, teacher.special_tokens_map
    for name in dict.fromkeys([*of_policy, *of_teacher]):
        spelled = _spell_token(of_policy.get(name)), _spell_token(of_teacher.get(name))
        if spelled[0] != spelled[1]:
            yield f"{name} is {spelled[0]} for the policy and {spelled[1]} for the teacher"


def _spell_token(token: object) -> str:
    """A special token, or a list of them in whatever order."""
    if isinstance(token, list | tuple):
        return ", ".join(sorted(map(repr, map(str, token))))
    return "not set" if token is None else repr(str(token))


def teacher_prompts(
    config: Config, prompts: Sequence[Prompt], renderer: Renderer, folder: Path
) -> Mapping[str, tuple[int, ...]]:
    """Problem id -> the token ids of the prompt with the solution in it, for a teacher who sees it; else empty.

    Args:
        prompts: all that the policy may be asked in training.
        renderer: the policy's; its chat template is the teacher's too.
        folder: of the teacher.

    Raises:
        ConfigError: the template is none, or takes more time or memory than one may.
        DataError: a problem has no reference answer, or its prompt cannot be written or is too long for the teacher.
    """
    if config.gro.teacher_sees != "solution":
        return {}
    most = ModelSize.of(folder).context - config.sampling.max_tokens
    special_ids: dict[str, tuple[int, ...]] = {}
    try:
        template = Template(config.teacher.template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"teacher.template, line {error.lineno}: not a Jinja template: {error.message}.") from None
    with template:
        for prompt in prompts:
            problem = _with_solution(prompt.problem, template)
            try:
                ids = prompt_ids(problem, renderer)
            except RowError as error:
                raise DataError(f"teacher.template: {error}") from error
            if 0 < most < len(ids):
                raise DataError(
                    f"problem {problem.id}: with its solution the teacher's prompt has {len(ids):,} tokens, and "
                    f"{most:,} are left of the positions that the teacher knows: leave the problem out, or shorten "
                    "teacher.template"
                )
            special_ids[problem.id] = ids
    return special_ids


def _with_solution(problem: Problem, template: Template) -> Problem:
    """The problem with the teacher's message in the place of the last one."""
    if not problem.answer:
        raise DataError(
            f"problem {problem.id} has no reference answer, and the teacher reads it (credit.sees = 'solution'): give "
            "every row of data.train an answer"
        )
    *before, last = problem.messages
    values = {**problem.fields, "message": last.content, "answer": problem.answer}
    try:
        text = storable(template.render(values))
    except jinja2.UndefinedError as error:
        names = field_names(values)
        raise DataError(f"teacher.template, problem {problem.id}: {error.message}. There is: {names}.") from None
    except (UnboundedError, FailedError) as error:
        raise ConfigError(f"teacher.template fails on problem {problem.id}: {error}.") from error
    return replace(problem, messages=(*before, Message(last.role, text)))
