"""What a reward source says before anything is loaded: in the plan, or as the reason why nothing is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasoner import RewardSource, reward
from reasoner.config import RewardConfig
from reasoner.config.decisions import Decisions
from reasoner.data.problems import Splits
from reasoner.errors import ConfigError, MissingDependencyError, UserError
from reasoner.loading import load_config
from reasoner.planning.describe import describe_plan
from reasoner.planning.preflight import preflight, ready
from reasoner.plugins.manager import build_manager
from tests.command import Cli
from tests.integration.misbehaving_server import answer, serving

PLUGIN = '''
import os
from reasoner import hookimpl, reward
from reasoner.errors import UserError


def _preflight(options) -> str:
    if options.needs not in os.environ:
        raise UserError(f"set {options.needs}")
    return f"sandbox: {os.environ[options.needs]}"


@reward("boxed_in", preflight=_preflight)
def boxed_in(problem, response, *, needs: str = "SANDBOX") -> float:
    """1.0 for anything."""
    return 1.0


@hookimpl
def register_rewards():
    return [boxed_in]
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`--plugin` and `--config` of a run with `boxed_in` on a few problems."""
    monkeypatch.delenv("SANDBOX", raising=False)
    (tmp_path / "own.py").write_text(PLUGIN)
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"question": "1 + {n}?", "answer": "{n + 1}"}}\n' for n in range(4))
    )
    rows = json.dumps(str(tmp_path / "rows.jsonl"))
    (tmp_path / "own.toml").write_text(
        f'[[rewards]]\nsource = "boxed_in"\n[data]\noverlap = "allow"\n[data.train]\npath = {rows}\n'
        f"[data.eval]\npath = {rows}\n"
        '[evaluation]\ncorrect = "boxed_in"\n'
    )
    return ["--plugin", str(tmp_path / "own.py"), "--config", str(tmp_path / "own.toml")]


def source(said: Any = "fine") -> RewardSource:
    def said_of(options: Any) -> Any:
        if isinstance(said, Exception):
            raise said
        return said(options) if callable(said) else said

    @reward("own", preflight=said_of)
    def own(problem: object, response: object, *, unit: str = "km") -> float:
        return 1.0

    return own


def test_a_source_without_a_preflight_says_nothing() -> None:
    @reward("plain")
    def plain(problem: object, response: object) -> float:
        return 1.0

    assert plain.ready({}) == ""


