"""`reasoner plan`: what a run takes, what fits, and what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.config import Config
from reasoner.errors import ConfigError, UserError
from reasoner.learning.factory import describe_learner
from reasoner.loading import Resolved, load_config
from reasoner.loading.dump import settings_of, settings_toml
from reasoner.loading.messages import show_key
from reasoner.planning.decide import decide, planned_engine
from reasoner.planning.estimate import FitVerdict, RunEstimate, find_estimate
from reasoner.planning.feasibility import refuse_impossible
from reasoner.planning.memory.needs import Need
from reasoner.planning.memory.tokens import longest_sequence, micro_batch_tokens, share_tokens
from reasoner.processes.machine import GIB, planned_machine, this_machine

_STYLES: dict[FitVerdict, str] = {
    "fits": "green",
    "tight": "yellow",
    "does not fit": "bold red",
    "not known": "dim",
}


def plan(
    task: options.TaskOption,
    profile: options.Profile = None,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs per node, one rank on each.")] = None,
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Number of nodes.")] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to plan for instead of the task's: a folder (config.json is enough), a hub id or "
            "embedded:NAME.",
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", min=1.0, help="Memory of each GPU in GiB, to plan for a machine other than this one."
        ),
    ] = None,
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write what fits as a TOML file for `reasoner run TASK --config FILE`; must not exist."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, and nothing else.")] = False,
) -> None:
    """Estimate the memory and disk that a run takes, before anything is loaded.

    Examples:

    reasoner plan math-gsm8k --profile laptop

    reasoner plan math-gsm8k=2 code-stdin=1 --profile laptop

    reasoner plan math-gsm8k --profile gpu --gpus 8 --gpu-memory 80 --model Qwen/Qwen2.5-7B-Instruct

    reasoner plan math-gsm8k --profile gpu --gpu-memory 24 --model Qwen/Qwen2.5-1.5B-Instruct --write fits.toml
    """
    arguments = list(sets or ())
    if model is not None:
        arguments.append(f"model.path={json.dumps(model, ensure_ascii=False)}")
    if gpus is not None or nodes > 1:
        arguments.append(f"run.ranks={(gpus or 1) * nodes}")
    resolved = load_config(task, profile, config or (), arguments, plugin or ())
    resolved.config.check_trains(resolved.typed)
    estimate = _estimate(resolved, gpus or 1, gpu_memory)
    refuse_impossible(estimate, nodes)
    if json_:
        typer.echo(json.dumps(as_json(estimate), indent=2, ensure_ascii=False))
    else:
        _print(resolved, estimate)
    if write is not None:
        _write(write, estimate, resolved)
        typer.echo(f"written: {write}; use it with --config {write}", err=json_)


def _write(file: Path, estimate: RunEstimate, resolved: Resolved) -> None:
    """The settings of the command line and those that make the run fit, as a file.

    Raises:
        UserError: nothing fits, or the file is there or cannot be written.
    """
    if estimate.advice is None:
        raise UserError(f"nothing is written to {file}: {estimate.advise()}")
    # `auto` stays as it was set: `estimate.config` has it decided
    fitting = replace(estimate, config=resolved.config).changed(estimate.advice)
    assert fitting is not None
    keys = [path for path in settings_of(resolved.config) if resolved.origins[show_key(path)] == "--set"]
    keys += [tuple(key.split(".")) for key in estimate.advice]
    text = f"# Fits {_where(estimate)}, as `reasoner plan` estimates.\n{settings_toml(fitting.config, keys)}"
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise UserError(f"{file} is there already; give --write another name, or remove it.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error


def _estimate(resolved: Resolved, gpus: int, gpu_memory: float | None) -> RunEstimate:
    """For this machine and its installed packages, or for another one, assumed to have all packages."""
    from reasoner.planning.resources import check_models_at_hand

    config = resolved.config
    if gpu_memory is None:
        describe_learner(config)
        decisions = decide(config)
        check_models_at_hand(config, decisions)
        return find_estimate(config, this_machine(decisions.device), decisions.engine)
    if config.model.device == "cpu":
        raise ConfigError("--gpu-memory plans for GPUs, and model.device is 'cpu'; leave one of them out.")
    check_models_at_hand(config)
    return find_estimate(config, planned_machine(gpu_memory, gpus), planned_engine(config))


def as_json(estimate: RunEstimate) -> dict[str, Any]:
    """The plan as data: bytes, tokens, settings."""
    moments = [
        {
            "memory": need.where,
            "when": need.when,
            "certain": dict(need.certain),
            "estimated": dict(need.likely),
            "total": need.total,
            "there": estimate.there(need),
            "verdict": estimate.verdict(need),
        }
        for need in estimate.needs
    ]
    tokens, by = estimate.longest_context
    config = estimate.config
    return {
        "model": {key: value for key, value in asdict(estimate.model).items() if key != "matrices"},
        "ranks": config.run.ranks,
        "moments": moments,
        "change": None if estimate.advice is None else dict(estimate.advice),
        "tokens_per_step": _step_tokens(config),
        "micro_batches": estimate.micro_batches,
        "micro_batch_tokens": micro_batch_tokens(config),
        "longest_context": tokens,
        "longest_context_limit": by,
        "handover": estimate.described_handover or None,
        "checkpoint_bytes": estimate.checkpoint_bytes,
        "disk_bytes": estimate.disk_bytes,
    }


def _print(resolved: Resolved, estimate: RunEstimate) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, fact in _facts(resolved, estimate).items():
        grid.add_row(Text(name, style="bold"), Text(fact, overflow="fold"))
    out().print(grid)
    out().print()
    out().print(memory_table(estimate))
    out().print("~ estimated", style="dim")
    out().print()
    if estimate.advice:
        out().print("To make it fit:", style="bold")
        for key, value in estimate.advice.items():
            out().print(Text(f"  --set {key}={json.dumps(value)}"), soft_wrap=True)
        if estimate.unquantized_shortfall:
            out().print(Text(estimate.unquantized_shortfall))
    else:
        out().print(Text(estimate.advise(), style="bold red" if estimate.advice is None else "green"))


def _facts(resolved: Resolved, estimate: RunEstimate) -> Mapping[str, str]:
    config, model, machine = estimate.config, estimate.model, estimate.machine
    adapter = f", adapter {model.adapter / 1e6:,.1f} million" if model.adapter else ""
    facts = {
        "task": f"{config.task}, profile {config.profile or 'none'} ({resolved.origins['profile']})",
        "model": f"{config.model.path}: {model.parameters / 1e6:,.1f} million parameters{adapter}, "
        f"{config.model.dtype}",
        "machine": f"{_where(estimate)}; {config.learner}"
        + (f", ZeRO {_stage(estimate)}" if config.learner == "deepspeed" else ""),
        "step": _step(estimate),
    }
    if estimate.engine == "vllm":
        facts["KV cache"] = f"{estimate.cached_sequences:,.0f} sequences of {longest_sequence(config):,} tokens at once"
    facts["longest context"] = estimate.described_context
    if machine.planned and estimate.engine == "vllm":
        facts["it needs"] = "a driver of version 580 or newer (CUDA 13), a C compiler and Python's headers (`doctor`)"
    if estimate.described_handover:
        facts["hand-over"] = estimate.described_handover
    facts["disk"] = f"{_size(estimate.disk_bytes)} at most; a checkpoint {_size(estimate.checkpoint_bytes)}"
    return facts


def _where(estimate: RunEstimate) -> str:
    """The machine in words."""
    machine = estimate.machine
    where = f"{machine.device}, {_counted(estimate.config.run.ranks, 'rank')}"
    return where + (f", {_size(machine.gpu_bytes)} each (--gpu-memory, not this machine)" if machine.planned else "")


def _stage(estimate: RunEstimate) -> str:
    settings = estimate.config.learning.deepspeed
    moved = [
        name
        for name, on in (("optimiser", settings.offload_optimizer), ("parameters", settings.offload_parameters))
        if on
    ]
    return f"{settings.zero_stage}{', ' + ' and '.join(moved) + ' in host memory' if moved else ''}"


def _step_tokens(config: Config) -> int:
    """Tokens of all ranks' shares."""
    return share_tokens(config) * (config.run.ranks // config.learning.sequence_parallel)


def _step(estimate: RunEstimate) -> str:
    """Tokens of a step, at most: responses are as long as they are."""
    config = estimate.config
    suffix = " a rank" if config.run.ranks > 1 else ""
    recomputed = ", activations recomputed" if config.learning.gradient_checkpointing else ""
    shared = config.learning.sequence_parallel
    sliced = f", {shared} ranks to a row" if shared > 1 else ""
    return (
        f"up to {_step_tokens(config):,} tokens, in {_counted(estimate.micro_batches, 'micro-batch')}{suffix} of "
        f"up to {micro_batch_tokens(config):,}{sliced}{recomputed}"
    )


def memory_table(estimate: RunEstimate) -> Table:
    """A row per part, a column per moment."""
    ranks = estimate.machine.ranks(estimate.config.run.ranks)
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("GiB", min_width=15)
    for need in estimate.needs:
        of = "a GPU" if need.where == "GPU memory" else f"{_counted(ranks, 'rank')}' memory" if ranks > 1 else "memory"
        table.add_column(f"{of}\n{need.when}", justify="right")
    for name in dict.fromkeys(name for need in estimate.needs for name in (*need.certain, *need.likely)):
        table.add_row(name, *(_cell(need, name) for need in estimate.needs))
    table.add_row("sum", *(f"{need.total / GIB:.2f}" for need in estimate.needs), style="bold")
    table.add_row("there is", *(_free_text(estimate, need) for need in estimate.needs))
    verdicts = [Text(verdict, style=_STYLES[verdict]) for verdict in estimate.verdicts]
    table.add_row("", *verdicts)
    return table


def _cell(need: Need, name: str) -> str:
    if name in need.certain:
        return f"{need.certain[name] / GIB:.2f}"
    return f"~{need.likely[name] / GIB:.2f}" if name in need.likely else ""


def _free_text(estimate: RunEstimate, need: Need) -> str:
    free = estimate.there(need)
    return "?" if free is None else f"{free / GIB:.2f}"


def _size(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"


def _counted(count: int, what: str) -> str:
    plural = what + ("es" if what.endswith("ch") else "s")
    return f"{count} {what if count == 1 else plural}"
