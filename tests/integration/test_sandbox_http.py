"""Services that run programs: what they are asked, what their answers mean, and what is made of bad ones."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from reasoner.errors import ConfigError
from reasoner.io import http_json as remote
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Outcome, SandboxError, open_sandbox
from reasoner.sandbox.backends import http
from reasoner.sandbox.backends.http import HttpSandbox
from tests.integration.misbehaving_server import Act, Script, answer, computed, cut, drop, huge, raw, serving, slow

PROGRAM = [PYTHON, *ISOLATED, "main.py"]
FILES = {"main.py": b"print(input())", "data/raw.bin": b"\xff\x00"}
LIMITS = Limits(wall_s=2.0, cpu_s=1.0, memory_mb=100, output_bytes=10)
FUSION, PISTON = "/run_code", "/api/v2/execute"
GOOD_FUSION = {
    "status": "Success",
    "message": "",
    "compile_result": None,
    "run_result": {"status": "Finished", "execution_time": 0.02, "return_code": 0, "stdout": "hello\n", "stderr": ""},
    "executor_pod_name": None,
    "files": {},
}
GOOD_PISTON = {
    "language": "python",
    "version": "3.12.0",
    "run": {
        "stdout": "hello\n",
        "stderr": "",
        "output": "hello\n",
        "code": 0,
        "signal": None,
        "message": None,
        "status": None,
        "cpu_time": 15,
        "wall_time": 20,
        "memory": 9000000,
    },
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)


def fusion(**run: Any) -> dict[str, Any]:
    return {**GOOD_FUSION, "status": "Failed", "run_result": {**GOOD_FUSION["run_result"], **run}}  # type: ignore[dict-item]


def piston(**run: Any) -> dict[str, Any]:
    return {**GOOD_PISTON, "run": {**GOOD_PISTON["run"], **run}}  # type: ignore[dict-item]


def ask(script: Script, path: str, stdin: bytes = b"hello\n") -> Outcome:
    return HttpSandbox(script.url + path).run(PROGRAM, FILES, stdin, LIMITS)


def test_what_sandbox_fusion_is_asked() -> None:
    with serving(answer(GOOD_FUSION)) as script:
        assert ask(script, FUSION) == Outcome("exit", 0, b"hello\n", b"", 0.02)
    (request,) = script.requests
    assert request.path == FUSION
    assert request.body == {
        "language": "python",
        "code": "print(input())",
        "stdin": "hello\n",
        "files": {"data/raw.bin": base64.b64encode(b"\xff\x00").decode()},
        "run_timeout": 2.0,
        "memory_limit_MB": 100,
    }


def test_what_piston_is_asked() -> None:
    with serving(answer(GOOD_PISTON)) as script:
        sandbox = HttpSandbox(script.url + PISTON)
        assert sandbox.run([*PROGRAM, "-v"], FILES, b"", LIMITS) == Outcome("exit", 0, b"hello\n", b"", 0.02)
    (request,) = script.requests
    assert request.body == {
        "language": "python",
        "version": "3.x",
        "files": [
            {"name": "main.py", "content": "print(input())", "encoding": "utf8"},
            {"name": "data/raw.bin", "content": base64.b64encode(b"\xff\x00").decode(), "encoding": "base64"},
        ],
        "args": ["-v"],
        "stdin": "",
        "run_timeout": 2000,
        "run_cpu_time": 1000,
        "run_memory_limit": 100 * 2**20,
    }


@pytest.mark.parametrize(
    ("path", "body", "end", "code"),
    [
        (FUSION, fusion(return_code=3), "exit", 3),
        (FUSION, fusion(return_code=-11), "signal", 11),
        (FUSION, fusion(status="TimeLimitExceeded", return_code=None), "timeout", None),
        (FUSION, fusion(stdout="x" * 8, stderr="y" * 8), "output", None),
        (PISTON, piston(code=3, status="RE"), "exit", 3),
        (PISTON, piston(code=None, signal="SIGSEGV", status="SG"), "signal", 11),
        (PISTON, piston(code=None, signal="SIGKILL", status="TO"), "timeout", None),
        (PISTON, piston(code=None, status="OL"), "output", None),
    ],
)
def test_how_a_program_ended(path: str, body: Any, end: str, code: int | None) -> None:
    with serving(answer(body)) as script:
        outcome = ask(script, path)
    assert (outcome.end, outcome.code) == (end, code)
    assert len(outcome.stdout + outcome.stderr) <= LIMITS.output_bytes


@pytest.mark.parametrize(
    ("path", "act", "message"),
    [
        (FUSION, answer({"status": "SandboxError", "message": "no pod"}), "SandboxFusion failed: no pod"),
        (FUSION, answer(fusion(status="Error", return_code=None, stderr="no bash")), "failed: Error no bash"),
        (FUSION, answer({**GOOD_FUSION, "run_result": None}), "gave no answer as SandboxFusion does"),
        (FUSION, answer({"status": 7}), "gave no answer as SandboxFusion does"),
        (FUSION, answer(fusion(return_code="0")), "gave no answer as SandboxFusion does"),
        (FUSION, answer([]), "gave no answer as SandboxFusion does"),
        (PISTON, answer(piston(status="XX", message="isolate")), "Piston failed: isolate"),
        (PISTON, answer(piston(code=None)), "gave no answer as Piston does"),
        (PISTON, answer(piston(signal="SIGNONE")), "gave no answer as Piston does"),
        (PISTON, answer({"message": "runtime is unknown"}, 400), "answered with status 400.*runtime is unknown"),
        (PISTON, answer("busy", 500), r"answered with status 500 \(attempt 4 of 4\)"),
        (PISTON, raw(b'{"run": '), "answered no JSON"),
        (PISTON, cut(GOOD_PISTON), "broke off"),
        (PISTON, drop, "could not be reached, or broke off"),
        (PISTON, huge, "where reading stopped"),
    ],
)
def test_a_service_that_fails_is_no_outcome(path: str, act: Act, message: str) -> None:
    with serving(act) as script, pytest.raises(SandboxError, match=message):
        ask(script, path)


def test_a_busy_service_is_asked_again() -> None:
    with serving(answer("busy", 429), answer("oops", 503), drop, answer(GOOD_PISTON)) as script:
        assert ask(script, PISTON).ok
    assert len(script.requests) == 4


def test_a_service_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "OVERHEAD_S", 0.1)
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    limits = Limits(wall_s=0.1)
    with serving(slow(60.0, answer(GOOD_FUSION))) as script, pytest.raises(SandboxError, match="attempt 2 of 2"):
        HttpSandbox(script.url + FUSION).run(PROGRAM, FILES, b"", limits)


def test_what_a_service_cannot_run_is_refused() -> None:
    sandbox = HttpSandbox("http://localhost:1" + FUSION)
    with pytest.raises(ValueError, match=r"runs `.* FILE`"):
        sandbox.run(["/bin/ls"], FILES, b"", LIMITS)
    with pytest.raises(ValueError, match="no arguments"):
        sandbox.run([*PROGRAM, "-v"], FILES, b"", LIMITS)
    with pytest.raises(ValueError, match="relative path"):
        sandbox.run(PROGRAM, {"../main.py": b""}, b"", LIMITS)
    with pytest.raises(SandboxError, match="UTF-8"):
        sandbox.run(PROGRAM, FILES, b"\xff", LIMITS)
    with pytest.raises(SandboxError, match="to their end"):
        sandbox.open(PROGRAM, FILES, LIMITS)


def run_for_real(body: Any) -> Any:
    """What a service would do, with a program that it believes to be harmless."""
    limits = Limits(wall_s=body["run_timeout"])
    outcome = open_sandbox("none").run(PROGRAM, {"main.py": body["code"].encode()}, body["stdin"].encode(), limits)
    return fusion(return_code=outcome.code, stdout=outcome.stdout.decode(), stderr=outcome.stderr.decode())


def test_a_service_is_opened_by_its_address() -> None:
    with serving(computed(run_for_real)) as script:
        sandbox = open_sandbox(f"{script.url}{FUSION}?key=secret")
        assert sandbox.name == f"SandboxFusion at {script.url}{FUSION}"
        assert not sandbox.interactive
        assert sandbox.run(PROGRAM, {"main.py": b"print(input() * 2)"}, b"ab\n", Limits()).stdout == b"abab\n"


def test_a_service_that_does_not_run_programs_is_not_opened() -> None:
    with (
        serving(answer(GOOD_FUSION)) as script,
        pytest.raises(SandboxError, match="does not run a program as it should"),
    ):
        open_sandbox(script.url + FUSION)
    with pytest.raises(ConfigError, match=r"ends in .*run_code.*execute"):
        open_sandbox("https://localhost/run")
    with pytest.raises(ConfigError, match="must not hold a user"):
        open_sandbox("https://me:secret@localhost/run_code")
