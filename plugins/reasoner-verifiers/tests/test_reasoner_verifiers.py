"""Tasksets of the real package verifiers: prompts as problems, rewards as a verdict, and what is refused."""

from __future__ import annotations

import json
from compileall import compile_file
from pathlib import Path
from typing import Any

import pytest

import reasoner_verifiers
from reasoner import ConfigError, DataError, MissingDependencyError, Problem, Score, UserError
from reasoner.testing import Case, check_source, make_problem, make_response

pytest.importorskip("verifiers.v1", reason="the package verifiers is not installed")

from reasoner_verifiers import tasksets
from reasoner_verifiers.generator import verifiers as generator
from reasoner_verifiers.source import verifiers as source

PLUGIN = str(Path(reasoner_verifiers.__file__))

SUMS = """
import verifiers.v1 as vf


class SumData(vf.TaskData):
    answer: int = 0
    hint: list[str] = []


class SumTask(vf.Task[SumData]):
    @vf.reward
    async def right(self, task, trace) -> float:
        return float(trace.last_reply == str(task.answer))

    @vf.reward(weight=0.5)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) < 5)

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))


class SumConfig(vf.TasksetConfig):
    most: int = 9
    system: str | None = None


class Sums(vf.Taskset[SumTask, SumConfig]):
    def load(self):
        for number in range(self.config.most):
            data = SumData(prompt=f"{number} + 1 = ?", system_prompt=self.config.system, answer=number + 1)
            yield SumTask(data, self.config.task)


__all__ = ["Sums"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, with the taskset `toy_sums`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "toy_sums.py").write_text(SUMS)
    compile_file(tmp_path / "toy_sums.py", quiet=1)  # not by the worker, which must leave nothing behind
    return tmp_path


def problems(count: int, seed: int = 1, taskset: str = "toy_sums", **config: Any) -> list[Problem]:
    """Problems as a run has them after they were written and read."""
    rows = [json.loads(json.dumps(row)) for row in generator(count, seed, taskset=taskset, config=config)]
    return [make_problem(**row) for row in rows]


def score(problem: Problem, text: str, **options: Any) -> Score:
    result = source(problem, make_response(text), **{"taskset": "toy_sums", **options})
    assert isinstance(result, Score)
    return result


def test_tasks_are_problems_in_an_order_of_the_seed() -> None:
    first, again, other = problems(9), problems(9), problems(9, seed=2)
    assert [each.messages for each in first] == [each.messages for each in again]
    assert [each.messages for each in first] != [each.messages for each in other]
    assert {each.answer for each in first} == {each.answer for each in other} == {str(n) for n in range(1, 10)}
    (asked,) = first[0].messages
    assert (asked.role, asked.content) == ("user", f"{int(first[0].answer) - 1} + 1 = ?")
    (row,) = generator(1, 1, taskset="toy_sums", config={"system": "Be short."})
    assert [message["role"] for message in row["question"]] == ["system", "user"]
    with pytest.raises(DataError, match="the taskset 'toy_sums' has 2 tasks, and 3 are asked for"):
        problems(3, most=2)


@pytest.mark.parametrize(
    ("text", "value", "right"),
    [
        ("{answer}", 1.5, 1.0),
        ("<think>so it is 99</think>{answer}", 1.5, 1.0),
        ("[THINK]so it is 99[/THINK]{answer}", 1.5, 1.0),
        ("<think>{answer}", 0.5, 0.0),  # an empty reply, which is short
        ("It is {answer}.", 0.0, 0.0),
        ("0", 0.5, 0.0),
        ("", 0.5, 0.0),
    ],
)
def test_the_rewards_of_a_task_are_summed_with_their_weights(text: str, value: float, right: float) -> None:
    (problem,) = problems(1)
    found = score(problem, text.format(answer=problem.answer))
    assert found.value == value
    assert found.parts["right"] == right
    assert set(found.parts) == {"right", "short", "length"}


def test_it_keeps_the_contract_in_workers() -> None:
    (problem,) = problems(1)
    cases = [Case(problem, make_response(problem.answer), 1.5), Case(problem, make_response("no idea"), 0.0)]
    checklist = check_source(source, cases, options={"taskset": "toy_sums"}, plugins=[PLUGIN])
    assert (checklist.passed, checklist.unreached) == (True, ()), str(checklist)


def test_what_is_no_task_of_it_is_the_problems_fault() -> None:
    with pytest.raises(ValueError, match="has no data for the rewards of 'toy_sums'"):
        score(make_problem("1 + 1?", "2"), "2")
    with pytest.raises(ValueError, match="is no task of 'toy_sums'"):
        score(make_problem("1 + 1?", "2", task={"answer": "two"}), "2")


def test_it_says_what_it_will_judge_by() -> None:
    assert source.ready({"taskset": "toy_sums"}) == "taskset toy_sums: right, short"
    with pytest.raises(UserError, match="verifiers finds no taskset 'toy_sum'"):
        source.ready({"taskset": "toy_sum"})
    with pytest.raises(UserError, match="the taskset 'toy_sums' refuses mots = 3"):
        source.ready({"taskset": "toy_sums", "config": {"mots": 3}})


BROKEN = {
    "has tools": ("__all__ =", "SumTask.toolsets = classmethod(lambda cls, config: ['tool'])\n__all__ ="),
    "needs a container": ("__all__ =", "SumTask.NEEDS_CONTAINER = True\n__all__ ="),
    r"prepares a runtime \(SumTask.setup\)": (
        "class SumTask(vf.Task[SumData]):",
        "class SumTask(vf.Task[SumData]):\n    async def setup(self, trace, runtime):\n        pass\n",
    ),
    r"judges what is in a runtime \(SumTask.right\)": ("right(self, task, trace)", "right(self, task, runtime)"),
    "has an environment of its own": (
        '__all__ = ["Sums"]',
        'class Own(vf.SingleAgentEnv):\n    pass\n\n\n__all__ = ["Sums", "Own"]',
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_what_needs_more_than_one_turn_is_refused_by_name(folder: Path, why: str) -> None:
    name = f"toy_{list(BROKEN).index(why)}"
    (folder / f"{name}.py").write_text(SUMS.replace(*BROKEN[why]))
    with pytest.raises(ConfigError, match=f"the taskset '{name}' {why}.*plugins new NAME --environment"):
        problems(1, taskset=name)
    with pytest.raises(UserError, match=why):
        source.ready({"taskset": name})


def test_a_task_that_somebody_else_opens_is_refused(folder: Path) -> None:
    (folder / "toy_silent.py").write_text(SUMS.replace('prompt=f"{number} + 1 = ?", ', ""))
    with pytest.raises(DataError, match=r"taskset 'toy_silent', task \d has no prompt"):
        problems(1, taskset="toy_silent")


def test_a_default_runtime_is_no_reason_to_refuse(folder: Path) -> None:
    """The near miss: what can be judged without one is."""
    (folder / "toy_optional.py").write_text(SUMS.replace("short(self, trace)", "short(self, trace, runtime=None)"))
    (problem,) = problems(1, taskset="toy_optional")
    assert score(problem, problem.answer, taskset="toy_optional").value == 1.5


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    tasksets.library.cache_clear()

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tasksets, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'verifiers>=0\.4,<0\.5'"):
        problems(1)
    tasksets.library.cache_clear()
