"""What may import what, what stays light, and which keys and options there are."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from reasoner.cli.app import app
from reasoner.config import Config
from reasoner.loading.introspection import keys_of

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "vllm", "transformers", "datasets", "deepspeed")
ENGINES: dict[str, str | tuple[str, ...]] = {
    "vllm": "reasoner/sampling/",
    "deepspeed": "reasoner/learning/",
    "datasets": "reasoner/data/rows.py",
    "reasoning_gym": ("tasks/", "plugins/reasoner-gym/"),
    "math_verify": "rewards/",
    "if_verifiable": "rewards/",
    "sympy": "rewards/",
}
"""heavy package -> the places that wrap it"""
STAGES = {"sampling", "scoring", "learning", "gro", "runs", "monitoring", "sandbox"}
INSIDE = [ROOT / "rewards" / "reasoner_rewards" / "code" / "inside", ROOT / "rewards/reasoner_environments/inside"]
PACKAGES = sorted(path.parent for path in (ROOT / "reasoner").rglob("__init__.py") if path.parent != ROOT / "reasoner")

TABLE = """
errors:
gro:
io: errors
records: io
config: errors gro io
processes: errors io
workers: errors io processes records
distributed: errors io processes records
evaluation: config records
models: config errors io processes
sandbox: errors io processes
doctor: errors models processes sandbox
learning: config distributed errors gro io models records
plugins: errors evaluation gro io records
environments: config errors io plugins records workers
data: config distributed errors io models plugins records
monitoring: errors evaluation io plugins records
scoring: config distributed errors io plugins records workers
loading: config data environments errors evaluation gro io models monitoring plugins scoring
sampling: config data distributed errors io models processes records
trajectories: config data distributed environments errors io records sampling
testing: config environments errors gro io plugins records scoring
runs: config errors evaluation io loading models records
launch: errors io processes runs
planning: config data distributed environments errors evaluation gro io learning loading models monitoring plugins
    processes records runs sampling scoring
report: config data errors evaluation io learning models monitoring records runs
training: config data distributed errors evaluation gro io launch learning loading models monitoring planning plugins
    processes records runs sampling scoring trajectories
benchmarks: config errors evaluation gro io learning loading models monitoring planning plugins processes records runs
    sampling scoring training trajectories
pipeline: gro monitoring records training
api: benchmarks config distributed errors io loading planning plugins processes records report runs scoring testing
cli: benchmarks config data distributed doctor environments errors gro io launch learning loading models monitoring
    pipeline planning plugins processes records report runs sampling sandbox scoring testing training
