"""The ranks of `test_deepspeed.py`, one, two and three: the same steps with every way of spreading the learner. And
the torch engine on a device beside the CPU (`tests.second_device`).

    python -m tests.integration.deepspeed_steps MODEL OUTPUT

Torch and DeepSpeed are imported once; every rank is a fork of this process. Writes
OUTPUT/<one, two or three>/rank-<index>/<name>.safetensors: weights and first gradient, and what the steps reported as
metadata.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE, PATIENCE, Ranks, in_rows, open_ranks
from reasoner.distributed.remote_tokens import summary_of
from reasoner.distributed.sharding import LogprobModel, ShardedPolicy
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.weights import Weights
from reasoner.learning.adapter import WithoutAdapter
from reasoner.learning.critic import TorchCritic
from reasoner.learning.deepspeed.engine import DeepspeedLearner, _deepspeed
from reasoner.learning.learner import Learner, PerturbableLearner, WeightFunction
from reasoner.learning.model.policy import Dtype, ModelOptions, TorchPolicy
from reasoner.learning.sequence_parallel import SequenceRanks
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import read_files
from reasoner.records import Batch, Group, ScoredGroup
from reasoner.training.update import ActiveTerm, update
from tests.ragged import made_up_routes, ragged_groups, with_routes
from tests.second_device import second_device

SPREADS: dict[str, tuple[Dtype, dict[str, Any]]] = {
    "zero-0": ("float32", {"zero_stage": 0}),
    "zero-1": ("float32", {"zero_stage": 1}),
    "zero-2": ("float32", {"zero_stage": 2}),
    "zero-3": ("float32", {"zero_stage": 3}),
    "zero-2-offload": ("float32", {"zero_stage": 2, "offload_optimizer": True}),
    "zero-3-offload": ("float32", {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}),
    "lora-zero-2": ("float32", {"zero_stage": 2}),
    "lora-zero-3": ("float32", {"zero_stage": 3}),
    "qlora-zero-1": ("float32", {"zero_stage": 1}),
    "qlora-zero-2-offload": ("float32", {"zero_stage": 2, "offload_optimizer": True}),
    "zero-1-bfloat16": ("bfloat16", {"zero_stage": 1}),
    "zero-2-offload-bfloat16": ("bfloat16", {"zero_stage": 2, "offload_optimizer": True}),
    "zero-3-bfloat16": ("bfloat16", {"zero_stage": 3}),
    "rows-zero-0": ("float32", {"zero_stage": 0}),
    "rows-zero-1": ("float32", {"zero_stage": 1}),
    "rows-zero-2": ("float32", {"zero_stage": 2}),
    "rows-zero-3": ("float32", {"zero_stage": 3}),
    "rows-lora-zero-2": ("float32", {"zero_stage": 2}),
    "rows-lora-zero-3": ("float32", {"zero_stage": 3}),
    "experts-zero-2": ("float32", {"zero_stage": 2}),
    "experts-zero-3": ("float32", {"zero_stage": 3}),
    "rows-experts-zero-3": ("float32", {"zero_stage": 3}),
    "tiled-zero-2": ("float32", {"zero_stage": 2}),
}
"""`rows`: two neighbouring ranks put every row through the model together (`learning.sequence_parallel`). `experts`: a
mixture of experts, with the loss of its routers; some experts get no token of a rank's share, and one batch has experts
to replay. `tiled`: MLPs take few tokens at once, so that ranks have different numbers of tiles (not with ZeRO 3, whose
ranks would wait for each other)"""
TILE = 16
"""tokens; a micro-batch has up to 60, or one longer row"""
EXPERTS = "mixtral"
"""folder of that model, beside the other"""
LORA = LoraConfig(rank=4, alpha=8.0, targets=["all-linear"])
QLORA = LORA.model_copy(update={"quantization": "nf4"})
ON_SECOND_DEVICE: dict[str, tuple[Dtype, dict[str, Any]]] = {
    "float32": ("float32", {}),
    "bfloat16": ("bfloat16", {"gradient_checkpointing": True, "offload_activations": True, "mlp_tile": TILE}),
    "lora": ("float32", {"packing": "padded"}),
    "experts": ("float32", {"router_loss": 0.5, "routing_replay": True}),
}
"""settings of the torch engine there, by what it does on the CPU"""
COUNTS = ("one", "two", "three", "four")
"""numbers of ranks, by the names of their folders"""
ON_ONE_RANK = ("zero-1", "zero-2-offload", "zero-3", "zero-2-offload-bfloat16")
ON_THREE_RANKS = ("zero-2", "zero-3", "lora-zero-3")
ON_FOUR_RANKS = ("rows-zero-2", "rows-zero-3")
"""the others on two ranks only"""
WHOLE = "zero-2"
"""also done with all tokens on every rank"""
RESUMED = (
    "zero-0",
    "zero-3",
    "lora-zero-2",
    "lora-zero-3",
    "qlora-zero-1",
    "zero-1-bfloat16",
    "zero-2-offload-bfloat16",
)
"""spreads that are written as a checkpoint and gone on with"""
GROUPS = ragged_groups(prompts=(3, 24, 7, 9, 5), responses=3)
TEMPERATURE = 0.8
OPD = ActiveTerm("opd", PRESETS["opd"].term, 1.0)
ONE_GROUP = ragged_groups(prompts=(20,), responses=3, seed=1)
THREE_GROUPS = ragged_groups(prompts=(45, 44, 43), responses=2, longest=4, seed=2)
LONG_AND_SHORT = [
    *ragged_groups(prompts=(3,), responses=8, longest=30, seed=3),
    *ragged_groups(prompts=(2,), responses=2, longest=2, seed=4),
]
BATCHES: dict[str, list[Group]] = {
    "one group": ONE_GROUP,
    "three equal groups": THREE_GROUPS,
    "a long and a short group": LONG_AND_SHORT,
    "no group": [],
    "five groups": GROUPS,
}
"""what some ranks have more of than others, or nothing"""


def some(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    """A weight for every token, an entropy bonus, and nothing for every fifth response."""
    tokens = range(logprobs_RT.shape[1])
    weights = [[0.0 if row % 5 == 4 else ((7 * row + 3 * t) % 5 - 2) / 10 for t in tokens] for row in rows]
    return Weights(torch.tensor(weights), torch.full_like(logprobs_RT, 0.01))


def nothing(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    return Weights(torch.zeros_like(logprobs_RT))


def poisoned(rows: Sequence[int], logprobs_RT: Tensor, _: Tensor | None = None) -> Weights:
    """One response with a weight that is no number."""
    weights_RT = torch.ones_like(logprobs_RT)
    weights_RT[torch.tensor([row == 7 for row in rows])] = torch.nan
    return Weights(weights_RT)


def learning(**more: Any) -> LearningConfig:
    values = {"token_budget": 60, "logit_chunk": 20, "learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 30.0}
    return LearningConfig(**values | more)


def as_json(value: object) -> str:
    """With arrays of tokens as lists."""
    return json.dumps(value, default=list)


def as_sampled(groups: Sequence[Group], ranks: Ranks) -> list[Group]:
    """The groups as ranks have them that sampled them in turns, the last rank first: others have no tokens of them,
    but for the first rank, which has all."""
    seen = []
    for number, group in enumerate(groups):
        owner = ranks.count - 1 - number % ranks.count
        nothing = ScoredGroup(group, ((),) * len(group.responses), (None,) * len(group.responses))
        seen.append(group if ranks.first or owner == ranks.index else summary_of(nothing, owner).group)
    return seen


def all_logprobs(policy: LogprobModel, ranks: Ranks) -> list[list[float]]:
    """Of the responses of every batch."""
    batches = [*BATCHES.values(), with_routes(ONE_GROUP, made_up_routes)]
    batches = [as_sampled(groups, ranks) for groups in batches]
    return [[*row] for groups in batches for row in policy.logprobs(groups, TEMPERATURE)]


def steps() -> list[tuple[list[Group], WeightFunction]]:
    """The optimiser steps: of every batch, and those that cannot be made between them."""
    made = [(groups, some) for groups in BATCHES.values()]
    return [*made[:1], (GROUPS, nothing), (ONE_GROUP, nothing), (GROUPS, poisoned), *made[1:]]


def record(
    learner: Any, first_gradient: Callable[[], dict[str, Tensor]], folder: Path, name: str, ranks: Ranks = ALONE
) -> None:
    """The steps, the weights after them, and log-probabilities before and after."""
    logprobs = [all_logprobs(learner, ranks)]
    perturbed = perturb(learner)
    reports = []
    gradient: dict[str, Tensor] = {}
    for groups, weigh in steps():
        replays = "experts" in name and groups in (ONE_GROUP, THREE_GROUPS)
        groups = with_routes(groups, made_up_routes) if replays else groups
        done = learner.accumulate(as_sampled(groups, ranks), weigh, TEMPERATURE, entropy=weigh is some)
        result = learner.step()
        gradient = gradient or first_gradient()
        rerouted = done.replayed, done.rerouted
        reports.append(
            (done.loss, done.entropy, done.responses, result.applied, result.finite, result.grad_norm, *rerouted)
        )
        assert (done.rerouted > 0) == replays
        assert (done.balance > 0) == ("experts" in name and done.responses > 0)
    logprobs.append(all_logprobs(learner, ranks))
    if "lora" in name:
        logprobs.append(all_logprobs(WithoutAdapter(learner), ranks))  # the initial model's
    published = folder / f"{name}-published"
    published.mkdir(parents=True, exist_ok=True)
    checksum = learner.publish(published)
    # Only the first rank of a node publishes.
    found = dict(read_files(published)) | {f"gradient:{key}": value for key, value in gradient.items()}
    facts = {"reports": reports, "logprobs": logprobs, "checksum": checksum, "version": learner.version}
    facts["perturbed"] = perturbed
    save_file(found, folder / f"{name}.safetensors", {"facts": as_json(facts)})


def perturb(learner: PerturbableLearner) -> list[list[list[float]]]:
    """Log-probabilities before, while and after some of the trained weights are changed on purpose."""
    sizes = {name: 20.0 if "lora_B" in name else 0.2 for name in learner.trained if "mlp" in name or "embed" in name}
    found = [learner.logprobs(ONE_GROUP, TEMPERATURE)]
    with learner.perturbed(sizes):
        found.append(learner.logprobs(ONE_GROUP, TEMPERATURE))
    found.append(learner.logprobs(ONE_GROUP, TEMPERATURE))
    return [[[*row] for row in rows] for rows in found]


def publish_on_a_full_disk(learner: Learner, output: Path) -> None:
    """The disk of the rank that writes is full at the second weight: all ranks hear of it, and none waits."""
    output.mkdir()

    def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> str:
        next(iter(tensors))
        raise OSError(errno.ENOSPC, "full", str(folder))

    try:
        with patch("reasoner.learning.model.model_weights.write_weights", write_weights):
            learner.publish(output)
        found = 0
    except OSError as error:
        found = error.errno or 0
    (output / "facts.json").write_text(as_json([found, learner.publish(output)]))


def go_on(learner: Learner, start: Callable[[Path], Learner], ranks: Ranks, output: Path, name: str) -> None:
    """Write a checkpoint, start another learner from it, and make one more step with both."""
    checkpoint = output / f"{name}-checkpoint"
    if ranks.first:
        checkpoint.mkdir()
    learner.checkpoint(checkpoint)
    ranks.gather(None)  # it is written
    folder = output / f"rank-{ranks.index}"
    facts = [one_more(each, folder / f"{name}-{at}") for at, each in enumerate((learner, start(checkpoint)))]
    (folder / f"{name}-resumed.json").write_text(as_json(facts))


def one_more(learner: Learner, folder: Path) -> list[Any]:
    """Version, gradient norm and checksum of the weights after a further step."""
    learner.accumulate(GROUPS, some, TEMPERATURE, entropy=True)
    norm = learner.step().grad_norm
    folder.mkdir(parents=True)
    return [learner.version, norm, learner.publish(folder)]


def first_moments(named: Sequence[tuple[str, Tensor]], state: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The (clipped) gradient of the first step, as AdamW's first moment remembers it: m = (1 - beta_1) g."""
    return {name: state(parameter).detach().float().cpu().clone() / 0.1 for name, parameter in named}


