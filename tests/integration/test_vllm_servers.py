"""Two real `reasoner serve` with a tiny model, started once: sampling, weights, and servers that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest
from transformers import AutoTokenizer

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE
from reasoner.errors import SamplerError, UserError
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import checksum_of_model
from reasoner.records import Group, SamplingParams
from reasoner.sampling.server import offer
from reasoner.sampling.server.client import Description, Server
from reasoner.sampling.server.compatibility import ServerRequirements
from reasoner.sampling.server.policy import ServedPolicy
from reasoner.sampling.server.sampler import ServerSampler
from reasoner.training.guards.canary import Canary
from reasoner.training.weight_sync import SavedModel, check_gap, hand_over
from reasoner.trajectories.sampler import TrajectorySampler
from tests import architectures, token_services
from tests.integration.test_vllm_engine import LIMIT, Reference, change_adapter, gap_of, prompts
from tests.ragged import ragged_groups

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

KEY = "key-of-the-test-servers"
MAX_MODEL_LEN = 256
DRAWN = SamplingParams(1.0, 24)


@dataclass
class Served:
    """A `reasoner serve` that answers."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> str:
        """Kill vLLM; returns what `reasoner serve` then says."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        vllm = [each for each in below if "sampling.server.entrypoint" in " ".join(each.cmdline())]
        assert vllm
        os.killpg(vllm[0].pid, signal.SIGKILL)
        assert self.process.wait(60) == 1
        assert not psutil.wait_procs(below, timeout=10)[1]
        return self.printed()[-500:]

    def kill_outer(self) -> list[psutil.Process]:
        """Kill `reasoner serve` itself; returns what is left of it and of vLLM."""
        everything = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.kill()
        self.process.wait(60)
        return psutil.wait_procs(everything, timeout=30)[1]

    def pulled(self) -> list[Path]:
        """The folders of weights that its processes hold open; others on this machine have theirs."""
        outer, links = psutil.Process(self.process.pid), []
        for process in [outer, *outer.children(recursive=True)]:
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    links.append(descriptor.readlink())
        return [link for link in links if link.match("/dev/shm/reasoner-*-weights-*")]

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> None:
        """Until it says that it is ready."""
        ends = time.monotonic() + 240
        while f"ready at {self.url}" not in self.printed():
            assert self.process.poll() is None, self.printed()[-3000:]
            assert time.monotonic() < ends
            time.sleep(0.2)


@contextmanager
def served(folder: Path, port: int, log: Path) -> Iterator[Served]:
    """One that was started; `wait` for it. It ends when this process does, which may be killed by its time limit."""
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "reasoner"]
    command += ["serve", str(folder), "--port", str(port)]
    for value in ("sampling.max_tokens=192", "sampling.max_prompt_tokens=64", "sampling.kv_cache_gib=0.25"):
        command += ["--set", value]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield Served(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With experts: vLLM's CPU build has to pack them again whenever it is given weights."""
    return architectures.build("qwen3_moe", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def servers(folder: Path, logs: Path) -> Iterator[list[Served]]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("VLLM_API_KEY", KEY)
        patch.setenv("OMP_NUM_THREADS", "1")
        found = [stack.enter_context(served(folder, port, logs / f"{port}.txt")) for port in free_ports(2)]
        for server in found:
            server.wait()
        yield found


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sampler(servers: list[Served], folder: Path, said: list[str], tmp_path: Path) -> Iterator[ServerSampler]:
    """Over both servers, which were given the model's own weights: the first pulls them over HTTP, as if it were
    elsewhere, the second reads the folder."""
    wanted = ServerRequirements(
        "reasoner serve", {"vocab_size": 260, "num_hidden_layers": 2}, "float32", MAX_MODEL_LEN, tmp_path, True
    )
    urls = [server.url for server in servers]
    describe = Server.describe

    async def described(server: Server, probe: Path, *, with_base: bool) -> Description:
        return await describe(server, probe if server.url != urls[0] else probe / "elsewhere", with_base=with_base)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "describe", described)
        with ServerSampler(urls, folder, wanted, seed=0, say=said.append) as found:
            hand_over(SavedModel(folder, "float32", False), found)
            yield found


def tokens_made(server: Served) -> float:
    text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:generation_tokens_total"))


def test_log_probabilities_of_both_servers_agree_with_transformers(
    servers: list[Served], sampler: ServerSampler, folder: Path
) -> None:
    before = [tokens_made(server) for server in servers]
    groups = list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(0.7, 24)))
    gap = check_gap(Reference(folder).learner, groups, 0.7)
    assert gap.tokens > 200
    assert gap.max < 1e-4
    assert all(tokens_made(server) > old for server, old in zip(servers, before, strict=True))
    greedy = [group.responses[0].token_ids for _ in range(2) for group in _in_order(sampler, folder)]
    assert greedy[:4] == greedy[4:]
    stopped = next(TrajectorySampler(sampler).sample(prompts(folder, 1), 8, SamplingParams(1.0, 64, stop=("e", "a"))))
    assert all(not {"e", "a"} & set(response.text) for response in stopped.responses)
    assert "stop" in {response.finish_reason for response in stopped.responses}
    [end] = AutoTokenizer.from_pretrained(folder).encode("e")
    # Each of the random responses comes to the token with a chance of about a half.
    ended = next(TrajectorySampler(sampler).sample(prompts(folder, 1), 48, SamplingParams(1.0, 64, end_tokens=(end,))))
    assert any(response.token_ids[-1] == end for response in ended.responses)
    assert all(end not in response.token_ids[:-1] and "e" not in response.text for response in ended.responses)


