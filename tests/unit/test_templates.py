"""Templates of strangers: whatever they ask for ends within bounds, and ordinary ones are rendered as Jinja does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

from reasoner.config import PromptConfig, SourceConfig
from reasoner.data.prompts import templates
from reasoner.data.prompts.renderer import open_renderer, render
from reasoner.data.prompts.templates import FailedError, Template, UnboundedError
from reasoner.errors import ConfigError
from reasoner.records import Message, Problem
from reasoner_rewards.judge import JudgeOptions
from tests.sources import load_problems
from tests.tiny import CHAT_TEMPLATE

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TOO_LONG = {
    "nested loops": LOOPS,
    "a loop over the row": "{% for a in question * 5000 %}{% for b in question * 5000 %}{% endfor %}{% endfor %}",
    "a huge power": "{{ 10 ** (10 ** 10) }}",
    "macros that call themselves twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
}
TOO_LARGE = {
    "a product": "{{ 'x' * 10**10 }}",
    "a product of the row": "{{ question * 10**9 }}",
    "a product of lists": "{{ [0] * 10**9 }}",
    "doubling": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "a width": "{{ 'x'|center(4000000000) }}",
    "another width": "{{ '%4000000000d' % 1 }}",
    "a width of format": "{{ '{:4000000000d}'.format(1) }}",
    "an indentation": "{{ question|indent(4000000000, true) }}",
    "a captured block": "{% set y %}{% for i in range(99999) %}{{ x * 99999 }}{% endfor %}{% endset %}",
    "a join": "{{ (['x' * 99999] * 99999)|join }}",
    "a replacement": "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
    "a message of twenty million characters": "{{ 'x' * 20000000 }}",
}
FAILING = {
    "a long range": ("{{ range(10**9)|list }}", "OverflowError: Range too big"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a forbidden attribute": ("{{ question.__class__ }}", "SecurityError"),
    "a forbidden attribute in a loop": ("{% for c in question %}{{ c.__class__ }}{% endfor %}", "SecurityError"),
    "a number of many digits": ("{{ (10 ** 5000)|string }}", "ValueError: Exceeds the limit"),
}


@pytest.mark.parametrize("template", TOO_LONG.values(), ids=TOO_LONG)
def test_a_template_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1)
    with Template(template) as found, pytest.raises(UnboundedError, match="takes longer than 1 seconds"):
        found.render({"question": "why " * 4})


@pytest.mark.parametrize("template", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_template_that_takes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(templates, "MEMORY", 2**28)
    with Template(template) as found, pytest.raises(UnboundedError, match=r"needs more than 256 MiB|it gives 20000000"):
        found.render({"question": "why", "x": "x"})


DEEP = {
    "look-ups": "{{ question" + "[0]" * 5000 + " }}",
    "fewer look-ups, on which Python's parser would take minutes": "{{ question" + "[0]" * 300 + " }}",
    "sums": "{{ question" + " + 'a'" * 200 + " }}",
    "filters": "{{ question" + "|upper" * 200 + " }}",
    "branches": "{% if question %}" * 100 + "x" + "{% endif %}" * 100,
    "brackets": "{{ " + "[" * 500 + "]" * 500 + " }}",
}


@pytest.mark.parametrize("template", DEEP.values(), ids=DEEP)
def test_a_template_that_is_nested_too_deeply_is_refused_before_it_is_compiled(template: str) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError, match=r"nested more than 60|RecursionError"):
        Template(template)
    source = SourceConfig(path="rows.jsonl", columns={"answer": template})
    with pytest.raises(ConfigError, match=r"data\.train\.columns\.answer = .*: not a Jinja template"):
        load_problems(source, PromptConfig(), {}, 0)


@pytest.mark.parametrize("depth", [1, 50])
def test_a_template_that_is_nested_a_little_is_rendered(depth: int) -> None:
    with Template("{{ question" + "[0]" * depth + " }}" + "{{ question ~ 'a'" + " ~ 'a'" * 300 + " }}") as found:
        assert found.render({"question": "w"}) == "w" * 2 + "a" * 301


@pytest.mark.parametrize(
    "template",
    [
        "{{ question.upper }}",
        "{{ question|map('upper') }}",
        "{{ row.items }}",
        "{{ range(3) }}",
        "{% for x in [question] %}{{ x.upper }}{% endfor %}",
        "{{ self }}",
    ],
)
def test_what_is_no_text_is_not_written(template: str) -> None:
    with Template(template) as found, pytest.raises(FailedError, match="which is not text"):
        found.render({"question": "why", "row": {"items": [1]}})


@pytest.mark.parametrize(("template", "message"), FAILING.values(), ids=FAILING)
def test_what_a_template_raises_is_told_and_the_next_row_is_rendered(template: str, message: str) -> None:
    with Template(template) as found:
        for _ in range(2):
            with pytest.raises(FailedError, match=message):
                found.render({"question": "why"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ question }}",
        "{{ question }}\n",
        "{% if hint is defined and hint %}{{ hint }}{% else %}{{ question[:3] }}{% endif %}\n\\boxed{}",
        "{{ question if not tests else tests[0] }}",
        "{{ question|trim }}",
        "{{ 'long ' * 1000 }}{{ question }}",
        "{% for test in tests %}{{ loop.index }}. {{ test }}\n{% endfor %}",
        "{% for a in tests %}{% for b in tests %}{{ a }} {{ b }}, {% endfor %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for test in tests %}{% set ns.n = ns.n + test|length %}{% endfor %}{{ ns.n }}",
        "{% macro shown(text) %}<{{ text }}>{% endmacro %}{{ shown(question) }}",
        "{{ 'text ' }}" * 3000 + "{{ question }}",
    ],
)
def test_ordinary_templates_give_what_jinja_gives(template: str) -> None:
    values: dict[str, Any] = {"question": " Why? \ud800 ä\n", "tests": ["a\nb", "c"], "n": {"a": [1, 2.5, None, True]}}
    expected = ImmutableSandboxedEnvironment(keep_trailing_newline=True).from_string(template).render(values)
    with Template(template) as found:
        assert [found.render(values), found.render({**values, "question": "x"})][0] == expected


def test_only_what_calculates_has_a_process() -> None:
    with Template("{{ question }} {{ tests[0] }}") as plain, Template("{{ question|upper }}") as other:
        assert plain.render({"question": "q", "tests": ["t"]}) == "q t"
        assert plain._process is None
        assert other.render({"question": "q"}) == "Q"
        assert other._process is not None
        pid = other._process.pid
        with pytest.raises(jinja2.UndefinedError, match="'question' is undefined"):
            other.render({})
        with pytest.raises(jinja2.UndefinedError, match="'question' is undefined"):
            plain.render({"tests": ["t"]})
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{% if %}",
        "{{ x|no_such_filter }}",
        "{{ x is no_such_test }}",
        "{{ " + "(" * 5000,
        "{{ " + "9" * 5000 + " }}",
    ],
)
def test_what_is_no_template_is_refused_at_load(template: str) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        Template(template)


def test_loading_stops_with_the_key_and_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1)
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n')
    source = SourceConfig(path=str(path))
    evil = "{{ question }}{% if question == 'b' %}" + LOOPS + "{% endif %}"
    with pytest.raises(ConfigError, match=r"prompt\.template fails on .*x\.jsonl, line 2: it takes longer than 1 sec"):
        load_problems(source, PromptConfig(template=evil), {}, 0)
    (first, _) = load_problems(source, PromptConfig(template="{{ question|upper }}"), {}, 0)
    assert first.messages == (Message("user", "A"),)


class Tokenizer:
    """One that must not be asked where its template is out of bounds."""

    eos_token = None

    def __init__(self, template: str | dict[str, str]) -> None:
        self.chat_template, self.asked = template, 0
        self.special_tokens_map = {"bos_token": "<s>"}
        self.added_tokens_decoder: dict[int, Any] = {}

    def apply_chat_template(self, conversation: Any, **_: Any) -> str:
        self.asked += 1
        return str(conversation[-1]["content"])

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [len(text)]


WRITES = "{{ messages[-1].content }}"


def test_chat_templates_are_tried_within_bounds_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1)
    problems = [Problem(name, (Message("user", text),), "1") for name, text in (("a", "x"), ("b", "x" * 9), ("c", "x"))]
    for template in (
        LOOPS,
        {"default": LOOPS},
        WRITES + "{% if messages[0].content|length > 5 %}" + LOOPS + "{% endif %}",
        WRITES + "{% if tools is none and add_generation_prompt and bos_token == '<s>' %}" + LOOPS + "{% endif %}",
        WRITES + "{% if messages|length > 1 %}" + LOOPS + "{% endif %}",
    ):
        tokenizer = Tokenizer(template)
        with pytest.raises(
            ConfigError,
            match=r"the model's chat template fails on (problem [ab]|a short conversation): it takes longer than 1",
        ):
            render(problems, open_renderer(tokenizer, PromptConfig()), 10)
        assert tokenizer.asked == 0
    for good in (CHAT_TEMPLATE, "{{ raise_exception('no') }}", "{{ nothing.at.all }}", "{% this is no template"):
        tokenizer = Tokenizer(good)  # what is wrong with it, transformers tells
        assert len(render(problems, open_renderer(tokenizer, PromptConfig()), 10)) == 3
        assert tokenizer.asked >= 3


def test_what_transformers_gives_to_chat_templates_is_there() -> None:
    template = (
        "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}{{ strftime_now('%Y')|length }}\n"
        "  {% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m|tojson }}{% endfor %}"
    )
    conversation = [{"role": "user", "content": "ä <b>"}, {"role": "assistant", "content": "x"}]
    (expected,), _ = render_jinja_template([conversation], chat_template=template)
    with Template(template, "chat") as found:
        assert found.render({"messages": conversation}) == expected


def test_a_rubric_is_looked_at_and_not_calculated() -> None:
    given: dict[str, Any] = {
        "url": "http://localhost:1/v1",
        "model": "m",
        "rubric": "{{ response }}{{ 'x' * 10**10 }}{{ 10**(10**10) }}",
    }
    assert JudgeOptions(**given).rubric == given["rubric"]
    loops = "{% for part in response %}{{ loop.index }}{% set a = part %}{{ a }}{% endfor %}{{ question }}"
    assert JudgeOptions(**{**given, "rubric": loops}).rubric == loops
    for bad, message in (
        ("{{ response }}{{ nope }}", "it uses 'nope'"),
        ("{{ response }}{{ " + "(" * 5000, "not a Jinja"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgeOptions(**{**given, "rubric": bad})


def test_the_process_is_alone_with_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a stranger's folder with modules of the names that the process imports
    for name in ("json", "jinja2", "resource", "reasoner"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with Template("{{ question|upper }}") as found:
        assert found.render({"question": "q"}) == "Q"
    assert not (tmp_path / "ran").exists()
