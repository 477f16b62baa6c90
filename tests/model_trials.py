"""What becomes of a model in each engine: it works, it is refused with a sentence, or there is a fault.

A trial takes the folder of a model and gives a verdict. Reference for the learner: the model's own class in
transformers, one forward pass per response, and autograd. Everything else goes through whole runs, as a user starts
them: two steps, the model saved at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal, Self
from unittest.mock import patch

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig

from reasoner.distributed.sharding import rows_by_group
from reasoner.errors import MissingDependencyError, ReasonerError
from reasoner.learning.model.policy import ModelOptions, TorchPolicy
from reasoner.loading import load_config
from reasoner.models.weight_files import read_shapes
from reasoner.pipeline import train
from reasoner.records import Component, Group, ScoredGroup
from reasoner.training.build import open_trainer
from tests.ragged import make_group, ragged_groups

LIMIT = 1e-4
"""largest difference of a log-probability in nats, and of the gradient relative to its norm"""
GROUPS: tuple[Group, ...] = (*ragged_groups((3, 40, 21), 3, 40), make_group("long", range(60), [range(50), range(4)]))
"""prompts and responses of all lengths, longer than the windows of the tiny models"""
VLLM_SECONDS = 240.0
"""deadline of a run with vLLM"""

_TASK = """
[model]
path = "{model}"
device = "cpu"
[data]
overlap = "allow"
[data.train]
path = "{folder}/problems.jsonl"
[data.eval]
path = "{folder}/problems.jsonl"
limit = 1
[evaluation]
correct = "letters"
[sampling]
engine = "hf"
group_size = 4
max_tokens = 12
max_prompt_tokens = 50
[[rewards]]
source = "letters"
[gro]
preset = "grpo"
[learning]
problems_per_step = 2
learning_rate = 1e-3
[run]
steps = 2
output = "{folder}/runs"
"""
_PLUGIN = Path(__file__).parent / "integration" / "rewarding_letters.py"


@dataclass(frozen=True)
class Verdict:
    """What a trial found."""

    kind: Literal["works", "refused", "FAULT"]
    words: str = ""
    """how it works, the sentence that the user sees, or what is wrong"""


class ScoresHere:
    """The scoring service without its processes: rewards are no part of these trials, and starting it takes longer."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Share of even token ids."""
        for group in groups:
            values = [mean(token % 2 == 0 for token in response.token_ids) for response in group.responses]
            yield ScoredGroup(group, tuple((Component("letters", 1.0, value),) for value in values), tuple(values))

    def statistics(self) -> dict[str, Any]:
        return {}

    left_behind = state = statistics

    def save_scores(self, path: Path) -> None:
        path.write_text("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def learner(folder: Path) -> Verdict:
    """Log-probabilities and gradients of the learner against plain forward passes."""

    def trial() -> Verdict:
        policy = _policy(folder)
        got = [value for row in policy.logprobs(GROUPS, 1.0) for value in row]
        for batch in policy.packing.micro_batches(rows_by_group(GROUPS)):
            policy.scores(policy.inputs(batch), 1.0, False)[0].sum().backward()  # type: ignore[no-untyped-call]
        model = plain_model(folder)
        expected = [value for group in GROUPS for part in plain_logprobs(model, group) for value in part]
        torch.stack(expected).sum().backward()  # type: ignore[no-untyped-call]
        gap = max(abs(mine - float(theirs)) for mine, theirs in zip(got, expected, strict=True))
        slope = _gradient_gap(policy.model, model)
        if gap > LIMIT or slope > LIMIT:
            return Verdict("FAULT", f"log-probabilities off by {gap:.1g} nats, gradient by {slope:.1g}")
        return Verdict("works")

    return guarded(trial, folder)


def packing(folder: Path) -> Verdict:
    """How sequences go through the model."""

    def trial() -> Verdict:
        chosen = _policy(folder).packing
        if not chosen.flat:
            return Verdict("works", f"padded: {chosen.why}")
        return Verdict("works", f"packed, prompts apart: {chosen.why}" if chosen.why else "packed")

    return guarded(trial, folder)


def run(folder: Path, scratch: Path, *sets: str) -> Verdict:
    """Train in this process with the transformers sampler, and look at what was saved.

    Args:
        folder: the model.
        scratch: an empty folder.
        sets: further settings, `KEY=VALUE`.
    """

    def trial() -> Verdict:
        task = _write_task(folder, scratch)
        scores_here = patch("reasoner.training.build.evaluator.ScoringService", ScoresHere)
        with contextlib.redirect_stdout(io.StringIO()), scores_here:
            resolved = load_config(task, sets=sets, plugins=[str(_PLUGIN)])
            with open_trainer(resolved) as trainer:
                train(trainer)
                saved = trainer.run.folder / "model"
        return _saved(folder, saved)

    return guarded(trial, folder)


def run_vllm(folder: Path, scratch: Path, *sets: str) -> Verdict:
    """As `run` with vLLM, in a process of its own."""
    task = _write_task(folder, scratch)
    command = [sys.executable, "-m", "reasoner", "run", str(task), "--plugin", str(_PLUGIN)]
    # Beyond the 64 tokens that models with `longrope` have as their original context.
    for each in ("sampling.engine=vllm", "sampling.kv_cache_gib=1", "sampling.max_prompt_tokens=128", *sets):
        command += ["--set", each]
    with (scratch / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, start_new_session=True)
        try:
            code = process.wait(VLLM_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Verdict("FAULT", f"no end after {VLLM_SECONDS:g} s")
    said = (scratch / "output").read_text(errors="replace")
    if code == 0:
        (saved,) = (scratch / "runs").glob("*/model")
        return _saved(folder, saved)
    if "Traceback (most recent call last)" in said or code not in (1, 2):
        return Verdict("FAULT", _sentence(said.strip().splitlines()[-1], folder))
    return Verdict("refused", _sentence(said.partition("error: ")[2] or said, folder))


def guarded(trial: Callable[[], Verdict], folder: Path) -> Verdict:
    """The verdict of a trial; an error for users is a refusal, any other a fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trial()
    except (ReasonerError, MissingDependencyError) as error:
        return Verdict("refused", _sentence(str(error), folder))
    except Exception as error:  # whatever escapes is what the table is to show
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return Verdict("FAULT", _sentence(f"{type(error).__name__}: {error} ({place})", folder)[:300])


def plain_model(folder: Path) -> Any:
    """The model as transformers has it, by the class that its folder names."""
    config = AutoConfig.from_pretrained(folder)
    # sdpa, which transformers takes by itself, leaves out a soft cap of the scores
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    (name,) = config.architectures
    model_class = getattr(transformers, name)
    return model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager" if capped else None
    ).eval()


def plain_logprobs(model: Any, group: Group) -> list[Tensor]:
    """(T,) of each response, with gradient; the last token is only predicted."""
    found = []
    for response in group.responses:
        logits = model(torch.tensor([[*group.prompt_ids, *response.token_ids[:-1]]]), use_cache=False).logits[0]
        predicted = torch.log_softmax(logits[len(group.prompt_ids) - 1 :], -1)
        found.append(predicted.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0])
    return found


def _policy(folder: Path) -> TorchPolicy:
    return TorchPolicy(folder, ModelOptions(device="cpu", dtype="float32", token_budget=400, logit_chunk=64))


def _gradient_gap(learned: Any, plain: Any) -> float:
    """Norm of the difference relative to the norm, over the parameters that the learner trains."""
    ours = {_stem(name): value for name, value in learned.named_parameters() if value.requires_grad}
    theirs = {_stem(name): value for name, value in plain.named_parameters()}
    if missing := sorted(ours.keys() - theirs.keys()):
        raise AssertionError(f"parameters that the model does not have: {missing[:3]}")
    pairs = [(_gradient(ours[name]), _gradient(theirs[name])) for name in ours]
    difference = sum(float((mine - other).square().sum()) for mine, other in pairs)
    return float((difference / sum(float(other.square().sum()) for _, other in pairs)) ** 0.5)


def _gradient(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad


def _stem(name: str) -> str:
    """A parameter's name without what says that its model reads images too."""
    return re.sub(r"\b(language_model|model)\.", "", name)


def _write_task(folder: Path, scratch: Path) -> Path:
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(6)]
    (scratch / "problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = scratch / "trial.toml"
    task.write_text(_TASK.format(model=folder, folder=scratch))
    return task


def _saved(folder: Path, saved: Path) -> Verdict:
    """Whether a saved model has the tensors of the one that was loaded, and no others."""
    before, after = _tensors(folder), _tensors(saved)
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Verdict("FAULT", f"the saved model differs in {', '.join(wrong[:3])}") if wrong else Verdict("works")


def _tensors(folder: Path) -> Mapping[str, Sequence[int]]:
    return {name: tuple(shape) for name, shape in read_shapes(folder).items()}


def _sentence(text: str, folder: Path) -> str:
    """One line without what differs from machine to machine."""
    text = re.sub(r" \(vLLM's log is [^)]*\)", "", text)
    return " ".join(text.replace(str(folder), "FOLDER").split())
