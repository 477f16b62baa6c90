"""A plugin whose reward source runs the response as a program in a sandbox."""

import os

from reasoner import Problem, Response, Score, hookimpl, reward
from reasoner.plugins.reward_api import RewardSource
from reasoner.sandbox import ISOLATED, PYTHON, Limits, open_sandbox


@reward("prints", timeout_s=20.0)
def prints(problem: Problem, response: Response, *, sandbox: str, mark: str) -> Score:
    """1.0 if the program prints the reference answer; the note says who ran it, and how it ended."""
    program = [PYTHON, *ISOLATED, "main.py", mark]
    files = {"main.py": response.text.encode()}
    outcome = open_sandbox(sandbox).run(program, files, b"", Limits(wall_s=5.0, processes=12, memory_mb=128))
    return Score(float(outcome.stdout.decode().strip() == problem.answer), note=f"{os.getpid()} {outcome.end}")


@hookimpl
def register_rewards() -> list[RewardSource]:
    return [prints]
