"""Weights over HTTP: what is offered and pulled, what breaks and goes on, and what is refused by name."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import httpx
import pytest
import torch

from reasoner.errors import UserError
from reasoner.models.tensor_files import Digest, read_weights, write_weights
from reasoner.sampling.server import auth as auth_module
from reasoner.sampling.server import offer as offer_module
from reasoner.sampling.server import pull as pull_module
from reasoner.sampling.server.auth import KEY, MAX_CALL, Guard
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.offer import WeightOffer, addresses_toward
from reasoner.sampling.server.pull import NONCE, PROOF, PullError, PullOrder, WeightFile, place_for, proof, pull
from reasoner.sampling.server.sampler import ServerSampler
from reasoner.trajectories.sampler import TrajectorySampler
from tests.tiny import build_tiny_model
from tests.unit.fake_vllm import Fake, fake_servers

HERE = "http://127.0.0.1:1"
WEIGHTS = {f"layers.{number}.weight": torch.full((300, 7), float(number)) for number in range(3)}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses."""
    monkeypatch.setattr(pull_module, "_PAUSE_S", 0.001)
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a file for each tensor."""
    (folder := tmp_path / "weights").mkdir()
    monkeypatch.setattr("reasoner.models.tensor_files.SHARD_BYTES", 1)
    write_weights(folder, WEIGHTS.items())
    return folder


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    (folder := tmp_path / "taken").mkdir()
    return folder


@pytest.fixture
def offer() -> Iterator[WeightOffer]:
    result = WeightOffer([HERE])
    yield result
    result.close()


def checksum_of(folder: Path) -> tuple[str, int]:
    digest = Digest()
    for _ in read_weights(folder, digest):
        pass
    return digest.checksum, digest.tensors


def test_what_is_pulled_is_what_was_offered(offer: WeightOffer, weights: Path, taken: Path) -> None:
    (weights / "empty.json").write_bytes(b"")
    with offer.offering(weights, "run:3") as order:
        pull(order, "127.0.0.1", taken)
    assert {path.name for path in taken.iterdir()} == {path.name for path in weights.iterdir()}
    assert all((taken / path.name).read_bytes() == path.read_bytes() for path in weights.iterdir())
    assert checksum_of(taken) == checksum_of(weights)


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_an_address_of_either_kind_leads_back(offer: WeightOffer, weights: Path, taken: Path, host: str) -> None:
    """A server that listens on `::` sees an IPv4 address in IPv6's clothes."""
    with offer.offering(weights, "run:3") as order:
        pull(order, host, taken)
    assert checksum_of(taken) == checksum_of(weights)


class Breaking:
    """Sends so many bytes of every answer, as long as there are numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sent: int) -> None:
        self.left, self.starts = list(sent), list[int]()
        monkeypatch.setattr(offer_module._Handler, "_send_file", self._wrapped(offer_module._Handler._send_file))

    def _wrapped(self, whole: Any) -> Any:
        def send(handler: Any, path: Path) -> None:
            self.starts.append(int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-")))
            if not self.left:
                whole(handler, path)
                return
            count, size = self.left.pop(0), path.stat().st_size
            handler.close_connection = True
            if count < 0:
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {self.starts[-1]}-{size - 1}/{size}")
            handler.send_header("Content-Length", str(size - self.starts[-1]))
            handler.end_headers()
            handler.wfile.write(path.read_bytes()[self.starts[-1] :][:count])

        return send


def one_file(weights: Path) -> Path:
    for path in sorted(weights.iterdir())[1:]:
        path.unlink()
    return weights


def test_a_pull_that_breaks_goes_on_where_it_was(
    offer: WeightOffer, weights: Path, taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also more often than a pull may fail in a row, as long as each connection brings something."""
    breaking = Breaking(monkeypatch, 1000, -1, 0, 7, *[100] * 6)
    with offer.offering(one_file(weights), "run:3") as order:
        pull(order, "127.0.0.1", taken)
    assert breaking.starts == [0, 1000, 1000, 1000, *range(1007, 1608, 100)]
    assert checksum_of(taken) == checksum_of(weights)