__main__: cli errors io launch processes
reasoner: api data errors evaluation gro io plugins records sandbox
"""
"""What each package of `reasoner` imports of the others, lazy imports and those for types included; a sub-package is
part of its package. The files of the top level stand like packages; `reasoner` is `__init__.py`, the public names."""
ALLOWED = {row.split(":")[0]: set(row.split(":")[1].split()) for row in re.split(r"\n(?! )", TABLE.strip())}


@dataclass(frozen=True)
class Import:
    file: str
    """relative to the checkout"""
    module: str
    """absolute dotted name; of `from a import b` both `a` and `a.b`"""

    def is_of(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree; a file is parsed once for all tests."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def last_name(called: ast.expr) -> str:
    """`c` of `a.b.c` and of `c`; "" of anything else that can be called."""
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


@cache
def imports() -> list[Import]:
    """All imports of the shipped code and the example plugins, lazy ones and those for types included."""
    folders = ("reasoner", "rewards", "tasks", "plugins")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [result for path in files for result in _imports(path)]


def _imports(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT).as_posix()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (Import(file, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield Import(file, node.module)
            yield from (Import(file, f"{node.module}.{alias.name}") for alias in node.names)


def of(folder: str) -> list[Import]:
    result = [each for each in imports() if each.file.startswith(folder)]
    assert result, f"nothing imports anything in {folder}: was it renamed?"
    return result


def place(module: str) -> str:
    """The package, or file of the top level, that a dotted name belongs to; "" for a name of `reasoner` itself."""
    name = module.partition(".")[2].partition(".")[0]
    return name if (ROOT / "reasoner" / name).is_dir() or (ROOT / "reasoner" / f"{name}.py").is_file() else ""


def packages_imported() -> dict[str, set[str]]:
    """package -> the packages that it imports."""
    result: dict[str, set[str]] = {path.name: set() for path in PACKAGES if path.parent == ROOT / "reasoner"}
    for each in of("reasoner/"):
        package = place(each.file.removesuffix(".py").replace("/", "."))
        package = "reasoner" if package == "__init__" else package
        result.setdefault(package, set())
        if each.is_of("reasoner"):
            result[package] |= {place(each.module)} - {package}
    return result


def test_the_table_is_what_the_packages_import() -> None:
    """What nobody uses is not allowed either: a row that is too wide would let an arrow in unseen."""
    assert {package: result - {""} for package, result in packages_imported().items()} == ALLOWED


def test_every_arrow_points_down() -> None:
    """The table stands from the ground up, so there is no circle."""
    below: set[str] = set()
    for package, allowed in ALLOWED.items():
        assert allowed <= below, f"{package} imports {sorted(allowed - below)}, which stand above it"
        below.add(package)


def test_a_stage_imports_no_other_stage() -> None:
    """But for the type that the objective hands to the learner, its weights."""
    alone: dict[str, set[str]] = {stage: set() for stage in STAGES}
    assert {stage: ALLOWED[stage] & STAGES for stage in STAGES} == alone | {"learning": {"gro"}}
    handed = {each.module for each in of("reasoner/learning/") if each.is_of("reasoner.gro")}
    assert handed == {"reasoner.gro.weights", "reasoner.gro.weights.Weights"}


def test_the_package_asks_itself_for_nothing_but_its_version() -> None:
    """The names of `reasoner/__init__.py` are for others: a module of ours that took one would import what is above."""
    used = {each for each in of("reasoner/") if each.is_of("reasoner") and place(each.module) == ""}
    assert {each.module for each in used} <= {"reasoner", "reasoner.__version__"}


def test_the_top_level_holds_five_files() -> None:
    files = {path.name for path in (ROOT / "reasoner").iterdir() if path.is_file() and path.name != "py.typed"}
    assert files == {"__init__.py", "__main__.py", "pipeline.py", "records.py", "errors.py"}
    # a checkout that was pulled over an older one keeps folders that hold compiled modules alone
    folders = {path.name for path in (ROOT / "reasoner").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders == {path.name for path in PACKAGES if path.parent == ROOT / "reasoner"}


def test_a_folder_holds_at_most_twelve_modules() -> None:
    """A larger one has sub-packages by role."""
    modules = {package: len([*package.glob("*.py")]) - 1 for package in PACKAGES}
    assert {package: count for package, count in modules.items() if count > 12} == {}


def test_no_public_type_has_a_name_of_another() -> None:
    """A reader who searches for a type finds one. The programs of `code/inside` run alone in the sandbox."""
    homes = defaultdict(list)
    for folder in ("reasoner", "rewards", "tasks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent not in INSIDE:
                for name in types_of(ast.parse(path.read_text(encoding="utf-8"))):
                    homes[name].append(path.relative_to(ROOT).as_posix())
    assert len(homes) > 300
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def types_of(module: ast.Module) -> Iterator[str]:
    """The public classes and type aliases at the top of a module; CONSTANTS are values."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        else:
            continue
        if name[0].isupper() and not name.isupper():
            yield name


@pytest.mark.parametrize(
    "source", ["class Run: ...", "Run = int | str", 'Run = Literal["a"]', "class Run(Protocol[T]):\n    x: int"]
)
def test_a_type_is_found_however_it_is_written(source: str) -> None:
    assert list(types_of(ast.parse(source))) == ["Run"]


@pytest.mark.parametrize("source", ["class _Run: ...", "RUN = 1", "run = 1", "def f():\n    class Run: ..."])
def test_values_and_what_is_private_are_no_public_types(source: str) -> None:
    assert list(types_of(ast.parse(source))) == []


