"""The reward source `environment`: what the environment of a response gave."""

from __future__ import annotations

from reasoner import Problem, Response, Score, reward


@reward("environment", timeout_s=1.0, needs_answer=False, aspect="text")
def environment(problem: Problem, response: Response) -> Score | None:
    """The sum of the rewards that the environment (`[environment]`) gave over the turns of a response.

    It does not apply where the environment gave none. With `credit.level = "turn"` each turn is credited with what came
    from it on.

    Parts: `turns`, the reward after each turn of the policy, and what the environment reported.
    """
    report = response.report
    if report is None or report.reward is None:
        return None
    return Score(report.reward, {"turns": list(report.turn_rewards), **report.parts})
