"""Sampling by several servers: who draws what, and what becomes of servers that die, hang, lie or are restarted."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest
import torch

from reasoner.config import LoraConfig, SamplingConfig
from reasoner.config.decisions import Decisions
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import SamplerError, UserError
from reasoner.loading import load_config
from reasoner.models.tensor_files import checksum_of_model, write_adapter
from reasoner.records import Group, Message, Problem, Prompt, Receipt, Response, SamplingParams
from reasoner.sampling.base import Completed, Oldest, TokenRequest
from reasoner.sampling.factory import open_engine
from reasoner.sampling.responses import prompt_seeds
from reasoner.sampling.server import scheduler
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.sampler import ServerSampler
from reasoner.training.guards.canary import PERTURBED
from reasoner.trajectories.sampler import TrajectorySampler
from tests.command import Cli
from tests.tiny import build_tiny_model
from tests.unit.fake_vllm import Fake, fake_servers

T = TypeVar("T")
PARAMS = SamplingParams(1.0, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fakes() -> Iterator[list[Fake]]:
    with fake_servers(2) as found:
        yield found


@dataclass
class World:
    """Two fake servers and what is said of them."""

    fakes: list[Fake]
    folder: Path
    wanted: ServerRequirements
    patience_s: float = 60.0
    said: list[str] = field(default_factory=list)

    def open(self, ranks: Ranks = ALONE) -> ServerSampler:
        return ServerSampler(
            [fake.url for fake in self.fakes],
            self.folder,
            self.wanted,
            seed=0,
            say=self.said.append,
            ranks=ranks,
            patience_s=self.patience_s,
        )

    def ready(self) -> ServerSampler:
        sampler = self.open()
        sampler.load(self.folder, 0)
        return sampler


@pytest.fixture
def world(fakes: list[Fake], folder: Path, tmp_path: Path) -> World:
    shape = {"vocab_size": 260, "num_hidden_layers": 2}
    return World(fakes, folder, ServerRequirements("reasoner serve tiny", shape, "float32", 256, tmp_path))


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Problem(f"p{index}", (Message("user", "?"),), ""), (1, 2, 3 + index)) for index in range(count)]


def draw(sampler: ServerSampler, count: int = 12, n: int = 4) -> list[Group]:
    groups = list(TrajectorySampler(sampler).sample(prompts(count), n, PARAMS))
    assert sorted(group.problem.id for group in groups) == sorted(f"p{index}" for index in range(count))
    return groups


def test_groups_are_spread_by_load_and_no_server_gets_more_than_it_draws_at_once(world: World) -> None:
    slow, fast = world.fakes
    slow.before = lambda: time.sleep(0.4)
    fast.before = lambda: time.sleep(0.01)
    with world.ready() as sampler:
        groups = draw(sampler, 16)
    assert [fake.most for fake in world.fakes] == [2, 2]  # 8 sequences, groups of 4
    assert 2 <= len(slow.drawn) < len(fast.drawn)
    [response, *_] = groups[0].responses
    assert (response.token_ids, response.sampler_logprobs) == ((65,) * 4, (-0.5,) * 4)
    assert (response.text, response.finish_reason, response.policy_version) == ("bbbb", "length", 0)
    assert world.said == []


def test_servers_are_told_all_tokens_that_end_a_response(world: World) -> None:
    with world.ready() as sampler:
        [group] = TrajectorySampler(sampler).sample(prompts(1), 1, SamplingParams(1.0, 4, end_tokens=(65,)))
    [asked] = [asked for fake in world.fakes for asked in fake.asked]
    assert asked["stop_token_ids"] == [65, 256, 258]  # <|endoftext|> and <|im_end|> are the model's own
    assert group.responses[0].text == "bbb"


def test_requests_have_their_own_seeds_where_a_server_can_seed_them(world: World) -> None:
    """Whichever server draws a group, its noise is the same; vLLM's CPU build would end with the first seed."""
    gpu, cpu = world.fakes
    gpu.describes = {"device": "cuda"}
    params = SamplingParams(1.0, 4, seed=7)
    with world.ready() as sampler:
        list(TrajectorySampler(sampler).sample(prompts(12), 4, params))
    seeds = [asked["seed"] for asked in gpu.asked]
    assert len(set(seeds)) == len(seeds) > 0
    assert set(seeds) <= set(prompt_seeds(7, prompts(12)))
    assert cpu.asked
    assert not any("seed" in asked for asked in cpu.asked)