def test_a_run_that_is_gone_ends_the_pull(
    offer: WeightOffer, weights: Path, taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking = Breaking(monkeypatch, *[-1] * 9)
    with (
        offer.offering(one_file(weights), "run:3") as order,
        pytest.raises(PullError, match=r"http://127.0.0.1:\d+ brought nothing 6 times in a row \("),
    ):
        pull(order, "127.0.0.1", taken)
    assert breaking.starts == [0] * 6
    offer.close()
    with pytest.raises(PullError, match="brought nothing 6 times"):
        pull(order, "127.0.0.1", taken)


def trickled(handler: Any, data: bytes, over: threading.Event) -> None:
    """A byte at a time, as long as somebody reads."""
    for place in range(len(data)):
        if over.wait(0.01):
            return
        handler.wfile.write(data[place : place + 1])


@pytest.mark.parametrize("slow", ["the file", "the head of its answer", "the head of the proof", "new connections"])
def test_a_pull_has_a_deadline_however_well_it_goes_on(
    offer: WeightOffer, weights: Path, taken: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """The timeout of a socket begins anew with every byte."""
    monkeypatch.setattr(pull_module, "PULL_S", 0.3)
    over = threading.Event()
    whole = Breaking(monkeypatch, *[1] * 10_000 * (slow == "new connections")).starts
    sends = offer_module._Handler._send_file

    def send(handler: Any, path: Path) -> None:
        if slow == "new connections":
            sends(handler, path)
            return
        whole.append(0)
        size = path.stat().st_size
        head = f"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-{size - 1}/{size}\r\nContent-Length: {size}\r\n\r\n"
        if slow == "the file":
            handler.wfile.write(head.encode())
            trickled(handler, path.read_bytes(), over)
        else:
            trickled(handler, head.encode() * 99, over)

    monkeypatch.setattr(offer_module._Handler, "_send_file", send)
    if slow == "the head of the proof":
        monkeypatch.setattr(
            offer_module._Handler, "do_GET", lambda handler: trickled(handler, b"HTTP/1.1 401 no\r\nX: " * 99, over)
        )
    try:
        with offer.offering(one_file(weights), "run:3") as order, pytest.raises(PullError, match="not there after 0 s"):
            pull(order, "127.0.0.1", taken)
    finally:
        over.set()
    if slow.startswith(("the file", "the head of its")):
        assert whole == [0]  # it is one connection that is slow


def test_a_file_that_came_damaged_is_pulled_again_once(
    offer: WeightOffer, weights: Path, taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damages = [1, 0]

    blocks = pull_module._blocks

    def spoilt(source: Any, file: WeightFile, start: int) -> Iterator[Any]:
        damage = damages.pop(0) if damages else 1
        for block in blocks(source, file, start):
            yield block[:-1] + bytes([block[-1] ^ damage])

    monkeypatch.setattr(pull_module, "_blocks", spoilt)
    with offer.offering(one_file(weights), "run:3") as order:
        pull(order, "127.0.0.1", taken)
        assert checksum_of(taken) == checksum_of(weights)
        with pytest.raises(
            PullError, match=r"model-00001.safetensors of the weights 'run:3' came twice with the check"
        ):
            pull(order, "127.0.0.1", taken)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": "x" * 43}, "is not the run: it does not know the run's token"),
        ({"version": "run:2"}, "of the weights 'run:2' with status 409: these weights are not offered"),
        ({"files": [("other", 5, "0" * 32)]}, "refuses other of the weights 'run:3' with status 404: there is no such"),
        ({"files": [("model-00001.safetensors", 10, "0" * 32)]}, "bytes 0-9/10 were asked for, and something else"),
        ({"files": [("model-00001.safetensors", 10**6, "0" * 32)]}, "bytes 0-999999/1000000 were asked for, and"),
        ({"ports": {"10.0.0.7": 5}}, "asks from 127.0.0.1 and offers its weights at 10.0.0.7: something between"),
        ({"files": [("a", 1, "0" * 32), ("a", 1, "0" * 32)]}, "names a file twice"),
    ],
)
def test_what_is_not_what_the_order_says_is_refused_by_name(
    offer: WeightOffer, weights: Path, taken: Path, change: dict[str, Any], said: str
) -> None:
    if "files" in change:
        files = change["files"]
        change = {"files": [WeightFile(name=name, size=size, checksum=checksum) for name, size, checksum in files]}
    with offer.offering(weights, "run:3") as order, pytest.raises(PullError, match=r".+") as failed:
        pull(order.model_copy(update=change), "127.0.0.1", taken)
    assert said in str(failed.value)
    assert order.token not in str(failed.value)


def test_who_asks_through_no_network_is_told_so(offer: WeightOffer, weights: Path, taken: Path) -> None:
    with (
        offer.offering(weights, "run:3") as order,
        pytest.raises(PullError, match="the run asks from '', which is no address"),
    ):
        pull(order, "", taken)


def test_nothing_is_offered_after_the_hand_over(offer: WeightOffer, weights: Path, taken: Path) -> None:
    with offer.offering(weights, "run:3") as order:
        pass
    with pytest.raises(PullError, match="status 409: these weights are not offered"):
        pull(order, "127.0.0.1", taken)


def asked(offer: WeightOffer, path: str, token: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """As nobody's client would: the path as it is."""
    [(address, port)] = offer.ports.items()
    connection = http.client.HTTPConnection(address, port, timeout=10)

    def request(method: str, **headers: str) -> http.client.HTTPResponse:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    try:
        with request("GET", **{NONCE: "n"}, **headers) as shown:
            nonces, own = ("n", shown.headers[NONCE]), shown.headers[PROOF]
        assert own == proof(offer.token, "run", nonces, path, headers.get("Range", ""))
        made = proof(token, "server", nonces, path, headers.get("Range", ""))
        answer = request(method, **{PROOF: made}, **headers)
        return answer.status, answer.read()
    finally:
        connection.close()


def spoken(offer: WeightOffer, *requests: dict[str, str]) -> list[int]:
    """The status of each answer of one connection; 0: it had ended before."""
    [(address, port)] = offer.ports.items()
    connection = http.client.HTTPConnection(address, port, timeout=10)
    connection.connect()
    connection.auto_open = 0
    statuses = []
    for headers in requests:
        try:
            connection.request("GET", "/v/model-00001.safetensors", headers=headers)
            with connection.getresponse() as answer:
                answer.read()
            statuses.append(answer.status)
        except (OSError, http.client.HTTPException):
            statuses.append(0)
    connection.close()
    return statuses


def test_nothing_is_sent_to_who_does_not_show_that_he_has_the_token(offer: WeightOffer, weights: Path) -> None:
    """The run's own proof sent back is none, nor the token itself; a connection has one chance."""
    nonce = {NONCE: "n"}
    with offer.offering(weights, "v"):
        assert spoken(offer, {}, nonce) == [401, 0]
        assert spoken(offer, {"Authorization": f"Bearer {offer.token}"}, nonce) == [401, 0]
        assert spoken(offer, nonce, nonce, nonce) == [401, 401, 0]
        for wrong in ("", "x", "0" * 64, "\xe9", offer.token):
            assert spoken(offer, nonce, {PROOF: wrong}, nonce) == [401, 401, 0]
        with (
            socket.create_connection(next(iter(offer.ports.items()))) as plain,
            plain.makefile("rb") as answers,
        ):
            plain.sendall(b"GET /v/model-00001.safetensors HTTP/1.1\r\nX-Nonce: n\r\n\r\n")
            assert answers.readline().startswith(b"HTTP/1.1 401")
            head = http.client.parse_headers(answers)
            again = f"GET /v/model-00001.safetensors HTTP/1.1\r\nX-Proof: {head[PROOF]}\r\n\r\n"
            plain.sendall(again.encode())
            assert answers.readline().startswith(b"HTTP/1.1 401")


FOREIGN = {
    "a secret page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET",
    "a refusal": b"HTTP/1.1 403 SECRET\r\nX-SECRET: SECRET\r\nContent-Length: 6\r\n\r\nSECRET",
    "a part": b"HTTP/1.1 206 OK\r\nContent-Range: bytes SECRET\r\nContent-Length: 6\r\n\r\nSECRET",
    "an old server": b"HTTP/1.0 200 SECRET\r\n\r\nSECRET",
    "a proof of nothing": b"HTTP/1.1 401 x\r\nX-Nonce: SECRET\r\nX-Proof: SECRET\r\nContent-Length: 0\r\n\r\n",
    "an odd proof": b"HTTP/1.1 401 x\r\nX-Nonce: \xe9\r\nX-Proof: \xe9SECRET\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"-ERR SECRET\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_the_run_is_told_nothing_and_is_not_quoted(name: str, taken: Path) -> None:
    """Behind `ssh -L` both sides see 127.0.0.1, and a server asks itself."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def answers() -> None:
            with contextlib.suppress(OSError):  # closed
                while True:
                    with stranger.accept()[0] as connection:
                        heard.append(connection.recv(10_000))
                        connection.sendall(FOREIGN[name])

        thread = threading.Thread(target=answers, daemon=True)
        thread.start()
        order = PullOrder.model_validate(ORDER | {"ports": {"127.0.0.1": stranger.getsockname()[1]}})
        with pytest.raises(PullError, match=r"is not the run|brought nothing") as failed:
            pull(order, "127.0.0.1", taken)
        stranger.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert "SECRET" not in str(failed.value)
    assert heard
    assert order.token.encode() not in b"".join(heard)


def test_strangers_leave_room_for_servers_elsewhere_and_have_a_deadline_together(
    offer: WeightOffer, weights: Path, taken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer_module, "_PER_ADDRESS", 3)
    monkeypatch.setattr(offer_module, "_HEAD_S", 0.5)
    monkeypatch.setattr(pull_module, "_PAUSE_S", 0.1)
    [(address, port)] = offer.ports.items()

    def ended(connection: socket.socket) -> bool:
        """Whether the other side ends it, though a byte is sent now and then."""
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                connection.sendall(b"G")
                if not connection.recv(1):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False

    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((address, port))) for _ in range(4)]
        held[-1].settimeout(10)
        assert held[-1].recv(1) == b""  # at once: the others of its address are enough
        elsewhere = stack.enter_context(socket.socket())
        elsewhere.bind(("127.0.0.2", 0))
        elsewhere.connect((address, port))
        elsewhere.sendall(b"GET / HTTP/1.1\r\n\r\n")
        elsewhere.settimeout(10)
        assert elsewhere.recv(12) == b"HTTP/1.1 401"
        assert all(map(ended, held[:3]))
    with offer.offering(one_file(weights), "run:3") as order:
        pull(order, "127.0.0.1", taken)


def test_what_is_open_breaks_off_with_the_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offer_module, "_HEAD_S", 60.0)
    opened = WeightOffer([HERE])
    with socket.create_connection(next(iter(opened.ports.items()))) as held:
        held.settimeout(10)
        held.sendall(b"GET / HTTP/1.1\r\nX-Nonce: n\r\n\r\n")
        assert held.recv(12) == b"HTTP/1.1 401"
        opened.close()
        while held.recv(1000):
            pass


def test_an_offer_that_cannot_listen_everywhere_listens_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    listener = offer_module._Listener

    def listening(address: str, offer: Any) -> Any:
        if made:
            raise OSError("no such address")
        made.append(listener(address, offer))
        return made[0]

    monkeypatch.setattr(offer_module, "_Listener", listening)
    monkeypatch.setattr(offer_module, "addresses_toward", lambda url: {"127.0.0.1", "127.0.0.2"})
    with pytest.raises(OSError, match="no such address"):
        WeightOffer([HERE])
    assert made[0].socket.fileno() == -1


def test_no_path_leads_out_of_what_is_offered_and_nothing_is_answered_without_the_token(
    offer: WeightOffer, weights: Path
) -> None:
    (weights.parent / "secret").write_text("secret")
    names = ("../secret", "..%2fsecret", "/etc/passwd", "", ".", "..", str(weights.parent / "secret"), "a" * 3000)
    with offer.offering(weights, "v"):
        good = "/v/model-00001.safetensors"
        for name in names:
            assert asked(offer, f"/v/{name}", offer.token)[0] == 404
        for path in ("/", "/v", "/v/../v/model-00001.safetensors", "*"):
            assert asked(offer, path, offer.token)[0] in (404, 409)
        for token in ("", "x", offer.token[:-1], offer.token + "x"):
            assert asked(offer, good, token)[0] == 401
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert asked(offer, good, offer.token, method)[0] == 501
        size = (weights / "model-00001.safetensors").stat().st_size
        assert asked(offer, good, offer.token, Range=f"bytes={size + 1}-")[0] == 416
        assert asked(offer, good, offer.token, Range=f"bytes={size}-") == (206, b"")
        for odd in ("bytes=-5", "bytes=5-9", "bytes=1-,2-", "x", f"bytes={'9' * 40}-"):
            status, data = asked(offer, good, offer.token, Range=odd)
            assert (status, len(data)) == (200, size)


def test_it_listens_where_the_servers_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses_toward("http://127.0.0.1:8000") == {"127.0.0.1"}
    assert addresses_toward("http://[::1]:8000") == {"::1"}
    assert addresses_toward("http://localhost") <= {"127.0.0.1", "::1"}
    opened = WeightOffer([HERE, "http://127.0.0.1:2"])
    try:
        assert list(opened.ports) == ["127.0.0.1"]
    finally:
        opened.close()
    monkeypatch.setattr("socket.socket.connect", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(OSError, match="no route to host"):
        WeightOffer([HERE])


def test_two_runs_have_two_tokens(offer: WeightOffer) -> None:
    other = WeightOffer([HERE])
    other.close()
    assert offer.token != other.token


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9 if Path(path) == tmp_path else 8))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert place_for(7) == Path("/dev/shm")
    assert place_for(9) == tmp_path
    with pytest.raises(PullError, match=r"the weights fit nowhere: /dev/shm is too small.*0.93 GiB free, 1.86 GiB are"):
        place_for(2 * 10**9)


def test_a_disk_that_fills_up_meanwhile_is_said(offer: WeightOffer, weights: Path) -> None:
    with offer.offering(one_file(weights), "run:3") as order:
        [file] = order.files
        ends = time.monotonic() + 60
        source = pull_module._Source(order, *order.place("127.0.0.1"), ends)
        with pytest.raises(PullError, match="/dev/full cannot be written: No space left on device"):
            pull_module._pull_file(source, file, Path("/dev/full"))


# The route of the server.


class Engine:
    """What is behind the guard: notes which folder it was given, and what was in it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        call = json.loads((await receive())["body"])
        folder = Path(call["args"][-1])
        self.seen.append((call["method"], folder.is_dir() and any(folder.iterdir())))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def posted(guard: Guard, path: str, body: Any, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=cast(Any, guard), client=("127.0.0.1", 9))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post(path, content=content, headers=headers)


def test_a_server_pulls_and_keeps_the_files_until_they_are_loaded(offer: WeightOffer, weights: Path) -> None:
    engine = Engine()
    guard = Guard(engine)

    async def pulled(order: PullOrder) -> Path:
        answer = await posted(guard, "/pull_weights", order.model_dump(mode="json"))
        assert answer.status_code == 200, answer.text
        return Path(answer.json()["folder"])

    async def all_of_it() -> None:
        with offer.offering(weights, "run:3") as order:
            first = await pulled(order)
            second = await pulled(order)
            assert (first.exists(), checksum_of(second)) == (False, checksum_of(weights))
            trial = await pulled(order.model_copy(update={"is_trial": True}))
            assert (trial.exists(), second.exists()) == (False, True)
            await posted(guard, "/collective_rpc", {"method": "describe", "args": ["/tmp"]})
            assert second.exists()
            await posted(guard, "/collective_rpc", {"method": "take_weights", "args": [str(second)]})
            assert not second.exists()
            broken = order.model_copy(update={"version": "run:9"})
            answer = await posted(guard, "/pull_weights", broken.model_dump(mode="json"))
            assert (answer.status_code, "not offered" in answer.text) == (409, True)

    before = _scratch()
    asyncio.run(all_of_it())
    assert engine.seen == [("describe", True), ("take_weights", True)]
    assert _scratch() == before


def _scratch() -> set[Path]:
    """The folders of weights that this process holds open; other tests have theirs on the same machine."""
    links = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(descriptor.readlink())
    return {link for link in links if link.match("/dev/shm/reasoner-*-weights-*")}


def test_weights_that_are_being_taken_stay_and_others_wait(offer: WeightOffer, weights: Path) -> None:
    """Of the same run too, whose request may have timed out."""
    taking, over = asyncio.Event(), asyncio.Event()
    read: list[bool] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        folder = Path(json.loads((await receive())["body"])["args"][0])
        taking.set()
        await over.wait()
        read.append(checksum_of(folder) == checksum_of(weights))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    guard = Guard(engine)

    async def all_of_it() -> None:
        with offer.offering(weights, "run:3") as order:
            asks = order.model_dump(mode="json")
            folder = (await posted(guard, "/pull_weights", asks)).json()["folder"]
            takes = {"method": "take_weights", "args": [folder]}
            task = asyncio.create_task(posted(guard, "/collective_rpc", takes))
            await asyncio.wait_for(taking.wait(), 30)
            for path, body in (
                ("/pull_weights", asks),
                ("/collective_rpc", {"method": "take_weights", "args": ["/x"]}),
            ):
                answer = await posted(guard, path, body)
                assert (answer.status_code, answer.text[:23]) == (409, "another run uses it: it")
            assert (await posted(guard, "/pull_weights", asks | {"is_trial": True})).status_code == 200
            over.set()
            assert (await task).status_code == 200
            assert not Path(folder).exists()
            assert (await posted(guard, "/pull_weights", asks)).status_code == 200

    asyncio.run(all_of_it())
    assert read == [True]


def test_each_run_has_weights_of_its_own_until_they_are_old(
    offer: WeightOffer, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(Engine())
    now = 1000.0
    monkeypatch.setattr(auth_module, "time", SimpleNamespace(monotonic=lambda: now))

    async def pulled(version: str) -> Path:
        with offer.offering(weights, version) as order:
            return Path((await posted(guard, "/pull_weights", order.model_dump(mode="json"))).json()["folder"])

    async def all_of_it() -> None:
        nonlocal now
        first, other = await pulled("a:1"), await pulled("b:1")
        assert first.exists()
        second = await pulled("a:2")
        assert (first.exists(), other.exists(), second.exists()) == (False, True, True)
        now += pull_module.PULL_S + 1
        third = await pulled("c:1")
        assert (other.exists(), second.exists(), third.exists()) == (False, False, True)

    asyncio.run(all_of_it())


def test_an_engine_that_breaks_off_is_asked_again(offer: WeightOffer, weights: Path) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("no such layer")

    guard = Guard(broken)

    async def all_of_it() -> None:
        with offer.offering(weights, "run:3") as order:
            asks = order.model_dump(mode="json")
            for _ in range(2):
                folder = (await posted(guard, "/pull_weights", asks)).json()["folder"]
                with pytest.raises(RuntimeError, match="no such layer"):
                    await posted(guard, "/collective_rpc", {"method": "take_weights", "args": [folder]})
                assert not Path(folder).exists()

    asyncio.run(all_of_it())


ORDER: dict[str, Any] = {
    "ports": {"127.0.0.1": 9},
    "token": "t" * 43,
    "version": "run:3",
    "files": [{"name": "model-00001.safetensors", "size": 5, "checksum": "0" * 32}],
}


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"files": [{"name": name, "size": 5, "checksum": "0" * 32}]}
            for name in ("../x", "/x", ".x", "a/b", "", "a\n")
        ),
        {"files": [{"name": "a", "size": -1, "checksum": "0" * 32}]},
        {"files": [{"name": "a", "size": 2**50, "checksum": "0" * 32}]},
        {"files": [{"name": "a", "size": 5, "checksum": "../x"}]},
        {"files": []},
        {"ports": {"127.0.0.1": 0}},
        {"version": "a b\r\nX: y"},
        {"token": "short"},
        {"host": "evil.example"},
    ],
    ids=str,
)
def test_an_order_that_no_run_gives_is_refused_before_anything_is_asked(change: dict[str, Any]) -> None:
    answer = asyncio.run(posted(Guard(Engine()), "/pull_weights", ORDER | change))
    assert answer.status_code == 400
    assert ORDER["token"] not in answer.text


