"""Tool calls in what the policy writes, and the tokens that come between its turns.

Input: the token ids of a turn of the policy and the messages that answer it. Output: `ToolCall`s and token ids. What
the policy wrote is never rendered or tokenised again.

    base.py             what a format does
    factory.py          the format of `environment.format`, and the renderer of prompts with tools
    text_format.py      formats of plain text: what both do alike; tags.py and fenced.py are the two
    native.py           the model's own format; dialects.py are those that are known
    arguments.py        a call's name and arguments from its text
    turn_tokens.py      the tokens between two turns, as the chat template has it
    fragments.py        token ids of text that comes after other tokens
"""

from reasoner.data.turn_formats.base import TurnFormat
from reasoner.data.turn_formats.factory import open_turn_format

__all__ = ["TurnFormat", "open_turn_format"]
