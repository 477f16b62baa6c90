"""What every real token service has to do, on a tiny random model: called by the tests of each engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reasoner.models.tensor_files import write_weights
from reasoner.records import Message, Problem, Prompt, SamplingParams
from reasoner.sampling.base import Completed, Completion, Oldest, TokenRequest, TokenService
from reasoner.sampling.responses import repeats
from reasoner.trajectories.sampler import TrajectorySampler

PROMPTS = [tuple(range(40, 50 + index)) for index in range(3)]


def asked(id_: int, n: int, tokens: int, prompt: Sequence[int] | None = None) -> TokenRequest:
    return TokenRequest(id_, tuple(prompt or PROMPTS[id_ % 3]), n, SamplingParams(1.0, tokens))


def received(service: TokenService) -> dict[int, Completed]:
    """All that runs, waited for."""
    result = {}
    while completed := service.receive():
        result[completed.id] = completed
    return result


def check_logprobs(model: torch.nn.Module, prompt: Sequence[int], completion: Completion, first: int, end: int) -> None:
    """Tokens `first` to `end` were sampled by this model, which read all the tokens before them."""
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0].tolist()
    assert list(completion.logprobs[first:end]) == pytest.approx(expected[first:end], abs=2e-4)


def check_aborted_requests_come_with_their_prefix(service: TokenService, folder: Path, attempts: int = 1) -> None:
    """
    Args:
        attempts: how often it is tried to end requests while they run; engines behind an address do not wait for it.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    finishes: set[str] = set()
    for _ in range(attempts):
        service.begin(4)
        service.submit([asked(0, 3, 1), asked(1, 3, 200), asked(2, 2, 200)])
        short = service.receive()
        assert short
        assert short.id == 0
        assert all(completion.finish in ("stop", "length") for completion in short.completions)
        service.abort([0, 1, 77])
        service.submit([asked(3, 1, 200)])
        service.abort([3])
        left = received(service)
        assert left.keys() == {1, 2, 3}
        assert len(left[1].completions) == 3
        for completion in left[1].completions:
            check_logprobs(model, PROMPTS[1], completion, 0, 200)
            assert (completion.finish == "length") == (len(completion.token_ids) == 200)
        assert "abort" not in {completion.finish for completion in left[2].completions}
        finishes = {completion.finish for completion in left[1].completions}
        if "abort" in finishes and left[3].completions[0].finish == "abort":
            break
    assert "abort" in finishes
    assert left[3].completions[0].finish == "abort"
    service.begin(4)  # free again


def check_requests_join_those_that_run(service: TokenService) -> None:
    """What was sampled goes on: the continuation of a continuation."""
    service.begin(5)
    service.submit([asked(0, 2, 8), asked(1, 2, 60)])
    first = service.receive()
    assert first
    prompt = (*PROMPTS[first.id], *first.completions[0].token_ids)
    service.submit([asked(7, 3, 4, prompt)])
    left = received(service)
    assert left.keys() == {0, 1, 7} - {first.id}
    assert len(left[7].completions) == 3
    assert service.receive() is None


def check_weights_change_under_what_runs(
    service: TokenService, folder: Path, published: Path, attempts: int = 1
) -> None:
    """Every token has the version of the weights that sampled it, and their log-probability.

    Args:
        attempts: how often it is tried to change them in time, forth and back; see above.
    """
    old, new = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.0 + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for _ in range(attempts):
        published = published.with_name(f"{published.name}-next")
        published.mkdir()
        write_weights(published, new.named_parameters())
        if _change(service, old, new, published) >= 3:
            return
        old, new = new, old
    raise AssertionError("no weights changed in time")


