"""Made-up run folders, written by the code that writes real ones: rewards rise, some verifier calls fail, texts can be
hostile."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from reasoner.evaluation.metrics import Criterion, summarise
from reasoner.evaluation.training_gate import judge_gate
from reasoner.loading import load_config, to_toml
from reasoner.monitoring.alarms import Warned
from reasoner.monitoring.step_metrics import rollout_metrics
from reasoner.monitoring.timer import StepTimeline
from reasoner.records import Component, Failure, Group, Message, Problem, Response, ScoredGroup
from reasoner.runs.folder import RunFolder, open_run
from reasoner.runs.rollouts import to_rollouts

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \\u003c/script>",
    "abc \u202e desrever \u202c \u200b zero \x00 nul \x1b[31m red",
    "عربي 混合 \N{FACE WITH TEARS OF JOY}\N{ZERO WIDTH JOINER}",
    "| a | b |\n# heading [link](javascript:alert(1)) `code`",
)
END = "<|im_end|>"
ALPHABET = sorted(ByteLevel.alphabet())


def write_tokenizer(file: Path) -> None:
    """A byte-level tokenizer with one special token."""
    core = Tokenizer(BPE(vocab={character: index for index, character in enumerate(ALPHABET)}, merges=[]))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = ByteLevelDecoder()
    core.add_special_tokens([END])
    core.save(str(file))


class MadeUp:
    """Writes the rollouts of one run."""

    def __init__(self, seed: int, texts: Sequence[str], size: int) -> None:
        self.random = random.Random(seed)
        self.texts = cycle(texts) if texts else None
        self.size = size
        core = Tokenizer(BPE(vocab={character: index for index, character in enumerate(ALPHABET)}, merges=[]))
        core.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        core.add_special_tokens([END])
        self.encode = core.encode

    def group(self, name: str, skill: float, size: int) -> ScoredGroup:
        numbers = random.Random(name)  # the same problem at every evaluation
        a, b = numbers.randint(2, 40), numbers.randint(2, 40)
        messages = (
            Message("system", "You are a tutor."),
            Message("user", f"Tom has {a} apples and buys {b}. How many?"),
        )
        problem = Problem(name, messages, f"He has {a} + {b} = {a + b}.\n#### {a + b}")
        drawn = [self._response(a, b, skill) for _ in range(size)]
        rewards = [_total(components) for _, components in drawn]
        responses = tuple(response for response, _ in drawn)
        return ScoredGroup(Group(problem, (1, 2, 3), responses), tuple(c for _, c in drawn), tuple(rewards))

    def _response(self, a: int, b: int, skill: float) -> tuple[Response, tuple[Component, ...]]:
        right, boxed = self.random.random() < skill / 2, self.random.random() < skill
        answer = a + b + (0 if right else self.random.randint(1, 9))
        text = f"{a} + {b} makes {answer}."
        text += f" The answer is \\boxed{{{answer}}}." if boxed else " and then he counts again, and again, and again"
        if self.texts:
            text = f"{next(self.texts)} {text}"
        ids = tuple(self.encode(text + (END if boxed else "")).ids)
        logprobs = tuple(-self.random.expovariate(2.0) for _ in ids)
        response = Response(text, ids, (True,) * len(ids), logprobs, "stop" if boxed else "length", 0)
        parts = {"extracted": str(answer) if boxed else None}
        failure = None
        if self.random.random() < 0.02:
            failure = Failure("math", "timeout", next(self.texts) if self.texts else "no answer in 5 s", 5.0)
        value = None if failure else float(right and boxed)
        math_ = Component("math", 1.0, value, parts if not failure else {}, "" if right else "another number", failure)
        return response, (math_, Component("boxed_format", 0.5, float(boxed)))


def _total(components: Sequence[Component]) -> float | None:
    if any(component.failure for component in components):
        return None
    return sum(component.weight * (component.value or 0.0) for component in components)


def credits_and_weights(groups: Sequence[ScoredGroup]) -> tuple[list[float], list[tuple[float, ...]]]:
    credits, weights = [], []
    for scored in groups:
        known = [reward for reward in scored.rewards if reward is not None]
        middle = sum(known) / len(known) if known else 0.0
        for response, reward in zip(scored.group.responses, scored.rewards, strict=True):
            credit = 0.0 if reward is None else reward - middle
            credits.append(credit)
            weights.append(tuple(credit / 100 if at % 7 else 0.0 for at in range(len(response.token_ids))))
    return credits, weights


def made_up_run(
    output: Path,
    *,
    steps: int = 12,
    problems: int = 4,
    size: int = 8,
    seed: int = 0,
    sets: Sequence[str] = (),
    texts: Sequence[str] = (),
    gain: float = 0.9,
    every: int = 4,
    end: BaseException | None = None,
) -> Path:
    """A run folder. `texts`: what responses begin with; `end`: how it failed; `every`: steps between evaluations."""
    config = load_config("math-gsm8k", "laptop", sets=[*sets, f"run.steps={steps}"]).config
    chosen = {
        "task": "math-gsm8k: Grade-school math word problems",
        "profile": "laptop (--profile)",
        "model": "embedded:smollm2-135m-instruct, float32",
        "device": "cpu (torch sees no CUDA device)",
        "rewards": "math x 1, boxed_format x 0.5",
        "method": "grpo (2402.03300)",
        "term grpo": "weight 1; credit advantage",
        "steps": f"{steps} of {problems} problems x {size} responses",
        "output": "runs",
    }
    made = MadeUp(seed, texts, size)
    with (
        suppress(*([] if end is None else [type(end)])),
        open_run(output, "math-gsm8k", to_toml(config), chosen, reserve_bytes=0) as run,
    ):
        apart = MadeUp(seed, texts, size)
        tried = [apart.group(f"train:gate-{n}", 0.1, size) for n in range(8)]
        run.commit_gate(judge_gate(tried, Criterion("math"), demonstrations=False))
        _evaluate(run, 0, made, 0.1)
        for step in range(1, steps + 1):
            _step(run, step, made, problems, skill := 0.1 + gain * step / steps)
            if step % every == 0 or step == steps:
                _evaluate(run, step, made, skill)
        run.warn([Warned(1, "entropy", "entropy is 0.02 nats", "Lower learning.learning_rate.")])
        with run.saving_model() as folder:
            write_tokenizer(folder / "tokenizer.json")
        if end is not None:
            raise end
    return run.folder


def _step(run: RunFolder, step: int, made: MadeUp, problems: int, skill: float) -> None:
    groups = [made.group(f"train:{step}-{n}", skill, made.size) for n in range(problems)]
    credits, weights = credits_and_weights(groups)
    rng = made.random
    metrics = rollout_metrics(groups) | {
        "term/grpo/weight": 1.0,
        "term/grpo/loss": rng.gauss(0, 0.02),
        "term/grpo/positive": 0.3 + rng.uniform(-0.05, 0.05),
        "term/grpo/negative": 0.25 + rng.uniform(-0.05, 0.05),
        "term/grpo/zero_share": rng.uniform(0.1, 0.4),
        "term/grpo/clipped_share": 0.0,
        "term/grpo/ess": rng.uniform(10, 20),
        "update/loss": rng.gauss(0, 0.02),
        "update/grad_norm": math.nan if step == 5 else rng.uniform(0.5, 2),
        "update/learning_rate": 2e-5,
        "update/applied": 0.0 if step == 5 else 1.0,
        "gap/mean": rng.uniform(1e-6, 3e-6),
        "time/sample": rng.uniform(10, 14),
        "time/score_wait": 0.1,
        "time/update": rng.uniform(6, 9),
        "time/handover": 1.5,
        "time/total": 25.0,
        "tokens_per_s/sample": rng.uniform(70, 90),
        "memory/rss_gib": 5.0 + 0.01 * step,
    }
    spans: dict[str, tuple[tuple[float, float], ...]] = {
        "handover": ((0.0, 1.5),),
        "sampler": ((1.5, 14.0),),
        "scoring": ((6.0, 14.1),),
        "learner": ((14.1, 25.0),),
    }
    run.keep_timeline(StepTimeline(step, 25.0, spans))
    run.commit(step, metrics, to_rollouts(step, groups, credits, weights))


def _evaluate(run: RunFolder, step: int, made: MadeUp, skill: float) -> None:
    groups = [made.group(f"eval:{n}", skill, 1) for n in range(24)]
    run.commit_evaluation(step, summarise(groups, 1, Criterion("math")), to_rollouts(step, groups))


def edit_json(file: Path, **values: object) -> None:
    """Change values of a JSON object on disk."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
