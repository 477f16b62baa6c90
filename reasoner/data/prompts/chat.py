"""Problems, and responses to them, as the model's chat template writes them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from reasoner.config import PromptConfig
from reasoner.data.prompts.chat_probe import NEXT, SYSTEM, USER, ChatProbe, ChatTraits, ChatTurn, TurnEnd
from reasoner.data.prompts.control_tokens import ControlTokens, EncodingTokenizer, NotTextError, not_text
from reasoner.data.prompts.next_turn import NextTurnError, Render, call_texts, following
from reasoner.data.prompts.template_date import NAME as DATE
from reasoner.data.prompts.template_date import reads_date, with_function
from reasoner.data.prompts.templates import FailedError, UnboundedError
from reasoner.data.prompts.thinking import parts
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem

_NO_TEMPLATE = (
    "model.path: its tokenizer has no chat template, so that a conversation cannot be written for it. Take an "
    "instruction-tuned model, put a chat_template.jinja into the model's folder, or, for a base model, have "
    "prompt.template write the whole text: --set prompt.format=plain (docs/tasks.md)."
)

_TRAITS: dict[str, ChatTraits] = {}
"""chat template and its values -> what it writes"""
_TRIED: dict[str, int] = {}
"""the same -> characters of the longest conversation with which it stayed within its bounds"""


class ChatTokenizer(EncodingTokenizer, Protocol):
    """What is needed of a Hugging Face tokenizer."""

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]: ...

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **kwargs: Any) -> Any: ...


class ChatRenderer:
    """See `reasoner.data.prompts.renderer.Renderer`.

    Args:
        instructions: text that the system message ends with: how tools are called.

    Raises:
        ConfigError: the tokenizer has none.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        prompt: PromptConfig,
        template_kwargs: Mapping[str, Any],
        instructions: str = "",
    ) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(_NO_TEMPLATE)
        self._tokenizer, self._prompt, self._kwargs = tokenizer, prompt, with_function(template_kwargs)
        self._instructions = instructions
        self.end_token = tokenizer.eos_token
        self._has_written = {"question": False, "system": False, "examples": False}
        self._values = {**tokenizer.special_tokens_map, "tools": None, "documents": None, **template_kwargs}
        self._template = _template_of(tokenizer, template_kwargs)
        self._key = json.dumps([self._template, self._values], default=str)

    @property
    def traits(self) -> ChatTraits:
        """What the template writes beside the messages."""
        if self._template is None:
            return ChatTraits()
        if self._key not in _TRAITS:
            with ChatProbe(self._template, self._values) as probe:
                _TRAITS[self._key] = ChatTraits.of(probe)
        return _TRAITS[self._key]

    @cached_property
    def control(self) -> ControlTokens:
        return ControlTokens(self._tokenizer, self.traits.frame + self.traits.tools)

    def check(self, problems: Sequence[Problem]) -> None:
        """Render the first conversation and the longest one within bounds, before transformers does it without any, and
        see whether the template writes what it is given. What else is wrong with it, transformers tells.

        Raises:
            ConfigError: the template takes more time or memory than one may, leaves the question or the thinking of an
                example out, or has no place for a system message.
        """
        if self._template is None or not problems:
            return
        self._try(problems)
        if not self._has_written["question"]:
            self._check_question(problems[0])
            self._has_written["question"] = True
        if not self._has_written["system"] and (problem := next(filter(self._has_system, problems), None)):
            self._check_system(problem)
            self._has_written["system"] = True
        if not self._has_written["examples"] and (problem := next(filter(self._has_examples, problems), None)):
            self._check_examples(problem)
            self._has_written["examples"] = True

    def prompt(self, problem: Problem, opening: Sequence[Message] = ()) -> str:
        messages, more = list(problem.messages), [message.content for message in opening]
        messages[-1] = replace(messages[-1], content="\n\n".join([messages[-1].content, *more]))
        return self._text(replace(problem, messages=tuple(messages)), [], generation=True)

    def whole(self, problem: Problem, response: str) -> str:
        return self._text(problem, [Message("assistant", response)], generation=False)

    def following(self, messages: Sequence[Message], call_ids: Sequence[str] = ()) -> str:
        turns = [{"role": message.role, "content": self.control.protect(message.content)} for message in messages]
        ids = iter(call_ids)
        for turn, message in zip(turns, messages, strict=True):
            if message.role == "tool":
                turn |= {"name": self.control.protect(message.name), "tool_call_id": next(ids, "")}
        return following(self._render_continuation, turns, self._ends)

    def history_facts(self) -> dict[str, str]:
        """Where a conversation of several turns differs from what the template would make of the whole of it."""
        problems = {}
        if self.traits.drops_thinking:
            problems["thinking of earlier turns"] = (
                "stays, as the policy wrote it; the chat template would leave it out of a conversation that goes on"
            )
        if self.traits.rewrites:
            problems["beginning of a conversation"] = (
                "stays as the policy read it; the chat template would write it in another way (tools or system "
                "message before the last question) when the conversation goes on"
            )
        return problems

    def call_texts(self, name: str, argument: str) -> list[str]:
        """How the template writes a response that calls a tool; see `next_turn.call_texts`."""
        return call_texts(self._render, name, argument, self._ends)

    @cached_property
    def _render_continuation(self) -> Render:
        """As `_render`, where a response was written before: without the tools, which the policy has read, for some
        templates write them again before the last question; with them only where results or questions need them."""
        kwargs = {name: value for name, value in self._kwargs.items() if name != "tools"}

        def without_tools(turns: Sequence[ChatTurn], *, generation: bool) -> str:
            return self._apply_template(turns, generation=generation, kwargs=kwargs)

        for role in ("tool", "user"):
            try:
                after = following(without_tools, [{"role": role, "name": USER, "content": NEXT}], self._ends)
            except NextTurnError:
                return self._render
            if NEXT not in after.casefold():
                return self._render
        return without_tools

    @property
    def _ends(self) -> list[str]:
        """How what ends a response is spelled."""
        return [end for end in (self.turn_end().text, self.end_token) if end]

    def token_ids(self, text: str) -> tuple[int, ...]:
        return self.control.token_ids(text)

    def turn_end(self) -> TurnEnd:
        return self.traits.turn_end(self.control)

    def end_of_turn_fact(self, own: Collection[int]) -> str:
        end = self.turn_end()
        if end.token is not None and end.token in own:
            return f"at {end.text}, as the chat template has it"
        if end.token is not None:
            return f"at {end.text}, as the chat template has it, and at the model's end tokens, of which it is none"
        if end.text:
            return f"before {end.text!r}, as the chat template has it, and at the model's end tokens"
        return "at the model's end tokens; the chat template writes nothing after a response"

    def facts(self) -> dict[str, str]:
        rendered: dict[str, str] = {}
        if opened := self.traits.opened.strip():
            rendered["thinking"] = (
                f"the chat template writes {opened} before every response: the text that reward sources see begins "
                "with it"
            )
        elif closed := self.traits.closed:
            rendered["thinking"] = (
                f"the chat template writes an empty block, {closed.strip()!r}, before every response: the policy is "
                "asked not to think, and think_format gives 0 (model.chat_template_kwargs)"
            )
        if (date := self._values.get(DATE)) and reads_date(self._template):
            rendered["date"] = f"the chat template writes {date} as today's date, also after the run is resumed"
        return rendered | self.control.facts()

    def _text(self, problem: Problem, more: Sequence[Message], *, generation: bool) -> str:
        where = "its response" if more else ""
        try:
            turns = self._turns(problem, more, self.control)
        except NotTextError as error:
            raise not_text(f"problem {problem.id}", error, where=where) from error
        try:
            return self._render(turns, generation=generation)
        except Exception as error:  # templates raise their own errors
            raise ConfigError(
                f"the model's chat template fails on problem {problem.id}{f' with {where}' if where else ''}: "
                f"{type(error).__name__}: {error}. See model.chat_template_kwargs."
            ) from error

    def _render(self, turns: Sequence[ChatTurn], *, generation: bool) -> str:
        return self._apply_template(turns, generation=generation, kwargs=self._kwargs)

    def _apply_template(self, turns: Sequence[ChatTurn], *, generation: bool, kwargs: Mapping[str, Any]) -> str:
        text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=generation, tokenize=False, **kwargs)
        return str(text)

    def _turns(
        self, problem: Problem, more: Sequence[Message] = (), control: ControlTokens | None = None
    ) -> list[dict[str, str]]:
        """The messages, system messages as `prompt.system_role` has it; with `control`: protected."""
        messages = self._with_instructions((*problem.messages, *more))
        system = [message.content for message in messages if message.role == "system"]
        if system and self._prompt.system_role == "user":
            messages = tuple(message for message in messages if message.role != "system")
            at = next((at for at, message in enumerate(messages) if message.role == "user"), 0)
            first = Message("user", "\n\n".join([*system, messages[at].content]))
            messages = (*messages[:at], first, *messages[at + 1 :])
        return [
            {"role": message.role, "content": control.protect(message.content) if control else message.content}
            for message in messages
        ]

    def _with_instructions(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """With the instructions in the first system message, or in one of their own."""
        if not self._instructions:
            return messages
        if messages[0].role != "system":
            return (Message("system", self._instructions), *messages)
        return (Message("system", f"{messages[0].content}\n\n{self._instructions}"), *messages[1:])

    def _has_system(self, problem: Problem) -> bool:
        return any(turn["role"] == "system" for turn in self._turns(problem))

    def _has_examples(self, problem: Problem) -> bool:
        examples = [message.content for message in problem.messages if message.role == "assistant"]
        return bool(examples) and examples == [example["assistant"] for example in self._prompt.examples]

    def _try(self, problems: Sequence[Problem]) -> None:
        """Once per template and process, and where a conversation is more than twice as long as those that were tried.

        Raises:
            ConfigError: the template goes beyond its bounds.
        """
        assert self._template is not None
        lengths = [sum(len(message.content) for message in problem.messages) for problem in problems]
        tried = _TRIED.get(self._key, -1)
        if max(lengths) <= 2 * tried:
            return
        with ChatProbe(self._template, self._values) as probe:
            for problem in (problems[0], problems[lengths.index(max(lengths))]):
                try:
                    with suppress(FailedError):
                        probe.render(self._turns(problem))
                except UnboundedError as error:
                    raise ConfigError(f"the model's chat template fails on problem {problem.id}: {error}.") from None
            if self._key not in _TRAITS:
                _TRAITS[self._key] = ChatTraits.of(probe)
        _TRIED[self._key] = max(tried, *lengths)

    def _writes(self, turns: Sequence[ChatTurn], marker: str) -> bool:
        """Whether a word of the turns is in what the template makes of them; it may change its case."""
        return marker in self._render(turns, generation=True).casefold()

    def _check_question(self, problem: Problem) -> None:
        """The template writes the last message, which a response answers.

        Raises:
            ConfigError: it does not.
        """
        turns = self._turns(problem)
        try:
            if self._writes([*turns[:-1], {**turns[-1], "content": USER}], USER):
                return
        except Exception:  # templates raise their own errors; told when the problem is rendered
            return
        raise ConfigError(
            f"problem {problem.id}: the model's chat template leaves the last message out, so the policy would not "
            f"see the question. Correct the template (chat_template.jinja in the model's folder), or look for an "
            f"argument that changes it (model.chat_template_kwargs)."
        )

    def _check_system(self, problem: Problem) -> None:
        """The template writes system messages.

        Raises:
            ConfigError: it does not.
        """
        turns = self._turns(problem)
        marked = [{**turn, "content": SYSTEM} if turn["role"] == "system" else turn for turn in turns]
        try:
            if self._writes(marked, SYSTEM):
                return
            what = "leaves the system message out"
        except Exception as error:  # templates raise their own errors
            if not self._takes([turn for turn in turns if turn["role"] != "system"]):
                return  # it refuses something else, which is told when the problem is rendered
            what = f"refuses a system message ({type(error).__name__}: {error})"
        where, remedy = f"problem {problem.id}", "; or leave it out"
        if problem.messages[0] == Message("system", self._prompt.system):
            where = "prompt.system"
        elif problem.messages[0].role != "system":
            where, remedy = "environment.tools, which are described in a system message", ""
        raise ConfigError(
            f"{where}: the model's chat template {what}. To put it before the first user message: --set "
            f"prompt.system_role=user{remedy}."
        )

    def _takes(self, turns: Sequence[ChatTurn]) -> bool:
        try:
            self._render(turns, generation=True)
        except Exception:  # templates raise their own errors
            return False
        return True

    def _check_examples(self, problem: Problem) -> None:
        """The template writes what the assistant says in the worked examples.

        Raises:
            ConfigError: it does not.
        """
        try:
            written = self._render(self._turns(problem), generation=True)
        except Exception:  # told when it is rendered
            return
        for at, example in enumerate(self._prompt.examples):
            for part in parts(example["assistant"]):
                if part not in written:
                    raise ConfigError(
                        f"prompt.examples[{at}].assistant: the model's chat template leaves {_short(part)} out, as "
                        "templates do with the thinking of earlier responses: the policy would see examples without "
                        "it. Take it out of the example, write the examples into prompt.system or prompt.template, or "
                        "look whether the template has an argument that keeps it (model.chat_template_kwargs)."
                    )


def _template_of(tokenizer: ChatTokenizer, kwargs: Mapping[str, Any]) -> str | None:
    """The chat template that is used; None: transformers chooses among several."""
    named, wanted = tokenizer.chat_template, kwargs.get("chat_template")
    if isinstance(named, dict):
        return named.get(wanted or "default", wanted)
    return wanted or named


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
