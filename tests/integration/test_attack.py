"""The known shortcuts tried on all built-in sources, and on verifiers that fall for them, in real workers."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reasoner.config import RewardConfig
from reasoner.scoring.service import ScoringService
from reasoner.testing import attack_corpus
from reasoner.testing.attack import AttackReport, attack
from reasoner.testing.attack_corpus import EXAMPLES
from reasoner.testing.cases import make_problem
from reasoner.testing.contract import WORKER
from reasoner_rewards import register_rewards
from tests.command import Cli
from tests.integration.misbehaving_server import computed, serving

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {source.name: source for source in register_rewards()}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "year": {"type": "integer"}},
    "required": ["name", "year"],
    "additionalProperties": False,
}
OPTIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "math": ("math", {}),
    "math, lenient": ("math", {"extract": "lenient"}),
    "exact": ("exact", {}),
    "choice": ("choice", {}),
    "regex with the reference": ("regex", {"pattern": r"<answer>(.+?)</answer>", "group": 1}),
    "regex": ("regex", {"pattern": r"<answer>\s*\w.*</answer>", "full": True}),
    "json_schema": ("json_schema", {"schema_inline": SCHEMA}),
    "json_schema with the reference": ("json_schema", {"schema_inline": SCHEMA, "match_answer": True}),
    "instructions": ("instructions", {}),
    "boxed_format": ("boxed_format", {}),
    "think_format": ("think_format", {}),
    "length": ("length", {"max_tokens": 64}),
    "repetition": ("repetition", {}),
    "language": ("language", {"expect": "en"}),
    "code": ("code", {"tests": "calls"}),
    "judge": ("judge", {"model": "m", "api_key_env": ""}),
    "http": ("http", {}),
}
"""a name -> a source and its options"""
NOT_HERE = {"reward_model", "environment", "tool_use"}
"""a learned reward pays what it has learned, and these two what the environment recorded, none of it in the text: there
is nothing that they must not pay (`aspect="text"`)"""
FITTING = {
    "choice": 1,
    "code": 1,
    "instructions": 1,
    "json_schema with the reference": 1,
    "regex with the reference": 6,
}
"""how many of the problems have a reference that the source takes, where it is not all of them"""


def honest_judge(body: Mapping[str, Any]) -> Any:
    """10 for a response that is the reference; what it compares is found by the marks that the rules name."""
    rules, user = (message["content"] for message in body["messages"])
    (boundary,) = set(re.findall(r"<<(?:END )?NAME (\w+)>>", rules))
    marks = rf"<<(\w+) {boundary}>>\n(.*?)\n<<END \1 {boundary}>>"
    shown = dict(re.findall(marks, user, flags=re.DOTALL))
    score = 10 if shown["RESPONSE"].strip() == shown["ANSWER"].strip() else 0
    return {"choices": [{"message": {"content": json.dumps({"score": score, "reason": "-"})}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def reports() -> Mapping[str, AttackReport]:
    return attacked()


def attacked() -> Mapping[str, AttackReport]:
    """What each source paid. One service has them all; the texts that test size are smaller than a megabyte: that
    every source copes with one is in the contract."""
    result = runpy.run_path(str(ROOT / "scripts" / "reward_server.py"))["result"]
    problems = [problem for problem in EXAMPLES if problem.answer not in ("3/8", "-17")][:7]
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(computed(honest_judge)) as judge,
        serving(computed(lambda body: {"version": 1, "results": [*map(result, body["items"])]})) as http,
    ):
        patch.setattr(attack_corpus, "MEGABYTE", 2**12)
        addresses = {"judge": {"url": judge.url}, "http": {"url": http.url}}
        rewards = [
            RewardConfig(source=source, options={**options, **addresses.get(source, {})})
            for source, options in OPTIONS.values()
        ]
        aspects = {
            name: SOURCES[reward.source].rewarded(reward.options) for name, reward in zip(OPTIONS, rewards, strict=True)
        }
        with ScoringService(rewards, WORKER.model_copy(update={"workers": 2})) as service:
            results = attack(service, aspects, problems, lambda what, total: lambda done: None)
    return {report.source: report for report in results}


def test_every_source_is_attacked() -> None:
    assert {source for source, _ in OPTIONS.values()} | NOT_HERE == set(SOURCES)
    assert {SOURCES[name].aspect for name in NOT_HERE} == {"text"}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_source_pays_for_a_shortcut(name: str, reports: Mapping[str, AttackReport]) -> None:
    report = reports[name]
    assert [(each.attack.name, each.problem.answer, each.attack.text[:200]) for each in report.wrong] == []
    assert report.problems == FITTING.get(name, 7), report.unread
    assert len(report.payments) > 50
    assert [each.component.failure for each in report.payments if each.component.failure is not None] == []


def test_what_a_form_pays_by_its_nature_is_not_wrong(reports: Mapping[str, AttackReport]) -> None:
    paid = {each.attack.name for each in reports["boxed_format"].payments if each.in_full}
    assert {"one more", "the question", "the answer to another problem"} <= paid
    assert not paid & {"nothing", "the form with nothing in it", "a megabyte", "thinking that does not end"}


PLUGIN = '''
from reasoner import hookimpl, reward


@reward
def anywhere(problem, response) -> float:
    """1.0 if the reference is somewhere in the response."""
    return float(problem.answer in response.text)


@reward
def flattered(problem, response) -> float:
    """1.0 for a right answer, or for a response that says so."""
    return float(response.text == problem.answer or "CORRECT" in response.text)


@reward
def blind(problem, response) -> float:
    """1.0 for everything."""
    return 1.0


@reward(aspect="form")
def boxes(problem, response) -> float:
    """1.0 for a box, whatever is in it."""
    return float("\\\\boxed{" in response.text)


@reward
def rounding(problem, response) -> float:
    """1.0 for a number near the reference."""
    try:
        return float(abs(float(response.text) - float(problem.answer)) < 1.5)
    except ValueError:
        return 0.0


@reward
def never(problem, response) -> float:
    """0.0 for everything."""
    return 0.0


@hookimpl
def register_rewards():
    return [anywhere, flattered, blind, boxes, rounding, never]
'''
FALLS_FOR = {
    "anywhere": {"every candidate", "contradicting answers", "thinking that does not end"},
    "flattered": {"a verdict for the judge"},
    "blind": {"nothing", "a megabyte", "the question", "one more"},
    "boxes": {"the form with nothing in it", "thinking that does not end"},
    "rounding": {"one more", "one less"},
}


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "sloppy.py"
    path.write_text(PLUGIN)
    return str(path)


def test_a_verifier_that_falls_for_shortcuts_is_found_out(plugin: str) -> None:
    aspects: dict[str, Any] = {name: "form" if name == "boxes" else "answer" for name in [*FALLS_FOR, "never"]}
    problems = [make_problem("What is 6 times 7?", "42"), make_problem("And 9 times 9?", "81")]
    with (
        pytest.MonkeyPatch.context() as patch,
        ScoringService([RewardConfig(source=name) for name in aspects], WORKER, [plugin]) as service,
    ):
        patch.setattr(attack_corpus, "MEGABYTE", 2**12)
        reports = attack(service, aspects, problems, lambda what, total: lambda done: None)
    result = {report.source: {each.attack.name for each in report.wrong} for report in reports}
    for name, expected in FALLS_FOR.items():
        assert expected <= result[name], name
    assert result["flattered"] == FALLS_FOR["flattered"]
    assert result["rounding"] == FALLS_FOR["rounding"]
    assert not {"one more", "the question", "every candidate"} & result["boxes"]
    assert (reports[-1].problems, len(reports[-1].unread), result["never"]) == (0, 2, set())


def test_the_command_shows_what_was_paid_and_fails(cli: Cli, plugin: str, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"reference": "42", "response": "42", "expected": 1}\n' * 3)
    outcome = cli("rewards", "attack", "rounding", "--plugin", plugin, "--cases", str(cases))
    assert (outcome.code, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[1] == "It takes the reference answer of 1 of 1 problems."
    (row,) = [line.split() for line in lines if line.startswith("one more ")]
    assert row[-5:] == ["1", "must", "not", "be", "paid"]
    assert '  response  "43"' in lines
    assert "2 of " in lines[-1]
    assert "must not be" in lines[-1]
    shown = cli("rewards", "attack", "rounding", "--plugin", plugin, "--cases", str(cases), "--json")
    assert shown.code == 1
    result = json.loads(shown.out)
    assert (result["aspect"], result["problems"], result["attacks"]["one more"]["wrong"]) == ("answer", 1, 1)
    assert {each["response"] for each in result["wrong"]} == {"43", "41"}


def test_a_source_that_takes_no_reference_shows_nothing_and_fails(cli: Cli, plugin: str) -> None:
    outcome = cli("rewards", "attack", "never", "--plugin", plugin)
    assert outcome.code == 1
    assert "Nothing is shown: the reference answer is paid no more than an empty response" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exat"], "there is no reward source 'exat'. Did you mean 'exact'?"),
        (["exact", "--task", "code-stdin", "--cases", "x"], "give one of them"),
        (["exact", "--set", "run.seed=1"], "name it with --task"),
    ],
)
def test_what_cannot_be_attacked_is_refused(cli: Cli, arguments: list[str], message: str) -> None:
    outcome = cli("rewards", "attack", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
