"""One step off-policy: the next step's groups are drawn during the update, and everything says so."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reasoner.errors import ConfigError, HandoverError, SamplerError
from reasoner.io.parquet import read_parquet
from reasoner.loading import load_config
from reasoner.pipeline import train
from reasoner.records import Group, Message, PartialGroup, Problem, Receipt, Rollout
from reasoner.runs.folder import read_metrics
from reasoner.sampling.base import Progress
from reasoner.sampling.transformers import HfSampler
from reasoner.training.build import open_trainer
from reasoner.training.prefetch import Prefetcher
from reasoner.training.rollout import StepRollouts
from tests.integration.killing import OVER, PLUGIN
from tests.integration.test_resume import (
    OneTrial,
    check_equal,
    check_every_group_once,
    of_step,
    one_trial,
    only,
    write_task,
)
from tests.tiny import build_tiny_model

pytestmark = pytest.mark.slow

AHEAD = ("sampling.max_staleness=1", "run.checkpoint_every=1")
GROUP = Group(Problem("p", (Message("user", "?"),), "4"), (1,), ())


@pytest.fixture
def trial(tmp_path: Path) -> OneTrial:
    return one_trial(tmp_path)


@pytest.fixture
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    return one_trial(tmp_path_factory.mktemp("once")).begin("once", *AHEAD)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path, build_tiny_model(tmp_path / "tiny"))


def run(task: Path, *sets: str, staleness: int = 1, steps: int = 4) -> Path:
    sets = ("gro.preset=grpo", f"sampling.max_staleness={staleness}", f"run.steps={steps}", *sets)
    with open_trainer(load_config(task, sets=list(sets), plugins=[str(PLUGIN)])) as trainer:
        train(trainer)
    return trainer.run.folder


def versions(folder: Path) -> list[set[int]]:
    """The versions of the weights that drew each step's responses."""
    files = sorted((folder / "rollouts").glob("step-*.parquet"))
    return [{row.response.policy_version for row in read_parquet(file, Rollout)} for file in files]


def test_every_step_learns_from_responses_of_the_step_before(task: Path) -> None:
    folder = run(task, "evaluation.every=2")
    assert versions(folder) == [{0}, {0}, {1}, {2}]
    metrics = read_metrics(folder)
    assert [row["response/staleness"] for row in metrics] == [0, 1, 1, 1]
    assert all(row["sample/seconds"] > 0 for row in metrics)
    # The first groups are of the weights that learn from them: there is nothing to correct.
    assert metrics[0]["gap/mean"] < 1e-5 < metrics[1]["gap/mean"]


def test_sampling_runs_several_steps_ahead_and_no_response_is_older_than_allowed(task: Path) -> None:
    folder = run(task, "evaluation.every=4", staleness=3, steps=6)
    for step, used in enumerate(versions(folder), 1):
        assert step - 4 <= min(used) <= max(used) < step
    metrics = read_metrics(folder)
    assert all(0 <= row["response/staleness"] <= 3 for row in metrics)
    assert all(0 <= row["response/weights_changed"] <= 1 for row in metrics)
    assert max(row["response/staleness"] for row in metrics) > 1
    assert metrics[0]["gap/mean"] < 1e-5  # of the weights that learn from them


def test_groups_that_are_not_complete_when_a_step_has_enough_are_continued_at_the_next(task: Path) -> None:
    folder = run(task, *OVER, "evaluation.every=3", staleness=1, steps=6)
    check_every_group_once(folder, steps=6)
    metrics = read_metrics(folder)
    assert [row["response/carried"] > 0 for row in metrics] == [False, True, True, True, True, True]
    assert sum(row["response/continued"] for row in metrics) > 0
    assert all(0 < row["tokens/carried"] < 1 for row in metrics[1:])
    assert {row["tokens/discarded"] for row in metrics} == {0}
    assert max(row["tokens/staleness_max"] for row in metrics) == 1
    assert all(0 <= row["tokens/staleness_mean"] < 1 <= row["response/versions"] < 2 for row in metrics)
    assert metrics[0]["gap/mean"] < 1e-5  # of the weights that learn from them


def test_groups_are_continued_while_sampling_runs_ahead(task: Path) -> None:
    folder = run(task, *OVER, staleness=3, steps=6)
    for step, used in enumerate(versions(folder), 1):
        assert step - 4 <= min(used) <= max(used) < step
    assert sum(row["response/carried"] for row in read_metrics(folder)) > 0


