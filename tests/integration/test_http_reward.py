"""`http` against a local service: its schema is kept to the letter, in both directions."""

from __future__ import annotations

import base64
import copy
import json
import re
import runpy
import threading
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reasoner import Message, Problem, Response, Score
from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError, UserError
from reasoner.io.http_json import RemoteError
from reasoner.records import Group
from reasoner.scoring.composition import verdict
from reasoner.scoring.service import ScoringService
from reasoner_rewards.http import http
from tests.integration.misbehaving_server import Act, answer, computed, cut, drop, huge, raw, serving, slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "http-reward.md").read_text(encoding="utf-8")
REQUEST, ANSWER = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TOKEN = "token-0123456789"


def problem(answer: str = "7") -> Problem:
    question = "What is 3 + 4?"
    return Problem("sums:7", (Message("user", question),), answer, {"question": question, "answer": "7"})


def wrote(text: str, tokens: int = 1) -> Response:
    return Response(text, (1,) * (tokens + 1), (True,) * tokens + (False,), (0.0,) * (tokens + 1), "stop", 0)


def scored(url: str, *texts: str, **options: Any) -> list[Score | RemoteError | None]:
    problems, responses = [problem() for _ in texts], [wrote(text) for text in texts]
    result = http(problems, responses, **http.check_options({"url": url, **options}))
    assert isinstance(result, list)
    return result


def by_length(body: Mapping[str, Any]) -> dict[str, Any]:
    """Results in the reverse order; null for empty texts."""
    results = [
        {"id": item["id"], "score": len(item["response"]["text"]) or None, "note": item["response"]["text"]}
        for item in body["items"]
    ]
    return {"version": 1, "results": results[::-1]}


def refusal(*acts: Act, **options: Any) -> str:
    """Why a batch of three was not scored."""
    with serving(*acts) as script, pytest.raises(RemoteError) as caught:
        scored(script.url, "a", "b", "c", **options)
    assert str(caught.value).startswith(script.url)
    return str(caught.value)


def test_the_exchange_of_the_page() -> None:
    with serving(answer(ANSWER)) as script:
        scores = http([problem()], [wrote("It is 7.", 5)], url=f"{script.url}/score?x=1")
    assert scores == [Score(1.0, {"characters": 8}, "")]
    (request,) = script.requests
    assert (request.path, request.body) == ("/score?x=1", REQUEST)
    assert request.headers["Content-Type"] == "application/json"


def test_the_page_s_tables_name_every_field() -> None:
    def paths(value: object, prefix: str = "") -> set[str]:
        if isinstance(value, list) and value and isinstance(value[0], dict) and not prefix.endswith("messages"):
            return {prefix} | paths(value[0], f"{prefix}[]")
        opaque = prefix.rpartition(".")[2] in ("parts", "fields")
        if isinstance(value, dict) and not opaque:
            return {each for key, inner in value.items() for each in paths(inner, f"{prefix}.{key}".strip("."))}
        return {prefix}

    asked, answered = PAGE.split("## Answer")
    assert set(re.findall(r"^\| `([^`]+)`", asked, re.MULTILINE)) == paths(REQUEST)
    documented = set(re.findall(r"^\| `([^`]+)`", answered, re.MULTILINE))
    assert documented == paths(ANSWER) | {"results[].note", "results[].error"}


def test_the_reference_server_follows_the_page() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "reward_server.py"))
    script["Handler"].log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), script["Handler"]) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            scores = scored(url, "7.", "8", "7 or 8")
            good, bad = http([problem(), problem("")], [wrote("7"), wrote("7")], url=url)
        finally:
            server.shutdown()
            thread.join()
    assert scores == [Score(1.0, {"characters": 2}), Score(0.0, {"characters": 1}), Score(0.0, {"characters": 6})]
    assert good == Score(1.0, {"characters": 1})
    assert str(bad) == f"{url} could not score item 1; got the problem has no reference answer"


def test_results_are_matched_by_id_and_large_batches_are_cut() -> None:
    texts = ["four", "", "two", "fifth"]
    with serving(computed(by_length)) as script:
        whole = scored(script.url, *texts)
        assert len(script.requests) == 1
        parts = scored(script.url, *texts, batch=3)
        assert [len(request.body["items"]) for request in script.requests[1:]] == [3, 1]
    assert whole == parts == [Score(float(len(text)), {}, text) if text else None for text in texts]


def test_no_response_is_no_request() -> None:
    with serving(drop) as script:
        assert scored(script.url) == []
    assert script.requests == []


