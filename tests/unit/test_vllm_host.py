"""What the process that holds vLLM asks of it, and what the sampler says of its weights; vLLM only notes here."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from reasoner.distributed.seeds import derive_seed
from reasoner.errors import SamplerError
from reasoner.records import Message, Problem, Prompt, SamplingParams
from reasoner.sampling.base import Completed, Completion, TokenRequest
from reasoner.sampling.responses import prompt_seeds
from reasoner.sampling.vllm import engine as vllm_engine
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import (
    Begin,
    EngineReady,
    Load,
    Request,
    ScoreRequest,
    Sleep,
    StartEngine,
    Submit,
    Value,
    Wake,
)
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import byte_tokenizer

CUDA = StartEngine("model", "bfloat16", "cuda", 64, 4, 0.4, 0.1, False)
PARAMS = SamplingParams(1.0, 8, seed=7)


def prompts(*names: str) -> list[Prompt]:
    return [Prompt(Problem(name, (Message("user", "?"),), ""), (1, 2)) for name in names]


class NotedVllm:
    """Notes what it is told; all sequences are over at once."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.seeds: list[int | None] = []
        self.forgets = True
        self.llm_engine = self

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        self.told.append(method)
        return [("sum", 3)] if method.startswith("take") else [None]

    def sleep(self, level: int) -> None:
        self.told.append(f"sleep {level}")

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.told.append(f"wake {tags}")

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        self.told.append("forget")
        return self.forgets

    def add_request(self, name: str, tokens: Any, params: Any, lora_request: Any) -> None:
        self.seeds.append(params.seed)

    def abort_request(self, names: list[str]) -> None:
        pass

    @property
    def output_processor(self) -> Any:
        return SimpleNamespace(request_states={})


STUBS: dict[str, dict[str, Any]] = {
    "vllm": {"__version__": "0", "LLM": object, "SamplingParams": SimpleNamespace},
    "vllm.lora": {},
    "vllm.lora.layers": {"LogitsProcessorWithLoRA": 0},
    "vllm.lora.utils": {"replace_submodule": 0},
    "vllm.lora.request": {"LoRARequest": lambda name, number, folder: SimpleNamespace(lora_int_id=number)},
    "vllm.platforms": {"current_platform": None},
    "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
    "vllm.v1": {},
    "vllm.v1.engine": {"FinishReason": SimpleNamespace(ABORT=2)},
    "vllm.model_executor": {},
    "vllm.model_executor.layers": {},
    "vllm.model_executor.layers.vocab_parallel_embedding": {"ParallelLMHead": 0, "VocabParallelEmbedding": 0},
}
"""what host and worker import of vLLM, whose own import would change this process"""


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ours = ("reasoner.sampling.vllm.host", "reasoner.sampling.vllm.worker")
    for name, values in STUBS.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ours:
        sys.modules.pop(name, None)


def host_of(start: StartEngine) -> tuple[Any, NotedVllm]:
    """A host around a vLLM that notes."""
    from reasoner.sampling.vllm.host import EngineHost

    host, noted = EngineHost.__new__(EngineHost), NotedVllm()
    host._llm, host._engine = cast(Any, noted), cast(Any, noted)
    host._connection = cast(Any, SimpleNamespace(send=lambda reply: None))
    host._running, host._requests, host._count = {}, {}, 0
    host._device, host._end_tokens, host._adapter, host._version = start.device, (2,), None, 0
    host._discards_weights, host._cache_sleeps = start.discards_weights, False
    host._takes_adapters = bool(start.adapter_rank)
    host._returns_routes = start.returns_routes
    return host, noted


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize(
    ("start", "told"),
    [
        (CUDA, ["sleep 2", "wake ['weights']", "take_weights", "wake ['kv_cache']", "forget"]),
        (replace(CUDA, adapter_rank=8), ["sleep 1", "wake None", "take_adapter", "forget"]),
        (replace(CUDA, device="cpu"), ["take_weights", "forget"]),
    ],
)
def test_weights_that_come_anew_are_given_up_and_their_room_is_there_before_that_of_the_cache(
    start: StartEngine, told: list[str]
) -> None:
    host, noted = host_of(start)
    for request in (Sleep(), Wake(), Load("folder", 1)):
        host._answer(request)
    assert noted.told == told
    host._answer(Load("folder", 2))
    assert noted.told[len(told) :] == ["take_adapter" if start.adapter_rank else "take_weights", "forget"]