def check_interrupted_groups_are_continued(service: TokenService, folder: Path, work: Path) -> None:
    """By newer weights, which read what the older ones wrote: every token has the log-probability of its own."""
    old, new = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.0 + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for name, model in (("old", old), ("new", new)):
        (work / name).mkdir()
        write_weights(work / name, model.named_parameters())
    sampler, params = TrajectorySampler(service), SamplingParams(1.0, 150, seed=3)
    prompts = [Prompt(Problem(str(n), (Message("user", "?"),), ""), tuple(range(40, 46 + n))) for n in range(6)]
    for attempt in range(20):  # an engine in another process does not wait to be interrupted
        first = service.version + 1
        sampler.load(work / "old", first)
        groups = list(sampler.sample_some([], prompts, 2, replace(params, seed=attempt), 1, Oldest(-1, -1)))
        assert len(groups) == 1
        kept = {group.problem.id: group for group in sampler.kept}
        carried = [prompt for prompt in prompts if prompt.problem.id in kept]
        is_interrupted = any(partial.token_ids for group in kept.values() for partial in group.partial)
        sampler.load(work / "new", first + 1)
        groups += list(sampler.sample_some(carried, [], 2, replace(params, seed=40), 5, Oldest(first, first + 1)))
        if is_interrupted:
            break
    else:
        raise AssertionError("nothing was interrupted in time")
    assert sorted(group.problem.id for group in groups) == [str(n) for n in range(6)]
    assert sampler.kept == ()
    for group in groups:
        for response in group.responses:
            [at] = [at for at, _ in response.version_changes] or [len(response.token_ids)]
            if response.policy_version == first + 1:
                at = 0
            elif response.version_changes:
                assert (at, first + 1) == (response.carried_tokens, response.version_changes[0][1])
            written = Completion(response.token_ids, response.sampler_logprobs, "stop", 0)
            check_logprobs(old, group.prompt_ids, written, 0, at)
            check_logprobs(new, group.prompt_ids, written, at, 150)
            assert response.finish_reason == "stop" or len(response.token_ids) == 150


def _change(service: TokenService, old: torch.nn.Module, new: torch.nn.Module, published: Path) -> int:
    """How many completions are of both."""
    before = service.version
    service.begin(6)
    service.submit([asked(0, 1, 1), asked(1, 4, 150), asked(2, 2, 150)])
    first = service.receive()
    assert first
    assert first.id == 0
    service.pause()
    completed = {}
    while early := service.receive(0.1):  # nothing is sampled any more
        completed[early.id] = early
    service.submit([asked(3, 2, 20)])
    receipt = service.load(published, before + 1)
    assert (receipt.version, service.version) == (before + 1, before + 1)
    service.resume()
    completed |= received(service)
    assert completed.keys() == {1, 2, 3}
    changed = 0
    for id_, each in completed.items():
        for completion in each.completions:
            [at] = [at for at, _ in completion.version_changes] or [len(completion.token_ids)]
            assert completion.version_changes in ((), ((at, before + 1),))
            if completion.version == before + 1:
                at = 0
            else:
                changed += bool(completion.version_changes)
            check_logprobs(old, PROMPTS[id_ % 3], completion, 0, at)
            check_logprobs(new, PROMPTS[id_ % 3], completion, at, 150)
    assert {completion.version for completion in completed[3].completions} == {before + 1}
    return changed


def check_a_response_that_repeats_itself_is_ended(service: TokenService, times: int = 4) -> None:
    """Greedy responses of a random model do."""
    prompts = [(token, token + 1) for token in range(40, 120, 10)]

    def written(stop_repetition: int | None) -> list[Completion]:
        params = SamplingParams(0.0, 120, stop_repetition=stop_repetition)
        service.begin(0)
        service.submit([TokenRequest(id_, prompt, 1, params) for id_, prompt in enumerate(prompts)])
        completed = received(service)
        return [completed[id_].completions[0] for id_ in range(len(prompts))]

    repeated = 0
    for free, ended in zip(written(None), written(times), strict=True):
        ends = [end for end in range(1, len(free.token_ids)) if repeats(free.token_ids[:end], times)]
        if ends:
            repeated += 1
            assert (ended.token_ids, ended.finish) == (free.token_ids[: ends[0]], "repetition")
        else:
            assert ended.token_ids == free.token_ids
            assert ended.finish in ("stop", "length")
    assert repeated
