"""What may import what, what stays light, and which keys and options there are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from reasoner.cli.app import app
from reasoner.config.config import Config
from reasoner.loading.introspection import keys_of

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "vllm", "transformers", "datasets", "deepspeed")
ENGINES = {
    "vllm": "reasoner/sampling/",
    "deepspeed": "reasoner/learning/",
    "datasets": "reasoner/data/rows.py",
    "reasoning_gym": "tasks/",
    "math_verify": "rewards/",
    "sympy": "rewards/",
}
"""heavy package -> the place that wraps it"""
STAGES = ("sampling", "scoring", "learning", "gro", "runs", "monitoring", "sandbox")


@dataclass(frozen=True)
class Import:
    file: str
    """relative to the checkout"""
    module: str
    """absolute dotted name; of `from a import b` both `a` and `a.b`"""

    def is_of(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def imports() -> list[Import]:
    """All imports of the shipped code, lazy ones and those for types included."""
    files = (path for folder in ("reasoner", "rewards", "tasks") for path in (ROOT / folder).rglob("*.py"))
    return [found for path in files for found in _imports(path)]


def _imports(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(file, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield Import(file, node.module)
            yield from (Import(file, f"{node.module}.{alias.name}") for alias in node.names)


IMPORTS = imports()


def of(folder: str) -> list[Import]:
    found = [each for each in IMPORTS if each.file.startswith(folder)]
    assert found, f"nothing imports anything in {folder}: was it renamed?"
    return found


def test_only_the_command_line_imports_the_command_line() -> None:
    users = {each.file for each in IMPORTS if each.is_of("reasoner.cli")}
    assert {file for file in users if not file.startswith("reasoner/cli/")} == {"reasoner/__main__.py"}


def test_nothing_below_the_pipeline_imports_it() -> None:
    users = {
        each.file
        for each in IMPORTS
        if each.is_of("reasoner.pipeline", "reasoner.training.trainer", "reasoner.training.build")
    }
    inside = {file for file in users if not file.startswith("reasoner/cli/")}
    assert inside <= {"reasoner/pipeline.py", "reasoner/training/build.py", "reasoner/benchmarks/loop.py"}


def test_only_the_command_line_imports_the_evaluation_tool() -> None:
    users = {each.file for each in IMPORTS if each.is_of("reasoner.benchmarks")}
    assert {
        file for file in users if not file.startswith(("reasoner/cli/", "reasoner/benchmarks/", "reasoner/api/"))
    } == set()


def test_only_the_command_line_and_the_interface_import_what_looks_at_saved_runs() -> None:
    users = {each.file for each in IMPORTS if each.is_of("reasoner.report", "reasoner.report.model_card")}
    own = ("reasoner/cli/", "reasoner/api/", "reasoner/report/", "reasoner/report/model_card.py")
    assert {file for file in users if not file.startswith(own)} == set()


def test_nothing_imports_the_interface_but_the_public_names() -> None:
    users = {each.file for each in IMPORTS if each.is_of("reasoner.api")}
    assert {file for file in users if not file.startswith("reasoner/api/")} == {"reasoner/__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    others = [f"reasoner.{other}" for other in STAGES if other != stage]
    assert [each for each in of(f"reasoner/{stage}/") if each.is_of(*others)] == []


def test_the_objective_imports_torch_and_records_only() -> None:
    allowed = ("torch", "reasoner.gro", "reasoner.records", "__future__")
    foreign = [
        each
        for each in of("reasoner/gro/")
        if not each.is_of(*allowed) and each.module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_built_in_rewards_and_tasks_use_the_public_api() -> None:
    own = ("reasoner_rewards", "reasoner_tasks")
    public = {"reasoner", "reasoner.errors", "reasoner.plugins.hookspecs", "reasoner.io.http_json", "reasoner.sandbox"}
    used = {each.module for each in [*of("rewards/"), *of("tasks/")] if each.is_of("reasoner") and not each.is_of(*own)}
    names = {name for name in used if not any(name.startswith(f"{module}.") for module in public - {"reasoner"})}
    from reasoner import __all__ as exported

    assert names - public <= {f"reasoner.{name}" for name in exported}


@pytest.mark.parametrize("package", ENGINES)
def test_heavy_packages_stay_in_their_place(package: str) -> None:
    assert {
        each.file for each in IMPORTS if each.is_of(package) and not each.file.startswith(ENGINES[package])
    } == set()


def test_only_plugins_calls_hooks() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "reasoner").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "hook"
    }
    assert callers == {"reasoner/plugins/manager.py"}


UNPICKLING = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle")
LOADERS = ("torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "eval", "exec")


def test_nothing_runs_code_that_a_file_holds() -> None:
    """No pickle, no `eval`; models are opened with safetensors, or from GGUF, alone. What runs in the sandbox may."""
    files = [path for folder in ("reasoner", "rewards", "tasks", "plugins") for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if path.parent != ROOT / "rewards" / "reasoner_rewards" / "code" / "inside"]
    models = 0
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not [name for name in named if name.split(".")[0] in UNPICKLING], path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in LOADERS, f"{path}, line {node.lineno}: {called}"
            if called.endswith("from_pretrained") and "AutoModel" in called:
                models += 1
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                assert given.get("use_safetensors") == "True" or "gguf_file" in given, f"{path}, line {node.lineno}"
    assert models >= 3


LIGHT = [
    ["--help"],
    ["run", "--help"],
    ["tasks", "list"],
    ["tasks", "show", "math-gsm8k"],
    ["rewards", "list"],
    ["rewards", "show", "math"],
    ["plugins", "list"],
    ["algorithms", "list"],
    ["algorithms", "show", "dpo"],
    ["config", "show", "math-gsm8k", "--profile", "laptop"],
    ["runs", "list", "."],
    ["report", "--help"],
    ["export", "--help"],
    ["plan", "--help"],
]


def test_looking_around_imports_nothing_heavy() -> None:
    program = f"""
