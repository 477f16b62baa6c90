"""`reasoner plugins`, the contract of reward sources, and installed plugins that do not work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from reasoner.errors import ConfigError, UserError
from reasoner.loading import load_config
from reasoner.plugins import manager as hooks
from reasoner.plugins.importing import PluginError
from reasoner.plugins.manager import build_manager, reward_sources
from reasoner.plugins.scaffold import package_of, write_plugin
from reasoner.testing import Checklist, check_source
from reasoner.testing.cases import Case, make_problem, make_response
from tests.command import Cli
from tests.tiny import build_tiny_model

HEAD = "import os, random, subprocess, threading, time\nfrom reasoner import Score, hookimpl, reward\n"
GOOD = """
@reward("good", timeout_s=1.0)
def good(problem, response, *, unit: str = "km") -> float:
    '''1.0 if the unit is there.'''
    return float(unit in response.text)
"""
REGISTER = "\n@hookimpl\ndef register_rewards():\n    return [{}]\n"


Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with one module on the path, as pip would."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, code: str) -> None:
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        metadata(site, name, module)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def metadata(site: Path, name: str, module: str) -> None:
    info = site / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[reasoner]\n{module} = {module}\n")


def plugin(tmp_path: Path, code: str, *names: str) -> str:
    path = tmp_path / "own.py"
    path.write_text(HEAD + code + REGISTER.format(", ".join(names)))
    return str(path)


def test_an_installed_distribution_is_listed_with_what_it_registers(cli: Cli, install: Install) -> None:
    install("some-good", HEAD + GOOD + REGISTER.format("good"))
    lines = [line.rstrip() for line in cli("plugins", "list").out.splitlines()]
    at = lines.index("distribution some-good (some_good)")
    assert lines[at + 1].endswith("/site/some_good.py")
    assert lines[at + 2] == "  rewards       good"
    assert "built-in package reasoner_rewards" in lines
    assert any(line.startswith("  generators    gsm_symbolic") for line in lines)


def test_a_file_is_listed_with_its_methods(cli: Cli) -> None:
    file = str(Path(__file__).resolve().parents[2] / "plugins" / "tanh_grpo.py")
    text = " ".join(cli("plugins", "list", "--plugin", file).out.split())
    assert f"plugin file {file}" in text.replace(" /", "/").replace("plugin file/", "plugin file /")
    assert "algorithms tanh-grpo, credit rank, link tanh" in text


COMMANDS = (
    ("run", "math-gsm8k", "--profile", "laptop", "--dry-run"),
    ("plan", "math-gsm8k", "--profile", "laptop", "--model", "MODEL", "--set", "sampling.max_prompt_tokens=64"),
    ("tasks", "list"),
    ("rewards", "show", "good"),
    ("config", "show", "math-gsm8k", "--profile", "laptop"),
    ("plugins", "check", "FILE"),
)


@pytest.mark.parametrize(
    ("command", "package"), [*((command, False) for command in COMMANDS), (COMMANDS[-1], True)], ids=str
)
def test_a_plugin_file_is_executed_once_per_process(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], package: bool
) -> None:
    executed, path = tmp_path / "executed", tmp_path / f"counted_{command[0]}" / "__init__.py"
    if package:
        path.parent.mkdir()
        monkeypatch.delitem(sys.modules, path.parent.name, raising=False)
    else:
        path = tmp_path / "own.py"
    counting = f"import os\nwith open({str(executed)!r}, 'a') as file:\n    print(os.getpid(), file=file)\n"
    path.write_text(counting + HEAD + GOOD + REGISTER.format("good"))
    replaced = {"FILE": str(path), "MODEL": str(build_tiny_model(tmp_path / "model")) if command[0] == "plan" else ""}
    done = cli(*(replaced.get(each, each) for each in command), "--plugin", str(path))
    assert done.code == 0, done.err
    processes = executed.read_text().split()
    assert str(os.getpid()) in processes
    assert len(processes) == len(set(processes))
    assert len(processes) > 1 or command[0] != "plugins"  # its workers have a host


def test_a_plugin_file_that_has_changed_is_executed_again_and_two_spellings_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = plugin(tmp_path, GOOD, "good")
    second = Path(path).stat().st_mtime
    first = reward_sources(build_manager([path]))["good"]
    spelt = str(tmp_path / "x" / ".." / "own.py")
    (tmp_path / "x").mkdir()
    (tmp_path / "link.py").symlink_to(path)
    again = reward_sources(build_manager([path, spelt, str(tmp_path / "link.py")]))
    assert again["good"] is first
    plugin(tmp_path, GOOD.replace("1.0", "2.0"), "good")
    os.utime(path, (second, second))  # the same length in the same second: what Python takes for the same text
    assert reward_sources(build_manager([path]))["good"].timeout_s == 2.0
    (tmp_path / "own.py").write_text("import nowhere_to_be_found")
    for _ in range(2):
        with pytest.raises(PluginError, match="nowhere_to_be_found"):
            build_manager([path])
    plugin(tmp_path, GOOD, "good")
    assert reward_sources(build_manager([path]))["good"].timeout_s == 1.0


BROKEN = {
    "raises": ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError"),
    "exits": ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
    "unknown-hook": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_reward():\n    return []",
        "implements an unknown hook 'register_reward'. Did you mean 'register_rewards'?",
    ),
    "wrong-argument": (
        "from reasoner import hookimpl\n@hookimpl\ndef step_finished(step, metric):\n    pass",
        "the hook step_finished has no argument 'metric'. Did you mean 'metrics'? It has: step, metrics.",
    ),
    "signature-of-trl": (
        "from reasoner import reward\n@reward\ndef k(prompts, completions, **columns):\n    return [1.0]",
        "instead of **columns; the row's columns are in problem.fields",
    ),
    "wrong-function": (
        "from reasoner import reward\n@reward('k')\ndef k(response):\n    return 1.0",
        "reward source 'k': the function must take (problem, response, *, options...), got (response)",
    ),
    "hook-raises": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n    raise OSError('gone')",
        "register_rewards failed: OSError: gone",
    ),
    "no-source": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n    return ['math']",
        "it must return functions marked with @reward, got 'math'",
    ),
    "syntax": ("def f(:\n    pass", "cannot be imported: SyntaxError"),
    "recursion": ("def f():\n    f()\nf()", "cannot be imported: RecursionError"),
    "no-utf8": ("# \\xff\nx = '\\ud800'\nx.encode()", "cannot be imported: UnicodeEncodeError"),
    "hook-exits": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n    raise SystemExit(3)",
        "register_rewards failed: SystemExit: 3",
    ),
    "number-as-name": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_generators():\n    return {3: print}",
        "register_generators failed: TypeError: a name must be text, got 3",
    ),
    "no-name": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_trackers():\n    return {None: print}",
        "register_trackers failed: TypeError: a name must be text, got None",
    ),
    "empty-name": (
        "from reasoner import hookimpl, reward\n@reward(' ')\ndef own(problem, response):\n    return 1.0\n"
        "@hookimpl\ndef register_rewards():\n    return [own]",
        "register_rewards failed: TypeError: a name must be text, got ' '",
    ),
    "odd-reward": (
        "from reasoner import hookimpl, reward\n@reward(b'x')\ndef own(problem, response):\n    return 1.0\n"
        "@hookimpl\ndef register_rewards():\n    return [own]",
        "register_rewards failed: TypeError: a name must be text, got b'x'",
    ),
    "odd-method": (
        "from reasoner import hookimpl\nfrom reasoner.gro.spec.registry import Algorithms\n"
        "@hookimpl\ndef register_algorithms():\n    return Algorithms(credits={7: print})",
        "register_algorithms failed: TypeError: a name must be text, got 7",
    ),
    "odd-family": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_task_families():\n    return {(1, 2): print}",
        "register_task_families failed: TypeError: a name must be text, got (1, 2)",
    ),
    "no-paths": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_tasks():\n    return [3]",
        "register_tasks failed: TypeError",
    ),
    "no-table": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_generators():\n    return ['x']",
        "register_generators failed: ",
    ),
    "breaks-off": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n"
        "    yield from ()\n    raise OSError('gone')",
        "register_rewards failed: OSError: gone",
    ),
    "no-algorithms": (
        "from reasoner import hookimpl\n@hookimpl\ndef register_algorithms():\n    return {'x': 1}",
        "it must return Algorithms, got dict",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_distribution_is_listed_and_breaks_nothing_else(cli: Cli, install: Install, name: str) -> None:
    code, error = BROKEN[name]
    module = f"broken_{name.replace('-', '_')}"
    install(f"broken-{name}", code)
    listed = cli("plugins", "list")
    assert (listed.code, listed.err) == (0, "")
    assert f"BROKEN: distribution broken-{name} ({module})" in listed.out.replace("\n  ", " ")
    assert error in " ".join(listed.out.split())
    assert cli("tasks", "list").code == 0
    assert cli("rewards", "show", "math").code == 0
    manager = build_manager()
    hooks.registrations(manager)  # calls every hook: which plugins are broken is known now
    tables: list[Mapping[str, object]] = [
        reward_sources(manager),
        hooks.task_files(manager),
        hooks.task_files(manager).families,
    ]
    tables += [hooks.generators(manager), hooks.trackers(manager), hooks.algorithms(manager).presets]
    for table in tables:
        assert "no-such-name" not in table  # to look is no mistake; to ask for it is
        assert table.get("no-such-name") is None
        with pytest.raises(PluginError, match=f"'no-such-name'.*broken-{name}"):
            table["no-such-name"]
    assert load_config("math-gsm8k", "laptop").config.task == "math-gsm8k"


def test_a_name_that_is_nowhere_while_a_plugin_is_broken_names_the_plugin(install: Install) -> None:
    install("broken-thing", "import nowhere_to_be_found")
    wanted = (
        r"{} 'mth'\.( Did you mean 'math'\?)? A broken plugin may have it: distribution broken-thing .*ModuleNotFound"
    )
    with pytest.raises(PluginError, match="there is no " + wanted.format("reward source")):
        load_config("math-gsm8k", "laptop", sets=["rewards=[{source = 'mth'}]", "evaluation.correct=mth"])
    with pytest.raises(PluginError, match="there is no " + wanted.format("method")):
        load_config("math-gsm8k", "laptop", sets=["gro.preset=mth"])
    with pytest.raises(PluginError, match="there is no " + wanted.format("task")):
        load_config("mth")
    for made_up in ("gro.terms.grpo.credit={kind='custom', name='mth'}", "trackers.mth={}"):
        with pytest.raises(PluginError, match=r"there is no (credit|tracker) 'mth'.*broken-thing"):
            load_config("math-gsm8k", "laptop", sets=[made_up])
    with pytest.raises(PluginError, match=r"there is no task family 'mth'.*broken-thing"):
        load_config("mth/one")
    with pytest.raises(PluginError, match="there is no " + wanted.format("generator")):
        load_config("math-gsm8k", "laptop", sets=["data.train.generator=mth", "data.train.limit=3"])


def test_a_new_plugin_is_written_while_another_is_broken(cli: Cli, install: Install, tmp_path: Path) -> None:
    install("broken-thing", "import nowhere_to_be_found")
    assert cli("plugins", "new", "unit-verifier", "--output", str(tmp_path)).code == 0


def test_a_plugin_that_registers_nothing_works(cli: Cli, install: Install) -> None:
    install("none-at-all", "from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n    return None")
    assert "BROKEN" not in cli("plugins", "list").out


def test_without_a_broken_plugin_names_are_plain_tables(install: Install) -> None:
    sources = reward_sources(build_manager())
    assert "mth" not in sources
    assert dict(sources) == sources
    with pytest.raises(KeyError):
        sources["mth"]
    with pytest.raises(ConfigError, match=r"no reward source 'mth'. Did you mean 'math'\? Registered: "):
        load_config("math-gsm8k", "laptop", sets=["rewards=[{source = 'mth'}]", "evaluation.correct=mth"])


def test_a_broken_file_that_was_named_is_an_error(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("import nowhere_to_be_found")
    for command in (["plugins", "list"], ["tasks", "list"]):
        outcome = cli(*command, "--plugin", str(path))
        assert outcome.code == 2
        assert f"plugin file {path} cannot be imported: ModuleNotFoundError" in outcome.err
    with pytest.raises(PluginError, match=r"own\.py cannot be imported"):
        load_config("math-gsm8k", "laptop", sets=[f"plugins=['{path}']"])
    path.write_text("from reasoner import hookimpl\n@hookimpl\ndef register_rewards():\n    raise OSError('gone')")
    with pytest.raises(PluginError, match=r"own\.py: register_rewards failed: OSError: gone"):
        reward_sources(build_manager([str(path)]))


def test_a_name_registered_twice_names_both_plugins(install: Install, tmp_path: Path) -> None:
    install("some-good", HEAD + GOOD + REGISTER.format("good"))
    own = plugin(tmp_path, GOOD, "good")
    with pytest.raises(
        PluginError, match=r"'good' is registered twice.*plugin file .*own\.py and distribution some-go"
    ):
        reward_sources(build_manager([own]))
    install("doubling", HEAD + GOOD + REGISTER.format("good, good"))
    assert any("it registers 'good' twice" in each.error for each in hooks.registrations(build_manager()))


NAMES = {
    "ok": ("unit-verifier", "unit_verifier"),
    "short": ("x", "x"),
    "digits": ("gsm8k-2", "gsm8k_2"),
}


@pytest.mark.parametrize("case", NAMES)
def test_the_name_of_a_plugin_gives_its_package(case: str) -> None:
    assert package_of(NAMES[case][0]) == NAMES[case][1]


@pytest.mark.parametrize("name", ["", "Unit", "unit_verifier", "-x", "x-", "a--b", "8k", "a b", "../x", "ü", "x\n"])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a valid name for a plugin: use lower-case letters"):
        write_plugin(name, tmp_path, ())
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_taken_and_folders_that_exist_are_refused(cli: Cli, tmp_path: Path) -> None:
    for name in ("json", "class", "reasoner-x"):
        with pytest.raises(UserError, match="Python or reasoner has a module of that name"):
            package_of(name)
    with pytest.raises(UserError, match="there is a reward source, tool or environment 'exact_match' already"):
        package_of("exact-match", {"exact_match"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    outcome = cli("plugins", "new", "mine", "--output", str(tmp_path))
    assert outcome.code == 2
    assert "mine exists, and nothing is overwritten" in outcome.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.txt"]


def test_a_new_plugin_is_found_when_installed_and_its_own_test_passes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cli("plugins", "new", "unit-verifier", "--output", str(tmp_path))
    assert (made.code, made.err) == (0, "")
    folder = tmp_path / "unit-verifier"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        "tests/test_unit_verifier.py",
        "unit_verifier/__init__.py",
        "unit_verifier/verifier.py",
    }
    assert [
        path for path in files if "@" in (folder / path).read_text().replace("@reward", "").replace("@hookimpl", "")
    ] == []
    metadata(folder, "unit-verifier", "unit_verifier")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{':'.join(sys.path)}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(folder / "tests")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@dataclass(frozen=True)
class Bad:
    body: str
    failing: str
    """start of the check that must fail; empty: none"""
    detail: str = ""


SOURCES = {
    "keeps it": Bad("return float('km' in response.text)", ""),
    "abstains from an empty text": Bad("return 1.0 if response.text else None", ""),
    "forgets to return": Bad("float('km' in response.text)", "gives some response a value", "end without `return`"),
    "refuses no reference": Bad("assert problem.answer\n    return 1.0", ""),
    "raises on empty": Bad("return float(response.text[0] == '4')", "copes with an empty text", "IndexError"),
    "chokes on length": Bad("time.sleep(len(response.text) / 1e5)\n    return 1.0", "copes with a megabyte", "timeout"),
    "chokes on unicode": Bad(
        "response.text.encode('ascii')\n    return 1.0", "copes with unicode", "UnicodeEncodeError"
    ),
    "dies": Bad("os._exit(0)", "copes with an empty text", "crash"),
    "hangs without reference": Bad(
        "time.sleep(0 if problem.answer else 9)\n    return 1.0", "copes with a problem without a reference", "timeout"
    ),
    "returns text": Bad("return '1.0'", "returns None, a finite number or a Score", "must be a number"),
    "returns nan": Bad("return float('nan')", "returns None, a finite number or a Score", "finite"),
    "has parts that are no JSON": Bad("return Score(1.0, {'x': {1}})", "returns None, a finite", "JSON"),
    "throws dice": Bad("return random.random()", "gives the same value twice"),
    "hashes": Bad("return float(hash(response.text) % 10**6)", "gives the same value in another process"),
    "leaves a thread": Bad(
        "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n    return 1.0",
        "leaves its worker as it was",
        "thread Thread-1",
    ),
    "leaves a process": Bad(
        "subprocess.Popen(['sleep', '30'], start_new_session=True)\n    return 1.0",
        "leaves its worker as it was",
        "process sleep 30",
    ),
    "changes its folder": Bad("os.chdir('/')\n    return 1.0", "leaves its worker as it was", "the working directory"),
    "stops its host": Bad(
        "os.kill(os.getppid(), 19)\n    return 1.0", "leaves its worker as it was", "stopped by a signal"
    ),
    "has a wrong default": Bad("return 1.0", "accepts its options"),
}


def checked(tmp_path: Path, name: str) -> Checklist:
    bad = SOURCES[name]
    signature = "problem, response, *, n: int = 'x'" if name == "has a wrong default" else "problem, response"
    code = f"@reward('own', timeout_s=0.5)\ndef own({signature}):\n    '''It.'''\n    {bad.body}\n"
    file = plugin(tmp_path, code, "own")
    return check_source(reward_sources(build_manager([file]))["own"], plugins=[file])


@pytest.mark.parametrize("name", SOURCES)
def test_the_contract_finds_what_is_wrong_with_a_source(tmp_path: Path, name: str) -> None:
    checklist, bad = checked(tmp_path, name), SOURCES[name]
    failed = [check for check in checklist.checks if not check.passed]
    assert checklist.passed is (not failed)
    if not bad.failing:
        assert failed == [], str(checklist)
        return
    (result,) = [check for check in failed if check.name.startswith(bad.failing)]
    assert bad.detail in result.detail
    assert f"FAIL  {result.name}" in str(checklist)


@pytest.mark.parametrize("granularity", ["group", "batch"])
def test_a_source_that_sees_several_responses_is_held_to_the_same(tmp_path: Path, granularity: str) -> None:
    code = (
        f"@reward('own', timeout_s=0.5, granularity='{granularity}')\ndef own(problem, responses):\n    \"It.\"\n"
        "    if any(len(response.text) > 1000 for response in responses):\n        raise ValueError('long')\n"
        "    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "    return [1.0 for response in responses]\n"
    )
    file = plugin(tmp_path, code, "own")
    checklist = check_source(reward_sources(build_manager([file]))["own"], plugins=[file])
    failed = [check for check in checklist.checks if not check.passed]
    assert [check.name for check in failed] == ["copes with a megabyte of text", "leaves its worker as it was"]
    assert "ValueError: long" in failed[0].detail
    assert "thread Thread-1" in failed[1].detail


@pytest.mark.parametrize(
    ("granularity", "returned", "wrong"),
    [
        ("group", "[1.0]", "of 2: invalid: one score per response is needed: got 1 for 2 responses"),
        ("batch", "[1.0]", "of 2: invalid: one score per response is needed: got 1 for 2 responses"),
        ("batch", "[1.0 for _ in {problem.id for problem in problems}]", "of 5: invalid: one score per response"),
        ("group", "[1.0 for _ in {response.text for response in responses}]", "of 5: invalid: one score per response"),
        ("group", "(1.0 for _ in responses)", ""),
    ],
)
def test_a_source_that_sees_several_responses_takes_every_number_of_them(
    tmp_path: Path, granularity: str, returned: str, wrong: str
) -> None:
    code = (
        f"@reward('own', timeout_s=2.0, granularity='{granularity}')\n"
        f"def own(problems, responses):\n    'It.'\n    return {returned}\n"
    )
    file = plugin(tmp_path, code, "own")
    checklist = check_source(reward_sources(build_manager([file]))["own"], plugins=[file])
    (result,) = [check for check in checklist.checks if check.name.startswith("takes ")]
    assert result.name == f"takes {'groups' if granularity == 'group' else 'batches'} of 1, 2, 5 responses"
    assert result.detail.startswith(wrong)
    assert checklist.passed is result.passed is (not wrong)


def test_a_source_for_problems_of_another_kind_is_checked_with_a_case(tmp_path: Path) -> None:
    code = (
        "@reward('own', timeout_s=2.0)\ndef own(problem, response):\n    'It.'\n"
        "    return float(response.text == problem.answer) if 'map' in problem.fields else None\n"
    )
    file = plugin(tmp_path, code, "own")
    source = reward_sources(build_manager([file]))["own"]
    alone = [check for check in check_source(source, plugins=[file]).checks if not check.passed]
    assert [check.name for check in alone] == ["gives some response a value"]
    assert "Then give it cases." in alone[0].detail
    case = Case(make_problem("Where?", "here", map="x"), make_response("here"), 1.0)
    assert check_source(source, [case], plugins=[file]).passed
    other = Case(make_problem("Where?", "here"), make_response("here"), None)
    refused = [check for check in check_source(source, [other], plugins=[file]).checks if not check.passed]
    assert [check.name for check in refused] == ["gives some response a value"]
    assert "cases" not in refused[0].detail


def test_a_source_is_held_to_the_values_of_its_cases(tmp_path: Path) -> None:
    file = plugin(tmp_path, GOOD, "good")
    source = reward_sources(build_manager([file]))["good"]
    problem = make_problem("How far?", "3 km")
    right = [Case(problem, make_response("3 km"), 1.0), Case(problem, make_response("3"), 0.0)]
    assert check_source(source, right, plugins=[file]).passed
    wrong = check_source(source, [*right, Case(problem, make_response("3 miles"), 1.0)], plugins=[file])
    (failed,) = [check for check in wrong.checks if not check.passed]
    assert (failed.name, failed.detail) == (
        "gives the expected values",
        "1 of 3 differ: '3 miles' must get 1.0, got 0",
    )
    assert not check_source(source, right, options={"unit": "kg"}, plugins=[file]).passed


def test_a_source_that_needs_a_problem_of_its_own_is_checked_with_a_case(tmp_path: Path) -> None:
    code = (
        "@reward('own', timeout_s=0.5)\ndef own(problem, response):\n    'It.'\n"
        "    return float(response.text == problem.fields['tests'][0])\n"
    )
    file = plugin(tmp_path, code, "own")
    source = reward_sources(build_manager([file]))["own"]
    checklist = check_source(source, plugins=[file])
    failed = [check for check in checklist.checks if not check.passed]
    assert [check.name for check in failed] == [
        "copes with an empty text",
        "copes with a megabyte of text",
        "copes with unicode",
    ]
    assert checklist.unreached == (
        "returns None, a finite number or a Score",
        "gives the same value twice",
        "gives the same value in another process",
    )
    assert "  -     gives the same value twice: not checked: no call returned" in str(checklist).splitlines()
    assert all("KeyError: 'tests'" in check.detail and "give it cases" in check.detail for check in failed)
    case = Case(make_problem("?", "1", tests=["x"]), make_response("x"), 1.0)
    whole = check_source(source, [case], plugins=[file])
    assert (whole.passed, whole.unreached) == (True, ())


def test_a_source_that_no_worker_can_find_fails(tmp_path: Path) -> None:
    file = plugin(tmp_path, GOOD, "good")
    checklist = check_source(reward_sources(build_manager([file]))["good"])
    assert [(check.name, check.passed) for check in checklist.checks] == [
        ("accepts its options", True),
        ("is found in a worker", False),
    ]
    assert "there is no reward source 'good'" in checklist.checks[1].detail


def test_check_prints_a_checklist_per_source_and_fails_when_one_does(cli: Cli, tmp_path: Path) -> None:
    code = GOOD + "\n@reward('bad', timeout_s=1.0)\ndef bad(problem, response):\n    '''It.'''\n    return 'x'\n"
    file = plugin(tmp_path, code, "good, bad")
    outcome = cli("plugins", "check", file)
    assert (outcome.code, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    good, bad = lines.index("good"), lines.index("bad")
    assert [line.split()[0] for line in lines[good + 1 : bad - 1]] == ["ok"] * 11
    assert "FAIL" in [line.split()[0] for line in lines[bad + 1 : -2] if line]
    assert lines[-1] == "The contract is broken by bad."
    assert max(map(len, lines)) <= 80
    assert cli("plugins", "check", "good", "--plugin", file).code == 0
    assert cli("plugins", "check", "good", "--plugin", file, "--options", "{unit = 3}").code == 2


def test_a_source_that_needs_options_is_checked_with_them(cli: Cli, tmp_path: Path) -> None:
    needy = GOOD.replace("good", "needy").replace('unit: str = "km"', "unit: str")
    file = plugin(tmp_path, GOOD + needy, "good, needy")
    both = cli("plugins", "check", file)
    assert both.code == 0
    told = "not checked, because it needs options. reward source 'needy', option 'unit': Field required"
    assert told in " ".join(both.out.split())
    assert "reasoner plugins check needy --options" in " ".join(both.out.split())
    alone = cli("plugins", "check", "needy", "--plugin", file)
    assert (alone.code, "option 'unit': Field required" in alone.err) == (2, True)
    assert cli("plugins", "check", "needy", "--plugin", file, "--options", '{unit = "km"}').code == 0
    refused = cli("plugins", "check", file, "--options", '{unit = "km"}')
    assert (refused.code, "--options are those of one source" in refused.err) == (2, True)


def test_a_file_that_registers_none_of_its_functions_says_what_to_add(tmp_path: Path) -> None:
    code = "from reasoner import reward\n@reward\ndef k(problem, response):\n    return 1.0\n"
    (file := tmp_path / "forgotten.py").write_text(code)
    with pytest.raises(PluginError, match=r"forgotten.py marks k with @reward.*(?s:.*)return \[k\]$"):
        build_manager([str(file)])
    imports = "from forgotten import k\nfrom reasoner import hookimpl\n@hookimpl\ndef run_started(folder):\n    pass\n"
    (tmp_path / "follows.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{imports}sys.path.pop(0)\n"
    )
    build_manager([str(tmp_path / "follows.py")])  # what is imported is another file's


LINKS = """
import torch
from reasoner import Algorithms, hookimpl