def test_the_objective_imports_torch_and_records_only() -> None:
    allowed = ("torch", "reasoner.gro", "reasoner.records", "__future__")
    foreign = [
        each
        for each in of("reasoner/gro/")
        if not each.is_of(*allowed) and each.module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_plugins_use_the_public_names() -> None:
    """Built-in rewards and tasks and the example plugins import what anybody's plugin may, so a move breaks nobody."""
    from reasoner import __all__ as public

    allowed = {"reasoner", *(f"reasoner.{name}" for name in public)}
    for each in [*of("rewards/"), *of("tasks/"), *of("plugins/")]:
        testing = "/tests/" in each.file and each.is_of("reasoner.testing")
        assert testing or not each.is_of("reasoner") or each.module in allowed, f"{each.file} imports {each.module}"


@pytest.mark.parametrize("package", ENGINES)
def test_heavy_packages_stay_in_their_place(package: str) -> None:
    assert {
        each.file for each in imports() if each.is_of(package) and not each.file.startswith(ENGINES[package])
    } == set()


def test_only_the_plugins_package_calls_hooks() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "reasoner").rglob("*.py")
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr == "hook"
    }
    assert callers == {"reasoner/plugins/manager.py", "reasoner/plugins/events.py"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT / "reasoner").as_posix())
def test_a_package_says_what_each_of_its_files_does(package: Path) -> None:
    """The docstring of a package is its map: every module and sub-package by name, and none that is not there."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    named = set(re.findall(r"(?<![/\w\"])\w+\.py\b|(?<![/\w.])\w+/(?=[ ,;:]|$)", text, flags=re.MULTILINE))
    assert named == modules | folders


DECIDED = {
    "choose_engine": {"planning/decide.py", "cli/train/serve.py"},
    "choose_learner": {"planning/decide.py"},
    "resolve_device": {"planning/decide.py"},
    "longest_context": {"planning/decide.py", "sampling/server/compatibility.py"},
    "merge_reason": {
        *("planning/decide.py", "planning/estimate.py", "planning/memory/needs.py", "planning/memory/sampler.py"),
    },
}
"""what decides something -> who asks it: beside `decide`, the preflight of servers, the estimate for a machine that is
only planned for, and the command that starts a server of vLLM and nothing else"""


@pytest.mark.parametrize("name", DECIDED)
def test_what_a_configuration_leaves_open_is_decided_in_one_place(name: str) -> None:
    callers = {
        path.relative_to(ROOT / "reasoner").as_posix()
        for path in (ROOT / "reasoner").rglob("*.py")
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and last_name(node.func) == name
    }
    assert callers - {"learning/model/backbone.py"} == DECIDED[name]  # which has a `longest_context` of groups


UNPICKLING = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle")
LOADERS = ("torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "eval", "exec")
LOADING = {*(name.rpartition(".")[2] for name in LOADERS), "from_pretrained"}
"""their last names, and that of what opens a model"""


BETWEEN_RANKS = {ROOT / "reasoner/distributed/exchange.py", ROOT / "reasoner/io/token_array.py"}
"""what the ranks of one run tell each other is pickled, here as by `torch.distributed`; it is never in a file"""


def test_nothing_runs_code_that_a_file_holds() -> None:
    """No pickle, no `eval`; models are opened with safetensors, or from GGUF, alone. What runs in the sandbox may."""
    files = [path for folder in ("reasoner", "rewards", "tasks", "plugins") for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if path.parent not in INSIDE]
    models = 0
    for path in files:
        for node in nodes_of(path):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                pickles = any(name.split(".")[0] in UNPICKLING for name in named)
                assert not pickles or path in BETWEEN_RANKS, path
            if not isinstance(node, ast.Call) or last_name(node.func) not in LOADING:
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
    ["environments", "list"],
    ["environments", "show", "python"],
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
from reasoner.config import Config
assert not Config.__pydantic_complete__, "what only looks waits for the schemas of all sections"
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


def test_a_server_starts_without_what_only_its_engine_needs() -> None:
    """The engine imports torch in a process of its own; here it would cost seconds at every start."""
    program = f"""
import sys
import reasoner.cli.train.serve as command
def reached(config):
    print([name for name in {HEAVY!r} if name in sys.modules])
    raise SystemExit
command.choose_engine = reached
command.serve("math-gsm8k", profile="laptop")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


ENTRIES = (("rewards",), ("gro", "terms"))
"""lists and tables whose entries are sections"""


TASKS = (("mixture",), ("evaluation", "also"))
"""lists of tasks, whose sections are those of a task"""