@pytest.mark.usefixtures("stubs")
def test_prefixes_that_are_not_forgotten_stop_the_run() -> None:
    host, noted = host_of(CUDA)
    noted.forgets = False
    for request in (Load("folder", 1), Begin(7)):
        with pytest.raises(SamplerError, match="did not forget the keys and values"):
            host._answer(request)
    assert host._version == 0


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_requests_have_seeds_of_their_own_on_cuda_alone(device: str) -> None:
    """The CPU build cannot seed single requests."""
    host, noted = host_of(replace(CUDA, device=device))
    host._answer(Submit(tuple(TokenRequest(id_, (1,), 1, replace(PARAMS, seed=id_)) for id_ in (5, 6))))
    assert noted.seeds == ([5, 6] if device == "cuda" else [None, None])


@pytest.mark.usefixtures("stubs")
def test_vllm_is_told_how_many_sequences_where_that_is_known_alone() -> None:
    from reasoner.sampling.vllm.host import engine_arguments

    assert engine_arguments(CUDA)["max_num_seqs"] == 4
    assert "max_num_seqs" not in engine_arguments(replace(CUDA, max_sequences=None))


@pytest.mark.usefixtures("stubs")
def test_vllm_rounds_weights_where_it_is_told_to_alone() -> None:
    from reasoner.sampling.vllm.host import engine_arguments

    start = replace(CUDA, adapter_rank=8)
    assert engine_arguments(replace(start, quantization="fp8"))["quantization"] == "fp8_per_tensor"
    assert "quantization" not in engine_arguments(start)
    with pytest.raises(KeyError, match="int4"):
        engine_arguments(replace(start, quantization="int4"))


@pytest.mark.usefixtures("stubs")
def test_all_generators_that_vllm_draws_from_are_seeded() -> None:
    """Torch's on a CPU, numpy's on CUDA; numpy takes 32 bits."""
    from reasoner.sampling.vllm.worker import WorkerExtension

    def drawn(seed: int) -> tuple[float, int, float]:
        WorkerExtension.seed_sampling(cast(Any, None), seed)
        return random.random(), int(np.random.randint(-(2**63), 2**63 - 1)), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        first, second = drawn(derive_seed(0, "sampling", 1)), drawn(derive_seed(0, "sampling", 2))
        assert drawn(derive_seed(0, "sampling", 1)) == first
        assert all(a != b for a, b in zip(first, second, strict=True))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def test_a_prompt_has_noise_of_its_own_wherever_it_stands() -> None:
    seeds = dict(zip("abc", prompt_seeds(7, prompts("a", "b", "c")), strict=True))
    assert len(set(seeds.values())) == 3
    assert prompt_seeds(7, prompts("c", "a")) == (seeds["c"], seeds["a"])
    assert not set(prompt_seeds(8, prompts("a", "b", "c"))) & set(seeds.values())
    first, second, other = prompt_seeds(7, prompts("a", "a", "b"))
    assert (first, other) == (seeds["a"], seeds["b"])
    assert second not in (first, other)


def test_there_is_room_for_the_number_of_a_response_beside_a_seed() -> None:
    """vLLM keeps the sum in a signed number of 64 bits."""
    assert max(prompt_seeds(7, prompts(*map(str, range(2000))))) < 2**62