def test_a_run_that_is_interrupted_while_it_samples_continues_what_its_checkpoint_has(trial: OneTrial) -> None:
    sets = ("sampling.max_staleness=1", *OVER, "run.checkpoint_every=1")
    interrupted = trial.interrupted("over", "scored-4", *sets)
    [*_, last] = sorted((interrupted / "checkpoints").iterdir())
    assert last.name == "step-000003"
    kept = read_parquet(last / "partial-0.parquet", PartialGroup)
    trial.go_on(interrupted)
    check_every_group_once(interrupted, steps=4)
    rows = {(row.problem.id, row.sample): row.response for row in of_step(interrupted, 4)}
    for group in kept:  # weights of two steps before would be too old, so they are of this step
        for begun in group.partial:
            response = rows[group.problem.id, begun.sample]
            assert response.token_ids[: len(begun.token_ids)] == begun.token_ids
            assert response.sampler_logprobs[: len(begun.token_ids)] == begun.sampler_logprobs
            assert response.carried_tokens == len(begun.token_ids)


def test_groups_of_several_steps_are_in_a_checkpoint(trial: OneTrial) -> None:
    """State is exact: the groups that were sampled before the interruption are those that the resumed run learns from,
    with the versions of the weights that sampled them."""
    interrupted = trial.interrupted("several", "scored-3", "sampling.max_staleness=2", "run.checkpoint_every=1")
    [*_, last] = sorted((interrupted / "checkpoints").iterdir())
    kept = read_parquet(last / "ahead.parquet", StepRollouts)
    assert [rollouts.step for rollouts in kept] == [int(last.name[-6:]) + 1, int(last.name[-6:]) + 2]
    trial.go_on(interrupted)
    for rollouts in kept:
        rows = read_parquet(interrupted / "rollouts" / f"step-{rollouts.step:06d}.parquet", Rollout)
        sampled = [response for scored in rollouts.sampled for response in scored.group.responses]
        assert [row.response for row in rows if row.training] == sampled


def test_nothing_is_drawn_that_is_not_used(task: Path) -> None:
    """Steps without fresh groups in between, and none after the last."""
    folder = run(task, "gro.terms.sft.preset=sft", "gro.terms.grpo.schedule={kind='switch', at=2}")
    assert versions(folder) == [{0}, {0}]


