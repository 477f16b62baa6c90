"""A step with a slow sampler and a slow verifier: scoring hides behind sampling, and the step's timings show it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.data import Stream
from reasoner.measure import Timer
from reasoner.plugins import Events, build_manager
from reasoner.ranks import ALONE
from reasoner.records import Group, Message, Problem, Prompt, Response, SamplingParams
from reasoner.scoring.service import ScoringService
from reasoner.settings import load_config
from reasoner.stages import Evaluator, Stages

PLUGIN = str(Path(__file__).with_name("misbehaving_rewards.py"))
GROUPS, SAMPLES = 6, 4
SAMPLE_S, SCORE_S = 0.4, 0.1


class SlowSampler:
    """Takes its time for every group; its responses say how long they are scored."""

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        response = Response(str(SCORE_S), (1, 2), (True, True), (-0.5, -0.25), "stop", 0)
        for prompt in prompts:
            time.sleep(SAMPLE_S)
            yield Group(prompt.problem, prompt.token_ids, (response,) * n)


def test_scoring_hides_behind_sampling_and_the_timings_say_so() -> None:
    sets = [f"learning.problems_per_step={GROUPS}", f"sampling.group_size={SAMPLES}"]
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    problems = [Problem(f"p:{index}", (Message("user", "?"),), "4") for index in range(GROUPS)]
    view: Any = SimpleNamespace(stage=lambda *_: None, message=print)
    events, nothing = Events(build_manager(), print), cast(Any, None)
    timer = Timer()
    with ScoringService([RewardConfig(source="patient")], ScoringConfig(workers=2), [PLUGIN]) as scorer:
        evaluator = Evaluator(config, nothing, view, (), scorer, scorer, cast(Any, SlowSampler()), events)
        stages = Stages(
            config=config,
            device="cpu",
            ranks=ALONE,
            run=nothing,
            view=view,
            events=events,
            terms={},
            learner=nothing,
            reference=None,
            critic=None,
            evaluator=evaluator,
            problems=Stream(problems, GROUPS, None, section="data.train", key="learning.problems_per_step"),
            prompts={problem.id: Prompt(problem, (1,)) for problem in problems},
            offline={},
            set_up_s=0.0,
        )
        groups = stages.sample_and_score(1, timer)
    assert [scored.rewards for scored in groups] == [(1.0,) * SAMPLES] * GROUPS
    assert stages.scoring_s >= GROUPS * SAMPLES * SCORE_S
    assert timer.metrics["time/sample"] >= GROUPS * SAMPLE_S
    # What is left to wait for is the last group, whose two workers take two rounds.
    assert timer.metrics["time/score_wait"] < stages.scoring_s / 2
