"""Keys, tokens and passwords: refused in a configuration, taken out of texts."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from reasoner import secrets
from reasoner.cli.console import complain
from reasoner.errors import ConfigError
from reasoner.records import Failure
from reasoner.reporting.choose import open_view
from reasoner.runs.environment import describe
from reasoner.scoring.compose import Refused
from reasoner.scoring.wire import Result
from reasoner.secrets import redact, why_secret
from reasoner.settings import load_config

KEY = "sk-proj-Abc123Def456Ghi789Jkl012"


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "correct horse battery staple")
    monkeypatch.setenv("PGPASSWORD", "hunter2hunter2")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("MAX_TOKENS", "1000000000")
    monkeypatch.setenv("JUDGE", "open-sesame-99")
    monkeypatch.setattr(secrets, "_named_variables", set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the service said: correct horse battery staple!", "the service said: ***!"),
        ("psql: hunter2hunter2", "psql: ***"),
        ("abc is short, 1000000000 a number", "abc is short, 1000000000 a number"),
        ("https://me:pa55@example.org/x?y=1", "https://***@example.org/x?y=1"),
        ("proxy http://me@proxy:3128 and mail me@example.org", "proxy http://***@proxy:3128 and mail me@example.org"),
        (f"used {KEY} there", "used *** there"),
        ("hf_ABCDEFGHIJKLMNOPQRSTUVWX", "***"),
        ("ghp_" + "a1" * 18, "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P", "***"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: *** ***"),
        ("curl -H 'x-api-key: topsecret'", "curl -H 'x-api-key: ***'"),
        ('{"api_key": "topsecret", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("--set a.password=topsecret,x", "--set a.password=***,x"),
        ("https://h/x?token=0123456789abcdef0123&y=2", "https://h/x?token=***&y=2"),
        (
            "max_tokens = 4096, token_budget=1024, key = 'question'",
            "max_tokens = 4096, token_budget=1024, key = 'question'",
        ),
        ("sk-learn-is-a-library-of-methods", "sk-learn-is-a-library-of-methods"),
        ("", ""),
    ],
)
def test_texts_lose_their_secrets_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("rewards.judge.options.extra_body.api_key", "x", "secret by its name"),
        ("data.train.options.token", "hf_ABCDEFGHIJKLMNOPQRSTUVWX", "like a key"),
        ("data.train.options.token", "0123456789abcdef0123", "like a key"),
        ("prompt.system", f"My key is {KEY}.", "like a key"),
        ("data.train.path", "https://me:pa55@example.org/x.jsonl", "user or password"),
        ("rewards.http.options.url", "https://h/?q=hunter2hunter2", "secret environment variable"),
        ("rewards.own.options.headers", {"Authorization": "Basic xyz"}, "secret by its name"),
        ("rewards.own.options.urls", ["http://ok", "http://a:b@c"], "user or password"),
        ("rewards.judge.options.api_key_env", KEY, "in the place of a variable's name"),
    ],
)
def test_secrets_in_a_configuration_are_found(path: str, value: object, reason: str) -> None:
    assert reason in why_secret(path.split("."), value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rewards.judge.options.api_key_env", "OPENAI_API_KEY"),
        ("rewards.http.options.headers_env", {"Authorization": "SCORER_TOKEN"}),
        ("sampling.max_tokens", 1024),
        ("rewards.regex.options.key", "answer"),
        ("model.chat_template_kwargs.eos_token", "<|im_end|>"),
        ("data.train.columns", {"question": "prompt"}),
        ("prompt.template", "{{ question }} What is the password? Think of a secret token."),
        ("data.train.path", "https://example.org/train.jsonl"),
        ("task", "math-gsm8k"),
    ],
)
def test_other_values_are_left_alone(path: str, value: object) -> None:
    assert why_secret(path.split("."), value) == ""


def test_a_variable_that_a_configuration_names_is_secret_whatever_it_is_called() -> None:
    assert redact("open-sesame-99") == "open-sesame-99"
    assert why_secret(["options", "api_key_env"], "JUDGE") == ""
    assert redact("open-sesame-99") == "***"


@pytest.mark.parametrize(
    "argument",
    [
        "data.train.options.token=hf_ABCDEFGHIJKLMNOPQRSTUVWX",
        "data.eval.path=https://me:pa55word@example.org/x.jsonl",
        f"rewards.math.options={{api_key = '{KEY}'}}",
    ],
)
def test_a_configuration_with_a_secret_is_refused_without_showing_it(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"stored with the run.*environment variable") as refused:
        load_config("math-gsm8k", "laptop", None, [argument])
    complain(refused.value)
    said = capsys.readouterr().err
    assert argument.partition("=")[0] in said
    for secret in ("hf_ABC", "pa55word", KEY):
        assert secret not in said


def test_a_broken_argument_is_shown_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("math-gsm8k", "laptop", None, [f"rewards.math.options={{api_key = '{KEY}'"])
    complain(refused.value)
    assert "the value is not TOML" in (said := capsys.readouterr().err)
    assert KEY not in said


def test_failures_facts_and_messages_have_none(tmp_path: Path) -> None:
    (failure,) = Result(0, 0, 1.0, kind="error", message=f"401 for {KEY}").outcomes("judge", 1)
    assert failure == Failure("judge", "error", "401 for ***", 1.0)
    (failure,) = Result(0, 0, 1.0, (Refused("error", f"401 for {KEY}"),)).outcomes("judge", 1)
    assert failure == Failure("judge", "error", "401 for ***", 1.0)
    assert describe({"data": "from https://me:pa55@h/x"})["chosen"] == {"data": "from https://***@h/x"}
    stream, log = io.StringIO(), io.StringIO()
    view = open_view(stream, lambda text: log.writelines(text))
    view.started({"data": f"from {KEY}"}, 1)
    view.message(f"tracker failed: {KEY}")
    assert KEY not in stream.getvalue() + log.getvalue()
    assert (stream.getvalue() + log.getvalue()).count("***") == 4


def test_a_bug_shows_its_traceback_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reasoner import __main__

    def fail() -> None:
        raise KeyError(f"no such thing: {KEY}")

    monkeypatch.setattr(__main__, "app", fail)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(KeyError) as bug:
        __main__.main()
    sys.excepthook(bug.type, bug.value, bug.tb)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "KeyError: 'no such thing: ***'" in said
