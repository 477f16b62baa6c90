"""The results of `reasoner eval` as tables and JSON; what its parts are made of."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from reasoner.benchmarks.check import check_engine
from reasoner.benchmarks.parts import letters_of, prepare
from reasoner.benchmarks.results import BenchmarkResult, as_json
from reasoner.benchmarks.table import print_results
from reasoner.config.decisions import Decisions, SamplerEngine
from reasoner.data.prompts.chat_probe import TurnEnd
from reasoner.errors import SamplerError
from reasoner.evaluation.metrics import Criterion, Evaluation, summarise
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.loading import load_config
from reasoner.models.model_config import context_of
from reasoner.models.run_models import record_step
from reasoner.planning.decide import ALONE_SHARE
from reasoner.records import Component, Failure, Group, Message, Problem, Response, SamplingParams, ScoredGroup
from tests.architectures import build
from tests.ragged import ragged_groups

SAMPLES = 16


def evaluation(accuracy: float, length: int, seed: int = 0, problems: int = 40, failing: int = 0) -> Evaluation:
    """Of a model that is right with probability `accuracy`, and whose first `failing` verdicts failed."""
    chance = random.Random(seed)
    groups = []
    for number in range(problems):
        problem = Problem(f"p:{number}", (Message("user", str(number)),), "1")
        components = []
        for sample in range(SAMPLES):
            right = chance.random() < accuracy
            failed = number == 0 and sample < failing
            failure = Failure("math", "timeout", "killed", 5.0) if failed else None
            value = None if failed else float(right)
            components.append((Component("math", 1.0, value, {"extracted": str(int(right))}, failure=failure),))
        response = Response("", (7,) * length, (True,) * length, (0.0,) * length, "stop", 0)
        rewards = tuple(None if each[0].failure else each[0].value for each in components)
        groups.append(ScoredGroup(Group(problem, (1,), (response,) * SAMPLES), tuple(components), rewards))
    return summarise(groups, SAMPLES, Criterion("math"))


def result(letter: str, found: Evaluation) -> BenchmarkResult:
    sets = [f"model.path={letter.lower() * 100}", f"evaluation.samples={SAMPLES}", "evaluation.temperature=0.6"]
    return BenchmarkResult(letter, load_config("math-500", "gpu", sets=sets).config, found)


def shown(results: list[BenchmarkResult]) -> list[str]:
    buffer = io.StringIO()
    print_results(Console(file=buffer, width=80, color_system=None), Path("runs/one"), results)
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


def test_two_models_fit_80_columns_even_where_some_abstained() -> None:
    lines = shown([result("A", evaluation(0.3, 9999)), result("B", evaluation(0.6, 12, seed=1, failing=3))])
    assert max(len(line) for line in lines if "aaaa" not in line and "bbbb" not in line) <= 80
    text = "\n".join(lines)
    assert "math-500: 40 problems, 16 responses each, temperature 0.6" in text
    heading = next(line for line in lines if "interval" in line)
    assert heading.split() == [
        *("avg@16", "[95%", "interval]", "pass@16", "maj@16", "finished", "length", "reward", "abstained"),
    ]
    assert [line.split()[-1] for line in lines if line[:2] in ("A ", "B ") and "%" in line] == ["0", "3"]
    differences = [line.split() for line in lines[lines.index("paired by problem; shares in points") + 2 :] if line]
    assert differences[0][:4] == ["B", "-", "A", "avg@16"]
    assert differences[0][-3:] == ["<0.001", "beyond", "noise"]
    assert [row[0] for row in differences[1:6]] == ["pass@16", "maj@16", "finished", "length", "reward"]
    assert lines[-4:] == [f"A  {'a' * 100}", f"B  {'b' * 100}", "", "evaluation folder: runs/one"]


def test_a_model_of_a_run_is_named_with_its_step(tmp_path: Path) -> None:
    """The one that `reasoner export` and the model card name."""
    record_step(tmp_path, 20)
    results = result("A", evaluation(0.3, 9))
    of_run = replace(results, config=load_config("math-500", "gpu", sets=[f"model.path={tmp_path}"]).config)
    assert f"A  {tmp_path}, step 20 of its run" in shown([of_run])


def test_of_three_models_the_others_are_compared_with_the_first_by_correctness() -> None:
    lines = shown([result(letter, evaluation(0.5, 9, seed)) for seed, letter in enumerate("ABC")])
    after = lines[lines.index("paired by problem; shares in points") + 2 :]
    assert [line.split()[0:3] for line in after if line.startswith(("B -", "C -"))] == [
        ["B", "-", "A"],
        ["C", "-", "A"],
    ]
    assert not any("length" in line for line in after)


def test_one_model_has_every_figure() -> None:
    text = "\n".join(shown([result("A", evaluation(0.5, 9))]))
    for name in ("avg@16", "pass@2", "pass@16", "maj@16", "parsable", "math"):
        assert f"\n{name} " in text
    assert "paired" not in text


def test_the_json_is_plain_and_has_nulls_where_there_is_no_interval() -> None:
    one = as_json(Path("runs/one"), [result("A", evaluation(0.5, 9, problems=1)), result("B", evaluation(0.5, 9))])
    results: dict[str, Any] = json.loads(json.dumps(one, allow_nan=False))
    assert results["tasks"][0]["results"]["A"]["figures"]["length"] == {
        "unit": "tokens",
        "problems": 1,
        "value": 9.0,
        "low": None,
        "high": None,
    }
    (compared,) = results["tasks"][0]["comparisons"]
    assert (compared["baseline"], compared["model"]) == ("A", "B")
    assert compared["figures"]["avg@16"]["problems"] == 1
    assert (results["tasks"][0]["correct"], results["tasks"][0]["threshold"]) == ("math", 1.0)
    assert results["tasks"][0]["results"]["A"]["judged"] == 1


def test_how_many_problems_are_judged_stands_beside_the_figures() -> None:
    """The source says of model A's third problem that it does not apply, of model B's first and third."""
    response = Response("", (7,), (True,), (0.0,), "stop", 0)
    results = []
    for letter, values in {"A": (1.0, 0.0, None, 0.0), "B": (None, 1.0, None, 0.0)}.items():
        scored = [
            ScoredGroup(
                Group(Problem(f"p:{number}", (Message("user", "?"),), "1"), (1,), (response,) * SAMPLES),
                ((Component("math", 1.0, value),),) * SAMPLES,
                (value or 0.0,) * SAMPLES,
            )
            for number, value in enumerate(values)
        ]
        results.append(result(letter, summarise(scored, SAMPLES, Criterion("math"))))
    lines = shown(results)
    assert "4 problems (3 of them judged), 16 responses each" in "\n".join(lines)
    assert [line.split()[-1] for line in lines if line[:2] in ("A ", "B ") and "%" in line] == ["3", "2"]
    assert "paired by problem; shares in points; correctness over 2 of 4 problems, judged" in "\n".join(lines)
    change = next(line.split() for line in lines if line.startswith("B - A"))
    assert change[3:8] == ["avg@16", "+50.0", "[+0.0,", "+100.0]", "1"]
    (compared,) = as_json(Path("runs/one"), results)["tasks"][0]["comparisons"]
    figures = compared["figures"]
    assert (figures["avg@16"]["problems"], figures["length"]["problems"]) == (2, 4)
    assert (figures["avg@16"]["baseline"], figures["avg@16"]["model"]) == (0.0, 0.5)


def test_letters_go_on_after_z() -> None:
    resolved = [load_config("math-500", "laptop", sets=[f"model.path=m{number}"]) for number in range(28)]
    letters = list(letters_of(resolved).values())
    assert (letters[0], letters[25], letters[26], letters[27]) == ("A", "Z", "A2", "B2")


def test_an_evaluation_has_the_gpu_for_itself_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def load(resolved: Any, decisions: Decisions, *, training: bool) -> None:
        seen.append(resolved.config.sampling.memory_share)
        raise InterruptedError

    monkeypatch.setattr("reasoner.benchmarks.parts.load_resources", load)
    for sets in ([], ["sampling.memory_share=0.3"]):
        one = load_config("math-500", "gpu", sets=sets)
        with pytest.raises(InterruptedError):
            prepare([one], letters_of([one]))
    assert seen == [ALONE_SHARE, 0.3]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": None}, 512),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, None),
        ({}, None),
    ],
)
def test_how_long_a_context_is(tmp_path: Path, settings: dict[str, Any], tokens: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert context_of(tmp_path) == tokens


@pytest.mark.parametrize(
    ("engine", "opened_for", "right"),
    [("vllm", 65, True), ("servers", 65, True), ("vllm", 64, False), ("hf", 65, False)],
)
def test_the_plain_forward_pass_rotates_as_the_engine_that_is_compared_with_it(
    tmp_path: Path, engine: str, opened_for: int, right: bool
) -> None:
    """With longrope vLLM takes the frequencies for long sequences wherever one could be long, transformers never for
    short ones."""
    folder = build("phi3-longrope", tmp_path)
    config = load_config("math-500", "gpu", sets=["model.dtype=float32", f"model.path={folder}"]).config
    groups = ragged_groups((20, 30), 2, 12)
    policy = TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", token_budget=512, logit_chunk=256))
    policy.rotate_as_vllm(65)
    logprobs = iter(policy.logprobs(groups, 1.0))
    sampled = [
        replace(
            group, responses=tuple(replace(each, sampler_logprobs=tuple(next(logprobs))) for each in group.responses)
        )
        for group in groups
    ]
    sampler = SimpleNamespace(name=engine, sample=lambda *_: iter(sampled), sleep=lambda: None, wake=lambda: None)
    decisions = Decisions("cpu", cast(SamplerEngine, engine), "", 64)
    resources = SimpleNamespace(folder=folder, decisions=decisions, turn_end=TurnEnd())
    part: Any = SimpleNamespace(
        letter="A", config=config, prompts=(), params=SamplingParams(1.0, 12), resources=resources
    )
    message: list[str] = []
    if right:
        check_engine(part, sampler, opened_for, message.append)
        assert "log-probabilities as of a plain forward pass" in message[0]
    else:
        with pytest.raises(SamplerError, match="differ from those of a plain forward pass"):
            check_engine(part, sampler, opened_for, message.append)