def test_few_groups_go_to_all_servers(world: World) -> None:
    world.fakes[0].says_late_s = 0.2
    with world.ready() as sampler:
        draw(sampler, 2)
    assert [len(fake.drawn) for fake in world.fakes] == [1, 1]


def test_the_weights_are_given_to_every_server_under_a_name_of_their_own(world: World) -> None:
    with world.open() as sampler, world.open() as other:
        receipt = sampler.load(world.folder, 3)
        assert (sampler.version, receipt.version, receipt.tensors) == (3, 3, 20)
        first, second = (fake.version for fake in world.fakes)
        assert first == second
        assert first.endswith(":3")
        assert not any(fake.paused for fake in world.fakes)
        other.load(world.folder, 3)
        assert world.fakes[0].version != first  # of another run, which has the servers now
        with pytest.raises(SamplerError, match="another run uses it"):
            draw(sampler)
    assert len({seed for fake in world.fakes for seed in fake.seeds}) == 4


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (folder := tmp_path / "adapter").mkdir()
    parts = [(f"model.layers.0.mlp.up_proj.lora_{part}.default.weight", torch.ones(2, 2)) for part in "AB"]
    write_adapter(folder, parts, LoraConfig(rank=2))
    return folder


@pytest.mark.parametrize("sees_folder", [True, False])
def test_an_adapter_is_given_alone_to_servers_that_were_started_with_its_base(
    world: World, adapter: Path, sees_folder: bool
) -> None:
    """One that is started again has all that it needs with the next adapter, unless it is started with another base."""
    world.wanted = replace(world.wanted, base=world.fakes[0].base, may_pull=True)
    world.fakes[1].describes = {"reads_folder": sees_folder}
    first, second = world.fakes
    with world.open() as sampler:
        receipt = sampler.load(adapter, 0)
        assert (receipt.tensors, [fake.taken for fake in world.fakes]) == (2, [[receipt.checksum]] * 2)
        assert bool(second.pulled) is not sees_folder
        first.restart()
        first.base = "c" * 32
        sampler.load(adapter, 1)
        draw(sampler)
        assert (first.drawn, [fake.merged for fake in world.fakes]) == ([], [1, 2])
        assert "other weights than the adapter was trained beside" in world.said[0]
        first.base = second.base
        sampler.load(adapter, 2)
        draw(sampler)
        assert first.drawn
        assert world.said[1:] == [f"{first.url} is back, with the weights of version 2"]


@pytest.mark.parametrize("base", ["c" * 32, ""])
def test_a_server_that_cannot_take_the_adapter_is_refused_at_the_start(world: World, base: str) -> None:
    """Empty: one that does not say what it was started with."""
    world.wanted = replace(world.wanted, base=world.fakes[0].base)
    world.fakes[1].base = base
    with pytest.raises(UserError, match=rf"{world.fakes[1].url} was started with other weights .*handover = 'merged'"):
        world.open()
    world.wanted = replace(world.wanted, base="")  # it gets whole weights
    with world.ready() as sampler:
        draw(sampler)


def test_a_server_that_breaks_off_while_it_reads_its_model_is_not_asked_to_begin_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = world.fakes[0]
    asked: list[bool] = []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, object]:
        if body.get("method") == "describe":
            asked.append(body["args"][1])
            if asked[-1]:
                raise ConnectionError  # nothing is answered
        return Fake.answer(fake, path, body)

    monkeypatch.setattr(fake, "answer", answer)
    world.wanted = replace(world.wanted, base=fake.base)
    with pytest.raises(UserError, match="broke off"):
        world.open()
    assert asked == [False, True]


