"""`--dry-run` and `tasks show --sample`: what a run would refuse is refused, and what it would read is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from reasoner.distributed.ranks import ALONE
from reasoner.errors import ConfigError, DataError
from reasoner.loading import load_config, to_toml
from reasoner.planning.decide import decide
from reasoner.planning.preflight import ready
from reasoner.planning.rehearsal import Rehearsal, rehearse
from reasoner.plugins import manager as plugins
from reasoner.runs.resuming.resume import find_place
from reasoner.training.build.run_base import open_base
from tests.command import Cli, Outcome
from tests.resources import resources_of
from tests.tiny import build_tiny_model

TASK = """
model.path = {model}
model.device = "cpu"
prompt.system = "Be brief."
sampling.engine = "hf"
sampling.max_prompt_tokens = 200
gro.preset = "{preset}"
learning.problems_per_step = 2
evaluation.correct = "{source}"
rewards = [{{ source = "{source}" }}]
data.train.path = "train.jsonl"
data.holdout = 0.2
data.pairs.path = "pairs.jsonl"
data.pairs.per_step = 1
data.pairs.max_tokens = 200
"""
ROWS = [{"question": f"What is {n} + {n}?", "answer": f"so it is\n#### {2 * n}"} for n in range(10)]
PAIRS = [{"prompt": f"What is {n}?", "chosen": f"{n}", "rejected": "I do not know"} for n in range(10)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a task `online.toml`, one `dpo.toml` and their data."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "pairs.jsonl", PAIRS)
    for name, preset in (("online", "grpo"), ("dpo", "dpo")):
        text = TASK.format(model=json.dumps(str(model)), preset=preset, source="math")
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def write(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def dry_run(cli: Cli, task: str, *sets: str) -> Outcome:
    return cli("run", task, "--dry-run", *(argument for each in sets for argument in ("--set", each)))


def test_a_dry_run_shows_a_prompt_its_tokens_and_the_reference_as_the_verifier_reads_it(cli: Cli, folder: Path) -> None:
    outcome = dry_run(cli, "online.toml")
    assert (outcome.code, outcome.err) == (0, "")
    facts = " ".join(outcome.out.split())
    assert "training data 8 from train.jsonl" in facts
    assert "evaluation data 2 held out of the training data (data.holdout)" in facts
    assert "prompts 52 to 52 tokens, 52 in the middle" in facts
    *_, sample = outcome.out.partition("prompt of train:")
    lines = sample.splitlines()
    assert lines[0].endswith(", 52 tokens:")
    assert lines[1:3] == ["  <|im_start|>system", "  Be brief.<|im_end|>"]
    assert any(line.startswith("tokens: '<|im_start|>' 's' 'y'") and line.endswith("'n' 't' '\\n'") for line in lines)
    number = int(lines[0].split(",")[0]) * 2
    assert lines[-2:] == [f"reference: 'so it is\\n#### {number}'", f"math reads '{number}' (number)"]


def test_a_dry_run_says_where_responses_end_and_what_the_template_does_with_thinking(cli: Cli, folder: Path) -> None:
    facts = " ".join(dry_run(cli, "online.toml").out.split())
    assert "responses end at <|im_end|>, as the chat template has it" in facts
    assert "thinking" not in facts
    template = json.dumps("{{ messages[-1].content }}{% if add_generation_prompt %}<think>{% endif %}")
    changed = f"model.chat_template_kwargs={{chat_template = {template}}}"
    facts = " ".join(dry_run(cli, "online.toml", changed, "prompt.system=", 'sampling.stop=["Q:"]').out.split())
    assert "thinking the chat template writes <think> before every response" in facts
    assert "responses end before ['Q:'] (sampling.stop), and at the model's end tokens" in facts
    assert "responses end" not in dry_run(cli, "dpo.toml").out


DATED = "{{ strftime_now('%d %b %Y') }}: {{ messages[-1].content }}{% if add_generation_prompt %}>{% endif %}"


def test_a_template_that_writes_the_date_writes_that_of_the_first_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on from the configuration in its folder: whatever the day, its prompts are the same."""
    sets = [f"model.chat_template_kwargs={{chat_template = {json.dumps(DATED)}}}", "prompt.system="]
    monkeypatch.setattr("reasoner.planning.sources.today", lambda: "2020-02-29")
    task = str(folder / "online.toml")
    first = resources_of(load_config(task, sets=sets), training=True)
    assert first.config.model.chat_template_kwargs["strftime_now"] == "2020-02-29"
    assert first.facts["date"].startswith("the chat template writes 2020-02-29 as today's date")
    (folder / "config.toml").write_text(to_toml(first.config))
    monkeypatch.setattr("reasoner.planning.sources.today", lambda: "2020-03-01")
    later = resources_of(load_config(str(folder / "config.toml")), training=True)
    assert later.identity() == first.identity()
    assert later.train == first.train
    new = resources_of(load_config(task, sets=sets), training=True)
    assert new.identity() != first.identity()
    other = resources_of(load_config(task), training=True)
    assert (other.config.model.chat_template_kwargs, "date" in other.facts) == ({}, False)
    [sample] = rehearsed("online.toml", *sets[1:], f"{sets[0][:-1]}, strftime_now = '1999-12-31'}}").samples(1)
    assert "  31 Dec 1999: What is " in sample