import contextlib, io, json, sys
from reasoner.cli.app import app
heavy = {{}}
for arguments in {LIGHT!r}:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            app(arguments)
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
    heavy[" ".join(arguments)] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(heavy))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {" ".join(arguments): [] for arguments in LIGHT}


ENTRIES = (("rewards",), ("gro", "terms"))
"""lists and tables whose entries are sections"""


def keys(path: tuple[str, ...] = ()) -> Iterator[str]:
    for name in keys_of(path) or ():
        inner = (*path, name, "entry") if (*path, name) in ENTRIES else (*path, name)
        if keys_of(inner):
            yield from keys(inner)
        else:
            yield ".".join(inner)


def test_the_configuration_has_these_keys() -> None:
    """Adding a key is a decision: it is documented, tested, and read by something."""
    assert sorted(keys()) == sorted(KEYS.split())
    assert set(Config.model_fields) == {key.split(".")[0] for key in KEYS.split()}


def test_the_command_line_has_these_options() -> None:
    """Adding an option is a decision."""
    assert dict(commands(get_command(app), "")) == {
        "": "--help --version",
        "run": "--accept-changes --allow-unsandboxed-code --config --dry-run --gpus --help --hostfile --max-hours "
        "--model --output --plugin --profile --resume --set --steps task",
        "eval": "--allow-unsandboxed-code --config --help --json --model --output --plugin --profile --resume "
        "--samples --set --temperature tasks",
        "score": "--allow-unsandboxed-code --config --help --output --plugin --set saved",
        "serve": "--config --help --host --plugin --port --profile --set --tensor-parallel task",
        "runs": "--help",
        "runs list": "--help folder",
        "runs show": "--help run",
        "runs compare": "--help runs",
        "runs rm": "--help --yes runs",
        "report": "--format --help --output --plots --tokens runs",
        "export": "--help --step --to run",
        "tasks": "--help",
        "tasks list": "--help --plugin",
        "tasks show": "--help --plugin --sample task",
        "rewards": "--help",
        "rewards list": "--help --plugin",
        "rewards show": "--help --plugin name",
        "rewards test": "--allow-unsandboxed-code --help --options --plugin --profile --set --task name",
        "rewards bench": "--allow-unsandboxed-code --cases --help --options --plugin --strict --workers name",
        "plugins": "--help",
        "plugins list": "--help --plugin",
        "plugins new": "--help --output name",
        "plugins check": "--cases --help --options --plugin name",
        "algorithms": "--help",
        "algorithms list": "--help --plugin",
        "algorithms show": "--help --plugin name",
        "plan": "--config --gpu-memory --gpus --help --json --model --nodes --plugin --profile --set task",
        "config": "--help",
        "config show": "--config --help --plugin --profile --set --toml task",
        "node": "--help",
        "doctor": "--help",
    }


def commands(command: object, name: str) -> Iterator[tuple[str, str]]:
    """Every command with its arguments and long options."""
    from typer import Context

    context = Context(command, info_name=name)  # type: ignore[arg-type]
    parameters = command.get_params(context)  # type: ignore[attr-defined]
    yield (
        name,
        " ".join(sorted({max(p.opts, key=len) for p in parameters})),
    )
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}".strip())