@pytest.mark.parametrize(("rank", "merged"), [(0, 0), (2, 1)])
def test_a_training_with_an_adapter_asks_its_servers_for_the_base(
    world: World, adapter: Path, tmp_path: Path, rank: int, merged: int
) -> None:
    for fake in world.fakes:
        fake.base = checksum_of_model(world.folder)
    settings = {"servers": [fake.url for fake in world.fakes], "max_prompt_tokens": 8, "max_tokens": 8}
    config = load_config("math-gsm8k", "laptop").config
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"dtype": "float32"}),
            "sampling": config.sampling.model_copy(update=settings),
        }
    )
    decisions = Decisions("cpu", "servers", "torch", 16, adapter_rank=rank)
    assert not decisions.holds_adapter  # so that it can change under what runs
    with open_engine(config, decisions, world.folder, tmp_path / "log", say=world.said.append) as sampler:
        sampler.load(adapter, 0)
    assert [fake.merged for fake in world.fakes] == [merged] * 2


def given(tokens: tuple[int, ...]) -> Group:
    """A response to be scored."""
    response = Response("", tokens, (True,) * len(tokens), (0.0,) * len(tokens), "length", 0)
    return Group(Problem("p", (Message("user", "?"),), ""), (1, 2), (response,))


def test_every_server_scores_what_it_is_given_with_the_weights_that_it_was_given(world: World) -> None:
    first, second = world.fakes
    with world.ready() as sampler:
        scored = sampler.score([given((5, 6)), given((9,))])
        assert scored == {fake.url: [[-0.05, -0.06], [-0.09]] for fake in world.fakes}
        first.version = "other"
        assert sampler.score([given((5, 6))]) == {second.url: [[-0.05, -0.06]]}
        assert "scored with other weights than those that it was given: ['other']" in world.said[0]
        second.spoils = lambda answer: answer | {"prompt_logprobs": [*answer["prompt_logprobs"][:-1], None]}
        with pytest.raises(SamplerError, match="log-probabilities of other tokens than those that it was given"):
            sampler.score([given((5, 6))])


def test_nobody_samples_with_weights_that_were_changed_on_purpose(world: World) -> None:
    with world.ready() as sampler:
        sampler.load(world.folder, PERTURBED)
        assert sampler.score([given((5,))]).keys() == {fake.url for fake in world.fakes}
        with pytest.raises(SamplerError, match="before they were given weights"):
            next(TrajectorySampler(sampler).sample(prompts(1), 1, PARAMS))
        world.fakes[0].dead = True
        with pytest.raises(SamplerError, match="did not take the weights"):  # nor goes one on that still has them
            sampler.load(world.folder, 0)


def dies(fake: Fake) -> None:
    fake.dead = True


def hangs(fake: Fake) -> None:
    fake.hangs = True


def restarts(fake: Fake) -> None:
    fake.restart()


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (dies, "broke off"),
        (hangs, "made no token in"),
        (restarts, "sampled with other weights|holds the weights 'default'"),
    ],
)
def test_what_a_lost_server_had_goes_to_the_others_and_it_is_back_with_the_next_weights(
    world: World, happens: Callable[[Fake], None], reason: str
) -> None:
    if happens is hangs:
        world.patience_s = 1.0
    bad, good = world.fakes
    if happens is dies:
        good.before = lambda: time.sleep(0.5)  # a dead server is asked three times before it is lost
    with world.ready() as sampler:
        bad.before = lambda: happens(bad) if len(bad.drawn) == 1 else None
        assert all(response.policy_version == 0 for group in draw(sampler) for response in group.responses)
        [said] = world.said
        assert bad.url in said
        assert any(part in said for part in reason.split("|"))
        drawn = len(bad.drawn)
        good.before = lambda: None
        draw(sampler)
        assert len(bad.drawn) == drawn  # it is left alone
        bad.before = lambda: None
        bad.restart()
        sampler.load(world.folder, 1)
        draw(sampler)
        assert len(bad.drawn) > drawn
        assert world.said == [said, f"{bad.url} is back, with the weights of version 1"]


