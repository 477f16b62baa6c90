"""The built-in reward sources, registered through the same hook as a third party's."""

from collections.abc import Iterable

from reasoner import RewardSource, hookimpl


@hookimpl
def register_rewards() -> Iterable[RewardSource]:
    """All of them; docs/rewards.md has a section for each."""
    from reasoner_rewards.boxed_format import boxed_format
    from reasoner_rewards.choice import choice
    from reasoner_rewards.code.source import code
    from reasoner_rewards.environment import environment
    from reasoner_rewards.exact import exact
    from reasoner_rewards.http import http
    from reasoner_rewards.instructions import instructions
    from reasoner_rewards.json_schema import json_schema
    from reasoner_rewards.judge import judge
    from reasoner_rewards.language import language
    from reasoner_rewards.length import length
    from reasoner_rewards.math import math
    from reasoner_rewards.regex import regex
    from reasoner_rewards.repetition import repetition
    from reasoner_rewards.reward_model import reward_model
    from reasoner_rewards.think_format import think_format
    from reasoner_rewards.tool_use import tool_use

    return (
        math,
        exact,
        choice,
        regex,
        json_schema,
        instructions,
        boxed_format,
        think_format,
        length,
        repetition,
        language,
        code,
        judge,
        http,
        reward_model,
        environment,
        tool_use,
    )