def test_an_order_is_a_short_one_from_who_has_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(Engine())
    for body in (b"", b"{", b"[" * 9999, b" " * (MAX_CALL + 1)):
        assert asyncio.run(posted(guard, "/pull_weights", body)).status_code == 400
    assert asyncio.run(posted(guard, "/pull_weights", ORDER, Origin="http://evil.example")).status_code == 403
    monkeypatch.setenv(KEY, "a-secret-of-the-test")
    guarded = Guard(Engine())
    for given in ({}, {"Authorization": "Bearer wrong"}):
        assert asyncio.run(posted(guarded, "/pull_weights", ORDER, **given)).status_code == 401


# A run with a server that shares no folder with it.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fakes() -> Iterator[list[Fake]]:
    with fake_servers(3) as result:
        for fake in result[:2]:
            fake.describes = {"reads_folder": False}
        yield result


def opened(fakes: list[Fake], model: Path, said: list[str], *, may_pull: bool = True) -> ServerSampler:
    shape = {"vocab_size": 260, "num_hidden_layers": 2}
    wanted = ServerRequirements("reasoner serve tiny", shape, "float32", 256, Path("/dev/shm"), may_pull)
    return ServerSampler([fake.url for fake in fakes], model, wanted, seed=0, say=said.append)


def test_servers_pull_where_no_folder_is_shared_and_all_receipts_are_equal(fakes: list[Fake], model: Path) -> None:
    far, further, near = fakes
    with opened(fakes, model, []) as sampler:
        assert (
            f"weights by HTTP pull to {far.url}, {further.url}, to the others through /dev/shm" in sampler.description
        )
        receipt = sampler.load(model, 4)
    assert {fake.taken[-1] for fake in fakes} == {receipt.checksum}
    assert [fake.pulled is None for fake in fakes] == [False, False, True]
    assert (sampler.version, far.version == further.version == near.version) == (4, True)


