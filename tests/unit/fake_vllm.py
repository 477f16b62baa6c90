"""HTTP servers that answer as `reasoner serve` does, or as they should not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from reasoner.models.tensor_files import Digest, read_weights
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sampling.server.pull import PullError, PullOrder, pull

Json = dict[str, Any]


@dataclass
class Fake:
    """What a fake server is and was asked."""

    url: str = ""
    key: str = ""
    version: str = "default"
    paused: bool = False
    dead: bool = False
    """breaks every connection off"""
    hangs: bool = False
    """takes requests for responses and never answers"""
    holds: bool = False
    """does not answer requests for responses before they are ended"""
    wrote: int = 2
    """tokens of such a response"""
    describes: Json = field(default_factory=dict)
    spoils: Callable[[Json], object] = lambda answer: answer
    """what becomes of an answer with responses"""
    before: Callable[[], None] = lambda: None
    """called before responses are drawn"""
    together: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1000))
    asked: list[Json] = field(default_factory=list)
    """the parameters of what was drawn"""
    drawn: list[tuple[int, ...]] = field(default_factory=list)
    says_late_s: float = 0.0
    """seconds before it says which weights it holds"""
    seeds: list[int] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    """checksums of weights"""
    base: str = "b" * 32
    """checksum of the weights that it was started with"""
    merged: int = 0
    """adapters that it was given alone"""
    pulls: Callable[[Path], object] = lambda folder: None
    """called with the folder before weights are pulled into it"""
    aborts: bool = True
    """has a route that ends requests"""
    aborted: list[str] = field(default_factory=list)
    """names of requests that were to be ended; while it is paused it ends none"""
    refuses_aborts: int = 0
    """so many calls of that route fail first"""
    pulled: ScratchFolder | None = None
    running: int = 0
    most: int = 0
    """requests at the same time"""
    made: int = 0
    """tokens"""
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def restart(self) -> None:
        """As a new process of the same server."""
        self.version, self.dead, self.hangs = "default", False, False

    def answer(self, path: str, body: Json) -> tuple[int, object]:
        match path.partition("?")[0], body.get("method"):
            case "/weight_info", _:
                time.sleep(self.says_late_s)
                return 200, {"weight_version": self.version}
            case "/metrics", _:
                return 200, f'vllm:generation_tokens_total{{engine="0"}} {float(self.made)}\n'
            case "/update_weight_version", _:
                self.version = body["new_version"]
            case "/pause" | "/resume" as route, _:
                self.paused = route == "/pause"
            case "/collective_rpc", "describe":
                return 200, {
                    "results": [DESCRIPTION | self.describes | ({"base": self.base} if body["args"][1] else {})]
                }
            case "/pull_weights", _:
                return self._pull(body)
            case "/collective_rpc", "take_weights":
                return 200, {"results": [self._take(Path(body["args"][0]))]}
            case "/collective_rpc", "merge_adapter":
                folder, base = body["args"]
                if base != self.base:
                    return 500, {"error": "other weights than the adapter was trained beside"}
                self.merged += 1
                return 200, {"results": [self._take(Path(folder))]}
            case "/collective_rpc", "seed_sampling":
                self.seeds += body["args"]
                return 200, {"results": [None]}
            case "/abort_requests", _:
                if not self.aborts:
                    return 404, {"error": "no such route"}
                if "request_ids" in body and self.refuses_aborts:
                    self.refuses_aborts -= 1
                    return 500, {"error": "busy"}
                self.aborted += body.get("request_ids", [])
            case "/inference/v1/generate", _:
                return self._generate(body)
        return 200, {"success": True}

    def _take(self, folder: Path) -> list[object]:
        assert self.paused
        assert self.version.endswith(", loading")
        digest = Digest()
        for _ in read_weights(folder, digest):
            pass
        self.taken.append(digest.checksum)
        return [digest.checksum, digest.tensors]

    def _pull(self, body: Json) -> tuple[int, object]:
        """As `auth.Guard`, which is not in front of this one."""
        order = PullOrder.model_validate(body)
        try:
            if self.pulled:
                self.pulled.remove()
            self.pulled = ScratchFolder("weights")
            self.pulls(self.pulled.path)
            pull(order, "127.0.0.1", self.pulled.path)
        except PullError as error:
            return 409, str(error)
        return 200, {"folder": str(self.pulled.path)}

    def _generate(self, body: Json) -> tuple[int, object]:
        if not body:
            return 400, {"error": "token_ids is missing"}
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            with self.together:
                self.before()
                if self.hangs:
                    self.closing.wait(60)
                while self.holds and not self.closing.wait(0.01):
                    if not self.paused and f"generate-tokens-{body['request_id']}" in self.aborted:
                        return 200, self.spoils(self._choices(body, self.wrote))
                return 200, self.spoils(self._choices(body))
        finally:
            with self.lock:
                self.running -= 1

    def _choices(self, body: Json, aborted: int | None = None) -> Json:
        asked = body["sampling_params"]
        if "n" in asked:
            self.asked.append(asked)
            self.drawn.append(tuple(body["token_ids"]))
            self.made += asked["n"] * asked["max_tokens"]
        tokens = asked["max_tokens"] if aborted is None else aborted
        choices = [self._choice(index, tokens) for index in reversed(range(asked.get("n", 1)))]
        if aborted is not None:
            choices = [choice | {"finish_reason": "abort"} for choice in choices]
        if "prompt_logprobs" not in asked:
            return {"choices": choices}
        known = [{str(token): {"logprob": -token / 100.0}, "7": {"logprob": -0.1}} for token in body["token_ids"]]
        return {"choices": choices, "prompt_logprobs": [None, *known[1:]]}

    def _choice(self, index: int, tokens: int) -> Json:
        ids = [65 + index] * tokens
        return {
            "index": index,
            "token_ids": ids,
            "finish_reason": "length",
            "logprobs": {"content": [{"token_id": token, "logprob": -0.5, "rank": 1} for token in ids]},
            "weight_versions": [{"version": self.version, "start": 0, "end": tokens}] if tokens else [],
        }


DESCRIPTION: Json = {
    "vllm": "0.32.0",
    "device": "cpu",
    "shape": {"model_type": "llama", "vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 2}
    | {"intermediate_size": 128, "num_attention_heads": 2},
    "dtype": "float32",
    "max_model_len": 256,
    "max_sequences": 8,
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
    "reads_folder": True,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake

    def do_GET(self) -> None:
        self._act({})

    def do_POST(self) -> None:
        self._act(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _act(self, body: Json) -> None:
        if self.fake.key and self.headers["Authorization"] != f"Bearer {self.fake.key}":
            self._send(401, {"error": f"{self.headers['Authorization']} is wrong"})
            return
        status, answer = (0, "") if self.fake.dead else self.fake.answer(self.path, body)
        if self.fake.dead or self.fake.closing.is_set():
            self.close_connection = True
            return
        self._send(status, answer)

    def _send(self, status: int, answer: object) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has gone is what some tests are about."""


@contextmanager
def fake_servers(count: int) -> Iterator[list[Fake]]:
    """So many servers on this machine."""
    running: list[tuple[Fake, ThreadingHTTPServer]] = []
    try:
        for _ in range(count):
            fake = Fake()
            server: ThreadingHTTPServer = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
            fake.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            running.append((fake, server))
        yield [fake for fake, _ in running]
    finally:
        for fake, server in running:
            fake.closing.set()
            if fake.pulled:
                fake.pulled.remove()
            server.shutdown()
            server.server_close()
