"""The fake token service keeps the contract of `TokenService`: what is built on it meets the same in real engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasoner.errors import SamplerError
from reasoner.records import SamplingParams
from reasoner.sampling.base import Completed, TokenRequest, TokenService
from tests.tiny import byte_tokenizer
from tests.unit.fake_tokens import FakeTokens

TOKENIZER = byte_tokenizer()


def request(id_: int, length: int, n: int = 1, stop: tuple[str, ...] = ()) -> TokenRequest:
    return TokenRequest(id_, (length,), n, SamplingParams(1.0, 8, stop))


def service() -> FakeTokens:
    """Continuation k of a request (length,) writes so many tokens 100 + k, then ends."""
    return FakeTokens(lambda asked, k: [100 + k] * asked.token_ids[0], TOKENIZER, (259,))


def received(fake: TokenService) -> Completed:
    done = fake.receive()
    assert done is not None
    return done


def test_requests_complete_in_the_order_of_their_lengths() -> None:
    fake: TokenService = service()
    fake.begin(1)
    fake.submit([request(7, 5, 2), request(9, 1), request(8, 20)])
    short, long, cut = received(fake), received(fake), received(fake)
    assert (short.id, long.id, cut.id, fake.receive()) == (9, 7, 8, None)
    assert [row.token_ids for row in long.completions] == [(100,) * 5 + (259,), (101,) * 5 + (259,)]
    assert [(row.finish, len(row.token_ids)) for row in cut.completions] == [("length", 8)]


def test_a_stop_string_ends_a_continuation() -> None:
    fake = FakeTokens(lambda asked, k: TOKENIZER.encode("a</t>b"), TOKENIZER, (259,))
    fake.submit([request(1, 1, stop=("</t>",))])
    [row] = received(fake).completions
    assert (TOKENIZER.decode(row.token_ids), row.finish) == ("a</t>", "stop")


def test_what_is_aborted_is_received_with_its_prefix_and_the_versions_of_its_tokens() -> None:
    fake = service()
    fake.submit([request(1, 6), request(2, 6)])
    fake.step()
    fake.pause()
    assert fake.receive(0) is None
    fake.load(Path(), 3)
    fake.resume()
    fake.step()
    fake.abort([1, 5])
    fake.submit([request(3, 1)])
    fake.abort([3])
    [prefix], [empty] = received(fake).completions, received(fake).completions
    assert (prefix.token_ids, prefix.finish, prefix.version) == ((100, 100), "abort", 0)
    assert prefix.version_changes == ((1, 3),)
    assert list(prefix.logprobs) == pytest.approx([-100.0, -100.003])
    assert (empty.token_ids, empty.version) == ((), 3)
    assert fake.running == {2}


def test_what_needs_a_free_engine_is_refused_while_requests_run() -> None:
    fake = service()
    fake.submit([request(1, 6)])
    for call in (lambda: fake.begin(1), lambda: fake.load(Path(), 1), fake.sleep, lambda: fake.submit([request(1, 2)])):
        with pytest.raises(SamplerError, match="running"):
            call()
