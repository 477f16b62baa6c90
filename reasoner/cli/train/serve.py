"""`reasoner serve`: a vLLM server for runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.config import SamplingConfig
from reasoner.io.safe_text import printable
from reasoner.loading import Resolved, load_config
from reasoner.loading.task_files import TaskFile
from reasoner.models.resolve import resolve_model
from reasoner.planning.decide import alone, decide
from reasoner.processes.lifetime import guard_processes, interruptible
from reasoner.sampling.factory import check_sampler, choose_engine, engine_start
from reasoner.sampling.server.auth import KEY
from reasoner.sampling.server.serve import serve as run_server


def serve(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="Name of a task (`reasoner tasks list`), a TOML file of your own, or a model's folder.",
        ),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port to listen on.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 cannot be reached from other machines.")
    ] = "127.0.0.1",
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="GPUs that share the model (sampling.tensor_parallel).")
    ] = None,
    profile: options.Profile = None,
    config: options.ConfigFiles = None,
    sets: options.Sets = None,
    plugin: options.Plugins = None,
) -> None:
    """Start a vLLM server that samples for runs which list it in sampling.servers.

    Whoever can reach its port can change its model: keep it on 127.0.0.1 or a private network, and set the
    environment variable VLLM_API_KEY to the same secret for server and run.

    Examples:

    reasoner serve math-gsm8k --port 8000

    reasoner run math-gsm8k --set 'sampling.servers=["http://127.0.0.1:8000"]'
    """
    chosen = alone(_load(task, profile, config or (), sets or (), plugin or ())).config
    choose_engine(SamplingConfig(engine="vllm"))  # refuses where there is none
    # Whatever the runs of the task do; and they load whole weights, which is not possible over rounded ones.
    served: dict[str, Any] = {"engine": "vllm", "servers": [], "quantization": None}
    if chosen.sampling.quantization:
        out().print("sampling.quantization is left out: runs load whole weights into a server", soft_wrap=True)
    if tensor_parallel is not None:
        served["tensor_parallel"] = tensor_parallel
    chosen = chosen.model_copy(update={"sampling": chosen.sampling.model_copy(update=served)})
    with interruptible(), guard_processes():
        print(printable(f"preparing model {chosen.model.path}"), flush=True)  # noqa: T201
        folder = resolve_model(chosen.model.path)
        decisions = decide(chosen, training=False)
        check_sampler(chosen, folder, decisions)
        run_server(engine_start(chosen, decisions.device, folder, decisions.longest_context), host, port, _say_ready)


def _load(
    name: str, profile: str | None, config_files: Sequence[Path], sets: Sequence[str], plugins: Sequence[str]
) -> Resolved:
    is_model = (Path(name) / "config.json").is_file() or name.startswith("embedded:")
    if not is_model:
        return load_config(name, profile, config_files, sets, plugins)
    # a table must say something to be there
    task = TaskFile("serve", None, f"model {name}", {"model": {"path": name}, "data": {"overlap": "refuse"}})
    return load_config(task, profile, config_files, sets, plugins)


def _say_ready(url: str) -> None:
    guarded = f"requires the key in {KEY}" if os.environ.get(KEY) else f"requires no key ({KEY} is not set)"
    out().print(f"\nready at {url}; {guarded}. Give it to a run:", soft_wrap=True)
    out().print(f"  --set 'sampling.servers=[\"{url}\"]'", soft_wrap=True, markup=False)
