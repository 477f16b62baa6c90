"""Responses of several turns through the whole pipeline: a real engine, real workers, a real learner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from reasoner.data.turn_formats.tags import TagsFormat
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.models.resolve import resolve_model
from reasoner.models.tokenizer import open_tokenizer
from reasoner.pipeline import train
from reasoner.records import Rollout, ToolCall
from reasoner.runs.folder import read_evaluations
from reasoner.training.build import open_trainer
from reasoner.training.guards.canary import Canary
from tests.command import Cli
from tests.tasks import write_task
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

SETTINGS = {
    "data.eval.limit": 3,
    "sampling.max_tokens": 110,
    "sampling.stop": ["W", "J", "H", "T", "N", "G", "o"],
    "sampling.max_prompt_tokens": 400,
    "environment.format": "tags",
    "environment.max_failure_rate": 0.8,
    "learning.learning_rate": 1e-3,
    "run.steps": 2,
}
TOOLS = {"environment.tools": ["calculator"], "environment.max_turns": 3}
PLUGINS = [str(Path(__file__).with_name(name)) for name in ("rewarding_letters.py", "walking_environment.py")]


def task_of(folder: Path, settings: Mapping[str, Any]) -> Path:
    """A task with these settings beside those of all tests here."""
    rows = [{"question": f"{n} + 1?", "answer": "lost" if n % 4 == 3 else str(n + 1)} for n in range(8)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_tiny_model(folder / "tiny")
    return write_task(folder, "letters", SETTINGS | dict(settings))


def check_tokens(rollout: Rollout, most: int = 110) -> None:
    """The turns cover the response; what the policy did not write has no log-probability and no weight."""
    response = rollout.response
    assert len(response.token_ids) <= most
    assert [turn.first for turn in response.turns] == [0, *(turn.end for turn in response.turns)][: len(response.turns)]
    assert not response.turns or response.turns[-1].end == len(response.token_ids)
    for turn in response.turns:
        assert set(response.policy_mask[turn.first : turn.end]) == {turn.role == "assistant"}
    for at, own in enumerate(response.policy_mask):
        assert own or (response.sampler_logprobs[at] == 0.0 and not (rollout.weights or {at: 0.0})[at])


def read_rollouts(folder: Path, name: str) -> list[Rollout]:
    rollouts = read_parquet(folder / "rollouts" / f"{name}.parquet", Rollout)
    for rollout in rollouts:
        check_tokens(rollout)
    return rollouts


def calling() -> Callable[[Any, Sequence[int], str], tuple[ToolCall, ...]]:
    """In place of a policy that has learnt to call: each turn that is read does another thing than the one before."""
    number = count()

    def read(self: Any, written: Sequence[int], text: str) -> tuple[ToolCall, ...]:
        calls = (
            ToolCall("calculator", {"expression": f"{len(written)} + 1"}),
            ToolCall("calculator", {"expression": "1 / 0"}),
            ToolCall("nothing", {}),
        )
        kind = next(number) % 4
        return calls[kind : kind + 1]

    return read


def test_a_run_with_a_tool_trains_on_what_the_policy_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TagsFormat, "read", calling())
    task = task_of(tmp_path, TOOLS)
    with open_trainer(load_config(task, plugins=PLUGINS)) as trainer:
        train(trainer)
        folder, history = trainer.run.folder, trainer.history
    rollouts = read_rollouts(folder, "step-000001") + read_rollouts(folder, "step-000002")
    results = {
        turn.text for rollout in rollouts for turn in rollout.response.turns if turn.role == "tool" and not turn.error
    }
    assert {"2", "3", "5"} & results or any(text.isdigit() for text in results)
    errors = {call.error for rollout in rollouts for turn in rollout.response.turns for call in turn.calls} - {""}
    assert errors
    assert all("nothing" in error for error in errors)
    assert any(turn.error for rollout in rollouts for turn in rollout.response.turns)
    # an answer after calls; a policy that still calls at its last turn was cut
    assert {len(rollout.response.turns) for rollout in rollouts} >= {1, 3, 5}
    assert {
        r.response.finish_reason for r in rollouts if len(r.response.turns) == 5 and r.response.turns[-1].calls
    } == {"length"}
    for metrics in history:
        assert metrics["gap/mean"] < 1e-4  # the learner reads the same tokens
        assert metrics["tools/calls"] > 0
        assert 0 < metrics["tools/malformed"] < 1
        assert 0 < metrics["tools/failed"] < 1
        assert metrics["environment/failed"] == 0.0
        assert all(math.isfinite(value) for value in metrics.values())
    weighed = [rollout for rollout in rollouts if rollout.credit]
    assert weighed
    assert any(any(rollout.weights or ()) for rollout in weighed if len(rollout.response.turns) > 1)
    assert any(rollout.response.turns for rollout in read_rollouts(folder, "eval-000002"))


def test_an_evaluation_has_the_tools_of_its_task_and_without_them_it_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setattr(TagsFormat, "read", calling())
    task = task_of(tmp_path, TOOLS)
    plugins = [each for plugin in PLUGINS for each in ("--plugin", plugin)]
    shared = ("eval", str(task), *plugins, "--samples", "4", "--temperature", "1", "--json")
    done = cli(*shared, "--output", str(tmp_path / "with"))
    assert done.code == 0, done.err + done.out
    [file] = (tmp_path / "with").glob("*-eval-*/*/rollouts/*.parquet")
    rollouts = read_parquet(file, Rollout)
    assert len(rollouts) == 12
    for rollout in rollouts:
        check_tokens(rollout)
    assert any(turn.role == "tool" and turn.text.isdigit() for r in rollouts for turn in r.response.turns)
    done = cli(*shared, "--output", str(tmp_path / "without"), "--set", "environment=none")
    assert done.code == 0, done.err + done.out
    [file] = (tmp_path / "without").glob("*-eval-*/*/rollouts/*.parquet")
    assert all(
        not rollout.response.turns and rollout.response.report is None for rollout in read_parquet(file, Rollout)
    )


def test_turns_are_paid_and_lost_environments_abstain(tmp_path: Path) -> None:
    rewards = [{"source": "letters"}, {"source": "environment", "weight": 2.0}]
    task = task_of(tmp_path, {"environment.name": "walk", "rewards": rewards})
    sets = ["gro.terms.grpo.credit.level=turn", "learning.updates_per_step=2", "data.train.shuffle=false"]
    with open_trainer(load_config(task, sets=sets, plugins=PLUGINS)) as trainer:
        train(trainer)
        folder, history = trainer.run.folder, trainer.history
    rollouts = read_rollouts(folder, "step-000001") + read_rollouts(folder, "step-000002")
    lost = [rollout for rollout in rollouts if rollout.problem.answer == "lost"]
    assert len(lost) == 8
    for rollout in lost:
        failure = rollout.response.failure
        assert failure is not None
        assert (rollout.reward, rollout.response.policy_mask) == (None, (False,))
        assert "there is no such place" in failure.message
        assert {part.failure for part in rollout.components} == {failure}
    assert all(metrics["environment/failed"] == metrics["reward/abstained"] == 0.25 for metrics in history)
    walked = [rollout for rollout in rollouts if rollout.problem.answer != "lost"]
    by_turns = 0
    for rollout in walked:
        report = rollout.response.report
        assert report is not None
        of_policy = [turn for turn in rollout.response.turns if turn.role == "assistant"]
        assert len(report.turn_rewards) == len(of_policy) or rollout.response.finish_reason == "length"
        assert rollout.components[1].value == report.reward
        weights = rollout.weights or ()
        credits = {round(sum(weights[turn.first : turn.end]) / (turn.end - turn.first), 9) for turn in of_policy}
        by_turns += len(credits) > 1
    assert by_turns
    evaluation = read_evaluations(folder)[0].evaluation
    assert (evaluation.problems, evaluation.abstained) == (3, 0)
    prompts = {rollout.prompt_ids for rollout in walked if rollout.problem.id == walked[0].problem.id}
    assert len(prompts) == 1


CALCULATIONS = """
[model]
path = "embedded:smollm2-135m-instruct"
device = "cpu"
[prompt]
template = "What is {{{{ question }}}}?"
examples = [
    {{ user = "What is 12 * 3?", assistant = "<tool>calculator 12 * 3</tool><result>36</result>\\n\\\\boxed{{36}}" }},
    {{ user = "What is 14 + 23?", assistant = "<tool>calculator 14 + 23</tool><result>37</result>\\n\\\\boxed{{37}}" }},
]
[data.train]
path = "{folder}/calculations.jsonl"
[data.eval]
path = "{folder}/calculations.jsonl"
limit = 1
[data]
overlap = "allow"
[sampling]
engine = "hf"
group_size = 4
max_tokens = 40
max_prompt_tokens = 400
[environment]
format = "tags"
tools = ["calculator"]
max_turns = 3
[[rewards]]
source = "math"
[gro]
preset = "grpo"
[learning]
problems_per_step = 2
[evaluation]
every = 0
correct = "math"
max_tokens = 20
[run]
steps = 1
keep_last = 0
keep_best = 0
output = "{folder}/runs"
"""


def test_a_small_model_calls_a_tool_in_tags_and_learns_from_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model, shown two examples: nothing is made up but the two calculations."""
    monkeypatch.setattr(Canary, "prove", lambda self, prompts: "")  # as long as all the rest; `test_canary` has it
    rows = [{"question": "412 * 31", "answer": "12772"}, {"question": "17 * 23", "answer": "391"}]
    (tmp_path / "calculations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "calculations.toml").write_text(CALCULATIONS.format(folder=tmp_path))
    with open_trainer(load_config(tmp_path / "calculations.toml")) as trainer:
        train(trainer)
        folder, history = trainer.run.folder, trainer.history
    tokenizer = open_tokenizer(resolve_model("embedded:smollm2-135m-instruct"), False)
    rollouts = read_parquet(folder / "rollouts" / "step-000001.parquet", Rollout)
    assert len(rollouts) == 8
    called = 0
    for rollout in rollouts:
        check_tokens(rollout, most=40)
        response = rollout.response
        assert len(rollout.weights or response.token_ids) == len(response.policy_mask) == len(response.token_ids)
        prompt = tokenizer.decode(rollout.prompt_ids)
        assert "You can use tools." in prompt
        assert prompt.endswith("<|im_start|>assistant\n")
        for before, turn in pairwise(response.turns):
            if turn.role == "tool" and before.text.rstrip("<").endswith("</tool>"):
                called += not turn.error
                written = tokenizer.decode(response.token_ids[before.first : turn.end])
                assert written.endswith(f"</tool><result>{turn.text}</result>\n")  # each sign once, whatever the tokens
        last = [turn for turn in response.turns if turn.role == "assistant"][-1]
        assert response.text == last.text
        assert tokenizer.decode(response.token_ids[last.first : last.end], skip_special_tokens=True) == last.text
        boxed = f"\\boxed{{{rollout.problem.answer}}}" in last.text
        assert rollout.reward == 1.0 or not boxed
    assert called
    assert history[0]["tools/calls"] >= called / len(rollouts)
    assert history[0]["gap/mean"] < 1e-4
