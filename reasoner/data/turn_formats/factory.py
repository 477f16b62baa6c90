"""The format of `environment.format`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reasoner.config import PromptConfig
from reasoner.data.prompts.chat import ChatRenderer
from reasoner.data.prompts.renderer import open_renderer
from reasoner.data.turn_formats.base import TurnFormat
from reasoner.data.turn_formats.fenced import FencedFormat, fenced_instructions
from reasoner.data.turn_formats.native import NativeFormat, tool_json
from reasoner.data.turn_formats.tags import TagsFormat, tags_instructions
from reasoner.errors import ConfigError
from reasoner.records import ToolDescription

_TEXT_FORMATS = {"tags": (TagsFormat, tags_instructions), "fenced": (FencedFormat, fenced_instructions)}


def open_turn_format(
    name: str,
    tokenizer: Any,
    prompt: PromptConfig,
    template_kwargs: Mapping[str, Any],
    tools: Sequence[ToolDescription],
    end_tokens: Collection[int] = (),
) -> TurnFormat:
    """The format of this name, with a renderer of prompts that tell of the tools.

    Args:
        name: `native`, `tags` or `fenced`.
        template_kwargs: arguments of the chat template, `model.chat_template_kwargs`.
        tools: may be none, where an environment speaks with the policy and has no tools.
        end_tokens: those with which the model ends a response, besides the tokenizer's own and the chat template's.

    Raises:
        ConfigError: there is no such format.
    """
    if name == "native":
        return _native(tokenizer, prompt, template_kwargs, tools, end_tokens)
    if name not in _TEXT_FORMATS:
        raise ConfigError(f"environment.format = {name!r}: there are native, {', '.join(_TEXT_FORMATS)}.")
    kind, instructions = _TEXT_FORMATS[name]
    renderer = open_renderer(tokenizer, prompt, template_kwargs, instructions(tools) if tools else "")
    return kind(tokenizer, renderer, tools, end_tokens)


def _native(
    tokenizer: Any,
    prompt: PromptConfig,
    template_kwargs: Mapping[str, Any],
    tools: Sequence[ToolDescription],
    end_tokens: Collection[int],
) -> NativeFormat:
    if prompt.format == "plain":
        raise ConfigError(
            "environment.format = 'native' writes calls with the model's chat template, which prompt.format = 'plain' "
            "does not use. Set environment.format to tags or fenced."
        )
    template_tools = {"tools": [tool_json(tool) for tool in tools]} if tools else {}
    renderer = open_renderer(tokenizer, prompt, {**template_kwargs, **template_tools})
    assert isinstance(renderer, ChatRenderer)
    return NativeFormat(tokenizer, renderer, tools, end_tokens)
