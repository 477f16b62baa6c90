"""Post-train large reasoning models with verifiable rewards.

These names are the API: for authors of plugins, and for programs and notebooks (docs/python.md). Plugins import nothing
else of this package, and `reasoner.testing` in their tests. A name is imported when it is used: whoever takes one pays
for no other.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasoner.api.evaluation import EvaluationResults, evaluate
    from reasoner.api.page import Report
    from reasoner.api.run import Run, open_run, run
    from reasoner.api.scores import Scores, score
    from reasoner.data.prompts.thinking import after_thinking
    from reasoner.errors import (
        ConfigError,
        DataError,
        MissingDependencyError,
        OutOfTimeError,
        ReasonerError,
        RunError,
        ToolError,
        UserError,
        nearest,
    )
    from reasoner.evaluation.metrics import Evaluation
    from reasoner.gro.spec.presets import PRESETS, Preset, Weighted
    from reasoner.gro.spec.registry import Algorithms
    from reasoner.gro.spec.terms import CustomCredit, CustomLink, Term
    from reasoner.io.http_json import RemoteError, Service, Url, read_secret, without_query
    from reasoner.io.parsing import STRICT_JSON_DECODER
    from reasoner.plugins.environment_api import EnvironmentKind, environment
    from reasoner.plugins.hookspecs import Generator, TaskFamily, hookimpl
    from reasoner.plugins.reward_api import TEXT_ONLY, RewardSource, reward
    from reasoner.plugins.tool_api import Tool, tool
    from reasoner.plugins.tracker_api import TrackedRun, Tracker, TrackerKind
    from reasoner.records import (
        EnvironmentReport,
        Group,
        Message,
        Observation,
        Problem,
        Response,
        Score,
        ScoredGroup,
        ToolCall,
        Turn,
    )
    from reasoner.sandbox import (
        ISOLATED,
        PYTHON,
        End,
        Limits,
        Outcome,
        Sandbox,
        SandboxError,
        Session,
        open_sandbox,
        permitted_sandbox,
    )

__version__ = "0.1.0"

__all__ = [
    "ISOLATED",
    "PRESETS",
    "PYTHON",
    "STRICT_JSON_DECODER",
    "TEXT_ONLY",
    "Algorithms",
    "ConfigError",
    "CustomCredit",
    "CustomLink",
    "DataError",
    "End",
    "EnvironmentKind",
    "EnvironmentReport",
    "Evaluation",
    "EvaluationResults",
    "Generator",
    "Group",
    "Limits",
    "Message",
    "MissingDependencyError",
    "Observation",
    "OutOfTimeError",
    "Outcome",
    "Preset",
    "Problem",
    "ReasonerError",
    "RemoteError",
    "Report",
    "Response",
    "RewardSource",
    "Run",
    "RunError",
    "Sandbox",
    "SandboxError",
    "Score",
    "ScoredGroup",
    "Scores",
    "Service",
    "Session",
    "TaskFamily",
    "Term",
    "Tool",
    "ToolCall",
    "ToolError",
    "TrackedRun",
    "Tracker",
    "TrackerKind",
    "Turn",
    "Url",
    "UserError",
    "Weighted",
    "__version__",
    "after_thinking",
    "environment",
    "evaluate",
    "hookimpl",
    "nearest",
    "open_run",
    "open_sandbox",
    "permitted_sandbox",
    "read_secret",
    "reward",
    "run",
    "score",
    "tool",
    "without_query",
]
_MODULES = {
    # what verifiers get, return and are made with
    "reasoner.records": "EnvironmentReport Group Message Observation Problem Response Score ScoredGroup ToolCall Turn",
    "reasoner.plugins.reward_api": "TEXT_ONLY RewardSource reward",
    "reasoner.data.prompts.thinking": "after_thinking",
    # tools and environments
    "reasoner.plugins.tool_api": "Tool tool",
    "reasoner.plugins.environment_api": "EnvironmentKind environment",
    # hooks of a plugin, and what they return
    "reasoner.plugins.hookspecs": "Generator TaskFamily hookimpl",
    "reasoner.evaluation.metrics": "Evaluation",
    # trackers
    "reasoner.plugins.tracker_api": "TrackedRun Tracker TrackerKind",
    # methods as data
    "reasoner.gro.spec.registry": "Algorithms",
    "reasoner.gro.spec.presets": "PRESETS Preset Weighted",
    "reasoner.gro.spec.terms": "CustomCredit CustomLink Term",
    # errors
    "reasoner.errors": "ConfigError DataError MissingDependencyError OutOfTimeError ReasonerError RunError "
    "ToolError UserError nearest",
    # sandboxes for generated programs
    "reasoner.sandbox": "ISOLATED PYTHON End Limits Outcome Sandbox SandboxError Session open_sandbox "
    "permitted_sandbox",
    # requests to services
    "reasoner.io.http_json": "RemoteError Service Url read_secret without_query",
    "reasoner.io.parsing": "STRICT_JSON_DECODER",
    # runs, evaluations and scores for programs and notebooks (docs/python.md)
    "reasoner.api.run": "Run open_run run",
    "reasoner.api.scores": "Scores score",
    "reasoner.api.evaluation": "EvaluationResults evaluate",
    "reasoner.api.page": "Report",
}
"""module -> the public names that it defines"""
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reasoner' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
