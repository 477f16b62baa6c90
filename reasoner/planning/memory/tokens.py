"""How many tokens a rank has at once, and of a batch."""

from __future__ import annotations

from reasoner.config import Config
from reasoner.gro.spec.terms import SOURCES


def micro_batch_tokens(config: Config) -> int:
    """What a rank has of the largest one: the budget, its slice of a longer row or unit, or of all that there is."""
    slices = config.learning.sequence_parallel
    most = max(min(config.learning.token_budget * slices, share_tokens(config)), longest_row(config))
    return -(-most // slices)


def longest_sequence(config: Config) -> int:
    """Tokens of a prompt and its response."""
    return config.sampling.max_prompt_tokens + config.sampling.max_tokens


def longest_row(config: Config) -> int:
    """Tokens that go through the model together whatever the budget: a response with its prompt, a preference pair."""
    rows = [longest_sequence(config)] if config.online else []
    for source in SOURCES:
        if source != "online" and config.gro.reads(source):
            rows.append(getattr(config.data, source).max_tokens * (2 if source == "pairs" else 1))
    return max(rows, default=0)


def share_tokens(config: Config) -> int:
    """Tokens of one share of a batch, at most: those of a rank, or of the neighbours that share its rows."""
    total, sampling = 0, config.sampling
    shares = config.run.ranks // config.learning.sequence_parallel
    if config.online:
        prompts = 1 if shares_prompts(config) else sampling.group_size
        group = prompts * sampling.max_prompt_tokens + sampling.group_size * sampling.max_tokens
        total += -(-config.learning.problems_per_step // shares) * group
    for source in SOURCES:
        if source != "online" and config.gro.reads(source):
            rows = -(-config.per_step(source) // shares)
            total += rows * getattr(config.data, source).max_tokens * (2 if source == "pairs" else 1)
    return total


def shares_prompts(config: Config) -> bool:
    """Whether a group of the largest lengths is one row (as `packing.worth_sharing`)."""
    sampling, sharing = config.sampling, config.learning.share_prompts
    if not config.online or sharing == "never" or config.learning.packing == "padded":
        return False
    apart = sampling.group_size * (sampling.max_prompt_tokens + sampling.max_tokens)
    return sharing == "always" or (sampling.group_size - 1) * sampling.max_prompt_tokens > 0.2 * apart


def problems_of_rank(config: Config) -> int:
    """Problems of a training step that one rank samples, at most."""
    return -(-config.learning.problems_per_step // config.run.ranks)
