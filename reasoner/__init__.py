"""Post-train large reasoning models with verifiable rewards. These names are the API for authors of plugins."""

from reasoner.hookspecs import hookimpl
from reasoner.records import Message, Problem, Response, Score
from reasoner.rewards_api import TEXT_ONLY, RewardSource, reward

__version__ = "0.1.0"

__all__ = ["TEXT_ONLY", "Message", "Problem", "Response", "RewardSource", "Score", "__version__", "hookimpl", "reward"]
