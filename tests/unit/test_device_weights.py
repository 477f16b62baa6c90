"""Weights that stay on the GPU, without one: buckets, checksums, and the protocol over host memory."""

from __future__ import annotations

import inspect
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing import reductions

from reasoner.config import LearningConfig, LoraConfig
from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import DataError, HandoverError, SamplerError
from reasoner.learning.torch_engine import TorchLearner
from reasoner.models.tensor_files import Digest, checksum_of_model, read_weights, write_adapter, write_weights
from reasoner.models.weight_files import SINGLE
from reasoner.records import Receipt
from reasoner.sampling.base import DeviceReceiver
from reasoner.sampling.sharded import ShardedSampler
from reasoner.sampling.vllm import buckets, device_link
from reasoner.sampling.vllm.buckets import DeviceDigest, SharedBuffer, device_sum, open_cuda, share_cuda
from reasoner.sampling.vllm.device_link import DeviceLink
from reasoner.sampling.vllm.engine import VllmSampler
from reasoner.sampling.vllm.messages import StartEngine, TakeBuckets
from reasoner.training.guards.canary import Perturbed
from reasoner.training.weight_sync import hand_over
from tests.tiny import build_tiny_model
from tests.unit.test_sharded_sampler import on_ranks
from tests.unit.test_vllm_host import stubs

__all__ = ["stubs"]

CUDA = StartEngine("model", "bfloat16", "cuda", 64, 4, 0.4, 0.1, False)