def test_headers_come_from_the_environment_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    headers = {"X-Token": "SCORER_TOKEN"}
    with serving(computed(by_length)) as script:
        scored(script.url, "a", headers_env=headers)
    assert script.requests[0].headers["X-Token"] == TOKEN
    assert "got who is ***?" in refusal(raw(f"who is {TOKEN}?".encode(), 403), headers_env=headers)
    with pytest.raises(UserError, match="variable OTHER_TOKEN is not set"):
        scored(script.url, "a", headers_env={"X-Token": "OTHER_TOKEN"})


def test_a_service_that_repeats_its_headers_does_not_have_them_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = base64.b64encode(b"scorer:pass-word-7").decode()
    monkeypatch.setenv("SCORER_TOKEN", f"Bearer {TOKEN}")
    monkeypatch.setenv("SCORER_LOGIN", f"Basic {pair}")
    monkeypatch.setenv("SCORER_TEAM", "sums")
    told = [f"Bearer {TOKEN}", TOKEN, TOKEN.encode().hex(), pair, "scorer:pass-word-7", "pass-word-7"]
    kept = {"sums": "sums:7", "count": 3, "right": [True, None, 0.5]}

    def repeats(body: Mapping[str, Any]) -> dict[str, Any]:
        parts = {**{text: [text, {"deep": text}] for text in told}, **kept}
        results = [{"id": item["id"], "score": 1.0, "note": " ".join(told), "parts": parts} for item in body["items"]]
        results[1] = {"id": "1", "error": " ".join(told)}
        return {"version": 1, "results": results}

    headers = {"X-Token": "SCORER_TOKEN", "Authorization": "SCORER_LOGIN", "X-Team": "SCORER_TEAM"}
    with serving(computed(repeats)) as script:
        score, error = scored(script.url, "a", "b", headers_env=headers)
    assert isinstance(score, Score)
    text = json.dumps([score.note, dict(score.parts)]) + str(error)
    assert not [secret for secret in told if secret in text]
    assert score.note.split() == ["***"] * 6
    assert {name: score.parts[name] for name in kept} == kept


def test_what_any_source_returns_is_kept_without_the_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    kept = verdict(Score(1.0, {TOKEN: [TOKEN, 7, {"deep": base64.b64encode(TOKEN.encode()).decode()}]}, f"got {TOKEN}"))
    assert kept is not None
    assert (kept.note, set(kept.parts)) == ("got ***", {"***"})
    first, number, inner = kept.parts["***"]
    assert (first, number, inner["deep"].startswith("***")) == ("***", 7, True)
    program = 'password = "hunter2-hunter2"  # looks like one, and is the result'
    assert verdict(Score(1.0, {"program": program})) == Score(1.0, {"program": program})


GOOD: dict[str, Any] = {"version": 1, "results": [{"id": id_, "score": 1.0} for id_ in "012"]}


def changed(**first: Any) -> dict[str, Any]:
    """The good answer with another first result."""
    body = copy.deepcopy(GOOD)
    body["results"][0] = {key: value for key, value in {"id": "0", "score": 1.0, **first}.items() if value != "absent"}
    return body


def test_the_good_answer_is_good() -> None:
    with serving(answer(GOOD)) as script:
        assert scored(script.url, "a", "b", "c") == [Score(1.0)] * 3


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({**GOOD, "version": 2}, "version 1: version: Input should be 1; got 2"),
        ({**GOOD, "version": "1"}, "version: Input should be 1"),
        ({"results": GOOD["results"]}, "version: Field required"),
        ({"version": 1}, "results: Field required"),
        ({**GOOD, "more": 1}, "more: Extra inputs are not permitted"),
        ([GOOD], "version 1: the answer: Input should be"),
        ({**GOOD, "results": [*GOOD["results"], {"id": "9", "score": 0}]}, "a result for an unknown id, '9'"),
        ({**GOOD, "results": [*GOOD["results"], 1.0]}, "results.3: Input should be"),
        (changed(id=0), "results.0.id: Input should be a valid string"),
        (changed(id="absent"), "results.0.id: Field required"),
    ],
)
def test_an_answer_that_cannot_be_matched_fails_as_a_whole(body: Any, why: str) -> None:
    assert why in refusal(answer(body), answer(GOOD))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({**GOOD, "results": GOOD["results"][1:]}, "answered with 0 results for item 0, where 1 is needed; got []"),
        ({**GOOD, "results": [*GOOD["results"], {"id": "0", "score": 0}]}, "answered with 2 results for item 0"),
        (changed(score="1.0"), "version 1: score: Input should be a valid number; got 1.0"),
        (changed(score=True), "score: Input should be a valid number"),
        (changed(score="absent"), "either 'score'"),
        (changed(error="why"), "either 'score'"),
        (changed(score="absent", error=""), "version 1: error: "),
        (changed(parts=[1]), "version 1: parts: "),
        (changed(note=None), "version 1: note: "),
        (changed(more=1), "more: Extra inputs are not permitted"),
        (changed(score="absent", error="no GPU"), "could not score item 0; got no GPU"),
    ],
)
def test_an_item_without_a_good_result_fails_alone(body: Any, why: str) -> None:
    with serving(answer(body)) as script:
        first, *others = scored(script.url, "a", "b", "c")
    assert isinstance(first, RemoteError)
    assert str(first).startswith(script.url)
    assert why in str(first)
    assert others == [Score(1.0)] * 2


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (raw(b'{"version": 1, "results": [{"id": "0", "score": NaN}]}'), "NaN is not a JSON value"),
        (raw(b'{"version": 1, "results": [{"id": "0", "score": -Infinity}]}'), "-Infinity is not a JSON value"),
        (raw(b'{"version": 1, "version": 1, "results": []}'), "a key is repeated"),
        (raw(json.dumps(GOOD).encode()[:-9]), "answered no JSON"),
        (answer(GOOD, 302, Location="/other"), "redirects (status 302)"),
        (answer({"error": "version 1 is needed"}, 400), "status 400 (attempt 1 of 3); got"),
        (huge, "bytes, where reading stopped"),
    ],
)
def test_an_answer_that_is_broken_fails_at_once(act: Act, why: str) -> None:
    assert why in refusal(act, answer(GOOD))