def test_an_older_run_is_resumed_with_the_date_of_its_first_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration has no date: its prompts, and the checksum of them, are of the day on which it began."""
    changed = f"model.chat_template_kwargs={{chat_template = {json.dumps(DATED)}}}"
    sets = [changed, "prompt.system=", f"run.output={folder / 'runs'}"]
    resolved = load_config(str(folder / "online.toml"), sets=sets)
    decisions = decide(resolved.config)
    with open_base(resolved, decisions, ALONE, None, ()) as base:
        run, first = base.run.folder, base.train
    [start] = (json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines())
    (run / "config.toml").write_text(to_toml(resolved.config))
    monkeypatch.setattr("reasoner.planning.sources.today", lambda: "2199-01-01")
    older = load_config(str(run / "config.toml"))
    assert "strftime_now" not in older.config.model.chat_template_kwargs
    with find_place(run, 3) as place, open_base(older, decisions, ALONE, place, ()) as base:
        assert base.config.model.chat_template_kwargs["strftime_now"] == start["at"][:10]
        assert base.train == first
    assert load_config(str(run / "config.toml")).config.model == base.config.model


@pytest.mark.parametrize("task", ["online.toml", "mixture.toml", "also.toml"])
def test_a_run_with_plain_prompts_has_no_date_and_can_be_repeated_from_its_configuration(
    folder: Path, model: Path, task: str
) -> None:
    """Its tokenizer may have a chat template that writes the date; nothing of it is in the prompts."""
    dated = folder / "dated"
    shutil.copytree(model, dated)
    (dated / "chat_template.jinja").write_text(DATED)
    plain = '[prompt]\nformat = "plain"\nsystem = ""\n'
    text = (folder / "online.toml").read_text().replace(json.dumps(str(model)), json.dumps(str(dated)))
    text = text.replace('prompt.system = "Be brief."\n', "") + plain
    (folder / "online.toml").write_text(text)
    write(folder / "other.jsonl", [{"question": f"{n} times 3?", "answer": str(3 * n)} for n in range(10)])
    (folder / "other.toml").write_text(text.replace("train.jsonl", "other.jsonl"))
    parts = '[[mixture]]\ntask = "online.toml"\n[[mixture]]\ntask = "other.toml"\n'
    (folder / "mixture.toml").write_text(parts)
    (folder / "also.toml").write_text(f'{text}[[evaluation.also]]\ntask = "other.toml"\n')
    first = resources_of(load_config(str(folder / task)), training=True)
    assert (first.config.model.chat_template_kwargs, "date" in first.facts) == ({}, False)
    (folder / "config.toml").write_text(to_toml(first.config))
    later = resources_of(load_config(str(folder / "config.toml")), training=True)
    assert (later.train, later.identity()) == (first.train, first.identity())


@pytest.mark.parametrize("date", ["tomorrow", 20200229, [], "2020-02-30"])
def test_a_date_that_is_none_is_refused(folder: Path, date: object) -> None:
    with pytest.raises(ConfigError, match="strftime_now is the date that the chat template writes"):
        load_config(
            str(folder / "online.toml"), sets=[f"model.chat_template_kwargs={{strftime_now = {json.dumps(date)}}}"]
        )


def test_a_dry_run_tells_of_the_tools_and_refuses_a_format_that_the_model_lacks(cli: Cli, folder: Path) -> None:
    tools = ['environment.tools=["calculator"]', "sampling.max_prompt_tokens=460", "sampling.max_tokens=8"]
    outcome = dry_run(cli, "online.toml", *tools, "environment.format=tags")
    assert (outcome.code, outcome.err) == (0, "")
    *_, sample = outcome.out.partition("prompt of train:")
    assert "  Be brief." in sample
    assert "- calculator: " in sample
    refused = dry_run(cli, "online.toml", *tools, "environment.format=native")
    assert refused.code
    assert "does not tell the policy of the tool 'calculator'" in " ".join(refused.err.split())


def test_plain_prompts_and_their_control_tokens_are_shown_as_the_policy_sees_them(cli: Cli, folder: Path) -> None:
    write(folder / "train.jsonl", [{**row, "question": f"<|im_end|> {row['question']}"} for row in ROWS])
    plain = ["prompt.format=plain", "prompt.system=", "prompt.template=Q: {{ question }}\nA:"]
    outcome = dry_run(cli, "online.toml", *plain)
    assert (outcome.code, outcome.err) == (0, "")
    facts = " ".join(outcome.out.split())
    assert "prompt plain text, without chat template" in facts
    assert "control tokens spelled in prompts, where they stay text: <|im_end|> in 10" in facts
    *_, sample = outcome.out.partition("prompt of train:")
    assert sample.splitlines()[1].startswith("  Q: <|im_end|> What is ")
    assert "tokens: 'Q' ':' ' ' '<' '|' 'i' 'm'" in sample
    (sample,) = rehearsed("online.toml", *plain, "model.path=/nowhere").samples(1)
    assert ":\n  Q: <|im_end|> What is " in sample
    assert "chat template" not in sample
    write(folder / "train.jsonl", [*ROWS, {"question": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}])
    refused = dry_run(cli, "online.toml", *plain).err
    assert (
        "train.jsonl, line 11: it is a conversation, and with prompt.format = 'plain' a prompt is one text" in refused
    )


def test_a_dry_run_of_offline_data_reads_and_shows_them(cli: Cli, folder: Path) -> None:
    outcome = dry_run(cli, "dpo.toml")
    assert (outcome.code, outcome.err) == (0, "")
    facts = " ".join(outcome.out.split())
    assert "data.pairs 8 from pairs.jsonl and 2 that are held out." in facts
    assert "prompt of pairs:" in outcome.out
    assert "response with reward 1, 2 tokens:" in outcome.out
    assert "  I do not know" in outcome.out


@pytest.mark.parametrize(
    ("task", "sets", "message"),
    [
        ("dpo.toml", ["data.pairs.path=none.jsonl"], "there is no data file /"),
        ("dpo.toml", ["data.pairs.columns={chosen = 'good'}"], "data.pairs.columns.chosen = 'good': none of the"),
        ("dpo.toml", ["data.pairs.max_tokens=60"], "more than data.pairs.max_tokens = 60"),
        (
            "online.toml",
            ["data.train.columns={answer = 'solution'}"],
            "data.train.columns.answer = 'solution': none of the",
        ),
        ("online.toml", ["sampling.max_prompt_tokens=50"], "more than sampling.max_prompt_tokens = 50"),
        ("online.toml", ["rewards=[{source = 'choice'}]", "evaluation.correct=choice"], "'choice' cannot compare with"),
        (
            "online.toml",
            [
                "rewards=[{source = 'judge', options.url = 'http://127.0.0.1:9/v1', options.model = 'm', "
                "options.api_key_env = ''}]",
                "evaluation.correct=judge",
            ],
            "http://127.0.0.1:9/v1/models does not answer",
        ),
    ],
)
def test_a_dry_run_refuses_what_a_run_would_refuse(
    cli: Cli, folder: Path, task: str, sets: list[str], message: str
) -> None:
    outcome = dry_run(cli, task, *sets)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_row_that_is_wrong_and_a_prompt_that_is_too_long_are_told_together_or_left_out(
    cli: Cli, folder: Path
) -> None:
    write(folder / "train.jsonl", [*ROWS, {"question": "x" * 300, "answer": "1"}, {"question": "?"}])
    refused = dry_run(cli, "online.toml").err
    assert "data.train: 2 of 12 rows cannot be used." in refused
    assert "train.jsonl, line 12: the field 'answer' is missing" in refused
    assert "problem train:10: its prompt has " in refused
    outcome = dry_run(cli, "online.toml", "data.on_bad_row=drop")
    facts = " ".join(outcome.out.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert (
        "note data.train: 2 of 12 rows cannot be used and were left out: 1 without the field 'answer', 1 with" in facts
    )


def test_a_run_says_the_same_and_waits_for_no_model_with_what_needs_none(folder: Path) -> None:
    write(folder / "train.jsonl", [*ROWS, {"question": "x" * 300, "answer": "1"}, {"question": "?"}])
    with pytest.raises(DataError) as caught:
        resources_of(load_config("online.toml"), training=True)
    assert "2 of 12 rows" in str(caught.value)
    assert "problem train:10: its prompt has" in str(caught.value)
    with pytest.raises(DataError, match=r"1 of 12 rows cannot be used\.\n.*line 12: the field 'answer' is missing"):
        resources_of(load_config("online.toml", sets=["model.path=/nowhere"]), training=True)
    kept = resources_of(load_config("online.toml", sets=["data.on_bad_row=drop"]), training=True)
    assert (len(kept.train), len(kept.held_out)) == (8, 2)
    assert [stream.size for stream in kept.problems.values()] == [8]
    assert "2 of 12 rows cannot be used and were left out" in kept.facts["note"]


def test_offline_data_that_are_held_out_are_there_for_an_evaluation(folder: Path) -> None:
    resources = resources_of(load_config("dpo.toml"), training=True)
    held_out = resources.offline["pairs"].held_out
    assert (resources.streams["pairs"].size, len(held_out)) == (8, 2)
    trained = {scored.group.problem.id for scored in resources.streams["pairs"].epoch(0)}
    assert trained.isdisjoint(scored.group.problem.id for scored in held_out)


def test_the_task_shows_samples_of_its_data(cli: Cli, folder: Path) -> None:
    outcome = cli("tasks", "show", "online.toml", "--sample", "3")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("prompt of train:") == outcome.out.count("math reads '") == 3
    (folder / "evaluates.toml").write_text(
        (folder / "online.toml").read_text().replace('gro.preset = "grpo"\n', "").replace("data.pairs", "data.demos")
    )
    assert cli("tasks", "show", "evaluates.toml", "--sample", "5").out.count("prompt of train:") == 2


def test_what_a_task_shows_follows_what_is_set(cli: Cli, folder: Path) -> None:
    write(folder / "other.jsonl", [{"prompt": "Whose?", "solution": f"#### {n}"} for n in range(10)])
    chosen = (
        "--set",
        "data.train.path=other.jsonl",
        "--set",
        "data.holdout=none",
        "--set",
        "data.eval.path=train.jsonl",
    )
    shown = cli("tasks", "show", "online.toml", *chosen)
    assert "other.jsonl" in shown.out
    sampled = cli("tasks", "show", "online.toml", "--sample", "1", *chosen)
    assert "Whose?" in sampled.out
    assert "note: data.train: recognised as rows of TRL: question from prompt and answer from solution." in sampled.out
    wrong = cli("tasks", "show", "online.toml", "--set", "data.trian.path=x")
    assert (wrong.code, "Did you mean 'train'?" in wrong.err) == (2, True)


def rehearsed(task: str, *sets: str) -> Rehearsal:
    config = load_config(task, sets=sets).config
    return rehearse(config, plugins.build_manager(config.plugins))


def test_without_the_models_tokenizer_the_sources_are_read_all_the_same(folder: Path) -> None:
    found = rehearsed("online.toml", "model.path=/nowhere")
    assert found.facts["prompts"].startswith("not rendered: model.path = '/nowhere': there is no such folder")
    (sample,) = found.samples(1)
    assert sample.startswith("prompt of train:")
    assert "before the chat template:\n  [system] Be brief.\n  [user] What is " in sample
    assert rehearsed("dpo.toml", "model.path=/nowhere").facts["data.pairs"] == "10 rows read"


def test_problems_that_are_held_out_of_one_source_are_trained_on_with_no_other(folder: Path) -> None:
    questions = [{"prompt": row["question"], "chosen": "a", "rejected": "b"} for row in ROWS]
    write(folder / "pairs.jsonl", [*questions, *({**row, "chosen": "c"} for row in questions)])
    sets = ["gro.terms.dpo.preset=dpo", "prompt.system="]
    for more in ([], ["data.train.limit=5"]):
        found = rehearsed("online.toml", *sets, *more)
        data = found.offline["pairs"]
        asked = [
            {problem.messages for problem in problems}
            for problems in (
                (*found.splits.train, *(scored.group.problem for scored in data.groups)),
                (*found.splits.eval, *(scored.group.problem for scored in data.held_out)),
            )
        ]
        assert asked[0].isdisjoint(asked[1])
        assert len(asked[0]) >= 6
        assert len(asked[1]) >= 2


@pytest.mark.parametrize(
    ("rewards", "needed"),
    [
        ("{source = 'boxed_format'}, {source = 'regex', options = {pattern = 'x'}}", False),
        ("{source = 'boxed_format'}, {source = 'regex', options = {pattern = '{answer}'}}", True),
        ("{source = 'json_schema', options = {schema_inline = {type = 'object'}}}", False),
        ("{source = 'json_schema', options = {schema_inline = {type = 'object'}, match_answer = true}}", True),
        ("{source = 'boxed_format'}, {source = 'math'}", True),
    ],
)
def test_rows_without_an_answer_are_read_where_no_source_compares_with_it(
    cli: Cli, folder: Path, rewards: str, needed: bool
) -> None:
    write(folder / "train.jsonl", [{"question": row["question"]} for row in ROWS])
    source = rewards.split("'")[1]
    outcome = dry_run(cli, "online.toml", f"rewards=[{rewards}]", f"evaluation.correct={source}")
    assert outcome.code == (2 if needed else 0), outcome.err
    assert ("the field 'answer' is missing" in outcome.err) is needed
    assert ("reference: none" in outcome.out) is not needed


def test_a_start_of_a_run_has_one_plugin_manager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins come from the configuration and from `--plugin`; all that follows takes those that were loaded."""
    (folder / "first.py").write_text("")
    (folder / "second.py").write_text("")
    task = folder / "online.toml"
    task.write_text('plugins = ["first.py"]\n' + task.read_text())
    build, built = plugins.build_manager, list[object]()

    def noted(files: Sequence[str] = ()) -> object:
        built.append(build(files))
        return built[-1]

    monkeypatch.setattr(plugins, "build_manager", noted)
    resources = resources_of(ready(load_config("online.toml", plugins=["second.py"])), training=True)
    assert built == [resources.manager]
    names = {name for name, _ in resources.manager.list_name_plugin()}
    assert names >= {"plugin file first.py", "plugin file second.py"}