def random_weights(*shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return {f"w{place}": torch.randn(shape, generator=generator).to(dtype) for place, shape in enumerate(shapes)}


# The checksum.


def splitmix(word: int) -> int:
    """The reference, with Python's numbers."""
    word = ((word ^ (word >> 30)) * (buckets._MIX[1] % 2**64)) % 2**64
    word = ((word ^ (word >> 27)) * (buckets._MIX[2] % 2**64)) % 2**64
    return word ^ (word >> 31)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("at_once", [3, 2**20])
def test_the_sum_is_that_of_the_formula(count: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_SUMMED", at_once)
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    raw = bytes(data.tolist()) + bytes(-count % 8)
    expected = 0
    for place in range(0, len(raw), 8):
        word = int.from_bytes(raw[place : place + 8], "little")
        expected += splitmix(word ^ splitmix((place // 8 + 1) * (buckets._MIX[0] % 2**64) % 2**64))
    assert int(device_sum(data)) % 2**64 == expected % 2**64


def test_the_sum_sees_every_bit_and_every_order() -> None:
    words = torch.randn(48).to(torch.bfloat16).view(torch.int16)
    plain = int(device_sum(words))
    seen = {plain}
    for place in range(48):
        for bit in range(16):
            other = words.clone()
            other[place] ^= -(2**15) if bit == 15 else 1 << bit
            seen.add(int(device_sum(other)))
    assert len(seen) == 48 * 16 + 1
    signs = words.clone()  # the highest bits of two words: a plain weighted sum would lose them
    signs[3] ^= -(2**15)
    signs[11] ^= -(2**15)
    moved = torch.cat([words[8:], words[:8]])
    for other in (signs, moved, words.flip(0), words[:-4], torch.cat([words, words[:4]])):
        assert int(device_sum(other)) != plain


def test_the_sum_is_of_the_values_wherever_they_lie() -> None:
    """Not contiguous, at an odd place of its storage, or with a gradient."""
    base = torch.randn(33, 16).to(torch.bfloat16)
    expected = int(device_sum(base.T.contiguous()))
    assert int(device_sum(base.T)) == expected
    shifted = torch.zeros(33 * 16 + 3, dtype=torch.bfloat16)[3:]
    shifted.copy_(base.T.reshape(-1))
    assert int(device_sum(shifted.view(16, 33).requires_grad_())) == expected


@pytest.mark.parametrize(
    "other",
    [{"a": torch.ones(2, 3)}, {"b": torch.ones(3, 2)}, {"a": torch.ones(3, 2).double()}, {"a": torch.zeros(3, 2)}, {}],
)
def test_the_checksum_sees_name_shape_format_and_values(other: dict[str, Tensor]) -> None:
    assert checksum_of({"a": torch.ones(3, 2)}) != checksum_of(other)


def checksum_of(weights: dict[str, Tensor]) -> str:
    digest = DeviceDigest()
    for name, value in weights.items():
        digest.add(name, value)
    return digest.checksum


def test_the_checksum_does_not_depend_on_the_order() -> None:
    weights = random_weights((3, 4), (5,), ())
    assert checksum_of(weights) == checksum_of(dict(reversed(weights.items())))


# Both ends.


class Host:
    """The process with vLLM: runs the worker's method in a thread."""

    def __init__(self, work: Callable[[TakeBuckets], object]) -> None:
        self.work = work
        self.replies: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.told: list[TakeBuckets] = []

    def send(self, request: TakeBuckets) -> None:
        self.told.append(request)
        self.thread = threading.Thread(target=self._run, args=(request,), daemon=True)
        self.thread.start()

    def _run(self, request: TakeBuckets) -> None:
        try:
            self.replies.put(self.work(request))
        except Exception as error:
            self.replies.put(error)

    @property
    def has_replied(self) -> bool:
        return not self.replies.empty()

    def reply(self) -> Any:
        value = self.replies.get(timeout=30)
        if isinstance(value, Exception):
            raise SamplerError(f"vLLM failed: {value!r}")
        return value


class Worker:
    """Our extension around a vLLM that keeps what it is given."""

    def __init__(self, extension: Any, buffer: Tensor) -> None:
        self.mappings = 0

        def mapped(shared: SharedBuffer) -> Tensor:
            self.mappings += 1
            return buffer

        self.loaded: dict[str, Tensor] = {}
        self.extension = extension.__new__(extension)
        self.extension.reload_weights = self.reload
        self.extension.get_model = torch.nn.Module
        self.spoil: Callable[[int], None] = lambda count: None
        extension.take_buckets.__globals__["open_cuda"] = mapped

    def reload(self, weights_iterator: Iterable[tuple[str, Tensor]]) -> None:
        for count, (name, value) in enumerate(weights_iterator):
            self.loaded[name] = value
            self.spoil(count)

    def take(self, request: TakeBuckets) -> object:
        return self.extension.take_buckets(request.address, request.version is None)


@pytest.fixture
def worker(stubs: None, monkeypatch: pytest.MonkeyPatch) -> Worker:
    from reasoner.sampling.vllm import worker as module

    monkeypatch.setattr(module, "current_platform", SimpleNamespace(is_cpu=lambda: False))
    monkeypatch.setattr(module, "VocabParallelEmbedding", type("Embedding", (), {}))
    monkeypatch.setattr(device_link, "ANSWER_S", 20.0)
    monkeypatch.setattr(buckets, "ANSWER_S", 20.0)
    return Worker(module.WorkerExtension, torch.zeros(2048, dtype=torch.uint8))


def link_to(worker: Worker, host: Host | None = None) -> DeviceLink:
    buffer = worker.extension.take_buckets.__globals__["open_cuda"](SharedBuffer(0, ""))
    worker.mappings = 0
    return DeviceLink(cast(Any, host or Host(worker.take)), buffer, lambda _: SharedBuffer("here", "GPU-1"))


CASES = {
    "small": random_weights((3, 4), (5,), (), (1, 1)),
    "none": {},
    "empty": {"a": torch.zeros(0, 4), "b": torch.ones(2)},
    "exactly full": random_weights((1024,)),
    "one byte more": {"a": torch.arange(2049, dtype=torch.int32).to(torch.uint8), "b": torch.ones(3)},
    "larger than the buffer": random_weights((7, 1111), (3,), (5000,), (1024,)),
    "float32, float64": random_weights((333,), dtype=torch.float32) | {"d": torch.randn(77, dtype=torch.float64)},
    "not contiguous": {"t": torch.randn(40, 30).T, "s": torch.randn(100)[::3]},
}


@pytest.mark.parametrize("name", CASES)
def test_what_arrives_is_what_was_sent_though_the_buffer_is_filled_again(worker: Worker, name: str) -> None:
    weights = CASES[name]
    link = link_to(worker)
    for version in (1, 2):
        receipt, sent = link.give(weights.items(), version)
        assert receipt == (sent.checksum, len(weights))
        assert list(worker.loaded) == list(weights)
        assert all(torch.equal(worker.loaded[key], weights[key]) for key in weights)
        assert all(worker.loaded[key].dtype == weights[key].dtype for key in weights)
    assert worker.mappings == 1  # every mapping is counted by the learner's side


def test_weights_that_are_not_the_learner_s_have_another_receipt(worker: Worker) -> None:
    """Torn by a learner that fills the buffer too early, here: by whoever writes into it meanwhile."""
    weights = random_weights((900,), (900,), (900,))
    link = link_to(worker)
    open_buffer = worker.extension.take_buckets.__globals__["open_cuda"](SharedBuffer(0, ""))
    worker.spoil = lambda count: open_buffer.fill_(7)  # after the first of a bucket
    receipt, sent = link.give(random_weights((90,), (90,), (90,)).items(), 1)
    assert receipt != (sent.checksum, 3)
    worker.spoil = lambda count: None
    receipt, sent = link.give(weights.items(), 1)
    assert receipt == (sent.checksum, 3)


def counted(weights: dict[str, Tensor], read: list[str]) -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        read.append(name)
        yield name, value


def fails(count: int) -> None:
    if count == 1:
        raise ValueError("no such layer")


class Resident(torch.nn.Module):
    """vLLM's model: what its kernels read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(6), requires_grad=False)


@pytest.mark.parametrize("through", ["buckets", "files"])
def test_a_load_that_changes_nothing_or_too_much_is_seen_in_what_vllm_holds(
    worker: Worker, tmp_path: Path, through: str
) -> None:
    """The receipt says what was read, and would be right."""
    model, link = Resident(), link_to(worker)
    worker.extension.get_model = lambda: model

    def give(value: float, takes: float | None) -> object:
        def reload(weights_iterator: Iterable[tuple[str, Tensor]]) -> None:
            list(weights_iterator)
            if takes is not None:
                model.weight.fill_(takes)

        worker.extension.reload_weights = reload
        weights = {"w": torch.full((6,), value)}
        if through == "buckets":
            return link.give(weights.items(), 1)[0]
        (folder := tmp_path / str(len([*tmp_path.iterdir()]))).mkdir()
        write_weights(folder, weights.items())
        return worker.extension.take_weights(str(folder))

    assert give(1.0, 1.0) == give(1.0, 1.0)
    assert give(2.0, 2.0) != give(1.0, 1.0)
    for _ in range(2):  # it is no better for being asked again
        with pytest.raises(SamplerError, match="holds what it held before"):
            give(3.0, None)
    give(4.0, 4.0)
    with pytest.raises(SamplerError, match="holds other tensors than before, of the same weights"):
        give(4.0, 5.0)


class Merging:
    """An engine on what is taken for a GPU, with a model whose one layer gets adapters."""

    def __init__(self, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = {"l.weight": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "norm": torch.ones(4)}
        self.folder, self.extension, self.model = folder, worker.extension, Resident()
        self.stale = False
        (folder / "model").mkdir()
        save_file(self.base, folder / "model" / SINGLE)
        platform = SimpleNamespace(is_cpu=lambda: False, device_type="cpu")
        monkeypatch.setitem(type(self.extension).merge_adapter.__globals__, "current_platform", platform)
        config = SimpleNamespace(model=str(folder / "model"), dtype=torch.bfloat16)
        self.extension.vllm_config = SimpleNamespace(model_config=config)
        self.extension.get_model = lambda: self.model
        self.extension.reload_weights = self.reload

    def reload(self, weights_iterator: Iterable[tuple[str, Tensor]]) -> None:
        weights = dict(weights_iterator)
        if not self.stale:
            self.model.weight.copy_(weights["l.weight"].reshape(-1))

    def new_folder(self) -> Path:
        (folder := self.folder / str(len([*self.folder.iterdir()]))).mkdir()
        return folder

    def load(self, weights: dict[str, Tensor]) -> None:
        write_weights(folder := self.new_folder(), weights.items())
        self.extension.take_weights(str(folder))

    def add(self, down: Tensor, up: Tensor) -> None:
        parts = {"l.lora_A.default.weight": down, "l.lora_B.default.weight": up}
        checksum = write_adapter(folder := self.new_folder(), parts.items(), LoraConfig(rank=len(down)))
        base = checksum_of_model(self.folder / "model")
        assert self.extension.merge_adapter(str(folder), base) == (checksum, 2)


@pytest.fixture
def merging(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merging:
    return Merging(worker, tmp_path, monkeypatch)


def test_adapters_with_one_sum_are_no_stale_load_and_a_stale_load_is_seen(merging: Merging) -> None:
    """Other numbers of an adapter need not change what the sum is: B = 0, or what bfloat16 rounds away."""
    base = merging.base["l.weight"]
    merging.load(merging.base)
    merging.add(torch.ones(2, 3), torch.zeros(2, 2))
    merging.add(torch.full((2, 3), 7.0), torch.zeros(2, 2))
    merging.add(torch.ones(1, 3), torch.zeros(2, 1))
    merging.add(torch.ones(1, 3), torch.tensor([[0.0], [1e-9]]))
    assert torch.equal(merging.model.weight, base.reshape(-1).float())
    merging.add(torch.ones(1, 3), torch.ones(2, 1))
    assert torch.equal(merging.model.weight, (base + 32).reshape(-1).float())
    merging.load(merging.base)
    merging.add(torch.ones(1, 3), torch.ones(2, 1))
    merging.stale = True
    for _ in range(2):
        with pytest.raises(SamplerError, match="holds what it held before"):
            merging.add(torch.ones(1, 3), torch.full((2, 1), 2.0))
    merging.stale = False
    merging.add(torch.ones(1, 3), torch.full((2, 1), 2.0))


def test_an_engine_whose_load_broke_off_does_nothing_more(
    merging: Merging, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would finish another one without a word, with layers of both."""
    wrong = {"other": torch.ones(1, 3)}
    with pytest.raises(DataError, match="is missing, and"):  # it is read before vLLM hears of it
        merging.extension.merge_adapter(
            str(written_adapter(merging, {"l.lora_A.default.weight": torch.ones(1, 3)})),
            checksum_of_model(merging.folder / "model"),
        )
    with pytest.raises(SamplerError, match="other weights than the adapter"):
        merging.extension.merge_adapter("nowhere", "0" * 32)
    merging.add(torch.ones(1, 3), torch.ones(2, 1))

    def breaks(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cache"))
    with monkeypatch.context() as patch:
        patch.setattr("reasoner.models.tensor_files.merge", breaks)
        with pytest.raises(torch.OutOfMemoryError):
            merging.add(torch.ones(1, 3), torch.ones(2, 1))
    assert emptied == ["cache"]
    refused: list[Callable[[], object]] = [
        lambda: merging.add(torch.ones(1, 3), torch.ones(2, 1)),
        lambda: merging.load(merging.base),
        lambda: link_to(worker).give(wrong.items(), 1),
        lambda: merging.extension.describe(str(merging.folder)),
    ]
    for use in refused:
        with pytest.raises(SamplerError, match=r"a load of weights broke off in this engine.*restart it"):
            use()


def written_adapter(merging: Merging, parts: dict[str, Tensor]) -> Path:
    write_adapter(folder := merging.new_folder(), parts.items(), LoraConfig(rank=1))
    return folder


def test_a_worker_that_fails_says_why_and_all_weights_are_read(worker: Worker) -> None:
    """Other ranks gather them together with this one, and would wait for it."""
    weights, read = random_weights(*[(900,)] * 6), list[str]()
    worker.spoil = fails
    with pytest.raises(SamplerError, match="no such layer"):
        link_to(worker).give(counted(weights, read), 1)
    assert read == list(weights)


def test_a_worker_that_never_comes_says_why(worker: Worker) -> None:
    def broken(request: TakeBuckets) -> object:
        raise ImportError("no module named torch")

    read: list[str] = []
    weights = random_weights((3,), (4,))
    with pytest.raises(SamplerError, match="no module named torch"):
        link_to(worker, Host(broken)).give(counted(weights, read), 1)
    assert read == list(weights)


def test_a_learner_that_breaks_off_is_noticed_by_the_worker(worker: Worker) -> None:
    host = Host(worker.take)

    def breaks() -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.ones(3000)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        link_to(worker, host).give(breaks(), 1)
    with pytest.raises(SamplerError, match="EOFError"):
        host.reply()


@pytest.mark.parametrize("comes", [True, False])
def test_a_trial_that_fails_on_this_side_leaves_no_answer_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """The engine goes on with files, and its next answer is to what it is asked next."""

    def fails(*args: object) -> DeviceDigest:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(device_link, "send_weights" if comes else "Connection", fails)
    host = Host(worker.take)
    with pytest.raises(RuntimeError, match="out of memory"):
        link_to(worker, host).try_it()
    host.thread.join(20)
    assert not host.has_replied


def test_a_trial_loads_nothing_and_tells_what_is_wrong(worker: Worker) -> None:
    link = link_to(worker)
    assert link.try_it() == ""
    assert worker.loaded == {}
    assert link_to(worker, Host(lambda request: "RuntimeError: invalid device context")).try_it() == (
        "RuntimeError: invalid device context"
    )
    spoilt = link_to(worker, Host(lambda request: _with(worker.take(request))))
    assert spoilt.try_it().startswith("what arrived is not what was sent")


def _with(receipt: Any) -> object:
    return "0" * 32, receipt[1]


@pytest.mark.parametrize("message", [buckets.Taken(), buckets.NoMoreBuckets(), "nonsense"])
def test_what_is_no_bucket_ends_the_hand_over(message: object) -> None:
    from multiprocessing import Pipe

    ours, theirs = Pipe()
    with ours, theirs:
        ours.send(message)
        with pytest.raises(SamplerError, match="where SharedBuffer was expected"):
            list(buckets.received_weights(theirs, lambda _: torch.zeros(8), DeviceDigest()))


@pytest.mark.parametrize(
    "parts",
    [
        [buckets.BucketPart("a", "float32", (4,), 4, 0, 4)],
        [buckets.BucketPart("a", "float32", (4,), 0, 0, 4), buckets.BucketPart("b", "float32", (2,), 4, 0, 4)],
        [buckets.BucketPart("a", "float32", (4,), 0, 0, 20)],
        [buckets.BucketPart("a", "float32", (4,), 0, 0, 4)],
    ],
)
def test_parts_that_do_not_make_a_weight_are_refused(parts: list[buckets.BucketPart]) -> None:
    from multiprocessing import Pipe

    ours, theirs = Pipe()
    with ours, theirs:
        for message in (SharedBuffer(0, ""), buckets.Bucket(tuple(parts)), buckets.NoMoreBuckets()):
            ours.send(message)
        with pytest.raises(SamplerError, match="this is a bug"):
            list(buckets.received_weights(theirs, lambda _: torch.zeros(64, dtype=torch.uint8), DeviceDigest()))


# CUDA's own calls, by their names in the torch that is installed.


def test_torch_has_the_device_where_we_put_it() -> None:
    names = list(inspect.signature(reductions.rebuild_cuda_tensor).parameters)
    assert names[6] == "storage_device"
    assert "tensor" in inspect.signature(reductions.reduce_tensor).parameters


def test_a_buffer_is_exported_once_and_mapped_on_the_own_number_of_the_same_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rebuilt: list[tuple[Any, ...]] = []
    gpus = {0: "GPU-a", 1: "GPU-b", torch.device("cuda", 1): "GPU-b"}
    monkeypatch.setattr(reductions, "reduce_tensor", lambda tensor: ("rebuild", tuple(range(15))))
    monkeypatch.setattr(reductions, "rebuild_cuda_tensor", lambda *args: rebuilt.append(args))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=gpus[device]))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    shared = share_cuda(cast(Any, SimpleNamespace(device=torch.device("cuda", 1))))
    assert shared == SharedBuffer(tuple(range(15)), "GPU-b")
    open_cuda(shared)
    assert rebuilt == [(*range(6), 1, *range(7, 15))]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(SamplerError, match="the engine is on the GPU GPU-a, and the learner on GPU-b"):
        open_cuda(shared)


# The hand-over.


class GpuLearner:
    """Has its weights on what is taken for a GPU."""

    version = 3
    WEIGHTS = random_weights((3, 4), (5,))

    def publish(self, folder: Path) -> str:
        return write_weights(folder, self.WEIGHTS.items())

    def device_weights(self) -> Iterator[tuple[str, Tensor]] | None:
        return iter(self.WEIGHTS.items())


class Receiver:
    """Takes weights both ways."""

    version = 0

    def __init__(self, why: str = "", loses: bool = False) -> None:
        self.why, self.loses, self.ways = why, loses, list[str]()

    def device_obstacle(self) -> str:
        return self.why

    def load_on_device(self, weights: Iterable[tuple[str, Tensor]], version: int) -> tuple[Receipt, str]:
        self.ways.append("device")
        result = dict(weights)
        sent = checksum_of(result)
        if self.loses:
            result.popitem()
        self.version = version
        return Receipt(version, checksum_of(result), len(result), 0.0), sent

    def load(self, folder: Path, version: int) -> Receipt:
        self.ways.append("file")
        digest = Digest()
        for _ in read_weights(folder, digest):
            pass
        self.version = version
        return Receipt(version, digest.checksum, digest.tensors, 0.0)


def test_weights_stay_on_the_gpu_where_that_was_tried_and_the_way_is_said() -> None:
    message: list[str] = []
    receiver = Receiver()
    assert isinstance(receiver, DeviceReceiver)
    receipt = hand_over(GpuLearner(), receiver, say=message.append)
    assert (receiver.ways, receipt.version) == (["device"], 3)
    assert message == ["the weights go to the sampler on the GPU (CUDA IPC), which was tried"]


def test_weights_that_do_not_all_arrive_stop_the_run() -> None:
    with pytest.raises(HandoverError, match="the sampler did not take the published weights: checksum is"):
        hand_over(GpuLearner(), Receiver(loses=True), say=lambda _: None)


def test_what_does_not_work_goes_as_files_and_says_why(tmp_path: Path) -> None:
    message: list[str] = []
    receiver = Receiver("CUDA IPC does not work here (RuntimeError: invalid device context)")
    hand_over(GpuLearner(), receiver, say=message.append)
    assert receiver.ways == ["file"]
    assert message[0] == (
        "the weights go to the sampler as files: CUDA IPC does not work here (RuntimeError: invalid device context)"
    )
    receiver = Receiver()
    hand_over(GpuLearner(), receiver, ALONE, str(tmp_path))  # sampling.weights_folder
    assert receiver.ways == ["file"]


def test_a_learner_on_a_cpu_has_nothing_to_say_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuLearner, "device_weights", lambda self: None)
    message: list[str] = []
    receiver = Receiver()
    hand_over(GpuLearner(), receiver, say=message.append)
    assert (receiver.ways, message) == (["file"], [])


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ({"adapter_rank": 8}, "an adapter goes over alone"),
        ({"tensor_parallel": 2}, "the engine has 2 GPUs"),
        ({}, "CUDA IPC does not work here (RuntimeError: "),
    ],
)
def test_an_engine_says_why_it_takes_files(start: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    tried: list[int] = []

    def no_cuda(host: object) -> None:
        tried.append(1)
        raise RuntimeError("Found no NVIDIA driver")

    monkeypatch.setattr(device_link, "DeviceLink", no_cuda)
    sampler = VllmSampler.__new__(VllmSampler)
    sampler._start, sampler._device_obstacle, sampler._link = replace(CUDA, **start), None, None
    sampler._host = cast(Any, None)
    assert sampler.device_obstacle().startswith(why)
    assert sampler.device_obstacle().startswith(why)
    assert len(tried) == (0 if start else 1)  # tried once


@pytest.mark.parametrize(("why", "ways"), [("", ["device"]), ("CUDA IPC does not work here", ["file"])])
def test_all_ranks_go_the_same_way(why: str, ways: list[str]) -> None:
    """The second rank's engine alone may be in a container that shares no memory."""
    receivers = [Receiver(), Receiver(why)]
    message: list[str] = []

    class Ranked(GpuLearner):
        """Written by the first rank, for all."""

        def __init__(self, ranks: Ranks) -> None:
            self.ranks = ranks

        def publish(self, folder: Path) -> str:
            return self.ranks.broadcast(super().publish(folder) if self.ranks.first else "")

    def rank(ranks: Ranks) -> int:
        sampler = ShardedSampler(cast(Any, receivers[ranks.index]), ranks)
        return hand_over(Ranked(ranks), sampler, ranks, say=message.append).version

    for receiver in receivers:
        receiver.name, receiver.description = "vllm", "fake"  # type: ignore[attr-defined]
    assert on_ranks(2, rank) == [3, 3]
    assert [receiver.ways for receiver in receivers] == [ways, ways]
    assert len(set(message)) == 1
    assert why in message[0]


def test_a_learner_on_a_gpu_hands_over_what_it_would_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the number format of the engine, under the names of the folder; on a CPU it says that it has none there."""
    config = LearningConfig(token_budget=512)
    folder = build_tiny_model(tmp_path / "tiny", tied=True)
    learner = TorchLearner(folder, device="cpu", dtype="bfloat16", config=config, total_steps=1)
    perturbed = Perturbed(learner)
    assert learner.device_weights() is perturbed.device_weights() is None
    (written := tmp_path / "written").mkdir()
    checksum = learner.publish(written)
    monkeypatch.setattr(learner.policy, "device", torch.device("cuda"))
    for publisher in (learner, perturbed):
        digest = Digest()
        weights = publisher.device_weights()
        assert weights is not None
        assert {value.dtype for _, value in digest.passing(weights)} == {torch.bfloat16}
        assert digest.checksum == checksum


def engine_with(host: object) -> VllmSampler:
    sampler = VllmSampler.__new__(VllmSampler)
    sampler._start, sampler._device_obstacle, sampler._link = CUDA, None, None
    sampler._host, sampler._running = cast(Any, host), set()
    return sampler


@pytest.mark.parametrize("fails", [True, False])
def test_a_trial_that_fails_keeps_nothing_of_the_gpu(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    buffers: list[weakref.ref[Tensor]] = []

    class Link:
        def __init__(self, host: object) -> None:
            self.buffer = torch.zeros(8)
            buffers.append(weakref.ref(self.buffer))

        def try_it(self) -> str:
            if fails:
                raise RuntimeError("invalid device context")
            return "what arrived is not what was sent"

    monkeypatch.setattr(device_link, "DeviceLink", Link)
    sampler = engine_with(None)
    assert sampler.device_obstacle()
    assert buffers[0]() is None
    monkeypatch.setattr(Link, "try_it", lambda self: "")
    kept = engine_with(None)
    assert kept.device_obstacle() == ""
    assert buffers[1]() is not None


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("a hook"), KeyboardInterrupt()])
def test_an_engine_that_was_given_half_of_the_weights_is_ended(worker: Worker, error: BaseException) -> None:
    """It holds those of no version, and has an answer that nobody has read."""
    closed: list[bool] = []

    class Closable(Host):
        def close(self, *, is_idle: bool) -> None:
            closed.append(is_idle)

    host = Closable(worker.take)
    sampler = engine_with(host)
    sampler._link = link_to(worker, host)

    def breaks() -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.ones(3000)
        raise error

    with pytest.raises(type(error)):
        sampler.load_on_device(breaks(), 1)
    assert closed == [True]
    host.thread.join(20)
