"""Prompts that are one text, and responses that continue it: for base models without a chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2

from reasoner.config import PromptConfig
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.data.prompts.control_tokens import ControlTokens, EncodingTokenizer, NotTextError, not_text
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError, parse, variables_of
from reasoner.data.row_report import RowError
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem


class PlainRenderer:
    """See `reasoner.data.prompts.renderer.Renderer`: `prompt.template` is the whole text, after what the tokenizer
    begins one with.

    Control tokens that the template itself has are meant; those in a row's fields are text.

    Args:
        instructions: text that comes before all others: how tools are called.
    """

    def __init__(self, tokenizer: EncodingTokenizer, prompt: PromptConfig, instructions: str = "") -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self._before = f"{instructions}\n\n" if instructions else ""
        self.end_token = tokenizer.eos_token
        self.control = ControlTokens(tokenizer)
        self._protected: dict[tuple[str, str], str | RowError] = {}
        """id and text of a problem whose row spells control tokens -> the text with stand-ins, or why there is none"""

    def check(self, problems: Sequence[Problem]) -> None:
        """Render those again whose rows spell control tokens, with stand-ins for these; what is wrong with one of them
        is told by `prompt`."""
        asked: list[tuple[Problem, dict[str, Any]]] = []
        for problem in filter(self._has_control, problems):
            fields = self._fields(problem)
            if isinstance(fields, RowError):
                self._protected[_key(problem)] = fields
            elif fields == problem.fields:  # the control tokens are the template's own
                self._protected[_key(problem)] = problem.messages[0].content
            else:
                asked.append((problem, fields))
        if asked:
            # Where a null may not be written, the row was refused when it was read.
            with Template(self._prompt.template, missing="empty") as template:
                self._protected |= {
                    _key(problem): self._render_fields(problem, fields, template) for problem, fields in asked
                }

    @cached_property
    def _begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text."""
        with_, without = (self._tokenizer.encode("a", add_special_tokens=special) for special in (True, False))
        begin = next((at for at in range(len(with_)) if with_[at : at + len(without)] == without), 0)
        return tuple(with_[:begin])

    def prompt(self, problem: Problem, opening: Sequence[Message] = ()) -> str:
        text = self._before + self._problem(problem)
        if not opening:
            return text
        try:
            added = [self.control.protect(message.content) for message in opening]
        except NotTextError as error:
            raise not_text(f"problem {problem.id}", error, where="what its environment adds") from error
        return "\n\n".join([text.rstrip(), *added, ""])

    def following(self, messages: Sequence[Message], call_ids: Sequence[str] = ()) -> str:
        return "".join(f"\n\n{self.control.protect(message.content)}" for message in messages) + "\n\n"

    def _problem(self, problem: Problem) -> str:
        if not _is_one_text(problem):
            raise not_one_text(f"problem {problem.id}")
        if not self._has_control(problem):
            return problem.messages[0].content
        if _key(problem) not in self._protected:
            self.check([problem])
        protected = self._protected[_key(problem)]
        if isinstance(protected, RowError):
            raise protected
        return protected

    def _has_control(self, problem: Problem) -> bool:
        return _is_one_text(problem) and self.control.is_in(problem.messages[0].content)

    def _fields(self, problem: Problem) -> dict[str, Any] | RowError:
        """The row's columns with stand-ins."""
        try:
            self.control.protect(problem.messages[0].content)
            return {name: self.control.protect_all(value) for name, value in problem.fields.items()}
        except NotTextError as error:
            return not_text(f"problem {problem.id}", error)

    def _render_fields(self, problem: Problem, fields: Mapping[str, Any], template: Template) -> str | RowError:
        place = f"problem {problem.id}"
        try:
            protected = template.render(plain_values(fields, self._prompt))
        except UnboundedError as error:
            raise ConfigError(f"prompt.template fails on {place}: {error}.") from error
        except (FailedError, jinja2.UndefinedError) as error:
            return RowError(place, f"prompt.template fails: {error}.", "on which prompt.template fails")
        if self.control.restore(protected) != problem.messages[0].content:
            return RowError(
                place,
                "prompt.template looks into control tokens of the model that the row spells. Leave the row out.",
                "with control tokens into which prompt.template looks",
            )
        return protected

    def whole(self, problem: Problem, response: str) -> str:
        end = self.end_token or ""
        try:
            return self.prompt(problem) + self.control.protect(response) + end
        except NotTextError as error:
            raise not_text(f"problem {problem.id}", error, where="its response") from error

    def token_ids(self, text: str) -> tuple[int, ...]:
        ids = self.control.token_ids(text)
        return ids if ids[: len(self._begin)] == self._begin else (*self._begin, *ids)

    def turn_end(self) -> TurnEnd:
        return TurnEnd()

    def end_of_turn_fact(self, own: Collection[int]) -> str:
        return "at the model's end tokens (a base model seldom writes them: see sampling.stop)"

    def facts(self) -> dict[str, str]:
        return {"prompt": "plain text, without chat template"} | self.control.facts()


def _key(problem: Problem) -> tuple[str, str]:
    """Problems of different sources can have one id."""
    return problem.id, problem.messages[0].content


def _is_one_text(problem: Problem) -> bool:
    return len(problem.messages) == 1 and not isinstance(problem.fields.get("question"), list)


def not_one_text(place: str) -> RowError:
    """The error of a row that holds a conversation."""
    return RowError(
        place,
        "it is a conversation, and with prompt.format = 'plain' a prompt is one text. Give text instead of messages.",
        "that hold a conversation, with prompt.format = 'plain'",
    )


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
    used = variables_of(parse(prompt.template))
    for name, value in (("system", prompt.system), ("examples", prompt.examples)):
        if value and name not in used:
            raise ConfigError(
                f"prompt.{name} is set, and prompt.template, which with prompt.format = 'plain' is the whole text, "
                f"does not use the variable `{name}`: write it there, or leave prompt.{name} out."
            )