def test_a_teacher_on_servers_gives_the_log_probabilities_of_given_tokens(
    servers: list[Served], sampler: ServerSampler, folder: Path
) -> None:
    """Of ragged responses that no server sampled; and it is no teacher any more once another run gave it weights."""
    reference, groups = Reference(folder), ragged_groups(prompts=(3, 24, 7), responses=3)
    wanted = ServerRequirements("reasoner serve", {"vocab_size": 260}, "float32", MAX_MODEL_LEN, None, of="teacher")
    with ServedPolicy([server.url for server in servers], wanted) as teacher:
        found, expected = teacher.logprobs(groups, 1.0), reference.learner.logprobs(groups, 1.0)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4)
        reference.change("")
        hand_over(reference.learner, sampler)
        with pytest.raises(SamplerError, match="has other weights than at the start of the run"):
            teacher.logprobs(groups, 1.0)


def _in_order(sampler: ServerSampler, folder: Path) -> list[Group]:
    return sorted(
        TrajectorySampler(sampler).sample(prompts(folder, 4), 1, SamplingParams(0.0, 16)),
        key=lambda group: group.problem.id,
    )


def test_new_weights_arrive_in_both_servers(sampler: ServerSampler, folder: Path) -> None:
    reference = Reference(folder)
    reference.change("")
    assert gap_of(sampler, reference, folder) > 50 * LIMIT  # type: ignore[arg-type]
    receipt = hand_over(reference.learner, sampler)
    assert (receipt.version, sampler.version) == (1, 1)
    groups = list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(1.0, 24)))
    assert check_gap(reference.learner, groups, 1.0).max < 1e-4
    assert {response.policy_version for group in groups for response in group.responses} == {1}


def test_every_family_of_parameters_is_seen_to_arrive_in_both_servers(
    servers: list[Served], sampler: ServerSampler, folder: Path
) -> None:
    learner = TorchLearner(
        folder, device="cpu", dtype="float32", config=LearningConfig(token_budget=512), total_steps=9
    )
    canary = Canary(
        learner, TrajectorySampler(sampler), ALONE, LIMIT, lambda publisher: hand_over(publisher, sampler), DRAWN
    )
    assert canary.prove(prompts(folder)).startswith("the sampler takes all 14 families of parameters")
    assert sampler.score(canary.groups).keys() == {server.url for server in servers}
    assert sampler.version == 0
    assert check_gap(learner, list(TrajectorySampler(sampler).sample(prompts(folder), 4, DRAWN)), 1.0).max < 1e-4


def test_an_adapter_alone_is_added_to_the_model_that_the_servers_were_started_with(
    servers: list[Served], sampler: ServerSampler, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever they were given before, one of them over HTTP; and not where it is another model's."""
    reference = Reference(folder)
    reference.change("")
    hand_over(reference.learner, sampler)
    wanted = ServerRequirements("serve", {}, "float32", MAX_MODEL_LEN, tmp_path, base=checksum_of_model(folder))
    with pytest.raises(UserError, match="was started with other weights than those beside which the run trains"):
        ServerSampler([server.url for server in servers], folder, replace(wanted, base="0" * 32), seed=0, say=print)
    monkeypatch.setattr(sampler, "_base", wanted.base)
    learner = TorchLearner(
        folder,
        device="cpu",
        dtype="float32",
        config=LearningConfig(token_budget=512),
        total_steps=9,
        lora=LoraConfig(rank=4, targets=["q_proj", "o_proj"], handover="adapter"),
    )

    def gap() -> float:
        groups = list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, DRAWN))
        assert {r.policy_version for group in groups for r in group.responses} == {sampler.version}
        return check_gap(learner, groups, 1.0).max

    for _ in range(2):
        receipt = hand_over(learner, sampler)
        assert (receipt.version, receipt.tensors) == (learner.version, 2 * 2 * 2)
        assert gap() < 1e-4
        change_adapter(learner)
        assert gap() > 20 * LIMIT
    hand_over(learner, sampler)
    canary = Canary(
        learner, TrajectorySampler(sampler), ALONE, LIMIT, lambda publisher: hand_over(publisher, sampler), DRAWN
    )
    assert canary.prove(prompts(folder)).startswith("the sampler takes all 2 families of parameters")
    monkeypatch.setattr(sampler, "_base", "0" * 32)
    with pytest.raises(SamplerError, match="no vLLM server is left") as failed:
        hand_over(learner, sampler)
    assert "holds other weights than the adapter was trained beside" in str(failed.value)


