"""Keys, tokens and passwords: refused in a configuration, taken out of texts."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import urllib.parse
from pathlib import Path

import httpx
import pytest

from reasoner.cli.console import complain
from reasoner.config import RewardConfig, ScoringConfig
from reasoner.errors import ConfigError
from reasoner.io import redaction as secrets
from reasoner.io.http_json import Service
from reasoner.io.redaction import redact, why_secret
from reasoner.launch import launcher as launch
from reasoner.loading import load_config
from reasoner.monitoring.choose import open_view
from reasoner.records import Failure
from reasoner.runs.environment import describe
from reasoner.sampling.server import client as server_client
from reasoner.scoring.composition import Refused, verdicts
from reasoner.scoring.workers.protocol import CallResult, Plan, dump_plan, load_plan
from reasoner.workers import calls
from tests.unit.test_untrusted_runs import deadline

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


PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEowIBAAKCAQEA+/x\nq83vASNFZ4k=\n"
    "-----END RSA PRIVATE KEY-----"
)
ODD = "p\\a's \"s/w+o&rd\n\t\u00e9\U0001f600 0"


def spellings(value: str) -> dict[str, str]:
    """A value as programs write it into texts."""
    in_url, in_json = urllib.parse.quote(value, safe=""), json.dumps(value)
    units = value.encode("utf-16-be")
    return {
        "plain": value,
        "repr": repr(value),
        "repr of bytes": repr(value.encode()),
        "repr of a list": repr([value, "'"]),
        "repr twice": repr(repr([value, "'"])),
        "json": in_json,
        "json with all characters": json.dumps(value, ensure_ascii=False),
        "json with escaped slashes": in_json.replace("/", "\\/"),
        "json of escapes": "".join(f"\\u{units[at : at + 2].hex().upper()}" for at in range(0, len(units), 2)),
        "json in json": json.dumps({"error": json.dumps({"of": value})}),
        "json in repr": repr(in_json),
        "an address": f"https://h/?q={in_url}",
        "an address in small digits": re.sub("%..", lambda found: found[0].lower(), in_url),
        "a query": f"q={urllib.parse.quote_plus(value)}",
        "all of it percent": "".join(f"%{byte:02x}" for byte in value.encode()),
        "hexadecimal": value.encode().hex(),
        "base64": base64.b64encode(value.encode()).decode(),
        "base64, one byte later": base64.b64encode(b"." + value.encode() + b"x").decode(),
        "base64, two bytes later": base64.b64encode(b"user:" + value.encode() + b"!").decode(),
        "base64 of addresses": base64.urlsafe_b64encode(b"a" + value.encode() + b"..").decode(),
    }


@pytest.mark.parametrize("name", list(spellings("")))
@pytest.mark.parametrize("value", [ODD, "correct horse battery staple", "\\\\\\'\"\"//////''\\", "0123abcd4567efgh"])
def test_a_value_is_hidden_however_it_is_written(value: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", value)
    shown = redact(f"before {spellings(value)[name]} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "***" in shown
    in_base64 = base64.b64encode(value.encode()).decode()
    for part in (value, value[3:9], repr(value)[2:-2], json.dumps(value)[2:-2], value.encode().hex()[4:20], in_base64):
        assert part not in shown
    assert len(shown) <= len("before  after ***") + 40, "what is left of it"


@pytest.mark.parametrize(
    "variable",
    [
        *("MYSQL_PWD", "GITHUB_PAT", "SLACK_WEBHOOK", "SLACK_WEBHOOK_URL", "PGPASSWORD", "DB_PASSWD", "SENTRY_DSN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_CREDENTIALS", "FTP_PASS", "SSH_PASSPHRASE", "HF_TOKEN"),
    ],
)
def test_variables_that_hold_secrets(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "neither this")
    assert redact("it was neither this nor that") == "it was *** nor that"


@pytest.mark.parametrize(
    "variable",
    [
        *("PATH", "PWD", "OLDPWD", "MONKEY", "KEYBOARD", "TOKENIZERS_PARALLELISM", "TOKENIZER_NAME", "HF_TOKEN_PATH"),
        *("SSH_AUTH_SOCK", "PATTERN", "XPAT", "COMPASS", "WEBHOOKS_ENABLED", "LANG", "DSN_FORMAT", "SSL_KEY_FILE"),
    ],
)
def test_variables_that_hold_none(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "neither this")
    assert redact("it was neither this nor that") == "it was neither this nor that"


def test_the_password_in_the_address_of_a_variable_is_hidden_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me:s3cr3t-of-db@db.example.org/runs")
    assert redact("login me with s3cr3t-of-db at db.example.org failed") == "login me with *** at db.example.org failed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key:\n{PEM}\nend", "key:\n***\nend"),
        (repr(PEM), "'***'"),
        (json.dumps({"k": PEM}), '{"k": "***"}'),
        (repr(json.dumps(PEM)), "'\"***\"'"),
        (f"cut: {PEM[:90]}", "cut: ***"),
        (PEM.replace("RSA ", "OPENSSH "), "***"),
        ("-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",) * 2,
        ("MYSQL_PWD=topsecret mysql", "MYSQL_PWD=*** mysql"),
        ("env MY_PAT='top secret words' x", "env MY_PAT='***' x"),
        ('{"password": "top \\"secret\\" words", "n": 1}', '{"password": "***", "n": 1}'),
        (json.dumps(json.dumps({"api_key": "to p s"})), '"{\\"api_key\\": \\"***\\"}"'),
        ("{'password': 'it\\'s one', 'n': 1}", "{'password': '***', 'n': 1}"),
        ("https://hooks.slack.com/services/T000/B000/XXXXyyyy", "https://hooks.slack.com/services/***"),
        ("https://discord.com/api/webhooks/1234/abc-DEF_g", "https://discord.com/api/webhooks/***"),
        ("postgres://me:p@ss@db/x", "postgres://***@db/x"),
        ("KEY=1 PWD=/home/me/work MY_PATH=/usr/bin PATTERN=abcdef OLDPWD=/tmp/abcd",) * 2,
        ("TOKENIZERS_PARALLELISM=false, MONKEY=george, x.pwd = '/tmp/abc'",) * 2,
        ("a wrong token: nothing came",) * 2,
        ("keyboard = 'abcdefghijklmnop1234'",) * 2,
    ],
)
def test_texts_with_keys_and_near_misses(text: str, expected: str) -> None:
    assert redact(text) == expected


LONG = (
    *("a-", "a.", "sk-", "eyJ-", "key=", "\\", "%", "password=", "x://", "-----BEGIN PRIVATE KEY-----", "auth: '"),
    *("p\\", "bearer ", "a1", 'token=\\"', "password='", "'", "\\u006", "c\\x6f", "%63%6"),
)


@pytest.mark.parametrize("text", LONG)
def test_long_texts_take_no_long_time(text: str) -> None:
    """A quarter of a megabyte; a quadratic search would take minutes."""
    with deadline():
        redact(text * (2**18 // len(text)))


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
        ("rewards.judge.options.api_key_env", KEY, "it takes the name of a variable"),
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
        load_config("math-gsm8k", "laptop", (), [argument])
    complain(refused.value)
    message = capsys.readouterr().err
    assert argument.partition("=")[0] in message
    for secret in ("hf_ABC", "pa55word", KEY):
        assert secret not in message


def test_a_broken_argument_is_shown_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("math-gsm8k", "laptop", (), [f"rewards.math.options={{api_key = '{KEY}'"])
    complain(refused.value)
    assert "the value is not TOML" in (message := capsys.readouterr().err)
    assert KEY not in message


def test_failures_facts_and_messages_have_none(tmp_path: Path) -> None:
    (failure,) = CallResult(0, 0, 1.0, kind="error", message=f"401 for {KEY}").outcomes("judge", 1)
    assert failure == Failure("judge", "error", "401 for ***", 1.0)
    (failure,) = CallResult(0, 0, 1.0, (Refused("error", f"401 for {KEY}"),)).outcomes("judge", 1)
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
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert "KeyError: 'no such thing: ***'" in message


@pytest.mark.parametrize("before", [*range(170, 205), *range(270, 302), *range(1960, 2002)])
def test_what_is_cut_is_hidden_first(before: int, tmp_path: Path) -> None:
    """A key over the place where a message is cut, wherever messages are: no part of it is left."""
    long = "x" * before + f" {KEY} " + "y" * 3000
    response = httpx.Response(500, text=long)
    (tmp_path / "a" / "b" / "0").mkdir(parents=True)
    (tmp_path / "a" / "b" / "0" / "stdout.log").write_text("y" * 3000 + f" {KEY} " + "x" * (3000 - before))
    shown = [
        calls.described(RuntimeError(long)),
        *(str(each) for each in verdicts([RuntimeError(long), long], 2)),
        str(Service("http://h/", {}, (), 1).error("failed", long)),
        str(Service("http://h/", {}, (), 1).error("failed", long.encode())),
        server_client._quote(response),
        launch._tail(0, tmp_path),
    ]
    for text in shown:
        assert len(text) < 3100
        for length in (4, 8):
            assert not any(KEY[at : at + length] in text for at in range(8, len(KEY) - length)), text[-60:]


def test_a_worker_hides_what_the_configuration_names() -> None:
    reward = RewardConfig(source="judge", options={"api_key_env": "JUDGE"})
    assert redact("open-sesame-99") == "open-sesame-99"
    load_plan(dump_plan(Plan((reward,), ScoringConfig(), (), 1)))
    assert redact("open-sesame-99") == "***"