def teacher_of(model: Path, ranks: Ranks) -> TorchPolicy:
    """The model beside it, frozen."""
    teacher, sequence = model.with_name("teacher"), SequenceRanks.of(ranks)
    options = ModelOptions(device="cpu", dtype="float32", token_budget=60, logit_chunk=20, sequence=sequence)
    return TorchPolicy(teacher, options)


def main(model: Path, output: Path) -> None:
    """All ranks at once; ends with an error if one of them does."""
    _deepspeed("cpu")
    TorchLearner(model, device="cpu", dtype="float32", config=learning(), total_steps=1)  # what transformers imports
    gc.collect()
    pids = []
    for count, name in enumerate(COUNTS, 1):
        port = free_port()
        pids += [fork(partial(start_rank, model, output / name, index, count, port)) for index in range(count)]
    pids.append(fork(partial(train_on_second_device, model, output / "second")))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.exit(any(codes))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def fork(work: Callable[[], None]) -> int:
    """Have a process do it; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def start_rank(model: Path, output: Path, index: int, count: int, port: int) -> None:
    """Be a rank, as a launcher would describe it."""
    if count > 1:
        os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rank(model, output)


def train_on_second_device(model: Path, output: Path) -> None:
    """The steps of the torch engine, and of a critic."""
    with second_device() as device:
        for name, (dtype, more) in ON_SECOND_DEVICE.items():
            start = partial(
                TorchLearner,
                model.with_name(EXPERTS) if name == "experts" else model,
                device=device,
                dtype=dtype,
                config=learning(**more),
                total_steps=5,
                lora=LORA if name == "lora" else None,
            )
            learner = start()
            record(learner, partial(torch_moments, learner), output / "rank-0", name)
            go_on(learner, lambda at, start=start: start(checkpoint=at), ALONE, output, name)  # type: ignore[misc]
        train_critic(model, ALONE, output / "rank-0", device)


def torch_moments(learner: TorchLearner) -> dict[str, Tensor]:
    """As `first_moments`, of the torch engine."""
    named = [(key, p) for key, p in learner.policy.model.named_parameters() if p.requires_grad]
    state = learner._optimizer._adamw.state
    return first_moments(named, lambda parameter: state[parameter]["exp_avg"])


def initialize(original: Any, *, model: torch.nn.Module, config: dict[str, Any], **others: Any) -> Any:
    """`deepspeed.initialize` (`original`), which moves what is whole to the GPU: under ZeRO 3 no weight is, and buffers
    are there already."""
    if config["zero_optimization"]["stage"] == 3:
        assert not any(parameter.numel() for parameter in model.parameters())
        assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}
    return original(model=model, config=config, **others)


def rank(model: Path, output: Path) -> None:
    """Every spread, one after the other."""
    deepspeed = _deepspeed("cpu")
    checked = partial(initialize, deepspeed.initialize)
    with open_ranks("cpu") as ranks, patch.object(deepspeed, "initialize", checked):
        pairs = ranks if ranks.count % 2 else in_rows(ranks, 2)
        if ranks.count > 1:
            train_critic(model, ranks, output / f"rank-{ranks.index}")
        if ranks.count in (2, 3):
            config = learning(deepspeed={"zero_stage": 2})
            for some, place in ((ranks, ""), (pairs, "rows"))[: 2 if ranks.count == 2 else 1]:
                taught = DeepspeedLearner(
                    model, device="cpu", dtype="float32", config=config, total_steps=5, ranks=some
                )
                teacher = ShardedPolicy(teacher_of(model, some), some)
                learn_of_teacher(taught, teacher, some, output / f"rank-{ranks.index}" / place)
        if ranks.count % 2 == 0:
            train_critic(model, pairs, output / f"rank-{ranks.index}" / "rows")
        names = {1: ON_ONE_RANK, 2: tuple(SPREADS), 3: ON_THREE_RANKS, 4: ON_FOUR_RANKS}[ranks.count]
        for name, (dtype, spread) in ((name, SPREADS[name]) for name in names):
            experts = "experts" in name
            router_loss = 0.5 if experts else 0.0
            recompute = name.endswith("zero-3")
            config = learning(
                deepspeed=spread,
                gradient_checkpointing=recompute,
                router_loss=router_loss,
                routing_replay=experts,
                mlp_tile=TILE if name.startswith("tiled") else None,
            )
            start = partial(
                DeepspeedLearner,
                model.with_name(EXPERTS) if experts else model,
                device="cpu",
                dtype=dtype,
                config=config,
                total_steps=5,
                ranks=pairs if name.startswith("rows") else ranks,
                lora=(QLORA if "qlora" in name else LORA) if "lora" in name else None,
            )
            learner = start()
            if ranks.count > 1:
                assert limits() == {PATIENCE}, f"{limits()}: a process group waits with another patience"
            folder = output / f"rank-{ranks.index}"
            record(learner, lambda spread=spread, learner=learner: _moments(learner, spread), folder, name, ranks)  # type: ignore[misc]
            if name == WHOLE:
                learner = start()
                moments = partial(_moments, learner, spread)
                record(learner, moments, folder, f"{name}-whole")
            if name == "lora-zero-3":
                publish_on_a_full_disk(learner, folder / "full-disk")
            if name in RESUMED and ranks.count < 4:
                go_on(learner, lambda at, start=start: start(checkpoint=at), ranks, output, name)  # type: ignore[misc]


def limits() -> set[timedelta]:
    """How long the process groups wait, DeepSpeed's own included."""
    from torch.distributed import distributed_c10d

    groups = list(distributed_c10d._world.pg_map)
    assert len(groups) > 2
    return {group._get_backend(torch.device("cpu")).options._timeout for group in groups}