KEYS = """
task title profile plugins run.ranks run.steps run.max_hours run.output run.seed run.checkpoint_every run.keep_last
run.keep_best model.path model.dtype model.device model.trust_remote_code
model.chat_template_kwargs prompt.format prompt.system prompt.system_role prompt.template prompt.examples
data.train.path
data.train.hub data.train.generator data.train.options data.train.split data.train.columns data.train.limit
data.train.shuffle data.train.seed data.eval.path data.eval.hub data.eval.generator data.eval.options data.eval.split
data.eval.columns data.eval.limit data.eval.shuffle data.eval.seed data.pairs.path data.pairs.hub data.pairs.generator
data.pairs.options data.pairs.split data.pairs.columns data.pairs.limit data.pairs.shuffle data.pairs.seed
data.pairs.per_step data.pairs.max_tokens data.labelled.path data.labelled.hub
data.labelled.generator data.labelled.options data.labelled.split data.labelled.columns data.labelled.limit
data.labelled.shuffle data.labelled.seed data.labelled.per_step data.labelled.max_tokens data.holdout data.on_bad_row
data.demos.path data.overlap data.demos.hub data.demos.generator data.demos.options data.demos.split data.demos.columns
data.demos.limit data.demos.shuffle data.demos.seed data.demos.per_step data.demos.max_tokens
curriculum.kind curriculum.longest_rest sampling.ahead
sampling.engine sampling.mode sampling.servers sampling.weights_folder
sampling.group_size sampling.temperature sampling.max_tokens sampling.max_prompt_tokens sampling.stop
sampling.top_p sampling.top_k sampling.repetition_penalty sampling.memory_share sampling.tensor_parallel
sampling.refills sampling.kv_cache_gib
rewards.entry.source rewards.entry.weight rewards.entry.options rewards.entry.timeout_s rewards.entry.gate
rewards.entry.when rewards.entry.on_failure rewards.entry.retries rewards.entry.max_calls scoring.workers
scoring.memory_mb scoring.max_failure_rate scoring.cache gro.preset gro.terms.entry.preset gro.terms.entry.weight
gro.terms.entry.schedule.kind gro.terms.entry.schedule.first gro.terms.entry.schedule.last
gro.terms.entry.schedule.before gro.terms.entry.schedule.after gro.terms.entry.schedule.at
gro.terms.entry.schedule.metric gro.terms.entry.schedule.above gro.terms.entry.schedule.below gro.terms.entry.source
gro.terms.entry.credit.kind gro.terms.entry.credit.baseline gro.terms.entry.credit.scale gro.terms.entry.credit.combine
gro.terms.entry.credit.discount gro.terms.entry.credit.trace gro.terms.entry.credit.at gro.terms.entry.credit.name
gro.terms.entry.credit.options gro.terms.entry.evidence.unit gro.terms.entry.evidence.reduce
gro.terms.entry.evidence.reference gro.terms.entry.evidence.beta gro.terms.entry.evidence.discount
gro.terms.entry.evidence.bias gro.terms.entry.anchor.kind gro.terms.entry.anchor.margin gro.terms.entry.link.kind
gro.terms.entry.link.low gro.terms.entry.link.high gro.terms.entry.link.dual gro.terms.entry.link.cap
gro.terms.entry.link.smoothing gro.terms.entry.link.desirable gro.terms.entry.link.undesirable gro.terms.entry.link.name
gro.terms.entry.link.options gro.terms.entry.aggregation.kind gro.terms.entry.aggregation.credited
gro.terms.entry.aggregation.length gro.terms.entry.kl.coefficient gro.terms.entry.kl.estimator gro.terms.entry.kl.place
gro.terms.entry.correction.kind gro.terms.entry.correction.level gro.terms.entry.correction.low
gro.terms.entry.correction.high gro.terms.entry.pairing.rule gro.terms.entry.pairing.most gro.terms.entry.pairing.margin
gro.terms.entry.pairing.correct gro.terms.entry.entropy gro.terms.entry.mask_truncated learning.engine
learning.deepspeed.zero_stage learning.deepspeed.offload_optimizer learning.deepspeed.offload_parameters
learning.deepspeed.config learning.problems_per_step learning.updates_per_step learning.epochs learning.learning_rate
learning.warmup_steps learning.decay learning.betas learning.weight_decay learning.max_grad_norm learning.max_not_finite
learning.token_budget learning.logit_chunk learning.gradient_checkpointing learning.packing learning.share_prompts
learning.reference lora.rank lora.alpha lora.targets lora.handover critic.path critic.learning_rate critic.value_clip
handover.check_every handover.max_gap evaluation.every evaluation.samples evaluation.temperature evaluation.max_tokens
evaluation.correct evaluation.threshold trackers
gro.terms.entry.credit.k gro.terms.entry.credit.trace_scale gro.terms.entry.evidence.bound gro.terms.entry.link.limit
gro.terms.entry.link.measure gro.terms.entry.link.negative gro.terms.entry.link.negative_power
gro.terms.entry.link.negative_rate gro.terms.entry.link.only_negative gro.terms.entry.link.positive
gro.terms.entry.link.positive_power gro.terms.entry.link.positive_rate
teacher.path teacher.servers teacher.dtype teacher.template gro.terms.entry.credit.sees
"""
