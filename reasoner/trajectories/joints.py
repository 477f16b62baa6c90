"""Where a turn ended that was interrupted and continued: what an engine cannot know that saw its second half alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from reasoner.records import SamplingParams
from reasoner.sampling.responses import LONGEST_PATTERN, repeats


def end_across(
    tokenizer: Any, written: Sequence[int], joint: int, params: SamplingParams
) -> tuple[int, Literal["stop", "repetition"]] | None:
    """How many tokens of a turn count, and why it ended there; None: all do, and the engine's own reason holds.

    An engine looks for stop strings, and for what repeats itself, in the tokens of one request. What spans two requests
    is found here, and what was sampled after it is cut off: the turn is the one that an uninterrupted generation gives.

    Args:
        written: the tokens of the turn.
        joint: how many of them were there before the last request.
    """
    ends: list[tuple[int, Literal["stop", "repetition"]]] = []
    if params.stop:
        # a token of text has at least one byte, so a string across the joint ends within that many tokens of it
        longest = max(len(string.encode()) for string in params.stop)
        for end in range(joint + 1, min(joint + longest, len(written)) + 1):
            tail = tokenizer.decode(list(written[max(0, joint - longest) : end]), skip_special_tokens=True)
            if any(string in tail for string in params.stop):
                ends.append((end, "stop"))
                break
    if times := params.stop_repetition:
        for end in range(joint + 1, min(joint + times * LONGEST_PATTERN, len(written)) + 1):
            if repeats(written[:end], times):
                ends.append((end, "repetition"))
                break
    return min(ends, default=None)