def train_critic(model: Path, ranks: Ranks, folder: Path, device: str = "cpu") -> None:
    """Steps of a critic towards some returns, with one that cannot be made and one without any weight in between; what
    it did is in `folder`."""
    critic = TorchCritic(
        model, device=device, dtype="float64", config=learning(), learning_rate=1e-2, total_steps=5, ranks=ranks
    )
    reports = []
    made = [(groups, to_returns) for groups in BATCHES.values()]
    cannot = [(GROUPS, nothing), (ONE_GROUP, nothing), (GROUPS, poisoned)]
    for groups, weigh in (*made[:1], *cannot, *made[1:]):
        done = critic.accumulate(as_sampled(groups, ranks), weigh)
        result = critic.step()
        reports.append([done.loss, done.responses, result.applied, result.finite, result.grad_norm, result.reason])
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        critic.save(folder / "critic", exact=True)
    values = [row for groups in BATCHES.values() for row in critic.values(as_sampled(groups, ranks))]
    (folder / "critic.json").write_text(as_json([reports, values, critic.version]))


def learn_of_teacher(learner: Learner, teacher: LogprobModel, ranks: Ranks, folder: Path) -> None:
    """Steps of a policy towards a teacher that is as spread as the policy is; what they did is in `folder`."""
    found = []
    for whole in (ONE_GROUP, THREE_GROUPS, GROUPS):  # the groups of a step have as many responses each
        groups = as_sampled(whole, ranks)
        old, taught = (tuple(map(tuple, each.logprobs(groups, TEMPERATURE))) for each in (learner, teacher))
        scored = tuple(ScoredGroup(group, ((),) * (n := len(group.responses)), (None,) * n) for group in groups)
        batch = Batch(scored, old_logprobs=old, teacher_logprobs=taught, temperature=TEMPERATURE)
        report = update({"online": batch}, [OPD], learner, max_tokens=32, ranks=ranks)
        figures = {
            name: value for name, value in report.metrics.items() if name.startswith(("term/", "update/loss", "gap/"))
        }
        norms = [step.grad_norm for step in report.steps]
        found.append([taught, report.credits, report.weights, norms, figures])
    folder.mkdir(parents=True, exist_ok=True)
    published = folder / "taught"
    published.mkdir()
    learner.publish(published)
    (folder / "taught.json").write_text(as_json([found, learner.version]))


def to_returns(rows: Sequence[int], values_RT: Tensor, _: Tensor | None = None) -> Weights:
    """w = R - V, R a function of response and token."""
    returns = [[((5 * row + t) % 7) / 7 for t in range(values_RT.shape[1])] for row in rows]
    return Weights((torch.tensor(returns).to(values_RT) - values_RT) / 10)


def _moments(learner: Any, spread: dict[str, Any]) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    named = [(name, p) for name, p in learner.policy.model.named_parameters() if p.requires_grad]
    if spread["zero_stage"] == 0:
        return first_moments(named, lambda parameter: learner._engine.optimizer.state[parameter]["exp_avg"])
    return first_moments(named, lambda parameter: safe_get_full_optimizer_state(parameter, "exp_avg"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