def test_a_number_that_is_not_finite_fails_its_item() -> None:
    entries = b", ".join(b'{"id": "%d", "score": %b}' % (id_, b"1e999" if id_ == 1 else b"0.5") for id_ in range(3))
    with serving(raw(b'{"version": 1, "results": [%b]}' % entries)) as script:
        scores = scored(script.url, "a", "b", "c")
    assert [scores[0], scores[2]] == [Score(0.5)] * 2
    assert "finite number" in str(scores[1])


def test_a_batch_is_posted_again_when_the_connection_breaks() -> None:
    with serving(cut(GOOD), answer({}, 500), answer(GOOD)) as script:
        assert scored(script.url, "a", "b", "c") == [Score(1.0)] * 3
    first, *others = [request.body for request in script.requests]
    assert others == [first, first]
    assert "attempt 2 of 2" in refusal(cut(GOOD), drop, answer(GOOD), attempts=2)


@pytest.mark.parametrize("header", ["Host", "content-length", "X Token", "", "A:b"])
def test_headers_that_cannot_be_set_are_refused(header: str) -> None:
    with pytest.raises(ConfigError, match="is not a header that can be set"):
        http.check_options({"url": "http://host", "headers_env": {header: "X"}})


def test_in_the_scoring_service() -> None:
    texts = ["four", "", "two", "fifth"]
    reward = RewardConfig(source="http", timeout_s=3.0, options={})
    with serving(slow(60.0, computed(by_length)), computed(by_length)) as script:
        reward = reward.model_copy(update={"options": {"url": script.url}})
        group = Group(problem(), (1,), tuple(map(wrote, texts)))
        with ScoringService([reward], ScoringConfig(workers=1, max_failure_rate=1.0)) as scorer:
            (first,) = scorer.score([group])
            (second,) = scorer.score([group])
    kinds = [parts[0].failure.kind for parts in first.components if parts[0].failure is not None]
    assert kinds == ["timeout"] * 4
    assert first.rewards == (None,) * 4
    assert second.rewards == (4.0, 0.0, 3.0, 5.0)
    assert [parts[0].value for parts in second.components] == [4.0, None, 3.0, 5.0]


def test_in_the_scoring_service_one_item_fails_alone() -> None:
    def refuses_short_ones(body: Mapping[str, Any]) -> dict[str, Any]:
        whole = by_length(body)
        for entry in whole["results"]:
            if entry["score"] is not None and entry["score"] < 4:
                del entry["score"], entry["note"]
                entry["error"] = "too short"
        return whole

    with serving(computed(refuses_short_ones)) as script:
        reward = RewardConfig(source="http", options={"url": script.url})
        with ScoringService([reward], ScoringConfig(workers=1)) as scorer:
            (group,) = scorer.score([Group(problem(), (1,), tuple(map(wrote, ["four", "", "two", "fifth"] * 3)))])
            statistics = scorer.statistics()["http"]
    assert group.rewards == (4.0, 0.0, None, 5.0) * 3
    failure = group.components[2][0].failure
    assert failure is not None
    assert (failure.kind, failure.message.endswith("could not score item 2; got too short")) == ("error", True)
    assert (statistics.calls, statistics.failed) == (1, 3)
