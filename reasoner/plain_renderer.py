"""Prompts that are one text, and responses that continue it: for base models without a chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import meta

from reasoner.chat_probe import TurnEnd
from reasoner.config import PromptConfig
from reasoner.control_tokens import ControlTokens, EncodingTokenizer, NotTextError, not_text
from reasoner.errors import ConfigError, DataError
from reasoner.records import Problem
from reasoner.templates import FailedError, Template, UnboundedError, parse


class PlainRenderer:
    """See `reasoner.prompts.Renderer`: `prompt.template` is the whole text, after what the tokenizer begins one with.

    Control tokens that the template itself has are meant; those in a row's fields are text.
    """

    def __init__(self, tokenizer: EncodingTokenizer, prompt: PromptConfig) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self.end_token = tokenizer.eos_token
        self.control = ControlTokens(tokenizer)
        self._protected: dict[str, str] = {}
        """id of a problem whose row spells control tokens -> its text with stand-ins"""

    def check(self, problems: Sequence[Problem]) -> None:
        """Render those again whose rows spell control tokens, with stand-ins for these."""
        asked = [problem for problem in problems if self._spells(problem)]
        if asked:
            with Template(self._prompt.template) as template:
                self._protected |= {problem.id: self._rendered(problem, template) for problem in asked}

    @cached_property
    def _begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text."""
        with_, without = (self._tokenizer.encode("a", add_special_tokens=special) for special in (True, False))
        found = next((at for at in range(len(with_)) if with_[at : at + len(without)] == without), 0)
        return tuple(with_[:found])

    def prompt(self, problem: Problem) -> str:
        if len(problem.messages) != 1 or isinstance(problem.fields.get("question"), list):
            raise DataError(
                f"problem {problem.id}: it is a conversation, and with prompt.format = 'plain' a prompt is one text. "
                "Give text in the place of messages."
            )
        if self._spells(problem) and problem.id not in self._protected:
            self.check([problem])
        return self._protected.get(problem.id, problem.messages[0].content)

    def _fields(self, problem: Problem) -> Any:
        try:
            return self.control.protect_all(dict(problem.fields))
        except NotTextError as error:
            raise not_text(f"problem {problem.id}", error) from error

    def _spells(self, problem: Problem) -> bool:
        """Whether there are control tokens in its text, and in its row: others are the template's own."""
        text = problem.messages[0].content
        return self.control.first_in(text) is not None and self._fields(problem) != problem.fields

    def _rendered(self, problem: Problem, template: Template) -> str:
        try:
            protected = template.render(plain_values(self._fields(problem), self._prompt))
        except (FailedError, UnboundedError, jinja2.UndefinedError) as error:
            raise ConfigError(f"prompt.template fails on problem {problem.id}: {error}.") from error
        if self.control.restore(protected) != problem.messages[0].content:
            raise DataError(
                f"problem {problem.id}: prompt.template looks into control tokens of the model that the row spells. "
                "Leave the row out."
            )
        return protected

    def whole(self, problem: Problem, response: str) -> str:
        end = self.end_token or ""
        try:
            return self.prompt(problem) + self.control.protect(response) + end
        except NotTextError as error:
            raise not_text(f"{problem.id} with its response", error) from error

    def token_ids(self, text: str) -> tuple[int, ...]:
        ids = self.control.token_ids(text)
        return ids if ids[: len(self._begin)] == self._begin else (*self._begin, *ids)

    def turn_end(self) -> TurnEnd:
        return TurnEnd()

    def said_end(self, own: Collection[int]) -> str:
        return "at the model's end tokens (a base model seldom writes them: see sampling.stop)"

    def facts(self) -> dict[str, str]:
        return {"prompt": "plain text, without chat template"} | self.control.facts()


def plain_values(fields: Mapping[str, Any], prompt: PromptConfig) -> dict[str, Any]:
    """What `prompt.template` has with `prompt.format = "plain"`: the row's columns, `system` and `examples`."""
    return {**fields, "system": prompt.system, "examples": prompt.examples}


def check_prompt(prompt: PromptConfig) -> None:
    """Everything that is set reaches the policy.

    Raises:
        ConfigError: with `prompt.format = "plain"` the template leaves `prompt.system` or `prompt.examples` out.
    """
    if prompt.format != "plain":
        return
    used = meta.find_undeclared_variables(parse(prompt.template))
    for name, value in (("system", prompt.system), ("examples", prompt.examples)):
        if value and name not in used:
            raise ConfigError(
                f"prompt.{name} is set, and prompt.template, which with prompt.format = 'plain' is the whole text, "
                f"does not use the variable `{name}`: write it there, or leave prompt.{name} out."
            )
