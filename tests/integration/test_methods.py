"""Every method trains a tiny model for a few steps through the whole pipeline: real sampler, scoring, learner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasoner.errors import ConfigError, DataError, ScoringError
from reasoner.gro.spec.presets import PRESETS
from reasoner.io.parquet import read_parquet
from reasoner.learning.learner import Learner
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.records import Group, Rollout
from reasoner.runs.folder import read_evaluations, read_gate
from reasoner.sampling.transformers import HfSampler
from reasoner.training.build import open_trainer
from reasoner.training.update import update
from reasoner.training.weight_sync import Gap, check_gap
from tests.resources import resources_of
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

TASK = """
[model]
path = "{model}"
device = "cpu"
[data]
overlap = "allow"
[data.train]
path = "{folder}/problems.jsonl"
[data.eval]
path = "{folder}/problems.jsonl"
limit = 2
[data.pairs]
path = "{folder}/pairs.jsonl"
[data.labelled]
path = "{folder}/labelled.jsonl"
[data.demos]
path = "{folder}/demos.jsonl"
[sampling]
engine = "hf"
group_size = 4
max_tokens = 8
max_prompt_tokens = 256
[[rewards]]
source = "letters"
[learning]
problems_per_step = 4
learning_rate = 1e-3
[evaluation]
correct = "letters"
[run]
steps = 2
output = "{folder}/runs"
"""

LETTERS = str(Path(__file__).with_name("rewarding_letters.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("teacher") / "tiny", seed=1)


@pytest.fixture
def task(tmp_path: Path, model: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {
        "problems": [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(8)],
        "pairs": [{"prompt": f"say {n}", "chosen": f"yes {n}", "rejected": f"no, {n}"} for n in range(8)],
        "labelled": [{"prompt": f"say {n}", "completion": f"yes {n}", "label": n % 2 == 0} for n in range(8)],
        "demos": [{"prompt": f"say {n}", "completion": f"yes {n}"} for n in range(8)],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    file = tmp_path / "trial.toml"
    file.write_text(TASK.format(model=model, folder=tmp_path))
    return file


def run(task: Path, *sets: str) -> tuple[Path, list[dict[str, float]]]:
    """Train; the run folder and the metrics of every step."""
    with open_trainer(load_config(task, sets=sets, plugins=[LETTERS])) as trainer:
        train(trainer)
        return trainer.run.folder, list(trainer.history)


def changed(folder: Path, model: Path) -> bool:
    before, after = (load_file(where / "model.safetensors") for where in (model, folder / "model"))
    return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset: str, task: Path, model: Path, teacher: Path) -> None:
    # The tiny model's pairs are far apart by chance: a hinge that is met everywhere has no weight.
    own = {
        "slic": ["gro.terms.slic.anchor.margin=100.0"],
        "opd": [f"teacher.path={teacher}"],
        "grpo+opd": [f"teacher.path={teacher}"],
        "pass-at-k": ["sampling.group_size=6", "gro.terms.pass-at-k.credit.at=0.5"],
    }
    folder, history = run(task, f"gro.preset={preset}", *own.get(preset, []))
    assert len(history) == 2
    assert changed(folder, model)
    for metrics in history:
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        assert metrics["update/applied"] == 1.0
    named = {name.split("/")[1] for metrics in history for name in metrics if name.startswith("term/")}
    assert named == set(PRESETS[preset].terms)
    online = any(weighted.term.source == "online" for weighted in PRESETS[preset].terms.values())
    assert ("reward/mean" in history[0]) == online
    assert [each.step for each in read_evaluations(folder)] == [0, 2]


def test_the_policy_comes_nearer_to_its_teacher(task: Path, teacher: Path) -> None:
    sets = ["gro.preset=opd", f"teacher.path={teacher}", "run.steps=10", "learning.learning_rate=1e-2"]
    folder, history = run(task, *sets, "sampling.group_size=24", "run.keep_last=0")
    distances = [metrics["teacher/kl"] for metrics in history]
    assert fmean(distances[-3:]) < 0.7 * distances[0]
    rows = [row for path in sorted((folder / "rollouts").glob("step*")) for row in read_parquet(path, Rollout)]
    assert all(row.credit and row.weights and any(row.weights) for row in rows if row.step == 1)


def test_a_teacher_is_identified_and_must_have_the_policys_tokenizer(task: Path, teacher: Path, tmp_path: Path) -> None:
    """A resumed run compares the checksums of the teacher's files with those of its start."""
    sets = ["gro.preset=opd", f"teacher.path={teacher}"]
    here = resources_of(load_config(task, sets=sets, plugins=[LETTERS]), training=True)
    sums = {name: value for name, value in here.identity().items() if name.startswith("teacher: ")}
    assert "teacher: model.safetensors" in sums
    assert sums["teacher: model.safetensors"] != here.identity()["model: model.safetensors"]
    assert here.estimate.teacher is not None
    other = build_tiny_model(tmp_path / "other", seed=1)
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|turn|>"))
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text().replace("<|im_start|>", "<|turn|>")
    )
    changed = load_config(task, sets=["gro.preset=opd", f"teacher.path={other}"], plugins=[LETTERS])
    with pytest.raises(
        ConfigError, match=r"another tokenizer than model\.path: the token '<\|im_start\|>' is number 257"
    ):
        resources_of(changed, training=True)