def test_servers_sample_on_while_they_pull_and_stand_still_while_they_load(fakes: list[Fake], model: Path) -> None:
    far, further, near = fakes
    paused: list[tuple[bool, ...]] = []
    with opened(fakes, model, []) as service, TrajectorySampler(service) as sampler:
        sampler.load(model, 0)
        for fake in (far, further):
            fake.pulls = lambda folder: paused.append(tuple(fake.paused for fake in fakes))
        receipt = sampler.change(model, 1)
        assert paused == [(False,) * 3] * 2  # once by each
        assert [fake.taken[1:] for fake in fakes] == [[receipt.checksum]] * 3
        assert not any(fake.paused for fake in fakes)
        # what was brought and never loaded is not taken for what comes next
        service.prepare(model, 2)
        sampler.load(model, 3)
        assert len(paused) == 2 * 3
    assert far.version == further.version == near.version
    assert far.version.endswith(":3")


def test_a_server_that_does_not_pull_while_it_samples_is_out_as_soon_as_the_others_load(
    fakes: list[Fake], model: Path
) -> None:
    far, _, near = fakes
    message: list[str] = []
    with opened(fakes, model, message) as service, TrajectorySampler(service) as sampler:
        sampler.load(model, 0)

        def fails(folder: Path) -> None:
            raise PullError("the disk is full")

        far.pulls = fails
        assert sampler.change(model, 1).version == 1
        [lost] = message
        assert f"{far.url} did not pull the weights: the disk is full" in lost
        assert (len(far.taken), len(near.taken)) == (1, 2)


def test_a_server_that_dies_while_it_pulls_is_out_until_the_next_weights(fakes: list[Fake], model: Path) -> None:
    far, _, _ = fakes
    message: list[str] = []
    with opened(fakes, model, message) as sampler:
        sampler.load(model, 0)

        def dies(folder: Path) -> None:
            far.dead = True

        far.pulls = dies
        sampler.load(model, 1)
        [lost] = message
        assert f"{far.url} could not be reached, or broke off" in lost
        far.restart()
        far.pulls = lambda folder: None
        sampler.load(model, 2)
        assert message[1:] == [f"{far.url} is back, with the weights of version 2"]


def test_a_server_that_cannot_pull_is_named_at_the_start_with_what_to_do(
    fakes: list[Fake], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"cannot read what this run writes to /dev/shm: set sampling.w"):
        opened(fakes, model, [], may_pull=False)
    monkeypatch.setattr(WeightOffer, "ports", property(lambda self: {"10.0.0.7": 9}))
    with pytest.raises(
        UserError, match=r"shares no folder with this run and did not pull .* changes addresses"
    ) as failed:
        opened(fakes, model, [])
    assert "let it reach this machine, or set sampling.weights_folder" in str(failed.value)