def test_tokens_that_are_lost_with_a_server_are_counted(world: World) -> None:
    world.patience_s = 1.0
    bad, _ = world.fakes
    bad.made = 700  # of somebody else, before

    def writes_and_hangs() -> None:
        if len(bad.drawn) == 1:
            bad.made, bad.hangs = bad.made + 40, True

    with world.ready() as sampler:
        bad.before = writes_and_hangs
        draw(sampler)
        [said] = world.said
    match = re.search(r"(\d+) responses that it was writing are begun again, .*: at least (\d+) of their tokens", said)
    assert match
    assert int(match[1]) > 0
    assert 40 <= int(match[2]) < 700


def _empty(answer: dict[str, Any]) -> object:
    return {"choices": []}


def _once_empty(fake: Fake, answer: dict[str, Any]) -> object:
    return _empty(answer) if len(fake.drawn) == 2 else answer


def _page(answer: dict[str, Any]) -> object:
    return "<html>"


def _not_a_number(answer: dict[str, Any]) -> object:
    answer["choices"][0]["logprobs"]["content"][0]["logprob"] = float("nan")
    return answer


def _unknown(answer: dict[str, Any]) -> object:
    answer["choices"][0]["logprobs"]["content"][0]["logprob"] = -9999.0
    return answer


def _other_tokens(answer: dict[str, Any]) -> object:
    answer["choices"][0]["token_ids"][0] += 1
    return answer


def _cut(answer: dict[str, Any]) -> object:
    answer["choices"][0]["token_ids"].pop()
    answer["choices"][0]["logprobs"]["content"].pop()
    return answer


def _aborted(answer: dict[str, Any]) -> object:
    answer["choices"][0]["finish_reason"] = "abort"
    return answer


def _broken(answer: dict[str, Any]) -> object:
    answer["choices"][0]["finish_reason"] = "error"
    return answer


def _empty_response(answer: dict[str, Any]) -> object:
    answer["choices"][0] |= {"token_ids": [], "logprobs": {"content": []}, "weight_versions": []}
    return answer


def _no_versions(answer: dict[str, Any]) -> object:
    answer["choices"][0]["weight_versions"] = []
    return answer


def _two_versions(answer: dict[str, Any]) -> object:
    answer["choices"][0]["weight_versions"].append({"version": "x:7", "start": 2, "end": 4})
    return answer


@pytest.mark.parametrize(
    ("spoils", "reason"),
    [
        (_empty, "answers 0 responses where 4 were asked for"),
        (_page, "answers what cannot be used"),
        (_not_a_number, "cannot be used"),
        (_unknown, "choices.0.logprobs.content.0.logprob"),
        (_other_tokens, "of other tokens than those of the response"),
        (_cut, "3 tokens and finish reason 'length' where max_tokens is 4"),
        (_aborted, "ended a request that nobody else should end"),
        (_broken, "choices.0.finish_reason"),
        (_empty_response, "0 tokens and finish reason 'length'"),
        (_no_versions, "does not say which weights sampled which of 4 tokens"),
        (_two_versions, "sampled with other weights"),
    ],
)
def test_nonsense_is_drawn_again_elsewhere(world: World, spoils: Callable[[Any], object], reason: str) -> None:
    liar = world.fakes[1]
    with world.ready() as sampler:
        liar.spoils = spoils
        draw(sampler)
    [said] = world.said
    assert liar.url in said
    assert reason in said


def test_one_failure_is_no_reason_to_lose_a_server(world: World) -> None:
    with world.ready() as sampler:
        for fake in world.fakes:
            fake.spoils = partial(_once_empty, fake)
        draw(sampler)
    assert world.said == []


def test_when_all_are_dead_the_error_names_them(world: World) -> None:
    with world.ready() as sampler:
        for fake in world.fakes:
            fake.dead = True
        with pytest.raises(SamplerError, match="no vLLM server is left") as failed:
            draw(sampler)
        assert all(f"{fake.url} could not be reached" in str(failed.value) for fake in world.fakes)
        with pytest.raises(SamplerError, match="no vLLM server is left"):
            draw(sampler)
        with pytest.raises(SamplerError, match="no vLLM server is left") as again:
            sampler.load(world.folder, 1)
        assert all(fake.url in str(again.value) for fake in world.fakes)


