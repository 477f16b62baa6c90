"""Who may ask a vLLM server for what: browsers, strangers, and calls of the workers' methods."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasoner.sampling.server import auth as vllm_guard
from reasoner.sampling.server.auth import BOUND, KEY, MAX_CALL, METHODS, Guard
from reasoner.sampling.server.serve import serve
from reasoner.sampling.vllm.messages import StartEngine

SECRET = "a-secret-of-the-test"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(BOUND, raising=False)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def asked(
    headers: dict[str, str] | list[tuple[str, str]], path: str = "/pause", method: str = "POST", content: bytes = b""
) -> httpx.Response:
    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(echo))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(sent())


HERE = ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.9.9.9", "10.1.2.3:8000", "x.localhost:1"]


@pytest.mark.parametrize("host", [*HERE, f"{socket.gethostname()}:8000"])
def test_a_run_and_a_page_of_the_server_itself_may_ask(host: str) -> None:
    assert asked({"Host": host}, content=b"x").content == b"x"
    assert asked({"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert asked({"Host": host, "Sec-Fetch-Site": "none"}, method="GET").status_code == 200


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:8000.evil.example"},
    {"Origin": "http://evil.example/127.0.0.1:8000"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "file://"},
    {"Origin": "127.0.0.1:8000"},
    {"Origin": "chrome-extension://127.0.0.1:8000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("key", ["", SECRET])
@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_from_elsewhere_may_not(headers: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it asks for, with the key as well, and before it asks at all (`OPTIONS`)."""
    if key:
        monkeypatch.setenv(KEY, key)
    given = {"Host": "127.0.0.1:8000", "Authorization": f"Bearer {SECRET}", **headers}
    for method, path in (("POST", "/pause"), ("GET", "/health"), ("OPTIONS", "/pause"), ("PUT", "/"), ("FOO", "/")):
        answer = asked(given, path, method)
        assert (answer.status_code, answer.text) == (403, "a page from elsewhere must not use this server")
        assert "access-control-allow-origin" not in answer.headers


def test_two_origins_are_none() -> None:
    own = [("Host", "127.0.0.1:8000"), ("Origin", "http://127.0.0.1:8000")]
    assert asked(own).status_code == 200
    assert asked([*own, own[1]]).status_code == 403


REBOUND = [
    *("evil.example:8000", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost"),
    *("", ":8000", "[::1", "evil.example@127.0.0.1x", "0x7f.1", "2130706433x"),
]


@pytest.mark.parametrize("host", REBOUND)
def test_without_a_key_a_name_that_was_made_to_lead_here_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the browser its page is from this server: the origin is right."""
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        for method, path in (("POST", "/pause"), ("GET", "/health"), ("OPTIONS", "/pause")):
            assert asked(headers, path, method).status_code == 403
    monkeypatch.setenv(KEY, SECRET)
    assert asked({"Host": host}).status_code == 401
    assert asked({"Host": host, "Authorization": f"Bearer {SECRET}"}).status_code == 200


def test_the_name_that_it_listens_on_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"set {KEY}" in asked({"Host": "node-7.cluster:8000"}).text
    monkeypatch.setenv(BOUND, "Node-7.cluster")
    assert asked({"Host": "node-7.cluster:8000"}).status_code == 200


def test_with_a_key_only_health_answers_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    assert asked({}, "/health", "GET").status_code == 200
    for given in ({}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}x"}):
        assert [asked(given, path).status_code for path in ("/pause", "/health/x", "/collective_rpc")] == [401] * 3


def call(body: Any) -> httpx.Response:
    return asked({}, "/collective_rpc", content=body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_run_s_own_methods_are_called_with_what_was_sent() -> None:
    for method in METHODS:
        body = {"method": method, "args": ["/folder"], "timeout": 5}
        assert call(body).json() == body


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (
            {"method": "nonsense"},
            404,
            "no method 'nonsense'; there are describe, merge_adapter, seed_sampling, take_weights",
        ),
        ({"method": "__class__"}, 404, "no method '__class__'"),
        ({"method": "shutdown"}, 404, "no method 'shutdown'"),
        ({"method": "describe "}, 404, "no method 'describe '"),
        ({"method": ["describe"]}, 404, "no method"),
        ({"method": None}, 404, "no method"),
        ({}, 404, "no method 'None'"),
        (["describe"], 404, "no method 'None'"),
        (b'{"method": "describe", "method": "shutdown"}', 404, "no method 'shutdown'"),
        (b"describe", 400, "must be a JSON object"),
        (b"[" * 100_000, 400, "must be a JSON object"),
        (b"", 400, "must be a JSON object"),
        (b" " * (MAX_CALL + 1), 413, f"{MAX_CALL} bytes"),
    ],
)
def test_a_method_that_does_not_exist_gets_an_answer(body: Any, status: int, why: str) -> None:
    answer = call(body)
    assert answer.status_code == status
    assert why in answer.text


def test_its_methods_are_those_of_the_workers() -> None:
    source = Path(vllm_guard.__file__).parents[1].joinpath("vllm", "worker.py").read_text(encoding="utf-8")
    (worker,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    assert worker.name == "WorkerExtension"
    methods = {node.name for node in worker.body if isinstance(node, ast.FunctionDef)}
    # buckets come over a socket of the machine, and what is said there is unpickled: for an engine of one's own alone
    # so are the others: an adapter of vLLM's own is for an engine that was opened for it
    own = {"take_adapter", "take_buckets", "unwrap_output_layer"}
    assert set(METHODS) | own == {name for name in methods if not name.startswith("_")}
    assert call({"method": "take_buckets", "args": ["/tmp/socket", False]}).status_code == 404


def test_a_websocket_is_closed_and_the_start_of_the_server_passes() -> None:
    sent: list[Any] = []
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message["type"])

    guard = Guard(app)
    for kind, origin in (("websocket", b"http://evil.example"), ("websocket", b"http://[::1]"), ("lifespan", b"")):
        headers = [] if kind == "lifespan" else [(b"host", b"[::1]"), (b"origin", origin)]
        asyncio.run(guard({"type": kind, "path": "/v1/realtime", "headers": headers}, None, send))
    assert (passed, sent) == (["websocket", "lifespan"], ["websocket.close"])


def test_a_server_takes_nobody_s_word_for_where_a_request_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are pulled from there; uvicorn believes what a proxy on the same machine says."""
    uvicorn = pytest.importorskip("uvicorn")

    class StartedError(Exception):
        pass

    def started(*_: object, env: dict[str, str], **__: object) -> None:
        raise StartedError(env)

    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(StartedError) as caught:
        serve(StartEngine("model", "bfloat16", "cuda", 64, 4, 0.4, 0.1, False), "127.0.0.1", 0, print)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", caught.value.args[0]["FORWARDED_ALLOW_IPS"])
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await echo(scope, receive, send)

    config = uvicorn.Config(app, log_config=None, interface="asgi3")
    config.load()

    async def ask(client: str) -> None:
        transport = httpx.ASGITransport(app=config.loaded_app, client=(client, 9))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as asker:
            await asker.get("/", headers={"X-Forwarded-For": "10.0.0.7"})

    for client in ("127.0.0.1", "::1", "10.0.0.3"):
        asyncio.run(ask(client))
    assert seen == ["127.0.0.1", "::1", "10.0.0.3"]