class FakeHost:
    """Answers every request."""

    is_open, ready = True, EngineReady("a fake", 4)

    def __init__(self, start: StartEngine, log: Path) -> None:
        self.submitted: deque[TokenRequest] = deque()

    def call(self, request: Request) -> Value:
        values: dict[type, Value] = {Load: ("sum", 3), ScoreRequest: []}
        return values.get(type(request))

    def send(self, request: Request) -> None:
        if isinstance(request, Submit):
            self.submitted.extend(request.requests)

    def completed(self, timeout_s: float | None) -> Completed:
        asked = self.submitted.popleft()
        return Completed(asked.id, (Completion((65,), (-0.5,), "stop", 0),) * asked.n)

    def close(self, *, is_idle: bool) -> None:
        pass


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "EngineProcess", FakeHost)
    monkeypatch.setattr(vllm_engine, "open_tokenizer", lambda folder, trust: byte_tokenizer())
    monkeypatch.setattr(vllm_engine, "end_tokens", lambda folder, tokenizer: (258,))


@pytest.mark.usefixtures("fake_host")
def test_after_a_sleep_that_gives_weights_up_only_new_ones_are_sampled_with() -> None:
    """Also after a step that was skipped: its version is nobody's, so the same weights are handed over again."""
    sampler = VllmSampler(CUDA, Path("log"))
    assert sampler.version == 0
    sampler.sleep()
    sampler.wake()
    assert sampler.version == -1
    for ask in (
        lambda: next(TrajectorySampler(sampler).sample(prompts("a"), 1, PARAMS)),
        lambda: sampler.begin(1),
        lambda: sampler.score([]),
    ):
        with pytest.raises(SamplerError, match="was not given others"):
            ask()
    sampler.load(Path("folder"), -2)  # the canary's, which are scored
    sampler.score([])
    sampler.load(Path("folder"), 0)
    assert sampler.version == 0
    assert len(list(TrajectorySampler(sampler).sample(prompts("a"), 1, PARAMS))) == 1


@pytest.mark.usefixtures("fake_host")
@pytest.mark.parametrize("start", [replace(CUDA, adapter_rank=8), replace(CUDA, device="cpu")])
def test_other_sleeps_keep_the_weights(start: StartEngine) -> None:
    sampler = VllmSampler(start, Path("log"))
    sampler.sleep()
    sampler.wake()
    assert sampler.version == 0


@pytest.mark.usefixtures("fake_host")
def test_the_requests_of_a_group_have_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = VllmSampler(CUDA, Path("log"))
    submit, told = sampler.submit, list[TokenRequest]()

    def telling(requests: Sequence[TokenRequest]) -> None:
        told.extend(requests)
        submit(requests)

    monkeypatch.setattr(sampler, "submit", telling)
    assert len(list(TrajectorySampler(sampler).sample(prompts("a", "b"), 1, PARAMS))) == 2
    assert [request.params.seed for request in told] == list(prompt_seeds(7, prompts("a", "b")))


@pytest.mark.usefixtures("fake_host")
def test_what_no_engine_takes_is_not_sent() -> None:
    sampler = VllmSampler(CUDA, Path("log"))
    sampler.submit([TokenRequest(1, (1,) * 56, 1, PARAMS)])  # 64 with the response
    for wrong, why in (
        (TokenRequest(1, (1,), 1, PARAMS), "request 1 is running already"),
        (TokenRequest(2, (1,) * 57, 1, PARAMS), "takes 1 to 56 tokens"),
        (TokenRequest(2, (), 1, PARAMS), "continuations of 0 tokens"),
        (TokenRequest(2, (1,), 0, PARAMS), "0 continuations of 1 tokens"),
    ):
        with pytest.raises(SamplerError, match=why):
            sampler.submit([wrong])
    for call in (lambda: sampler.begin(1), lambda: sampler.load(Path("folder"), 1), sampler.sleep, sampler.wake):
        with pytest.raises(SamplerError, match="still sampling"):
            call()
    assert sampler.receive()
    assert sampler.receive() is None