def test_the_first_weights_must_reach_every_server(world: World) -> None:
    with world.open() as sampler:
        with pytest.raises(SamplerError, match="before they were given weights"):
            draw(sampler)
        world.fakes[1].dead = True
        with pytest.raises(SamplerError, match=f"{world.fakes[1].url} did not take the weights"):
            sampler.load(world.folder, 0)


def test_a_reader_that_has_enough_ends_the_drawing(world: World) -> None:
    for fake in world.fakes:
        fake.before = lambda: time.sleep(0.05)
    with world.ready() as sampler:
        groups = TrajectorySampler(sampler).sample(prompts(200), 4, PARAMS)
        next(groups)
        groups.close()  # type: ignore[attr-defined]
        assert isinstance(sampler.load(world.folder, 1), Receipt)
        time.sleep(0.3)
        drawn = sum(len(fake.drawn) for fake in world.fakes)
        time.sleep(0.3)
        assert sum(len(fake.drawn) for fake in world.fakes) == drawn < 200


def request(id_: int, n: int = 4) -> TokenRequest:
    return TokenRequest(id_, (1, 2, 3), n, PARAMS)


def received(sampler: ServerSampler, count: int) -> dict[int, Completed]:
    completed = [sampler.receive(60.0) for _ in range(count)]
    return {each.id: each for each in completed if each}


def test_requests_come_while_others_run(world: World) -> None:
    world.fakes[0].holds = world.fakes[1].holds = True
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(0), request(1)])
        assert sampler.receive(0.2) is None
        sampler.submit([request(2)])
        with pytest.raises(SamplerError, match="request 2 is running already"):
            sampler.submit([request(2)])
        for fake in world.fakes:
            fake.holds = False
        assert received(sampler, 3).keys() == {0, 1, 2}
        assert sampler.receive() is None
        sampler.submit([request(2)])  # of the same session
        assert received(sampler, 1).keys() == {2}
    assert world.said == []


@pytest.mark.parametrize("wrote", [0, 2])
def test_what_is_aborted_is_answered_with_what_the_server_has_of_it(world: World, wrote: int) -> None:
    for fake in world.fakes:
        fake.holds, fake.wrote = True, wrote
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(id_) for id_ in range(6)])  # two of them at a time in a server
        for call in (lambda: sampler.begin(1), lambda: sampler.load(world.folder, 1), lambda: sampler.score([])):
            with pytest.raises(SamplerError, match="still sampling"):
                call()
        assert sampler.receive(0.5) is None
        sampler.abort(range(6))
        completed = received(sampler, 6)
        assert completed.keys() == set(range(6))
        lengths = [len(completion.token_ids) for each in completed.values() for completion in each.completions]
        assert sorted(lengths) == [0] * 8 + [wrote] * 16
        assert {completion.finish for each in completed.values() for completion in each.completions} == {"abort"}
        assert sum(len(set(fake.aborted)) for fake in world.fakes) == 4
        assert sampler.receive() is None
    assert world.said == []


