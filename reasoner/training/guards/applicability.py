"""Reward sources that never answer, found at the start of a run: it would learn from nothing, or measure nothing.

A source may say that it does not apply to a problem (it returns None), and in a mixture of tasks each source applies to
its own kind. So a step may hold no problem of a source's kind by chance, and one silent source among others is only
warned of (`reporting.alarms.never_applies`). What ends a run is that nothing can come of it:

    the evaluation before training    the deciding source has no value for any response: there is no accuracy
    the first step that samples       no source that adds to the reward has a value for any response; unless the
                                      evaluation shows that one of them applies to a part of the problems only
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from reasoner.config import Config
from reasoner.evaluation.metrics import Criterion, Evaluation
from reasoner.monitoring.step_metrics import called_components
from reasoner.records import Component, ScoredGroup


def unjudged_reason(config: Config, groups: Sequence[ScoredGroup]) -> str:
    """Why there is no accuracy because the deciding source, or a condition of it, never answered; empty: it did, or it
    failed, which is another matter."""
    criterion = Criterion.of(config)
    called = called_components([row for scored in groups for row in scored.components], config.conditions)
    deciding = [(name, called.get(name, [])) for name in (criterion.source, *criterion.conditions)]
    silent = next((name for name, parts in deciding if _is_silent(parts)), None)
    if silent is None or any(criterion.verdicts(scored) for scored in groups):
        return ""
    return (
        f"reward source {silent!r} has nothing to say about any of the {len(called[silent])} responses to the "
        f"evaluation problems (it returned None for each), and evaluation.correct = {criterion.source!r}: there is no "
        f"accuracy. {_advice(config, silent)} A source for one kind of problem needs some of that kind in data.eval."
    )


def unrewarded_reason(config: Config, groups: Sequence[ScoredGroup], before: Evaluation | None) -> str:
    """Why the rewards of a step say nothing: no source that adds to them answered; empty: one did, or all failed.

    Args:
        before: the evaluation before training, which says where sources apply; None: there was none.
    """
    called = called_components([row for scored in groups for row in scored.components], config.conditions)
    adding = [reward.source for reward in config.rewards if reward.weight and not reward.gate]
    silent = [source for source in adding if _is_silent(called.get(source, []))]
    answered = any(part.value is not None for source in adding for part in called.get(source, []))
    if answered or not silent or any(_is_for_some(source, before) for source in silent):
        return ""
    named = " and ".join(map(repr, silent))
    return (
        f"reward source {named} has nothing to say about any of the {len(called[silent[0]])} responses of the first "
        f"step (it returned None for each), and nothing else adds to their rewards: there is nothing to learn from. "
        f"{_advice(config, silent[0])}"
    )


def _is_silent(parts: Iterable[Component]) -> bool:
    """Whether calls were made that had nothing to say, and none that had."""
    components = list(parts)
    return all(part.value is None for part in components) and any(part.failure is None for part in components)


def _is_for_some(source: str, before: Evaluation | None) -> bool:
    """Whether the source applied to some problems of an evaluation and not to others."""
    estimate = before.find(f"reward/{source}") if before else None
    return before is not None and estimate is not None and len(estimate.by_problem) < before.problems


def _advice(config: Config, source: str) -> str:
    plugins = "".join(f" --plugin {shlex.quote(plugin)}" for plugin in config.plugins)
    return (
        "A function that ends without `return` returns None: see that it returns a value on every path; `reasoner "
        f"plugins check {source}{plugins}` tries it."
    )
