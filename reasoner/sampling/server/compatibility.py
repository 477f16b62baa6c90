"""Whether vLLM servers are those that a run needs: asked before anything is loaded."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from reasoner.config import Config
from reasoner.errors import UserError
from reasoner.io.parsing import read_model_json, table_of
from reasoner.models.resolve import folder_at_hand
from reasoner.processes.machine import MEMORY_FOLDER, why_not_in_memory
from reasoner.processes.scratch_folders import ScratchFolder
from reasoner.sampling.factory import longest_context
from reasoner.sampling.server.client import Description, Server, ServerError
from reasoner.sampling.server.offer import WeightOffer
from reasoner.sampling.vllm.messages import SHAPE


@dataclass(frozen=True, slots=True)
class ServerRequirements:
    """What a server must be."""

    command: str
    """that starts one, without its port"""
    shape: Mapping[str, Any]
    """of the model, as far as it is known"""
    dtype: str
    max_model_len: int
    weights_folder: Path | None
    """through which it gets new weights; None: it keeps those that it has"""
    may_pull: bool = False
    """whether one that cannot read the folder pulls them over HTTP"""
    dtype_key: str = "model.dtype"
    """where `dtype` comes from"""
    of: Literal["run", "teacher"] = "run"
    """whose model it holds"""
    base: str = ""
    """checksum of the weights beside which it gets an adapter; empty: it gets whole weights"""

    @classmethod
    def by(cls, config: Config, folder: Path | None, max_model_len: int, typed: str) -> ServerRequirements:
        """As a configuration has it.

        Args:
            typed: what names it on the command line (`Resolved.typed`).
            folder: of the model; None: it is not at hand yet.
        """
        memory = tempfile.gettempdir() if why_not_in_memory() else MEMORY_FOLDER
        return cls(
            command=f"reasoner serve {typed}",
            shape=_shape_of(folder) if folder else {},
            dtype=config.model.dtype,
            max_model_len=max_model_len,
            weights_folder=Path(config.sampling.weights_folder or memory),
            may_pull=config.sampling.weights_folder is None,
        )

    @classmethod
    def teacher(cls, config: Config, folder: Path, max_model_len: int) -> ServerRequirements:
        """What holds the teacher in `folder`."""
        dtype = config.teacher.dtype or config.model.dtype
        command = (
            f"reasoner serve {shlex.quote(str(folder))} --set model.dtype={dtype} "
            f"--set sampling.max_prompt_tokens={max_model_len - 1} --set sampling.max_tokens=1"
        )
        key = "teacher.dtype" if config.teacher.dtype else "model.dtype (teacher.dtype is not set)"
        return cls(command, _shape_of(folder), dtype, max_model_len, None, dtype_key=key, of="teacher")

    def pulling(self, servers: Sequence[Server], descriptions: Sequence[Description]) -> list[Server]:
        """Those that pull their weights over HTTP."""
        pairs = zip(servers, descriptions, strict=True)
        may = self.weights_folder is not None and self.may_pull
        return [server for server, description in pairs if may and not description.reads_folder]

    def way(self, urls: Sequence[str], descriptions: Sequence[Description]) -> str:
        """How weights go to the servers, in words; empty: they keep theirs."""
        if self.weights_folder is None:
            return ""
        pairs = zip(urls, descriptions, strict=True)
        pulled = [url for url, description in pairs if not description.reads_folder]
        if not pulled:
            return f"weights through {self.weights_folder}"
        others = (
            "" if len(pulled) == len(urls) else f" to {', '.join(pulled)}, to the others through {self.weights_folder}"
        )
        return f"weights by HTTP pull{others}"

    def mistakes(self, description: Description) -> list[str]:
        """What is not as it must be, as ends of a sentence."""
        other = [
            f"{name} = {description.shape.get(name)}"
            for name in self.shape
            if description.shape.get(name) != self.shape[name]
        ]
        wrong = {
            f"holds another model ({', '.join(other)}; the {self.of}'s: {dict(self.shape)})": bool(other),
            f"holds the model in {description.dtype}, and {self.dtype_key} is {self.dtype}": (
                description.dtype != self.dtype
            ),
            f"takes {description.max_model_len} tokens, and a prompt and its response may have {self.max_model_len}": (
                description.max_model_len < self.max_model_len
            ),
            f"gives {description.logprobs_mode}, and processed_logprobs, those of the sampled distribution, are "
            "needed": (description.logprobs_mode != "processed_logprobs"),
            f"has its own sampling defaults (generation_config = {description.generation_config!r}, not 'vllm')": (
                description.generation_config != "vllm"
            ),
            f"cannot read what this run writes to {self.weights_folder}: set sampling.weights_folder to a folder that "
            "both see under the same path, or leave it out, and they are pulled over HTTP": (
                self.weights_folder is not None and not self.may_pull and not description.reads_folder
            ),
            "was started with other weights than those beside which the run trains its adapter, and would add it to "
            "them: start it with the run's model, or set lora.handover = 'merged', which sends all weights": (
                self.base not in ("", description.base)
            ),
        }
        return [what for what, is_so in wrong.items() if is_so]


def preflight_servers(config: Config, typed: str) -> str:
    """The servers of a configuration, in a few words.

    Args:
        config: names them.
        typed: what names it on the command line (`Resolved.typed`).

    Raises:
        UserError: one cannot be used.
    """
    wanted = ServerRequirements.by(config, folder_at_hand(config.model.path), longest_context(config), typed)

    async def ask() -> list[Description]:
        servers = [Server(url) for url in config.sampling.servers]
        try:
            return await describe(servers, wanted)
        finally:
            await asyncio.gather(*(server.close() for server in servers))

    descriptions = asyncio.run(ask())
    return f"{summary(config.sampling.servers, descriptions)}; {wanted.way(config.sampling.servers, descriptions)}"


async def describe(
    servers: Sequence[Server], wanted: ServerRequirements, *, try_pull: bool = True
) -> list[Description]:
    """What every server is.

    Args:
        try_pull: have those that will pull their weights pull a small file.

    Raises:
        UserError: one cannot be used: with its address, why, and what to start it with.
    """
    try:
        probe = ScratchFolder("probe", wanted.weights_folder or Path(tempfile.gettempdir()))
    except OSError as error:
        raise UserError(
            f"sampling.weights_folder = {str(wanted.weights_folder)!r} cannot be written: {error.strerror}"
        ) from error
    with probe as folder:
        questions = (server.describe(folder, with_base=bool(wanted.base)) for server in servers)
        answers = await asyncio.gather(*questions, return_exceptions=True)
    pulls = await _try_pull(wanted.pulling(*_described(servers, answers))) if try_pull else {}
    descriptions: list[Description] = []
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, Description):
            mistakes = wanted.mistakes(answer) + pulls.get(server.url, [])
            descriptions.append(answer)
        elif isinstance(answer, ServerError):
            mistakes = [str(answer)]
        else:
            raise answer
        if mistakes:
            port = urlsplit(server.url).port or 8000
            further = " (and the --config, --set and --plugin of the run)" if wanted.of == "run" else ""
            raise UserError(
                f"the server {server.url} {', and it '.join(mistakes)}. Start it with: {wanted.command} --port {port}"
                f"{further}"
            )
    return descriptions


def _described(servers: Sequence[Server], answers: Sequence[object]) -> tuple[list[Server], list[Description]]:
    """Of the servers those that said what they are, and what they said."""
    described = [
        (server, answer) for server, answer in zip(servers, answers, strict=True) if isinstance(answer, Description)
    ]
    return [server for server, _ in described], [description for _, description in described]


async def _try_pull(servers: Sequence[Server]) -> dict[str, list[str]]:
    """Have servers pull a small file from this process; what came of it by their addresses, as ends of a sentence."""
    if not servers:
        return {}
    refusals: dict[str, list[str]] = {}
    with ScratchFolder("probe") as folder:
        (folder / "trial").write_bytes(bytes(range(256)))
        try:
            offer = WeightOffer([server.url for server in servers])
        except OSError as error:
            return {server.url: [f"cannot be offered weights: {error.strerror}"] for server in servers}
        try:
            with offer.offering(folder, "trial") as order:
                trial = order.model_copy(update={"is_trial": True})
                answers = await asyncio.gather(*(server.pull(trial) for server in servers), return_exceptions=True)
        finally:
            offer.close()
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, ServerError):
            refusals[server.url] = [
                f"shares no folder with this run and {answer}; let it reach this machine, or set "
                "sampling.weights_folder to a folder that both see under the same path"
            ]
        elif isinstance(answer, BaseException):
            raise answer
    return refusals


def _shape_of(folder: Path) -> dict[str, Any]:
    """What a server says of its model, of the one in `folder`."""
    values = read_model_json(folder / "config.json")
    values |= table_of(values, "text_config")
    return {name: values[name] for name in SHAPE if name in values}


def summary(urls: Sequence[str], descriptions: Sequence[Description]) -> str:
    """`2 vLLM servers (0.32.0): http://a:8000, http://b:8000`."""
    versions = ", ".join(sorted({description.vllm for description in descriptions}))
    return f"{len(urls)} vLLM server{'s' if len(urls) > 1 else ''} ({versions}): {', '.join(urls)}"
