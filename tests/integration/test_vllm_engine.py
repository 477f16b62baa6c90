"""The real vLLM engine (CPU build here) with a tiny tied model: one start for all tests of this file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasoner.config import LearningConfig, LoraConfig, PromptConfig
from reasoner.data.turn_formats import open_turn_format
from reasoner.distributed.ranks import ALONE
from reasoner.errors import HandoverError, SamplerError
from reasoner.learning.learner import Learner
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import read_files, write_adapter, write_weights
from reasoner.records import Group, Message, Observation, Problem, Prompt, Response, SamplingParams
from reasoner.sampling.transformers import HfSampler
from reasoner.sampling.vllm.buckets import SharedBuffer
from reasoner.sampling.vllm.device_link import DeviceLink
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.training.guards.canary import Canary
from reasoner.training.weight_sync import Publisher, check_gap, gap_limit, hand_over, verify_gap
from reasoner.trajectories.interaction import Interaction
from reasoner.trajectories.sampler import TrajectorySampler
from tests import token_services
from tests.tiny import build_tiny_model
from tests.unit.fake_environments import FakeEnvironments, FakeSession

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

MAX_MODEL_LEN = 256
LIMIT = gap_limit("float32", None)
DRAWN = SamplingParams(1.0, 24)


class Reference:
    """A learner that only scores and publishes: plain transformers, one response per forward pass."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.version = 0
        self.lost: set[str] = set()

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        return [self._score(g.prompt_ids, r, temperature) for g in groups for r in g.responses]

    @torch.no_grad()
    def _score(self, prompt_ids: Sequence[int], response: Response, temperature: float) -> list[float]:
        ids = torch.tensor([[*prompt_ids, *response.token_ids]])
        logprobs = (self.model(ids).logits[0, :-1] / temperature).log_softmax(-1)
        found: list[float] = logprobs.gather(-1, ids[0, 1:, None])[len(prompt_ids) - 1 :, 0].tolist()
        return found

    def publish(self, folder: Path) -> str:
        named = self.model.named_parameters()  # what is tied comes once, as in the model's folder
        return write_weights(folder, ((name, tensor) for name, tensor in named if name not in self.lost))

    @torch.no_grad()
    def change(self, part: str) -> None:
        """Change all parameters whose name contains `part`, and call it a new version."""
        generator = torch.Generator().manual_seed(self.version)
        changed = [tensor for name, tensor in self.model.named_parameters() if part in name]
        assert changed
        for tensor in changed:
            tensor.mul_(1.0 + 0.3 * torch.randn(tensor.shape, generator=generator))
        self.version += 1

    @property
    def learner(self) -> Learner:
        return cast(Learner, self)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is tiny: more threads only wait for each other."""
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before[0])
    if before[1] is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), tied=True)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "vllm.log"


@pytest.fixture(scope="module")
def engine(folder: Path, log: Path) -> Iterator[VllmSampler]:
    start = StartEngine(str(folder), "float32", "cpu", MAX_MODEL_LEN, 16, 0.4, 0.25, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("mapped_files")), prepend=os.pathsep)
        opened = VllmSampler(start, log)
    with opened as sampler:
        yield sampler


@pytest.fixture
def sampler(engine: VllmSampler, folder: Path) -> VllmSampler:
    """The engine with the weights that it was started with."""
    hand_over(Reference(folder).learner, engine)
    return engine


def prompts(folder: Path, count: int = 3) -> list[Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for index in range(count):
        question = "Count! " * (3 * index) + f"What is {index} + 1?"
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        found.append(Prompt(Problem(f"p{index}", (Message("user", question),), ""), tuple(ids)))
    return found


def gap_of(sampler: VllmSampler, reference: Reference, folder: Path, temperature: float = 1.0) -> float:
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(temperature, 24, seed=1)))
    gap = check_gap(reference.learner, groups, temperature)
    assert gap.tokens > 100
    return gap.mean


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_agree_with_transformers(sampler: VllmSampler, folder: Path, temperature: float) -> None:
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(temperature, 24, seed=1)))
    gap = check_gap(Reference(folder).learner, groups, temperature)
    assert gap.tokens > 100
    assert gap.max < 1e-4


def test_log_probabilities_agree_over_all_turns_of_a_response(sampler: VllmSampler, folder: Path) -> None:
    """The policy's turns end at a stop string or an end token, an environment speaks in between, and what vLLM sampled
    from is what the learner computes over the whole sequence."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = open_turn_format("tags", tokenizer, PromptConfig(), {}, (), sampler.end_tokens)
    environments = FakeEnvironments(react=lambda session, turn, seen: replied(session), tools=(), max_turns=3)
    many = TrajectorySampler(sampler).with_interactions(Interaction(environments, turns, 3))
    groups = list(many.sample(prompts(folder), 4, SamplingParams(1.0, 120, stop=("e", "t", "a"))))
    expected = Reference(folder).logprobs(groups, 1.0)
    responses = [response for group in groups for response in group.responses]
    assert max(sum(turn.role == "assistant" for turn in response.turns) for response in responses) == 3
    for response, logprobs in zip(responses, expected, strict=True):
        assert len(response.policy_mask) == len(response.token_ids)
        assert response.turns[0].first == 0
        assert response.turns[-1].end == len(response.token_ids)
        for turn in response.turns:
            here = slice(turn.first, turn.end)
            assert set(response.policy_mask[here]) == {turn.role == "assistant"}
            if turn.role == "assistant":
                assert list(response.sampler_logprobs[here]) == pytest.approx(logprobs[here], abs=LIMIT)
            else:
                assert set(response.sampler_logprobs[here]) == {0.0}
                text = tokenizer.decode(response.token_ids[here])
                assert text.endswith("\n<|im_start|>user\n<|eot|>Go on.<|im_end|>\n<|im_start|>assistant\n")
                ended = response.token_ids[turn.first - 1] in sampler.end_tokens
                assert text.startswith("\n" if ended else "<|im_end|>\n")


