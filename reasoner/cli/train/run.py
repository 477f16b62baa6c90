"""`reasoner run`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out, print_samples
from reasoner.cli.results.report import leaving_report
from reasoner.config import Config
from reasoner.distributed.ranks import Ranks, launched
from reasoner.errors import ConfigError, UserError
from reasoner.io.safe_text import printable
from reasoner.launch.cluster import idle_nodes, read_hostfile, slurm_node
from reasoner.launch.launcher import launch
from reasoner.loading import Resolved, load_config
from reasoner.models.resolve import describe_model, resolve_model
from reasoner.planning.decide import decide
from reasoner.planning.describe import describe_plan
from reasoner.planning.estimate import find_estimate
from reasoner.planning.feasibility import refuse_impossible
from reasoner.planning.preflight import ready
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.processes.machine import this_machine
from reasoner.runs.find import find_run
from reasoner.runs.resuming.resume import Resume
from reasoner.runs.resuming.rules import load_resumed


def run(
    task: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK[=WEIGHT]...",
            help="Name of a task (`reasoner tasks list`), or a TOML file of your own; several, with their weights, to "
            "train on a mixture.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Resume this run instead of starting TASK: its folder or name.")
    ] = None,
    profile: options.Profile = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model to train: a folder, hub id or embedded:NAME (model.path).", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps (run.steps).")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder in which the run folder is created (run.output).")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs per node, one rank on each (run.ranks).")
    ] = None,
    hostfile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on the nodes of this file, reached by ssh: lines `NAME slots=GPUS`."),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            metavar="H",
            help="Stop after this many hours with a checkpoint, to be resumed with --resume (run.max_hours); exit "
            "code 3.",
        ),
    ] = None,
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
    unsandboxed: options.Unsandboxed = False,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="With --resume: accept plugin files and options of reward sources that have changed since.",
        ),
    ] = False,
    no_gate: Annotated[
        bool,
        typer.Option(
            "--no-gate",
            help="Skip the gate: do not sample a few training problems first to see how often the model is right.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read the data, test what can be tested without the model, print the plan, and stop.",
        ),
    ] = False,
) -> None:
    """Train a model on a task.

    Examples:

    reasoner run math-gsm8k --profile laptop

    reasoner run math-gsm8k --set data.train.path=train.jsonl --set data.eval.path=test.jsonl

    reasoner run math-gsm8k --set gro.preset=rloo --set rewards.boxed_format.weight=0.2 --steps 50

    reasoner run math-gsm8k=2 code-stdin=1 --profile laptop

    reasoner run math-gsm8k --profile gpu --gpus 8

    srun --nodes=2 --ntasks-per-node=1 reasoner run math-gsm8k --profile gpu --gpus 8

    reasoner run --resume runs/20260101-120000-math-gsm8k

    reasoner run --resume 20260101-12 --accept-changes
    """
    ranks = launched()
    arguments = _as_settings(sets or (), model=model, steps=steps, output=output, max_hours=max_hours)
    arguments += _ranks_setting(ranks, gpus, hostfile, arguments)
    if resume is not None:
        _refuse_beside_resume(
            {"TASK": task, "--profile": profile, "--output": output, "--config": config, "--plugin": plugin}
        )
        resolved, resumed = _load_resume(resume, arguments, accept=accept)
    elif accept:
        raise UserError("--accept-changes only applies to a resumed run: add --resume RUN.")
    elif task:
        resolved, resumed = ready(load_config(task, profile, config or (), arguments, plugin or ())), None
    else:
        raise UserError("nothing to train. Name a TASK (`reasoner tasks list`), or a run to resume: --resume RUN.")
    if dry_run:
        _print_plan(*_plan(resolved, hostfile))
    elif ranks.count == 1 and resolved.config.run.ranks > 1:
        _launch(resolved.config, hostfile)
    else:
        _train(resolved, resumed, ranks, gate=not no_gate)


def _as_settings(sets: Sequence[str], **values: object) -> list[str]:
    """`--set` and the options that stand for a key, as settings; options come last, and None sets nothing."""
    keys = {"model": "model.path", "steps": "run.steps", "output": "run.output", "max_hours": "run.max_hours"}
    named = {keys[name]: value for name, value in values.items() if value is not None}
    quoted = {
        key: value if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)
        for key, value in named.items()
    }
    return [*sets, *(f"{key}={value}" for key, value in quoted.items())]


def _load_resume(name: str, arguments: Sequence[str], *, accept: bool) -> tuple[Resolved, Resume]:
    folder = find_run(name)
    resolved, changes = load_resumed(folder, arguments, accept=accept)
    return ready(resolved), Resume(folder, changes, accept)


def _train(resolved: Resolved, resumed: Resume | None, ranks: Ranks, *, gate: bool) -> None:
    """Train in this process, one of `ranks`."""
    if ranks.count != resolved.config.run.ranks:
        raise ConfigError(
            f"run.ranks is {resolved.config.run.ranks}, but the launcher started {ranks.count} ranks; leave --gpus "
            "out, or start that many."
        )
    from reasoner.pipeline import train
    from reasoner.training.build import open_trainer

    weights = resolved.config.sampling.weights_folder
    guard = guard_processes([Path(weights)] if weights else [])
    with interruptible(), guard, leaving_report() as report_on, open_trainer(resolved, resumed) as trainer:
        if ranks.first:
            report_on(trainer.run.folder)
        train(trainer, gate=gate)


def _refuse_beside_resume(options: Mapping[str, object]) -> None:
    named = [name for name, value in options.items() if value]
    if named:
        raise UserError(
            f"{' and '.join(named)} cannot be given with --resume, which takes the run's own configuration. The "
            "number of steps and some other keys can be changed: --steps N, --set KEY=VALUE."
        )


def _ranks_setting(ranks: Ranks, gpus: int | None, hostfile: Path | None, sets: Sequence[str]) -> list[str]:
    """`run.ranks` as command line and launcher have it, as a setting; [] where they leave it open or `sets` has it."""
    if gpus is None and hostfile is None and any(setting.partition("=")[0].strip() == "run.ranks" for setting in sets):
        return []
    if gpus is not None and hostfile is not None:
        raise UserError("--gpus cannot be given with --hostfile, whose slots say how many ranks each machine runs.")
    if ranks.count > 1:
        return [f"run.ranks={ranks.count if gpus is None else gpus * ranks.nodes}"]
    if hostfile is not None:
        return [f"run.ranks={sum(host.slots for host in read_hostfile(hostfile))}"]
    return [] if gpus is None else [f"run.ranks={gpus * slurm_node(os.environ).count}"]


def _launch(config: Config, hostfile: Path | None) -> None:
    """Start the ranks, here or on the machines of a hostfile: each runs this command again."""
    output, model, ranks = Path(config.run.output), config.model.path, config.run.ranks
    if hostfile is not None:
        from reasoner.launch.ssh import launch_on

        hosts = read_hostfile(hostfile)
        _say(f"preparing model {describe_model(model)}, starting {ranks} ranks on {len(hosts)} machines")
        with interruptible(), guard_processes():
            launch_on(hosts, sys.argv[1:], output, model)
        return
    node = slurm_node(os.environ)
    on_each, rest = divmod(ranks, node.count)
    if rest:
        raise ConfigError(
            f"run.ranks is {ranks}, which cannot be divided equally over the {node.count} nodes that srun started."
        )
    if node.first:
        where = f" on {node.count} nodes" if node.count > 1 else ""
        _say(f"preparing model {describe_model(model)}, starting {ranks} ranks{where}")
    if idle := idle_nodes(os.environ):
        _say(f"note: {idle} more nodes of this SLURM job are idle; `srun reasoner run ...` uses all of them")
    resolve_model(model)  # once, not by every rank at the same time
    with interruptible(), guard_processes():
        launch(node, on_each, sys.argv[1:], output)


def _say(text: str) -> None:
    print(printable(text), flush=True)  # noqa: T201


def _plan(resolved: Resolved, hostfile: Path | None) -> tuple[Mapping[str, str], Sequence[str]]:
    """The facts of a run, and a prompt of each source as the policy sees it."""
    from reasoner.planning.rehearsal import rehearse
    from reasoner.planning.resources import check_models_at_hand

    config = resolved.config
    config.check_trains(resolved.typed)
    decisions = decide(config)
    rehearsal = rehearse(config, resolved.manager)
    facts = {**describe_plan(resolved, rehearsal.splits, decisions), **rehearsal.facts}
    estimate = find_estimate(config, this_machine(decisions.device, launched().on_node), decisions.engine)
    nodes = len(read_hostfile(hostfile)) if hostfile else slurm_node(os.environ).count
    refuse_impossible(estimate, nodes)
    check_models_at_hand(config, decisions)
    return {**facts, **estimate.facts}, list(rehearsal.samples(1))


def _print_plan(facts: Mapping[str, str], samples: Sequence[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        table.add_row(Text(name, style="bold"), Text(fact, overflow="fold"))
    out().print(table)
    print_samples(samples)