def ended(*reasons: str | None) -> Any:
    """What vLLM says of a request whose continuations ended for these reasons."""
    parts = [
        SimpleNamespace(
            index=index,
            finish_reason=reason,
            stop_reason=None,
            token_ids=[7, 8],
            logprobs=SimpleNamespace(token_ids=[7, 8], logprobs=[-0.5, -0.25]),
        )
        for index, reason in enumerate(reasons)
    ]
    return SimpleNamespace(request_id="4", outputs=parts)


@pytest.mark.usefixtures("stubs")
def test_every_reason_that_vllm_has_for_an_end_is_understood() -> None:
    """`FinishReason` of vLLM: stop, length, abort, error, repetition."""
    host, _ = host_of(CUDA)
    sent: list[Any] = []
    host._connection = SimpleNamespace(send=sent.append)
    asked = Submit((TokenRequest(4, (1,), 3, PARAMS),))
    host._answer(asked)
    host._finish(ended("stop", "length", "repetition"))
    assert [completion.finish for completion in sent[-1].completions] == ["stop", "length", "repetition"]
    host._answer(asked)
    host._finish(ended("abort", "stop", "abort"), is_aborted=True)
    assert [completion.finish for completion in sent[-1].completions] == ["abort", "stop", "abort"]
    host._answer(asked)
    with pytest.raises(SamplerError, match="ended a response with 'abort', so it is not a sample of the policy"):
        host._finish(ended("abort", "stop", "stop"))
    host._answer(asked)
    with pytest.raises(SamplerError, match="ended a response with 'new', so"):
        host._finish(ended("new", "stop", "stop"))


@pytest.mark.usefixtures("stubs")
def test_the_experts_that_vllm_chose_come_with_every_continuation_or_are_missed() -> None:
    host, _ = host_of(replace(CUDA, returns_routes=True))
    sent: list[Any] = []
    host._connection = SimpleNamespace(send=sent.append)
    asked = Submit((TokenRequest(4, (1, 2, 3), 3, PARAMS),))
    output = ended("stop", "length", "abort")
    for number, part in enumerate(output.outputs):
        part.routed_experts = np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2) + number  # of 1, 2, 3, 7
    none = output.outputs[2]
    none.token_ids, none.logprobs, none.routed_experts = [], SimpleNamespace(token_ids=[], logprobs=[]), None
    host._answer(asked)
    host._finish(output, is_aborted=True)
    routes = [list(completion.routes) for completion in sent[-1].completions]
    assert routes == [[*range(16)], [*range(1, 17)], []]
    for missing, known in ((None, "none"), (np.zeros((3, 2, 2), np.uint8), "those of 3")):
        output = ended("stop", "stop", "stop")
        for part in output.outputs:
            part.routed_experts = missing
        host._answer(asked)
        with pytest.raises(SamplerError, match=f"chose for 4 tokens, but {known}: set learning.routing_replay = false"):
            host._finish(output)
    from reasoner.sampling.vllm.host import engine_arguments

    assert engine_arguments(replace(CUDA, returns_routes=True))["enable_return_routed_experts"]
    assert "enable_return_routed_experts" not in engine_arguments(CUDA)  # which older releases do not know


@pytest.mark.usefixtures("stubs")
def test_a_request_that_vllm_fails_on_is_made_again_a_few_times() -> None:
    host, noted = host_of(CUDA)
    sent: list[Any] = []
    host._connection = SimpleNamespace(send=sent.append)
    host._answer(Submit((TokenRequest(4, (1,), 2, PARAMS),)))
    for attempt in (2, 3):
        host._finish(ended("stop", "error"))
        assert (len(noted.seeds), sent, [*host._running]) == (attempt, [], [4])
    host._finish(ended("stop", "length"))
    assert ([completion.finish for completion in sent[0].completions], host._running) == (["stop", "length"], {})
    host._answer(Submit((TokenRequest(4, (1,), 2, PARAMS),)))
    host._finish(ended("error", "error"))
    host._finish(ended("error", "error"))
    with pytest.raises(SamplerError, match=r"failed on a request 3 times \(finish reason 'error'\)"):
        host._finish(ended("error", "stop"))