def replied(session: FakeSession) -> Observation:
    done = len(session.turns) == session.owner.max_turns
    return Observation((Message("user", "<|eot|>Go on."),), done=done, errors=("",), seconds=(0.0,))


def test_greedy_responses_are_those_of_the_transformers_sampler(sampler: VllmSampler, folder: Path) -> None:
    params = SamplingParams(0.0, 24)
    with HfSampler(folder, "float32", "cpu", MAX_MODEL_LEN, 8, False) as other:
        expected = {group.problem.id: group for group in TrajectorySampler(other).sample(prompts(folder), 1, params)}
    for group in TrajectorySampler(sampler).sample(prompts(folder), 1, params):
        [ours], [theirs] = group.responses, expected[group.problem.id].responses
        assert (ours.text, ours.token_ids, ours.finish_reason) == (theirs.text, theirs.token_ids, theirs.finish_reason)
        assert ours.sampler_logprobs == pytest.approx(theirs.sampler_logprobs, abs=1e-4)


def test_the_same_seed_gives_the_same_responses(sampler: VllmSampler, folder: Path) -> None:
    first, again, other = (
        {
            g.problem.id: g
            for g in TrajectorySampler(sampler).sample(prompts(folder), 6, SamplingParams(1.0, 32, seed=seed))
        }
        for seed in (2**63 - 1, 2**63 - 1, 8)  # the largest that `reasoner.distributed.seeds` gives
    )
    assert first == again
    assert first != other