@hookimpl
def register_algorithms():
    return Algorithms(links={
        "fine": lambda u, c, power=1.0: c * u * power,
        "needy": lambda u, c, power: c * u * power,
        "beside": lambda u, c: c * (u - u.mean()),
        "grows": lambda u, c: c * torch.exp(u * 50),
        "swells": lambda u, c: c * torch.exp(u * 5),  # finite in 64 bits
        "still": lambda u, c: c * 1.0,
        "pulls": lambda u, c: (c - 1) * u,
        "sums": lambda u, c: (c * u).sum(),
        "dice": lambda u, c: c * u * torch.rand(()),
    })
"""


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("fine", ""),
        ("beside", "gives a unit the same value, whatever is beside it: u = "),
        ("grows", "value and slope are finite: u = "),
        ("swells", "value and slope are finite: u = 18, c = -2 give the value -inf"),
        ("still", "has a slope in u where there is credit: it is flat everywhere"),
        ("pulls", "is flat where there is no credit: at c = 0 and u = -8 the slope is -1"),
        ("sums", "gives one value per unit: ValueError: a link must return one value per unit"),
        ("dice", "gives a unit the same value, whatever is beside it: the same values give another result"),
    ],
)
def test_a_link_is_held_to_what_the_objective_relies_on(cli: Cli, tmp_path: Path, name: str, broken: str) -> None:
    (file := tmp_path / "links.py").write_text(LINKS)
    outcome = cli("plugins", "check", name, "--plugin", str(file))
    assert (outcome.code, outcome.err) == (1 if broken else 0, "")
    failed = " ".join(outcome.out.split()).split(" FAIL ")[1:]
    assert len(failed) == bool(broken)
    assert all(line.startswith(broken) for line in failed)


def test_links_are_checked_with_what_their_plugin_registers(cli: Cli, tmp_path: Path) -> None:
    (file := tmp_path / "links.py").write_text(LINKS)
    outcome = cli("plugins", "check", str(file))
    assert outcome.code == 1
    message = " ".join(outcome.out.split())
    assert "not checked, because it needs options. link 'needy': missing a required argument: 'power'" in message
    assert "The contract is broken by beside, grows, swells, still, pulls, sums, dice." in message
    assert cli("plugins", "check", "needy", "--plugin", str(file), "--options", "{power = 2.0}").code == 0


def test_check_of_what_is_not_there_says_so(cli: Cli, tmp_path: Path, install: Install) -> None:
    assert (
        "no plugin, reward source, tool, environment or link 'mth'. Did you mean 'math'?"
        in cli("plugins", "check", "mth").err
    )
    assert "registers no reward source, tool, environment or link" in cli("plugins", "check", "reasoner_tasks").err
    assert "no such file" in cli("plugins", "check", str(tmp_path / "none.py")).err
    (folder := tmp_path / "not installed").mkdir()
    (folder / "pyproject.toml").touch()
    assert f"its folder is here: pip install -e '{folder}'" in cli("plugins", "check", str(folder)).err
    install("broken-thing", "import nowhere_to_be_found")
    outcome = cli("plugins", "check", "broken-thing")
    assert outcome.code == 2
    assert "distribution broken-thing (broken_thing) cannot be imported" in outcome.err