def test_aborted_requests_come_with_their_prefix(sampler: ServerSampler, folder: Path) -> None:
    token_services.check_aborted_requests_come_with_their_prefix(sampler, folder, attempts=10)


def test_requests_join_those_that_run(sampler: ServerSampler) -> None:
    token_services.check_requests_join_those_that_run(sampler)


def test_a_response_that_repeats_itself_is_ended(sampler: ServerSampler) -> None:
    token_services.check_a_response_that_repeats_itself_is_ended(sampler)


def test_interrupted_groups_are_continued(sampler: ServerSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_interrupted_groups_are_continued(sampler, folder, tmp_path)


def test_weights_change_under_what_runs(sampler: ServerSampler, folder: Path, tmp_path: Path) -> None:
    token_services.check_weights_change_under_what_runs(sampler, folder, tmp_path / "new", attempts=10)


def test_no_route_answers_without_the_key(servers: list[Served]) -> None:
    for path in ("/collective_rpc", "/pause", "/inference/v1/generate", "/v1/completions", "/update_weight_version"):
        assert httpx.post(f"{servers[0].url}{path}", json={}).status_code == 401
    assert httpx.get(f"{servers[0].url}/health").status_code == 200


def test_a_page_is_refused_and_a_method_that_does_not_exist_is_answered(servers: list[Served]) -> None:
    """vLLM itself lets in any page, and one of these methods would never have answered."""
    key = {"Authorization": f"Bearer {KEY}"}
    for method, path in (("OPTIONS", "/pause"), ("POST", "/pause"), ("PUT", "/pause"), ("GET", "/health")):
        answer = httpx.request(method, f"{servers[0].url}{path}", headers={**key, "Origin": "http://evil.example"})
        assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)
    for name in ("__class__", "nonsense"):
        answer = httpx.post(f"{servers[0].url}/collective_rpc", json={"method": name}, headers=key)
        assert (answer.status_code, f"no method {name!r}" in answer.text) == (404, True)
    assert httpx.put(f"{servers[0].url}/pause", headers=key).status_code == 405
    assert httpx.get(f"{servers[0].url}/health").status_code == 200  # it still works


def test_a_server_that_is_killed_while_it_draws_and_one_that_is_started_again(
    servers: list[Served],
    sampler: ServerSampler,
    folder: Path,
    logs: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of them pulls its weights, also after it was started again, and is killed in the middle of a pull."""
    gone, other = servers
    assert f"weights by HTTP pull to {gone.url}, to the others through" in sampler.description
    [prompt, *_] = prompts(folder, 1)
    many = [replace(prompt, problem=replace(prompt.problem, id=f"p{index}")) for index in range(30)]
    groups = TrajectorySampler(sampler).sample(many, 64, SamplingParams(1.0, 32))  # a server draws two of them at once
    drawn = [next(groups)]
    assert "vLLM ended by SIGKILL" in gone.kill()
    drawn += groups
    assert len({group.problem.id for group in drawn}) == 30
    [lost] = said
    assert gone.url in lost
    with served(folder, gone.port, logs / "again.txt") as again:
        again.wait()
        before = tokens_made(again)
        reference = Reference(folder)
        reference.change("")
        list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(1.0, 24)))
        assert tokens_made(again) == before == 0  # it has not been given weights
        hand_over(reference.learner, sampler)
        drawn = list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(1.0, 24)))
        assert tokens_made(again) > 0
        assert check_gap(reference.learner, drawn, 1.0).max < 1e-4
        assert said == [lost, f"{gone.url} is back, with the weights of version 1"]
        pulled = _kill_in_a_pull(again, monkeypatch)
        reference.change("")
        hand_over(reference.learner, sampler)
        assert f"{gone.url} could not be reached, or broke off" in said[2]
        drawn = list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(1.0, 24)))
        assert check_gap(reference.learner, drawn, 1.0).max < 1e-4
    assert pulled
    assert not any(folder.exists() for folder in pulled)
    left = other.kill_outer()
    assert left == []
    with pytest.raises(SamplerError, match="no vLLM server is left") as failed:
        list(TrajectorySampler(sampler).sample(prompts(folder, 8), 4, SamplingParams(1.0, 24)))
    assert gone.url in str(failed.value)
    assert other.url in str(failed.value)


def _kill_in_a_pull(server: Served, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The next pull gets half of a file, then the server is killed; returns a list that then gets the folders in which
    that server had files."""
    pulled: list[Path] = []

    def half(handler: offer._Handler, path: Path) -> None:
        size = path.stat().st_size
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{size - 1}/{size}")
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(path.read_bytes()[: size // 2])
        pulled.extend(server.pulled())
        assert any([*folder.glob("*.safetensors")] for folder in pulled)
        server.kill()

    monkeypatch.setattr(offer._Handler, "_send_file", half)
    return pulled