def keys(path: tuple[str, ...] = ()) -> Iterator[str]:
    for name in keys_of(path) or ():
        inner = (*path, name, "entry") if (*path, name) in (*ENTRIES, *TASKS) else (*path, name)
        if keys_of(inner) and path[:-1] not in TASKS:
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
        "--model --no-gate --output --plugin --profile --resume --set --steps task",
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
        "tasks show": "--help --plugin --sample --set task",
        "rewards": "--help",
        "rewards list": "--help --plugin",
        "rewards show": "--help --plugin name",
        "rewards test": "--allow-unsandboxed-code --help --options --plugin --profile --set --task name",
        "rewards bench": "--allow-unsandboxed-code --cases --help --options --plugin --strict --workers name",
        "rewards attack": "--allow-unsandboxed-code --cases --help --json --options --plugin --profile --set --task "
        "name",
        "environments": "--help",
        "environments list": "--help --plugin",
        "environments show": "--help --plugin name",
        "environments test": "--arguments --help --options --plugin --problem --turn name",
        "plugins": "--help",
        "plugins list": "--help --plugin",
        "plugins new": "--environment --help --output name",
        "plugins check": "--cases --help --options --plugin name",
        "algorithms": "--help",
        "algorithms list": "--help --plugin",
        "algorithms show": "--help --plugin name",
        "plan": "--config --gpu-memory --gpus --help --json --model --nodes --plugin --profile --set --write task",
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
mixture.entry.task mixture.entry.weight mixture.entry.prompt mixture.entry.data mixture.entry.sampling
mixture.entry.rewards mixture.entry.evaluation mixture.entry.environment
evaluation.best evaluation.also.entry.task evaluation.also.entry.prompt evaluation.also.entry.data
evaluation.also.entry.sampling evaluation.also.entry.rewards evaluation.also.entry.evaluation
evaluation.also.entry.environment curriculum.parts
task title profile plugins run.ranks run.steps run.max_hours run.output run.seed run.checkpoint_every run.keep_last
run.keep_rollouts
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
data.train.missing data.train.on_bad_row data.train.too_long
data.eval.missing data.eval.on_bad_row data.eval.too_long
data.pairs.missing data.pairs.on_bad_row data.pairs.too_long
data.labelled.missing data.labelled.on_bad_row data.labelled.too_long
data.demos.missing data.demos.on_bad_row data.demos.too_long
data.train.duplicates data.eval.duplicates data.pairs.duplicates data.labelled.duplicates data.demos.duplicates
data.demos.path data.overlap data.demos.hub data.demos.generator data.demos.options data.demos.split data.demos.columns
data.demos.limit data.demos.shuffle data.demos.seed data.demos.per_step data.demos.max_tokens
curriculum.kind curriculum.longest_rest sampling.max_staleness sampling.over_sample
sampling.engine sampling.servers sampling.weights_folder
sampling.group_size sampling.temperature sampling.max_tokens sampling.max_prompt_tokens sampling.stop
sampling.stop_repetition
sampling.memory_share sampling.tensor_parallel sampling.quantization learning.sequence_parallel learning.router_loss
learning.routing_replay learning.experts learning.optimizer
sampling.refills sampling.kv_cache_gib
environment.name environment.options environment.tools environment.tool_options environment.format
environment.max_turns environment.max_tool_calls environment.max_result_chars environment.timeout_s environment.workers
environment.sessions environment.memory_mb environment.max_failure_rate
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
learning.mlp_tile learning.offload_activations
learning.token_budget learning.logit_chunk learning.gradient_checkpointing learning.packing learning.share_prompts
lora.rank lora.alpha lora.targets lora.handover lora.quantization critic.path critic.learning_rate critic.value_clip
handover.check_every handover.max_gap evaluation.every evaluation.samples evaluation.temperature evaluation.max_tokens
evaluation.correct evaluation.threshold trackers
gro.terms.entry.credit.level gro.terms.entry.credit.k gro.terms.entry.credit.trace_scale gro.terms.entry.evidence.bound
gro.terms.entry.evidence.entropy_share gro.terms.entry.evidence.tokens gro.terms.entry.link.limit
gro.terms.entry.link.measure gro.terms.entry.link.negative gro.terms.entry.link.negative_power
gro.terms.entry.link.negative_rate gro.terms.entry.link.only_negative gro.terms.entry.link.positive
gro.terms.entry.link.positive_power gro.terms.entry.link.positive_rate
teacher.path teacher.servers teacher.dtype teacher.template gro.terms.entry.credit.sees
"""