def test_a_sampler_that_keeps_old_weights_is_found(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HfSampler.load

    def keep(self: Any, folder: Path, version: int) -> Receipt:
        before = {name: value.clone() for name, value in self._model.state_dict().items()}
        receipt = whole(self, folder, version)
        self._model.load_state_dict(before)
        return receipt

    monkeypatch.setattr(HfSampler, "load", keep)
    with pytest.raises(HandoverError, match=r"the sampler does not take what it is given of"):
        run(task, "learning.learning_rate=0.01")


def test_a_sampler_that_fails_during_the_update_ends_the_run(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HfSampler.begin

    def fail(self: Any, *arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise SamplerError("the sampler is gone")
        return whole(self, *arguments)

    monkeypatch.setattr(HfSampler, "begin", fail)
    with pytest.raises(SamplerError, match="the sampler is gone"):
        run(task)


def test_a_draw_that_failed_costs_no_problem(trial: OneTrial, once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes back to where the draw had not begun: a resumed one draws the same problems."""
    whole, draws = HfSampler.begin, iter(range(100))

    def fail(self: Any, *arguments: Any) -> Any:
        # Of step 4: step 3 goes on without a look at it.
        if threading.current_thread() is not threading.main_thread() and next(draws) == 2:
            raise SamplerError("the sampler is gone")
        return whole(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(HfSampler, "begin", fail)
        with pytest.raises(SamplerError, match="the sampler is gone"):
            trial.begin("failed", *AHEAD)
    failed = only(trial.folder / "failed")
    assert json.loads((failed / "status.json").read_text())["state"] == "failed"
    trial.go_on(failed)
    check_equal(once, failed)


# ---- the thread


def fresh(step: int) -> StepRollouts:
    return StepRollouts(step, (), False, None, 0, 0.0, {}, {})


def test_drawing_goes_on_beside_its_caller_who_waits_where_it_must() -> None:
    some, all_ = threading.Event(), threading.Event()
    shown: list[tuple[int, int]] = []

    def collect(*, progress: Progress, on_group: Any) -> StepRollouts:
        progress(0, 2)  # nobody waits: the view belongs to the update
        assert some.wait(10)
        on_group(GROUP)
        assert all_.wait(10)
        progress(2, 2)
        return fresh(2)

    with Prefetcher() as ahead:
        ahead.start(2, collect)
        assert not ahead.is_settled
        assert ahead.ready == ()
        some.set()
        assert ahead.first(any_group) is GROUP
        assert not ahead.is_settled
        threading.Timer(0.2, all_.set).start()
        assert ahead.take(2, lambda done, total: shown.append((done, total))) == fresh(2)
        assert shown == [(2, 2)]
        assert ahead.take(3, lambda done, total: None) is None


def test_groups_of_another_step_and_none_at_all() -> None:
    with Prefetcher() as ahead:
        assert ahead.first(any_group) is None
        ahead.restore([fresh(2), fresh(4)])
        assert ahead.last == 4
        assert ahead.first(any_group) is None
        assert [rollouts.step for rollouts in ahead.ready] == [2, 4]
        assert ahead.take(3, lambda done, total: None) is None
        assert [rollouts.step for rollouts in ahead.ready] == [4]


def any_group(group: Group) -> bool:
    return True


def test_several_steps_are_sampled_one_after_the_other_and_taken_in_turn() -> None:
    going = {step: threading.Event() for step in (2, 3, 4)}
    begun: list[int] = []

    def collect(step: int, *, progress: Progress, on_group: Any) -> StepRollouts:
        begun.append(step)
        assert going[step].wait(10)
        on_group(replace(GROUP, prompt_ids=(step,)))
        return fresh(step)

    def nothing(done: int, total: int) -> None:
        pass

    with Prefetcher() as ahead:
        for step in going:
            ahead.start(step, partial(collect, step))
        assert ahead.last == 4
        going[2].set()
        assert ahead.take(2, nothing) == fresh(2)
        threading.Timer(0.1, going[3].set).start()
        threading.Timer(0.2, going[4].set).start()
        result = ahead.first(lambda group: group.prompt_ids == (4,))
        assert result
        assert result.prompt_ids == (4,)
        ahead.wait()
        assert ahead.is_settled
        assert ahead.ready == (fresh(3), fresh(4))
        assert ahead.take(4, nothing) == fresh(4)  # step 3 did not want its groups
        assert begun == [2, 3, 4]


# ---- the configuration


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("grpo", {"grpo": ("truncate", "token")}),
        ("gspo", {"gspo": ("truncate", "geometric")}),
        ("grpo+dpo", {"grpo": ("truncate", "token"), "dpo": ("none", "token")}),
    ],
)
def test_stale_responses_are_corrected(task: Path, preset: str, expected: dict[str, tuple[str, str]]) -> None:
    resolved = load_config(task, sets=[f"gro.preset={preset}", "sampling.max_staleness=1"], plugins=[str(PLUGIN)])
    terms = resolved.config.gro.terms
    assert {name: (term.correction.kind, term.correction.level) for name, term in terms.items()} == expected
    origins = {name: resolved.origins[f"gro.terms.{name}.correction.kind"] for name in expected}
    assert origins == {
        name: "sampling.max_staleness" if kind == "truncate" else origins[name] for name, (kind, _) in expected.items()
    }
    plain = load_config(task, sets=[f"gro.preset={preset}"], plugins=[str(PLUGIN)]).config
    assert {term.correction.kind for term in plain.gro.terms.values()} == {"none"}


def test_a_correction_of_ones_own_stays_and_none_is_refused(task: Path) -> None:
    def load(*sets: str, staleness: int = 1) -> Any:
        return load_config(task, sets=[f"sampling.max_staleness={staleness}", *sets], plugins=[str(PLUGIN)]).config

    assert load("gro.preset=grpo", "gro.terms.grpo.correction.kind=mask").gro.terms["grpo"].correction.kind == "mask"
    with pytest.raises(
        ConfigError, match=r"gro\.terms\.grpo\.correction\.kind = 'none' with sampling\.max_staleness = 1"
    ):
        load("gro.preset=grpo", "gro.terms.grpo.correction.kind=none")
    with pytest.raises(
        ConfigError, match=r"sampling\.max_staleness = 1 samples online groups during the update, and no term"
    ):
        load("gro.preset=sft")
    with pytest.raises(ConfigError, match=r"come from weights up to 2 steps older"):
        load("gro.preset=grpo", "gro.terms.grpo.correction.kind=none", staleness=2)
    with pytest.raises(ConfigError, match=r"sampling\.ahead \(--set\): no longer there, set sampling\.max_staleness"):
        load_config(task, sets=["gro.preset=grpo", "sampling.ahead=1"], plugins=[str(PLUGIN)])