def test_responses_end_with_any_end_token_a_stop_string_or_at_their_limit(sampler: VllmSampler, folder: Path) -> None:
    params = SamplingParams(1.0, 40, stop=("k", "zz"), seed=5)
    responses = [r for group in TrajectorySampler(sampler).sample(prompts(folder), 64, params) for r in group.responses]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = set(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    stopped = [r for r in responses if "k" in tokenizer.decode(r.token_ids)]
    assert {r.token_ids[-1] for r in responses if r.finish_reason == "stop" and r not in stopped} >= ends
    assert all(len(r.token_ids) == 40 for r in responses if r.finish_reason == "length")
    assert stopped
    for response in stopped:
        assert response.finish_reason == "stop"
        assert tokenizer.decode(response.token_ids, skip_special_tokens=True) == response.text + "k"
    [end] = tokenizer.encode("e")
    params = SamplingParams(1.0, 40, seed=5, end_tokens=(end,))
    responses = [r for group in TrajectorySampler(sampler).sample(prompts(folder), 64, params) for r in group.responses]
    ended = [r for r in responses if end in r.token_ids]
    assert ended
    for response in ended:
        assert (response.finish_reason, response.token_ids.index(end)) == ("stop", len(response.token_ids) - 1)
        assert tokenizer.decode(response.token_ids[:-1]) == response.text
    assert {r.token_ids[-1] for r in responses if r.finish_reason == "stop" and r not in ended} >= ends


def test_a_caller_that_has_enough_leaves_the_engine_ready(sampler: VllmSampler, folder: Path) -> None:
    stream = TrajectorySampler(sampler).sample(prompts(folder), 16, SamplingParams(1.0, 150, seed=2))
    first = next(stream)
    assert len(first.responses) == 16
    with pytest.raises(SamplerError, match="close the iterator"):
        sampler.wake()
    stream.close()  # type: ignore[attr-defined]
    assert len(list(TrajectorySampler(sampler).sample(prompts(folder), 2, SamplingParams(1.0, 4)))) == 3


def test_aborted_requests_come_with_their_prefix(sampler: VllmSampler, folder: Path) -> None:
    token_services.check_aborted_requests_come_with_their_prefix(sampler, folder)


def test_requests_join_those_that_run(sampler: VllmSampler) -> None:
    token_services.check_requests_join_those_that_run(sampler)


def test_a_response_that_repeats_itself_is_ended(sampler: VllmSampler) -> None:
    token_services.check_a_response_that_repeats_itself_is_ended(sampler)


def test_interrupted_groups_are_continued(sampler: VllmSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_interrupted_groups_are_continued(sampler, folder, tmp_path)


def test_weights_change_under_what_runs(sampler: VllmSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_weights_change_under_what_runs(sampler, folder, tmp_path / "new")


def test_what_it_cannot_do_is_refused(sampler: VllmSampler, folder: Path) -> None:
    with pytest.raises(SamplerError, match=r"problem 'p2' has \d+ tokens; with max_tokens = 200"):
        TrajectorySampler(sampler).sample(prompts(folder), 2, SamplingParams(1.0, 200))


@pytest.mark.parametrize(
    "part", ["embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "norm"]
)
def test_changed_weights_are_in_use_after_a_hand_over(sampler: VllmSampler, folder: Path, part: str) -> None:
    reference = Reference(folder)
    reference.change(part)
    assert gap_of(sampler, reference, folder) > LIMIT
    receipt = hand_over(reference.learner, sampler)
    assert (receipt.version, receipt.tensors, sampler.version) == (1, 20, 1)
    assert gap_of(sampler, reference, folder) < 1e-4


def test_weights_go_through_a_buffer_that_both_processes_map(
    engine: VllmSampler, sampler: VllmSampler, folder: Path, tmp_path: Path
) -> None:
    """As on a GPU that learner and engine share, but for CUDA's two calls: a file in memory is the buffer, smaller than
    the model."""
    reference = Reference(folder)
    reference.change("")
    assert gap_of(sampler, reference, folder) > LIMIT
    file, size = str(tmp_path / "buffer"), 2**16
    buffer = torch.from_file(file, shared=True, size=size, dtype=torch.uint8)
    link = DeviceLink(engine._host, buffer, lambda _: SharedBuffer((file, size), "none"))
    assert link.try_it() == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_link", link)
        patch.setattr(engine, "_device_obstacle", "")
        patch.setattr(Reference, "device_weights", lambda self: self.model.named_parameters(), raising=False)
        said: list[str] = []
        receipt = hand_over(reference.learner, sampler, say=said.append)
    assert said == ["the weights go to the sampler on the GPU (CUDA IPC), which was tried"]
    assert (receipt.version, receipt.tensors, sampler.version) == (1, 20, 1)
    assert gap_of(sampler, reference, folder) < 1e-4


def test_a_sampler_that_lost_a_family_of_parameters_is_caught(sampler: VllmSampler, folder: Path) -> None:
    reference = Reference(folder)
    reference.lost = {"model.embed_tokens.weight"}
    reference.change("embed_tokens")
    hand_over(reference.learner, sampler)
    groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(1.0, 24, seed=1)))
    with pytest.raises(HandoverError, match="tied output layer"):
        verify_gap(check_gap(reference.learner, groups, 1.0), LIMIT)


@dataclass(frozen=True)
class Stale:
    """Publishes somebody else's weights, and the embedding, which is the output layer too, as it is in `folder`."""

    other: Publisher
    folder: Path

    @property
    def version(self) -> int:
        return self.other.version

    def publish(self, folder: Path) -> str:
        embedding = load_file(self.folder / "model.safetensors")["model.embed_tokens.weight"]
        with TemporaryDirectory() as whole:
            self.other.publish(Path(whole))
            tensors = read_files(Path(whole))
            return write_weights(folder, ((n, embedding if "embed_tokens" in n else value) for n, value in tensors))


def test_the_canary_sees_every_family_arrive_and_an_embedding_that_stays(sampler: VllmSampler, folder: Path) -> None:
    learner = TorchLearner(
        folder, device="cpu", dtype="float32", config=LearningConfig(token_budget=512), total_steps=9
    )
    canary = Canary(
        learner, TrajectorySampler(sampler), ALONE, LIMIT, lambda publisher: hand_over(publisher, sampler), DRAWN
    )
    assert canary.prove(prompts(folder)).startswith("the sampler takes all 11 families of parameters")
    assert sampler.version == 0
    spoilt = Canary(
        learner, TrajectorySampler(sampler), ALONE, LIMIT, lambda each: hand_over(Stale(each, folder), sampler), DRAWN
    )
    with pytest.raises(HandoverError, match=r"does not take what it is given of model\.embed_tokens\.weight: "):
        spoilt.prove(prompts(folder))


def test_nothing_of_vllm_reaches_this_process(sampler: VllmSampler, log: Path) -> None:
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ
    assert "vllm" in log.read_text()


def test_after_a_failed_load_it_does_not_sample(engine: VllmSampler, folder: Path, tmp_path: Path) -> None:
    """The last test of the file: it uses the engine up."""
    with pytest.raises(SamplerError, match="No such file"):
        engine.load(tmp_path / "nowhere", 9)
    with pytest.raises(SamplerError, match="closed"):
        list(TrajectorySampler(engine).sample(prompts(folder), 2, SamplingParams(1.0, 4)))


@pytest.fixture(scope="module")
def adapted(folder: Path) -> TorchLearner:
    """A learner whose adapter goes over alone; some of the layers that vLLM fuses have none."""
    config, lora = LearningConfig(token_budget=512), LoraConfig(rank=4, targets=["q_proj", "up_proj", "down_proj"])
    lora = lora.model_copy(update={"handover": "adapter"})
    return TorchLearner(folder, device="cpu", dtype="float32", config=config, total_steps=9, lora=lora)


def test_an_adapter_goes_over_alone(adapted: TorchLearner, folder: Path, tmp_path: Path) -> None:
    def gap(sampler: VllmSampler) -> float:
        groups = list(TrajectorySampler(sampler).sample(prompts(folder), 4, SamplingParams(1.0, 24, seed=1)))
        assert {r.policy_version for g in groups for r in g.responses} == {sampler.version}
        return check_gap(adapted, groups, 1.0).mean

    start = StartEngine(str(folder), "float32", "cpu", MAX_MODEL_LEN, 16, 0.4, 0.25, False, adapter_rank=4)
    with VllmSampler(start, tmp_path / "log") as sampler:
        assert gap(sampler) < 1e-4  # B is 0
        for version in (1, 2):
            change_adapter(adapted)
            assert gap(sampler) > LIMIT
            receipt = hand_over(adapted, sampler)
            assert (receipt.version, receipt.tensors) == (version, 2 * 3 * 2)
            assert gap(sampler) < 1e-4
        canary = Canary(
            adapted, TrajectorySampler(sampler), ALONE, LIMIT, lambda each: hand_over(each, sampler), DRAWN
        )  # it asks for log-probabilities of prompts
        assert canary.prove(prompts(folder)).startswith("the sampler takes all 3 families of parameters")
        (other := tmp_path / "other").mkdir()
        misnamed = [(f"model.layers.0.q_proj.lora_{part}.default.weight", torch.ones(4, 4)) for part in "AB"]
        write_adapter(other, misnamed, LoraConfig(rank=4))
        with pytest.raises(SamplerError, match=r"no layers for 1 parts of the adapter .* lora.handover = 'merged'"):
            sampler.load(other, 3)


@torch.no_grad()
def change_adapter(learner: TorchLearner) -> None:
    for name, value in learner.policy.model.named_parameters():
        if ".lora_" in name:
            value.add_(0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(learner.version)))
    learner._optimizer.version += 1


def test_two_processes_share_a_model(folder: Path, tmp_path: Path) -> None:
    """Weights, receipts, seeds and the hand-over of an engine with tensor parallelism are those of a single one."""
    start = StartEngine(str(folder), "float32", "cpu", MAX_MODEL_LEN, 16, 0.4, 0.25, False, tensor_parallel=2)
    reference = Reference(folder)
    with VllmSampler(start, tmp_path / "log") as sampler:
        assert gap_of(sampler, reference, folder) < 1e-4
        for part in ("embed_tokens", "proj"):
            reference.change(part)
        receipt = hand_over(reference.learner, sampler)
        assert (receipt.version, receipt.tensors) == (2, 20)
        assert gap_of(sampler, reference, folder) < 1e-4
        first, again = (
            list(TrajectorySampler(sampler).sample(prompts(folder), 2, SamplingParams(1.0, 8, seed=3)))
            for _ in range(2)
        )
        assert first == again
        children = psutil.Process(sampler._host._process.pid).children(recursive=True)
        assert len(children) >= 2
    _, alive = psutil.wait_procs(children, 10.0)
    assert alive == []


def test_the_wrong_build_of_vllm_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SamplerError, match="built for cpu, and the model is to be on cuda"):
        VllmSampler(StartEngine(str(folder), "float32", "cuda", MAX_MODEL_LEN, 16, 0.4, 0.25, False), tmp_path / "log")
