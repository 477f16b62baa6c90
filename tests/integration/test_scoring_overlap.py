"""A step with a slow sampler and a slow verifier: scoring hides behind sampling, and the step's timings show it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from reasoner.config import RewardConfig, ScoringConfig
from reasoner.data.mixture import Mixture
from reasoner.data.problems import Cursor, Stream
from reasoner.loading import load_config
from reasoner.records import Group, Message, Problem, Prompt, Response, SamplingParams
from reasoner.sampling.base import ParamsByTask
from reasoner.scoring.service import ScoringService
from reasoner.training.rollout import RolloutCollector

PLUGIN = str(Path(__file__).with_name("misbehaving_rewards.py"))
GROUPS, SAMPLES = 6, 4
SAMPLE_S, SCORE_S = 0.4, 0.1


class SlowSampler:
    """Takes its time for every group; its responses say how long they are scored."""

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams | ParamsByTask) -> Iterator[Group]:
        response = Response(str(SCORE_S), (1, 2), (True, True), (-0.5, -0.25), "stop", 0)
        for prompt in prompts:
            time.sleep(SAMPLE_S)
            yield Group(prompt.problem, prompt.token_ids, (response,) * n)


def test_scoring_hides_behind_sampling_and_the_timings_say_so() -> None:
    sets = [f"learning.problems_per_step={GROUPS}", f"sampling.group_size={SAMPLES}"]
    config = load_config("math-gsm8k", "laptop", sets=sets).config
    problems = [Problem(f"p:{index}", (Message("user", "?"),), "4") for index in range(GROUPS)]
    with ScoringService([RewardConfig(source="patient")], ScoringConfig(workers=2), [PLUGIN]) as scorer:
        collector = RolloutCollector(
            config,
            cast(Any, SlowSampler()),
            scorer,
            Mixture({"": Cursor(Stream(problems, GROUPS, None, section="", key=""))}, {"": 1.0}),
            {problem.id: Prompt(problem, (1,)) for problem in problems},
        )
        fresh = collector.collect(1, greedy=False)
    assert [scored.rewards for scored in fresh.groups] == [(1.0,) * SAMPLES] * GROUPS
    assert fresh.scoring_s >= GROUPS * SAMPLES * SCORE_S
    assert fresh.seconds["sample"] >= GROUPS * SAMPLE_S
    # What is left to wait for is the last group, whose two workers take two rounds.
    assert fresh.seconds["score_wait"] < fresh.scoring_s / 2
