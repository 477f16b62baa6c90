"""Post-train large reasoning models with verifiable rewards.

These names are the API: for authors of plugins, and for programs and notebooks (docs/python.md). Those of the latter
are imported when they are used, so that a plugin pays for none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reasoner.data.prompts.thinking import after_thinking
from reasoner.plugins.hookspecs import hookimpl
from reasoner.plugins.reward_api import TEXT_ONLY, RewardSource, reward
from reasoner.records import Message, Problem, Response, Score

if TYPE_CHECKING:
    from reasoner.api.evaluation import EvaluationResults, evaluate
    from reasoner.api.page import Report
    from reasoner.api.run import Run, open_run, run
    from reasoner.api.scores import Scores, score

__version__ = "0.1.0"

__all__ = [
    "TEXT_ONLY",
    "EvaluationResults",
    "Message",
    "Problem",
    "Report",
    "Response",
    "RewardSource",
    "Run",
    "Score",
    "Scores",
    "__version__",
    "after_thinking",
    "evaluate",
    "hookimpl",
    "open_run",
    "reward",
    "run",
    "score",
]
_LAZY = {
    "EvaluationResults": "evaluation",
    "evaluate": "evaluation",
    "Report": "page",
    "Run": "run",
    "open_run": "run",
    "run": "run",
    "Scores": "scores",
    "score": "scores",
}
"""name -> module of `reasoner.api`"""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'reasoner' has no attribute {name!r}")
    return getattr(import_module(f"reasoner.api.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
