"""Starts a vLLM server and ends it with everything that it started (`reasoner serve`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from reasoner.errors import RunError, UserError
from reasoner.processes.child_python import module_command
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.processes.subreaper import wait_gone
from reasoner.sampling.server.auth import BOUND
from reasoner.sampling.vllm.messages import StartEngine
from reasoner.sampling.vllm.process import host_environment

_MODULE = "reasoner.sampling.server.entrypoint"
_END_WITHIN = 10.0
"""seconds for a polite end before the server is killed"""
NO_PROXY_HEADERS = {"FORWARDED_ALLOW_IPS": ""}
"""environment of uvicorn: otherwise it takes the word of whoever asks from 127.0.0.1 (`X-Forwarded-For`) for where a
request comes from, and weights are pulled from there"""
_ANY = ("0.0.0.0", "::")


def serve(start: StartEngine, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run a vLLM server until this process is asked to end.

    Args:
        host: address of the network interface that it listens on.
        ready: called with its address once it answers.

    Raises:
        UserError: the address cannot be listened on.
        RunError: vLLM ended by itself.
    """
    _check_free(host, port)
    place = {"host": host, "port": port}
    with ScratchFolder("vllm") as scratch:
        # the routes that change weights
        environment = host_environment(start, scratch) | {"VLLM_SERVER_DEV_MODE": "1", BOUND: host} | NO_PROXY_HEADERS
        process = subprocess.Popen(
            module_command(_MODULE, json.dumps(dataclasses.asdict(start)), json.dumps(place)),
            stdin=subprocess.DEVNULL,
            env=environment,
            # Ctrl-C in the terminal is for this process, which then ends the server
            start_new_session=True,
        )
        try:
            while process.poll() is None and not _answers(host, port):
                time.sleep(0.5)
            if process.returncode is None:
                ready(f"http://{_own_name(host)}:{port}")
            code = process.wait()
        finally:
            _end(process)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    raise RunError(f"vLLM ended {how}; what it printed says why")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server; vLLM leaves processes behind where only the first one is ended."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_END_WITHIN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    wait_gone(process)


def _check_free(host: str, port: int) -> None:
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be listened on: {error.strerror}; choose another port, or an address "
            "of this machine"
        ) from error


def _answers(host: str, port: int) -> bool:
    local = "127.0.0.1" if host in _ANY else host
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{_bracketed(local)}:{port}/health", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _own_name(host: str) -> str:
    """How the server is called from elsewhere."""
    return socket.gethostname() if host in _ANY else _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
