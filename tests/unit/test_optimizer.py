"""AdamW with moments of 8 bits: near the one of 32, and resumed with the same bits."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn

from reasoner.config import LearningConfig
from reasoner.errors import RunError
from reasoner.learning.optimizer import MOMENTS, MOMENTS_8BIT, Optimizer
from reasoner.loading import load_config
from reasoner.models.size import ModelSize
from reasoner.planning.estimate import RunEstimate
from reasoner.planning.memory.learner import learner_bytes
from reasoner.processes.machine import planned_machine

SHAPES = {"matrix": (96, 64), "vector": (64,), "long": (20000,)}
"""the first and the last are large enough for blocks of 8 bits"""


def optimizer(kind: str, parameters: dict[str, nn.Parameter]) -> Optimizer:
    config = LearningConfig.model_validate({"optimizer": kind, "max_grad_norm": None, "weight_decay": 0.1})
    return Optimizer(parameters.items(), config, peak=1e-2, total_steps=20)


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(*shape, generator=generator)) for name, shape in SHAPES.items()}


def steps(optimizer: Optimizer, parameters: dict[str, nn.Parameter], numbers: range) -> None:
    """Steps along gradients that each have their own seed and size."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        scale = 10.0 ** (number % 3)
        terms = [(scale * torch.randn(p.shape, generator=generator) * p).sum() for p in parameters.values()]
        optimizer.backward(torch.stack(terms).sum())
        assert optimizer.step().applied


def test_it_is_near_that_of_32_bits_and_keeps_a_quarter() -> None:
    exact, rounded = parameters(), parameters()
    ours, theirs = optimizer("adamw-8bit", rounded), optimizer("adamw", exact)
    steps(ours, rounded, range(8))
    steps(theirs, exact, range(8))
    start = parameters()
    for name, parameter in exact.items():
        moved = (parameter - start[name]).norm()
        assert (rounded[name] - parameter).norm() < 0.1 * moved, name
        if parameter.numel() >= 4096:
            assert not rounded[name].equal(parameter)
    state = ours._adamw.state[rounded["long"]]
    assert {state["state1"].dtype, state["state2"].dtype} == {torch.uint8}
    assert theirs._adamw.state[exact["long"]]["exp_avg"].dtype == torch.float32


def test_it_resumes_with_the_same_bits(tmp_path: Path) -> None:
    whole = parameters()
    uninterrupted = optimizer("adamw-8bit", whole)
    steps(uninterrupted, whole, range(5))

    first = parameters()
    stopped = optimizer("adamw-8bit", first)
    steps(stopped, first, range(3))
    stopped.save(tmp_path)
    second = {name: nn.Parameter(value.detach().clone()) for name, value in first.items()}
    resumed = optimizer("adamw-8bit", second)
    resumed.load(tmp_path)
    assert resumed.version == 3
    steps(resumed, second, range(3, 5))
    for name, value in whole.items():
        assert second[name].equal(value), name


def test_the_moments_of_the_other_kind_are_not_taken(tmp_path: Path) -> None:
    """`learning.optimizer` cannot change in a run that is resumed; the files of one are not those of the other."""
    some = parameters()
    before = optimizer("adamw-8bit", some)
    steps(before, some, range(1))
    before.save(tmp_path)
    names: set[str] = {key.partition("/")[0] for key, _ in before._tensors()}
    assert names.isdisjoint(MOMENTS)
    assert {"step", "state1", "state2"} <= names


def test_moments_of_another_shape_are_refused(tmp_path: Path) -> None:
    some = parameters()
    before = optimizer("adamw-8bit", some)
    steps(before, some, range(1))
    before.save(tmp_path)
    other = {**parameters(), "long": nn.Parameter(torch.zeros(20001))}
    with pytest.raises(RunError, match=r"holds 'state1/long' of shape \[20000\]"):
        optimizer("adamw-8bit", other).load(tmp_path)


@pytest.mark.parametrize(("kind", "moments"), [("adamw", 8.0), ("adamw-8bit", 2.03125)])
def test_the_estimate_counts_its_moments(kind: str, moments: float) -> None:
    config = load_config("math-gsm8k", "laptop", sets=[f"learning.optimizer={kind}"]).config
    model = ModelSize(1000)
    assert learner_bytes(config, model, model, None, "cpu").held["optimiser"] == 1000 * moments
    planned = RunEstimate(config, model, model, planned_machine(24.0, 1), "")
    assert planned.checkpoint_bytes == round(1000 * (4 + moments))


def test_what_is_measured_is_what_is_counted() -> None:
    """Bytes of the state of a large weight."""
    large = {"large": nn.Parameter(torch.zeros(2**20))}
    ours = optimizer("adamw-8bit", large)
    steps(ours, large, range(1))
    state = ours._adamw.state[large["large"]]
    tensors: list[Tensor] = [value for key, value in state.items() if isinstance(value, Tensor) and "qmap" not in key]
    assert sum(value.nbytes for value in tensors) == 2**20 * 2.03125


def test_paged_moments_go_back_into_the_pages_that_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, with buffers in the place of CUDA's managed memory, which there is none of."""
    before = parameters()
    saved = optimizer("adamw-8bit", before)
    steps(saved, before, range(2))
    saved.save(tmp_path)
    after = parameters()
    paged = optimizer("paged-adamw-8bit", after)
    assert isinstance(paged._adamw, bitsandbytes.optim.PagedAdamW8bit)
    assert (paged._adamw.is_paged, paged.name) == (True, "paged AdamW of 8 bits")
    pages: list[Tensor] = []

    def page(parameter: Tensor, dtype: torch.dtype) -> Tensor:
        pages.append(torch.zeros(parameter.shape, dtype=dtype))
        return pages[-1]

    monkeypatch.setattr(paged._adamw, "get_state_buffer", page)
    paged.load(tmp_path)
    assert len(pages) == 2 * len(SHAPES)
    for name, parameter in after.items():
        for kind in MOMENTS_8BIT:
            restored = paged._adamw.state[parameter][kind]
            assert any(restored is buffer for buffer in pages)
            assert torch.equal(restored, saved._adamw.state[before[name]][kind])