def test_a_preflight_sees_the_checked_options() -> None:
    assert source(lambda options: f"unit {options.unit}").ready({}) == "unit km"
    assert source(lambda options: f"unit {options.unit}").ready({"unit": "mi"}) == "unit mi"
    with pytest.raises(ConfigError, match=r"has no option 'unti'\. Did you mean 'unit'"):
        source().ready({"unti": "mi"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (UserError("install bubblewrap"), "reward source 'own' cannot work here: install bubblewrap"),
        (MissingDependencyError("pip install x"), "reward source 'own' cannot work here: pip install x"),
        (KeyError("x"), "reward source 'own': preflight failed: KeyError: 'x'"),
        (None, "preflight failed: TypeError: it must return one line of text, got None"),
        ("", "it must return one line of text"),
        ("two\nlines", "it must return one line of text"),
    ],
)
def test_whatever_goes_wrong_is_an_error_that_names_the_source(said: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        source(said).ready({})
    assert message in str(caught.value)


def test_the_plan_has_what_each_source_says(own: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX", "bubblewrap 0.8.0")
    resolved = load_config("math-gsm8k", "laptop", [Path(own[3])], plugins=own[1:2])
    assert "reward boxed_in" not in describe_plan(resolved, Splits((), (), ()), Decisions("cpu", "hf", "torch", 100))
    facts = describe_plan(ready(resolved), Splits((), (), ()), Decisions("cpu", "hf", "torch", 100))
    assert facts["reward boxed_in"] == "sandbox: bubblewrap 0.8.0"


def test_the_plan_has_the_environment_and_what_its_tools_say() -> None:
    tool = "environment.tools=['python', 'calculator']"
    resolved = ready(load_config("math-gsm8k", "laptop", sets=[tool, "environment.format=tags"]))
    plan = describe_plan(resolved, Splits((), (), ()), Decisions("cpu", "hf", "torch", 1))
    assert plan["environment"] == "tools python, calculator (tags); at most 8 turns and 16 calls"
    assert plan["tool python"].startswith("sandbox: ")
    assert "tool calculator" not in plan
    refused = load_config("math-gsm8k", "laptop", sets=[tool, "environment.tool_options.python.sandbox=none"])
    with pytest.raises(UserError, match="tool 'python' cannot work here"):
        ready(refused)


def test_a_training_on_offline_data_alone_asks_nobody(own: list[str], tmp_path: Path) -> None:
    sets = ["gro.preset=dpo", "data.eval=none", f"data.pairs.path={tmp_path / 'pairs.jsonl'}"]
    resolved = load_config("math-gsm8k", "laptop", [Path(own[3])], sets=sets, plugins=own[1:2])
    assert ready(resolved).preflights == {}
    with pytest.raises(UserError, match="set SANDBOX"):
        ready(resolved, training=False)


def test_nothing_starts_without_what_a_source_needs(
    cli: Cli, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"reference": "2", "response": "2", "expected": 1}\n')
    refusal = "error: reward source 'boxed_in' cannot work here: set SANDBOX\n"
    with_plugin = own[:2]
    for arguments in (
        ("run", "math-gsm8k", "--profile", "laptop", *own),
        ("run", "math-gsm8k", "--profile", "laptop", "--dry-run", *own),
        ("eval", "math-gsm8k", "--profile", "laptop", *own),
        ("rewards", "bench", "boxed_in", "--cases", str(cases), *with_plugin),
        ("rewards", "test", "boxed_in", "--task", "math-gsm8k", "--profile", "laptop", *with_plugin),
    ):
        outcome = cli(*arguments)
        assert (outcome.code, outcome.err) == (2, refusal), arguments
    assert not (tmp_path / "runs").exists()
    checked = cli("plugins", "check", own[1])
    assert checked.code == 1
    assert "FAIL  finds what it needs here: reward source 'boxed_in' cannot work" in " ".join(checked.out.split(" "))


def test_commands_that_score_show_what_a_source_says(
    cli: Cli, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX", "bubblewrap 0.8.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"reference": "2", "response": "2", "expected": 1}\n')
    dry = cli("run", "math-gsm8k", "--profile", "laptop", "--dry-run", "--set", "sampling.engine=hf", *own)
    assert (dry.code, dry.err) == (0, "")
    assert "reward boxed_in  sandbox: bubblewrap 0.8.0" in dry.out
    bench = cli("rewards", "bench", "boxed_in", "--cases", str(cases), *own[:2])
    assert bench.out.startswith("boxed_in: sandbox: bubblewrap 0.8.0\n")


def test_a_run_is_refused_before_anything_heavy_is_imported(own: list[str]) -> None:
    program = (
        "import sys\nfrom reasoner.__main__ import main\n"
        f"sys.argv = ['reasoner', 'run', 'math-gsm8k', '--profile', 'laptop', *{own!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    assert end.code == 2\n"
        "print([name for name in ('torch', 'transformers', 'vllm', 'datasets') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, "set SANDBOX" in done.stderr) == ("[]\n", True)


def judge(server: str, **options: Any) -> dict[str, str]:
    return preflight(
        [RewardConfig(source="judge", options={"url": f"{server}/v1?key=x", "model": "m", **options})], build_manager()
    )


def test_a_judge_without_its_key_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(answer({"data": []}, 404)) as server:  # whatever it says, it is there
        with pytest.raises(UserError, match="'judge' cannot work here: the environment variable JUDGE_KEY is not set"):
            judge(server.url, api_key_env="JUDGE_KEY")
        assert judge(server.url, api_key_env="") == {"judge": f"m at {server.url}/v1, no key"}
        monkeypatch.setenv("JUDGE_KEY", "sk-secret")
        assert judge(server.url, api_key_env="JUDGE_KEY") == {"judge": f"m at {server.url}/v1, key from JUDGE_KEY"}
    assert [request.path for request in server.requests] == ["/v1/models?key=x"] * 2
    assert [request.headers.get("Authorization") for request in server.requests] == [None, "Bearer sk-secret"]


def test_a_judge_or_service_that_does_not_answer_or_takes_another_key_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with (
        serving(answer({"error": "no such key: sk-secret"}, 401)) as server,
        pytest.raises(UserError, match=r"/v1/models does not take the key \(status 401\): correct JUDGE_KEY") as bad,
    ):
        judge(server.url, api_key_env="JUDGE_KEY")
    assert "sk-secret" not in str(bad.value)
    with pytest.raises(
        UserError, match=r"'judge' cannot work here: .*/v1/models does not answer \(.*efused.*\): start it"
    ):
        judge(server.url, api_key_env="")
    http = RewardConfig(source="http", options={"url": server.url})
    with pytest.raises(UserError, match=r"'http' cannot work here: .* does not answer \(.*\): start it, or correct"):
        preflight([http], build_manager())


def test_a_service_without_its_headers_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with serving(answer({}, 405)) as server:
        options = {"url": f"{server.url}/score", "headers_env": {"Authorization": "SCORER_TOKEN"}}
        http = RewardConfig(source="http", options=options)
        with pytest.raises(UserError, match="SCORER_TOKEN is not set"):
            preflight([http], build_manager())
        monkeypatch.setenv("SCORER_TOKEN", "secret")
        assert preflight([http], build_manager()) == {"http": f"service at {server.url}/score"}


def test_a_reward_model_without_its_packages_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RewardConfig(source="reward_model", options={"model": "some/model"})
    assert preflight([model], build_manager()) == {"reward_model": "some/model (float32), device auto"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else name)
    with pytest.raises(UserError, match=r"pip install 'reasoner\[train\]'"):
        source_of_model()


def source_of_model() -> str:
    from reasoner_rewards.reward_model import reward_model

    return reward_model.ready({"model": "some/model"})