def test_offline_training_evaluates_on_the_problems_of_the_task_and_on_what_is_held_out(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, after and in between; with the trained weights, and with the curves of both. The sampler is awake for its
    evaluations only."""
    told: list[str] = []
    monkeypatch.setattr(HfSampler, "sleep", lambda self: told.append("sleep"))
    monkeypatch.setattr(HfSampler, "wake", lambda self: told.append("wake"))
    sets = ["data.holdout=0.25", "data.pairs.per_step=3", "evaluation.every=2", "run.steps=6"]
    folder, history = run(task, "gro.preset=dpo", *sets, "learning.learning_rate=3e-3")
    evaluations = {each.step: each.evaluation for each in read_evaluations(folder)}
    assert list(evaluations) == [0, 2, 4, 6]
    assert told == ["sleep", "wake"] * 4
    names = [estimate.name for estimate in evaluations[6].estimates]
    assert names == [
        *("avg@1", "finished", "length", "reward", "reward/letters"),
        *("term/dpo/loss", "term/dpo/accuracy", "term/dpo/margin", "term/dpo/logprob"),
    ]
    assert (evaluations[0].problems, evaluations[0].rows) == (2, 2)
    before, after = evaluations[0].find("term/dpo/loss"), evaluations[6].find("term/dpo/loss")
    assert before is not None
    assert after is not None
    assert before.value == pytest.approx(math.log(2), abs=1e-6)
    assert after.value < 0.9 * before.value
    assert set(before.by_problem) == set(after.by_problem)
    rows = read_parquet(folder / "rollouts" / "eval-000006.parquet", Rollout)
    assert {row.response.policy_version for row in rows} == {6}
    assert "reward/mean" not in history[0]
    log = (folder / "log.txt").read_text()
    assert "evaluation after step 2: 2 problems, 1 response each; 2 held-out rows" in log
    assert "On held-out rows, dpo loss fell" in log


@pytest.mark.parametrize("preset", ["dpo", "kto", "sft"])
def test_without_a_sampler_held_out_rows_are_measured(preset: str, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasoner.training.build.evaluator.open_engine", never)
    monkeypatch.setattr("reasoner.training.build.evaluator.ScoringService", never)
    source = {"dpo": "pairs", "kto": "labelled", "sft": "demos"}[preset]
    sets = ["data.eval=none", "data.holdout=0.25", f"data.{source}.per_step=3", "evaluation={every=1}", "run.steps=3"]
    folder, _ = run(task, f"gro.preset={preset}", *sets)
    evaluations = [each.evaluation for each in read_evaluations(folder)]
    assert [(each.problems, each.samples, each.rows) for each in evaluations] == [(0, 0, 2)] * 4
    assert list(folder.glob("rollouts/*")) == []
    pairs = {f"term/{preset}/accuracy", f"term/{preset}/margin"} if preset == "dpo" else set()
    for each in evaluations:
        assert {found.name for found in each.estimates} - {f"term/{preset}/logprob"} == {f"term/{preset}/loss"} | pairs
    assert "evaluation before training: 2 held-out rows" in (folder / "log.txt").read_text()


def never(*_: object, **__: object) -> None:
    raise AssertionError("an offline run has no use for this")


def test_offline_training_without_an_evaluation_starts_neither_sampler_nor_scoring(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasoner.training.build.evaluator.open_engine", never)
    monkeypatch.setattr("reasoner.training.build.evaluator.ScoringService", never)
    folder, history = run(task, "gro.preset=dpo", "run.steps=12", "data.eval=none")
    assert read_evaluations(folder) == []
    assert history[-1]["term/dpo/accuracy"] == 1.0
    assert history[-1]["term/dpo/margin"] > history[0]["term/dpo/margin"]
    assert history[-1]["term/dpo/loss"] < history[0]["term/dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert "rose" in (folder / "log.txt").read_text()


def test_offline_data_that_are_evaluation_problems_are_left_out_or_refused(task: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"prompt": prompt, "chosen": "yes", "rejected": "no"}) + "\n"
            for prompt in ("0  + 1", "say this", "say that")
        )
    )
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps({"question": f"{n} - 1?", "answer": "?"}) + "\n" for n in range(4)))
    sets = [f"data.train.path={others}", "data.eval.shuffle=false", "data.pairs.per_step=1"]
    sets += ["gro.preset=grpo+dpo", "gro.terms.dpo.source=pairs"]
    resources = resources_of(load_config(task, sets=[*sets, "data.overlap=drop"], plugins=[LETTERS]), training=True)
    assert len(resources.offline["pairs"].groups) == 2
    assert (
        "data.pairs: 1 of 3 problems are also evaluation problems and were left out." in resources.facts["data.pairs"]
    )
    with pytest.raises(
        DataError, match=r"data\.pairs: 1 of 3 problems are also evaluation problems.*\n  pairs:0 is prob"
    ):
        resources_of(load_config(task, sets=[*sets, "data.overlap=refuse"], plugins=[LETTERS]), training=True)


def test_a_task_with_offline_data_alone_is_enough(task: Path, tmp_path: Path, model: Path) -> None:
    alone = tmp_path / "alone.toml"
    alone.write_text(
        f'[model]\npath = "{model}"\ndevice = "cpu"\n[data.demos]\npath = "{tmp_path}/demos.jsonl"\nper_step = 3\n'
        f'[gro]\npreset = "sft"\n[learning]\nlearning_rate = 1e-2\n[run]\nsteps = 8\noutput = "{tmp_path}/runs"\n'
    )
    _, history = run(alone)
    assert history[-1]["term/sft/loss"] < 0.7 * history[0]["term/sft/loss"]


FORGETFUL = """
from reasoner import hookimpl, reward


@reward("forgets")
def forgets(problem, response):
    float("e" in response.text)


@hookimpl
def register_rewards():
    return [forgets]
"""


@pytest.mark.parametrize(
    ("correct", "weights", "evaluated"),
    [("forgets", (0.1, 1.0), False), ("letters", (0.0, 1.0), True)],
)
def test_a_verifier_that_forgets_its_return_ends_the_run_before_it_learns(
    task: Path, tmp_path: Path, correct: str, weights: tuple[float, float], evaluated: bool
) -> None:
    """As the source that decides, before anything is kept of the evaluation; as the only reward, in the first step."""
    (tmp_path / "forgets.py").write_text(FORGETFUL)
    rewards = ", ".join(
        f"{{source = '{name}', weight = {weight}}}"
        for name, weight in zip(("letters", "forgets"), weights, strict=True)
    )
    sets = ["gro.preset=grpo", f"rewards=[{rewards}]", f"evaluation.correct={correct}"]
    resolved = load_config(task, sets=sets, plugins=[LETTERS, str(tmp_path / "forgets.py")])
    with (
        pytest.raises(ScoringError, match="reward source 'forgets' has nothing to say"),
        open_trainer(resolved) as trainer,
    ):
        train(trainer)
    assert not trainer.history
    assert [each.step for each in read_evaluations(trainer.run.folder)] == ([0] if evaluated else [])


def test_several_passes_and_mini_batches_move_the_ratio_and_count_the_optimiser_steps(task: Path, model: Path) -> None:
    _, history = run(task, "gro.preset=grpo", "learning.updates_per_step=2", "learning.epochs=2", "run.steps=1")
    assert history[0]["term/grpo/ratio_max"] > 1.0
    assert history[0]["update/tokens"] > 0
    rollouts_folder, more = run(task, "gro.preset=ppo", "learning.updates_per_step=2", "learning.epochs=2")
    assert {"critic/loss", "critic/explained_variance", "critic/grad_norm"} <= set(more[1])
    rollouts = read_parquet(rollouts_folder / "rollouts" / "step-000002.parquet", Rollout)
    assert {rollout.response.policy_version for rollout in rollouts} == {4}
    assert (rollouts_folder / "model" / "critic" / "value_head.safetensors").exists()


def test_a_switch_changes_the_term_and_a_ramp_its_weight(task: Path) -> None:
    _, history = run(task, "gro.preset=raft->grpo", "run.steps=4", "gro.terms.raft.schedule.at=1")
    assert ["term/raft/loss" in metrics for metrics in history] == [True, False, False, False]
    assert ["term/grpo/loss" in metrics for metrics in history] == [False, True, True, True]
    ramp = "gro.terms.dpo.schedule={kind='linear', first=1, last=3, before=0.0, after=1.0}"
    _, ramped = run(task, "gro.preset=grpo+dpo", "run.steps=4", ramp)
    assert "term/dpo/loss" not in ramped[0]  # a term without weight costs nothing
    assert [metrics.get("term/dpo/weight", 0.0) for metrics in ramped] == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_dynamic_sampling_drops_groups_without_differences_and_goes_on_smaller(task: Path) -> None:
    folder, history = run(task, "gro.preset=grpo", "sampling.refills=2", "sampling.max_tokens=1", "run.steps=2")
    for step, metrics in enumerate(history, 1):
        rows = read_parquet(folder / "rollouts" / f"step-{step:06}.parquet", Rollout)
        by_problem: dict[str, set[float | None]] = {}
        for row in rows:
            by_problem.setdefault(row.problem.id, set()).add(row.reward)
        assert len(rows) == 4 * len(by_problem)  # no problem twice
        assert all(row.dropped == (len(by_problem[row.problem.id]) == 1) for row in rows)
        assert all((row.credit is None) == (row.weights is None) == row.dropped for row in rows)
        # measured over everything that was sampled, what was dropped included
        dropped = sum(row.dropped for row in rows) / 4
        assert metrics["reward/mean"] == pytest.approx(fmean(row.reward or 0.0 for row in rows))
        assert metrics["groups/no_credit"] == pytest.approx(dropped / len(by_problem))
        assert (metrics["groups/kept"], metrics["groups/sampled"]) == (len(by_problem) - dropped, len(by_problem))
        assert metrics["groups/kept"] <= 4 < metrics["groups/sampled"] <= 8


def test_a_step_that_drops_everything_is_measured_and_checked(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No response earns anything: the mean reward is 0, and the sampler is compared with the learner all the same."""
    checked = []

    def check(learner: Learner, groups: Sequence[Group], temperature: float) -> Gap:
        checked.append(len(groups))
        return check_gap(learner, groups, temperature)

    monkeypatch.setattr("reasoner.pipeline.check_gap", check)
    nothing = "rewards.letters.weight=0.0"
    folder, history = run(task, "gro.preset=grpo", "sampling.refills=1", nothing, "run.steps=3")
    assert [metrics["reward/mean"] for metrics in history] == [0.0] * 3
    assert [(metrics["groups/no_credit"], metrics["groups/sampled"]) for metrics in history] == [(1.0, 8.0)] * 3
    assert all(metrics["response/length_mean"] > 0 for metrics in history)
    assert "credit/abs_mean" not in history[0]
    assert "no credit" in (folder / "warnings.jsonl").read_text()
    rows = read_parquet(folder / "rollouts" / "step-000003.parquet", Rollout)
    assert (len(rows), {row.dropped for row in rows}) == (32, {True})
    assert checked == [2, 2]


def test_the_gap_is_checked_while_the_sampler_is_asleep(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plan of the memory says of the update then holds for the check too."""
    told: list[str] = []

    def telling(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*arguments: Any, **options: Any) -> Any:
            told.append(name)
            return function(*arguments, **options)

        return tell

    for name in ("sleep", "wake"):
        monkeypatch.setattr(HfSampler, name, telling(name, getattr(HfSampler, name)))
    monkeypatch.setattr("reasoner.pipeline.check_gap", telling("check", check_gap))
    monkeypatch.setattr("reasoner.pipeline.update", telling("update", update))
    run(task, "gro.preset=grpo", "run.steps=2")
    assert told == ["sleep", "check", "update", "wake"] * 2


def test_corrections_entropy_and_truncation_masks_run_together(task: Path) -> None:
    _, history = run(
        task,
        "gro.preset=grpo",
        "gro.terms.grpo.correction={kind='mask', level='sequence', low=0.5, high=2.0}",
        "gro.terms.grpo.entropy=0.01",
        "gro.terms.grpo.mask_truncated=true",
        "learning.updates_per_step=2",
    )
    assert history[0]["entropy"] > 0.0
    assert history[0]["term/grpo/corrected_share"] == 0.0


WATCHER = """
import json
from pathlib import Path

from pydantic import BaseModel

from reasoner import hookimpl
from reasoner.plugins.tracker_api import TrackerKind

LOG = Path(__file__).with_name("events.jsonl")


def note(*what):
    with LOG.open("a") as file:
        file.write(json.dumps(what) + "\\n")


@hookimpl
def run_started(folder, settings, first_step):
    note("run_started", settings["task"], first_step)


@hookimpl
def groups_sampled(step, groups):
    note("groups_sampled", step, [len(group.responses) for group in groups])


@hookimpl
def groups_scored(step, groups):
    note("groups_scored", step, len(groups))


@hookimpl
def step_finished(step, metrics):
    note("step_finished", step, metrics["reward/mean"])
    raise RuntimeError("a watcher's own trouble")


@hookimpl
def evaluation_finished(step, evaluation):
    note("evaluation_finished", step, evaluation.problems)


@hookimpl
def run_finished(state):
    note("run_finished", state)


class Options(BaseModel):
    fails_at: int


class Following:
    def __init__(self, run, options):
        self.options = options
        note("tracked", run.task, run.first_step, run.settings["trackers"])

    def step(self, step, metrics):
        if step == self.options.fails_at:
            raise RuntimeError("a tracker's own trouble")
        note("tracked", step, metrics["reward/mean"])

    def evaluation(self, step, figures):
        note("tracked", step, sorted(figures)[:2])

    def finish(self, state):
        note("tracked", state)


@hookimpl
def register_trackers():
    return {"own": TrackerKind("a file", Options, lambda options: "ready", Following)}
"""


def test_plugins_see_what_happens_and_cannot_stop_it(task: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "watcher.py"
    plugin.write_text(WATCHER)
    with_plugin = f"plugins=['{Path(__file__).with_name('rewarding_letters.py')}', '{plugin}']"
    sets = ["gro.preset=grpo", with_plugin, "trackers.own.fails_at=2", "trackers.tensorboard={}"]
    with open_trainer(load_config(task, sets=sets)) as trainer:
        train(trainer)
    everything = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    noted = [what for what in everything if what[0] != "tracked"]
    assert [what[0] for what in noted] == [
        *("run_started", "evaluation_finished"),
        *("groups_sampled", "groups_scored", "step_finished") * 2,
        *("evaluation_finished", "run_finished"),
    ]
    assert noted[0][2] == 1
    assert noted[2][:2] == ["groups_sampled", 1]
    assert len(noted[2][2]) == 4
    assert noted[3] == ["groups_scored", 1, 4]
    assert noted[4] == ["step_finished", 1, trainer.history[0]["reward/mean"]]
    assert noted[-1] == ["run_finished", "finished"]
    log = (trainer.run.folder / "log.txt").read_text()
    assert log.count("watcher.py: step_finished failed: RuntimeError: a watcher's own trouble") == 2
    tracked = [what[1:] for what in everything if what[0] == "tracked"]
    assert tracked == [
        [load_config(task, sets=sets).config.task, 1, {"own": {"fails_at": 2}, "tensorboard": {}}],
        [0, ["evaluation/avg@1", "evaluation/finished"]],
        [1, trainer.history[0]["reward/mean"]],
    ]  # and nothing after its own trouble
    assert log.count("tracker own failed and gets no further figures: RuntimeError: a tracker's own trouble") == 1
    assert list((trainer.run.folder / "tensorboard").glob("events.out.tfevents.*"))


def test_the_evening_on_a_laptop_runs_demonstrations_first_and_then_rewards(tmp_path: Path, model: Path) -> None:
    """The profile of docs/laptop-evening.md, with a tiny model and two steps: the switch comes after the first."""
    sets = [
        *(f'model.path="{model}"', f'run.output="{tmp_path}"', "run.steps=2", "sampling.engine=hf"),
        *(
            "sampling.max_tokens=4",
            "sampling.max_prompt_tokens=500",
            "data.demos.max_tokens=512",
            "data.on_bad_row=drop",  # the tiny tokenizer makes three times as many tokens
            "data.eval.limit=4",
        ),
        *("data.train.limit=40", "data.demos.limit=40", "sampling.group_size=2", "data.demos.per_step=2"),
    ]
    with open_trainer(load_config("math-gsm8k", "evening", sets=sets)) as trainer:
        train(trainer, gate=True)
    first, second = trainer.history
    assert (first["term/sft/weight"], second["term/grpo/weight"]) == (1.0, 1.0)
    assert "term/grpo/weight" not in first
    assert "reward/mean" not in first
    assert "term/sft/weight" not in second
    assert "curriculum/tried" in second
    assert read_gate(trainer.run.folder)


def test_responses_of_some_steps_are_kept_and_figures_of_all(task: Path) -> None:
    folder, history = run(task, "gro.preset=rloo", "run.steps=5", "run.keep_rollouts=3", "evaluation.every=4")
    kept = sorted(path.stem for path in (folder / "rollouts").iterdir())
    assert kept == ["eval-000000", "eval-000004", "eval-000005", "step-000001", "step-000003", "step-000005"]
    assert len(history) == 5
    assert {row.step for path in (folder / "rollouts").glob("step-*") for row in read_parquet(path, Rollout)} == {
        1,
        3,
        5,
    }