def test_a_group_that_is_interrupted_goes_on_at_any_server_under_newer_weights(world: World) -> None:
    held, _ = world.fakes
    held.holds, held.wrote = True, 2
    with world.ready() as service:
        sampler = TrajectorySampler(service)
        quick = list(sampler.sample_some([], prompts(4), 4, PARAMS, 2, Oldest(-1, -1)))
        kept = sampler.kept
        assert {len(partial.token_ids) for group in kept for partial in group.partial} == {2}
        held.holds = False
        sampler.load(world.folder, 1)
        carried = [prompt for prompt in prompts(4) if prompt.problem.id in {group.problem.id for group in kept}]
        slow = list(sampler.sample_some(carried, [], 4, PARAMS, 2, Oldest(0, 1)))
    assert {group.problem.id for group in (*quick, *slow)} == {"p0", "p1", "p2", "p3"}
    for group in slow:
        for response in group.responses:
            assert (len(response.token_ids), response.carried_tokens, response.finish_reason) == (4, 2, "length")
            assert (response.policy_version, response.version_changes) == (0, ((2, 1),))
    assert world.said == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives up soon what a server does not end."""
    monkeypatch.setattr(scheduler, "ABORT_EVERY", 0.05)
    monkeypatch.setattr(scheduler, "ABORT_FOR_S", 0.3)


@pytest.mark.usefixtures("impatient")
def test_what_a_server_does_not_end_is_given_up_and_that_is_said_once(world: World) -> None:
    for fake in world.fakes:
        fake.hangs = True
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(id_) for id_ in range(6)])  # two of them wait
        assert sampler.receive(0.3) is None
        sampler.abort(range(6))
        for completed in received(sampler, 6).values():
            assert {(completion.token_ids, completion.finish) for completion in completed.completions} == {
                ((), "abort")
            }
        [said] = world.said
        assert said.startswith("WARNING: 16 responses were interrupted and their servers did not give back")
        assert all(f"8 by {fake.url}" in said for fake in world.fakes)
        for fake in world.fakes:
            fake.hangs = False
        sampler.begin(1)
        sampler.submit([request(0)])
        assert received(sampler, 1)[0].completions[0].finish == "length"
        assert world.said == [said]


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_take_the_order_to_end_a_request_is_told_again(world: World) -> None:
    for fake in world.fakes:
        fake.holds, fake.refuses_aborts = True, 2
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(0), request(1)])
        assert sampler.receive(0.3) is None
        sampler.abort([0, 1])
        completed = received(sampler, 2)
        assert {len(completion.token_ids) for each in completed.values() for completion in each.completions} == {2}
    assert world.said == []


@pytest.mark.usefixtures("impatient")
def test_what_is_to_end_while_weights_are_loaded_ends_after_that(world: World) -> None:
    first, _ = world.fakes
    first.holds = True
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(0)])
        assert sampler.receive(0.3) is None
        sampler.pause()
        sampler.abort([0])
        assert sampler.receive() is None
        time.sleep(0.6)
        assert sampler.receive() is None
        assert first.aborted == []
        sampler.load(world.folder, 7)
        sampler.resume()
        assert {len(completion.token_ids) for completion in received(sampler, 1)[0].completions} == {2}
    assert world.said == []


def test_what_a_lost_server_was_to_end_is_not_continued_elsewhere(world: World) -> None:
    for fake in world.fakes:
        fake.holds = True
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(0), request(1)])
        assert sampler.receive(0.3) is None
        for fake in world.fakes:
            fake.spoils = _page
        sampler.abort([0])
        [completion, *_] = received(sampler, 1)[0].completions
        assert (completion.token_ids, completion.finish) == ((), "abort")
        for fake in world.fakes:
            fake.spoils, fake.holds = lambda answer: answer, False
        assert world.said == []
        assert received(sampler, 1)[1].completions[0].finish == "length"
        [said] = world.said
        assert "WARNING: 4 responses were interrupted" in said


def test_what_was_to_end_at_a_server_that_is_lost_is_said_to_be_lost(world: World) -> None:
    first, _ = world.fakes
    first.holds = True
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.submit([request(0)])
        assert sampler.receive(0.3) is None
        first.dead = True
        sampler.abort([0])
        sampler.pause()
        [completion, *_] = received(sampler, 1)[0].completions
        assert (completion.token_ids, completion.finish) == ((), "abort")
    assert [f"{first.url} could not be reached" in said for said in world.said] == [True, False]
    assert "4 responses were interrupted and their servers did not give back" in world.said[1]
    assert f"(4 by {first.url})" in world.said[1]


def test_weights_change_under_what_runs_and_every_token_has_its_version(world: World) -> None:
    def both(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            choice["weight_versions"] = [
                {"version": old, "start": 0, "end": 3},
                {"version": choice["weight_versions"][0]["version"], "start": 3, "end": 4},
            ]
        return answer

    first, second = world.fakes
    for fake in world.fakes:
        fake.holds = True
    with world.ready() as sampler:
        old = first.version
        sampler.begin(0)
        sampler.submit([request(0)])
        assert sampler.receive(0.3) is None
        sampler.pause()
        assert first.paused
        assert sampler.receive() is None
        sampler.submit([request(1), request(2)])
        sampler.load(world.folder, 7)
        assert first.paused
        sampler.resume()
        assert not second.paused
        for fake in world.fakes:
            fake.spoils, fake.holds = both, False
        [completion, *_] = received(sampler, 1)[0].completions
        assert (completion.version, completion.version_changes) == (0, ((3, 7),))
        # what was submitted under the old weights may have tokens of both, too
        assert received(sampler, 2)[1].completions[0].version_changes == ((3, 7),)
        assert world.said == []
        sampler.submit([request(3)])  # this one not
        with pytest.raises(SamplerError, match=r"no vLLM server is left(?s:.*)sampled with other weights than the pub"):
            sampler.receive()


def test_weights_change_between_the_beginning_and_the_first_request(world: World) -> None:
    with world.ready() as sampler:
        sampler.begin(0)
        sampler.pause()
        for fake in world.fakes:
            fake.version = f"{fake.version}, loading"
        sampler.submit([request(0)])
        assert sampler.receive(0.3) is None
        time.sleep(0.3)  # the servers would be asked now which weights they hold
        sampler.load(world.folder, 7)
        sampler.resume()
        [completion, *_] = received(sampler, 1)[0].completions
        assert (completion.version, completion.version_changes) == (7, ())
    assert world.said == []


@pytest.mark.parametrize(
    ("describes", "mistake"),
    [
        ({"shape": {"vocab_size": 99, "num_hidden_layers": 2}}, r"another model \(vocab_size = 99;"),
        ({"dtype": "bfloat16"}, "in bfloat16, and model.dtype is float32"),
        ({"max_model_len": 128}, "takes 128 tokens, and a prompt and its response may have 256"),
        ({"logprobs_mode": "raw_logprobs"}, "gives raw_logprobs"),
        ({"generation_config": "auto"}, "its own sampling defaults"),
        ({"reads_folder": False}, "set sampling.weights_folder"),
    ],
)
def test_a_server_that_is_not_what_the_run_needs_is_refused(
    world: World, describes: dict[str, Any], mistake: str
) -> None:
    wrong = world.fakes[1]
    wrong.describes = describes
    with pytest.raises(UserError, match=mistake) as refused:
        world.open()
    assert wrong.url in str(refused.value)
    assert f"reasoner serve tiny --port {wrong.url.rpartition(':')[2]}" in str(refused.value)


def test_a_server_that_cannot_end_what_runs_is_refused(world: World) -> None:
    world.fakes[1].aborts = False
    with pytest.raises(UserError, match=f"{world.fakes[1].url} cannot end a request that runs"):
        world.open()


def test_a_server_that_does_not_answer_is_refused(world: World) -> None:
    world.fakes[0].dead = True
    with pytest.raises(UserError, match=f"{world.fakes[0].url} could not be reached"):
        world.open()


@pytest.mark.parametrize("key", ["", "another-secret-key"])
def test_the_key_comes_from_the_environment_and_is_never_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    for fake in world.fakes:
        fake.key = "the-secret-key-of-the-server"
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(UserError, match=r"refuses the key.*VLLM_API_KEY") as refused:
        world.open()
    assert not key or key not in str(refused.value)
    monkeypatch.setenv("VLLM_API_KEY", world.fakes[0].key)
    with world.ready() as sampler:
        draw(sampler)


class TwoRanks(Ranks):
    """Two threads as ranks: what the first one says reaches both."""

    barrier = threading.Barrier(2, timeout=60)
    said: ClassVar[list[object]] = [None]

    def broadcast(self, value: T) -> T:
        if self.first:
            self.said[0] = value
        self.barrier.wait()
        found = cast(T, self.said[0])
        self.barrier.wait()
        return found


def test_ranks_share_the_servers_and_the_first_one_loads_the_weights(world: World) -> None:
    def rank(index: int) -> list[Group]:
        with world.open(TwoRanks(index, 2)) as sampler:
            assert sampler.load(world.folder, 5).version == 5
            return draw(sampler, 4)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(rank, range(2))
    assert len(first) == len(second) == 4
    assert [len(fake.seeds) for fake in world.fakes] == [1, 1]
    assert all(fake.most <= 2 for fake in world.fakes)  # each rank keeps to its half of 8 sequences


TASK = """
[model]
path = "{model}"
[data]
overlap = "allow"
train = {{ path = "{data}" }}
eval = {{ path = "{data}" }}
[sampling]
servers = {servers}
max_prompt_tokens = 64
max_tokens = 64
[[rewards]]
source = "exact"
[gro]
preset = "grpo"
[evaluation]
correct = "exact"
"""


def test_a_run_asks_its_servers_before_it_begins(world: World, cli: Cli, tmp_path: Path) -> None:
    data, task = tmp_path / "data.jsonl", tmp_path / "letters.toml"
    data.write_text('{"question": "a?", "answer": "a"}\n')
    urls = [fake.url for fake in world.fakes]
    task.write_text(TASK.format(model=world.folder, data=data, servers=urls))
    planned = cli("run", str(task), "--dry-run", "--set", "learning.problems_per_step=1")
    assert planned.code == 0, planned.err
    assert "2 vLLM servers (0.32.0)" in " ".join(planned.out.split())
    missing = tmp_path / "nowhere"
    refused = cli("run", str(task), "--dry-run", "--set", f"sampling.weights_folder={missing}")
    assert (refused.code, "cannot be written: No such file or directory" in refused.err) == (2, True), refused.err
    world.fakes[1].describes = {"max_model_len": 100}
    refused = cli("run", str(task), "--dry-run")
    assert refused.code == 2
    assert f"the server {urls[1]} takes 100 tokens" in refused.err


def test_an_evaluation_gives_the_servers_each_model(world: World, cli: Cli, tmp_path: Path) -> None:
    data, task = tmp_path / "data.jsonl", tmp_path / "letters.toml"
    data.write_text("".join(f'{{"question": "a{n}?", "answer": "a"}}\n' for n in range(3)))
    task.write_text(TASK.format(model=world.folder, data=data, servers=[fake.url for fake in world.fakes]))
    other = build_tiny_model(tmp_path / "other", seed=1)
    models = ("--model", str(world.folder), "--model", str(other))
    unchecked = ("--set", "handover.max_gap=1000")  # these servers compute nothing
    done = cli("eval", str(task), *models, "--output", str(tmp_path / "runs"), *unchecked)
    assert done.code == 0, done.err
    assert "servers" in done.out
    assert all(len(fake.seeds) == 2 for fake in world.fakes)
    assert len({checksum for fake in world.fakes for checksum in fake.taken}) == 2
    assert sum(len(fake.drawn) for fake in world.fakes) == 2 * (2 + 3)  # two for the check of each model


def test_a_port_that_is_taken_and_heads_that_cannot_be_spread_are_refused(world: World, cli: Cli) -> None:
    port = world.fakes[0].url.rpartition(":")[2]
    refused = cli("serve", str(world.folder), "--port", port)
    assert refused.code == 2
    assert f"--port {port} cannot be listened on: Address already in use" in refused.err
    refused = cli("serve", str(world.folder), "--tensor-parallel", "4")
    assert refused.code == 2
    assert "tensor_parallel = 4 does not fit the model's 2 attention heads" in refused.err


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"weights_folder": "/x"}, "weights_folder has no effect without servers"),
        ({"servers": ["http://a:1"], "engine": "hf"}, "engine = 'hf' has no servers"),
        ({"servers": ["http://a:1", "http://a:1/"]}, "names http://a:1 twice"),
        ({"servers": ["a:8000"]}, "starts with http:// or https://"),
        ({"servers": ["http://me:secret@a:1"]}, "must not hold a user"),
        ({"servers": ["http://a:1?key=x"]}, "has a query"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        SamplingConfig(**settings)
