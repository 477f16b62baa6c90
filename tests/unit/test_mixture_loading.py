"""Configurations with several tasks: how they are put together, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasoner.config import Config
from reasoner.errors import ReasonerError
from reasoner.loading import load_config, to_toml
from reasoner.loading.task_files import names_mixture
from reasoner.planning.sources import read_sources
from reasoner.runs.resuming.rules import allowed, changes

MATH, CODE = "math-gsm8k", "code-stdin"

TASK = """
[model]
path = "embedded:smollm2-135m-instruct"
[data.train]
path = "{name}.jsonl"
[data.eval]
path = "{name}-eval.jsonl"
[[rewards]]
source = "math"
[gro]
preset = "grpo"
[evaluation]
correct = "math"
[learning]
problems_per_step = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks `sums` and `words` with data of their own, and `quiz`, which only evaluates."""
    for name in ("sums", "words", "quiz"):
        (tmp_path / f"{name}.toml").write_text(TASK.format(name=name))
        rows = [f'{{"question": "{name} {n}?", "answer": "{n}"}}\n' for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows[:4]))
        (tmp_path / f"{name}-eval.jsonl").write_text("".join(rows[4:]))
    quiz = (tmp_path / "quiz.toml").read_text().replace('[data.train]\npath = "quiz.jsonl"\n', "")
    (tmp_path / "quiz.toml").write_text(quiz.replace('[gro]\npreset = "grpo"\n', ""))
    return tmp_path


def written(folder: Path, text: str) -> Path:
    file = folder / "mix.toml"
    file.write_text(text)
    return file


def config_of(folder: Path, text: str, *sets: str) -> Config:
    return load_config(written(folder, text), sets=sets).config


TWO = """
[[mixture]]
task = "sums.toml"
weight = 2
[[mixture]]
task = "words.toml"
"""
ALSO = """
[[evaluation.also]]
task = "quiz.toml"
"""


@pytest.mark.parametrize(
    ("arguments", "several"),
    [
        (["math-gsm8k"], False),
        (["math-gsm8k=2"], True),
        (["a", "b"], True),
        (["./a=b/mine.toml"], False),
        (["runs/x=1/config.toml"], False),
        (["mine.toml=size"], True),
    ],
)
def test_which_arguments_are_a_mixture(arguments: list[str], several: bool) -> None:
    assert names_mixture(arguments) is several


def test_a_mixture_on_the_command_line() -> None:
    resolved = load_config([f"{MATH}=2", f"{CODE}=1"], "laptop", sets=["evaluation.every=4"])
    config = resolved.config
    assert (config.task, config.profile, config.title) == (f"{MATH}+{CODE}", "laptop", "")
    assert [(part.task, part.weight) for part in config.mixture] == [(MATH, 2.0), (CODE, 1.0)]
    alone = {name: load_config(name, "laptop").config for name in (MATH, CODE)}
    for name, part in config.parts.items():
        assert (part.prompt, part.data, part.rewards) == (alone[name].prompt, alone[name].data, alone[name].rewards)
        assert part.sampling.max_tokens == alone[name].sampling.max_tokens
        assert part.evaluation is not None
        assert part.evaluation.every == 4
        assert (part.model, part.learning, part.gro, part.run) == (
            config.model,
            config.learning,
            config.gro,
            config.run,
        )
    # What no part has of its own is the first task's; limits that the engine must take are the largest.
    assert config.run.steps == alone[MATH].run.steps
    assert config.sampling.max_tokens == alone[CODE].sampling.max_tokens
    assert resolved.origins["sampling.max_tokens"] == "the largest of the mixture"
    assert resolved.typed == f"{MATH}=2 {CODE}=1 --profile laptop"


def test_a_single_task_is_a_mixture_of_one() -> None:
    config = load_config(MATH, "laptop").config
    assert dict(config.parts) == dict(config.evaluated) == {MATH: config}
    assert config.part("anything") is config


def test_a_complete_configuration_loads_to_an_equal_one(folder: Path) -> None:
    config = config_of(folder, f"{TWO}{ALSO}samples = 4\ntemperature = 0.5\n", "mixture.words.data.train.limit=3")
    complete = folder / "config.toml"
    complete.write_text(to_toml(config))
    assert load_config(complete).config == config
    changed = load_config(complete, sets=["mixture.sums.weight=5", "evaluation.also.quiz.evaluation.samples=2"]).config
    assert changed.mixture[0].weight == 5.0
    assert [each.key for each in changes(config, changed)] == [
        *("evaluation.also.quiz.evaluation.samples", "mixture.sums.weight")
    ]


def test_files_are_found_beside_the_file_that_names_them(folder: Path) -> None:
    config = config_of(folder, TWO)
    assert [str(part.data.train.path) for part in config.mixture if part.data.train] == [
        *(str(folder / "sums.jsonl"), str(folder / "words.jsonl"))
    ]


def test_what_is_set_for_the_run_holds_for_every_part_and_an_entry_for_its_own(folder: Path) -> None:
    text = "sampling.max_tokens = 7\nrun.steps = 3\n" + TWO + "sampling.max_tokens = 9\ndata.train.limit = 2\n"
    config = config_of(folder, text, "prompt.system=Be short.", "mixture.sums.rewards.math.weight=3")
    assert [part.sampling.max_tokens for part in config.mixture] == [7, 9]
    assert [part.prompt.system for part in config.mixture] == ["Be short."] * 2
    assert [part.rewards[0].weight for part in config.mixture] == [3.0, 1.0]
    assert config.run.steps == 3
    over = folder / "over.toml"
    over.write_text("[mixture.words]\nweight = 4\n[mixture.words.data.train]\npath = 'sums.jsonl'\n")
    changed = load_config(folder / "mix.toml", config_files=[over]).config.mixture[1]
    assert changed.weight == 4.0
    assert changed.data.train is not None
    assert changed.data.train.path == str(folder / "sums.jsonl")


def test_plugins_of_all_tasks_are_loaded_and_set_ones_replace_them(folder: Path) -> None:
    for name in ("sums", "quiz"):
        (folder / f"{name}_plugin.py").write_text("")
        task = folder / f"{name}.toml"
        task.write_text(f'plugins = ["{name}_plugin.py"]\n' + task.read_text())
    result = config_of(folder, TWO + ALSO).plugins
    assert [Path(plugin).name for plugin in result] == ["sums_plugin.py", "quiz_plugin.py"]
    assert config_of(folder, TWO, f"plugins=['{folder / 'quiz_plugin.py'}']").plugins == [
        str(folder / "quiz_plugin.py")
    ]


def test_other_tasks_are_evaluated_beside_a_single_one(folder: Path) -> None:
    more = "limit = 1\nsamples = 4\ntemperature = 0.8\nevery = 5\n"
    config = load_config(_with(folder, f"{ALSO}{more}")).config
    also = config.also["quiz"]
    assert list(config.evaluated) == ["mix", "quiz"]
    assert also.data.eval is not None
    assert (also.data.eval.limit, also.required_evaluation.samples, also.required_evaluation.every) == (1, 4, 5)
    assert config.data.eval is not None
    assert config.data.eval.limit is None
    assert also.gro.terms == {}


def _with(folder: Path, more: str) -> Path:
    """The task `sums` with more in its file."""
    return written(folder, TASK.format(name="sums") + more)


def test_tasks_are_read_apart_and_know_which_they_are(folder: Path) -> None:
    resolved = load_config(written(folder, TWO + ALSO))
    read = read_sources(resolved.config, resolved.manager, training=True)
    parts = [problem.part for problem in read.splits.train]
    assert parts == ["sums"] * 4 + ["words"] * 4
    assert [problem.part for problem in read.splits.eval] == ["sums"] * 2 + ["words"] * 2 + ["quiz"] * 2


def test_what_one_task_evaluates_no_other_trains_on(folder: Path) -> None:
    (folder / "words-eval.jsonl").write_text('{"question": "sums 1?", "answer": "1"}\n')
    resolved = load_config(written(folder, TWO))
    with pytest.raises(
        ReasonerError, match=r"mixture\.sums: data\.train: 1 of 4 problems are also evaluation"
    ) as caught:
        read_sources(resolved.config, resolved.manager, training=True)
    assert "sums:1 is words-eval:0" in str(caught.value)
    dropped = load_config(folder / "mix.toml", sets=["data.overlap=drop"])
    read = read_sources(dropped.config, dropped.manager, training=True)
    assert [problem.id for problem in read.splits.train if problem.part == "sums"] == [
        problem.id for problem in read.splits.train[:3]
    ]
    assert read.splits.notes == (
        "mixture.sums: data.train: 1 of 4 problems are also evaluation problems and were left out.",
    )


def test_rows_that_cannot_be_used_are_named_with_their_task(folder: Path) -> None:
    (folder / "words.jsonl").write_text('{"question": "a?", "answer": ""}\n{"question": "b?", "answer": "1"}\n')
    resolved = load_config(written(folder, TWO))
    with pytest.raises(ReasonerError, match=r"mixture\.words: data\.train: 1 of 2 rows cannot be used"):
        read_sources(resolved.config, resolved.manager, training=True).settle()
    dropped = load_config(folder / "mix.toml", sets=["mixture.words.data.on_bad_row=drop"])
    assert "mixture.words: " in read_sources(dropped.config, dropped.manager, training=True).settle()[0]


@pytest.mark.parametrize(
    ("text", "sets", "parts"),
    [
        (f"{TWO}[[mixture]]\ntask = 'quiz.toml'\n", [], ["mixture.quiz", "only evaluates", "[[evaluation.also]]"]),
        (f"{TWO}weight = 0\n", [], ["mixture.words.weight = 0", "above 0"]),
        (f"{TWO}weight = -1\n", [], ["mixture.words.weight = -1", "above 0"]),
        (f"{TWO}weight = nan\n", [], ["mixture.words.weight", "above 0"]),
        (f"{TWO}weight = inf\n", [], ["mixture.words.weight", "above 0"]),
        (f"{TWO}weight = 'sise'\n", [], ['mixture.words.weight = "sise"', '"size"']),
        (f"{TWO}weight = 'size'\n", [], ["every part a number", "words = size"]),
        (f"{TWO}[[mixture]]\ntask = 'sums.toml'\n", [], ["mixture", "'sums' twice"]),
        ("[[mixture]]\ntask = 'math-gsm8'\n", [], ["mixture[0].task = 'math-gsm8'", "Did you mean 'math-gsm8k'"]),
        ("[[mixture]]\nweight = 1\n", [], ["mixture[0].task is needed"]),
        (f"{TWO}gro.preset = 'rloo'\n", [], ["mixture.words.gro.preset", "is the run's", "top level"]),
        (f"{TWO}prompt.sistem = 'x'\n", [], ["mixture.words.prompt.sistem", "unknown key", "'system'"]),
        (f"{TWO}prompt.format = 'plain'\n", [], ["mixture.words.prompt.format = 'plain'", "in one format"]),
        (TWO, ["mixture.wrods.weight=2"], ["mixture.wrods", "Did you mean 'words'"]),
        (TWO, ["mixture.words.gro.preset=rloo"], ["mixture.words.gro.preset", "is the run's"]),
        (TWO, ["rewards.mth.weight=2"], ["'mth'", "Did you mean 'math'"]),
        (f"{TWO}rewards = [{{source = 'mth'}}]\n", [], ["evaluation.correct = 'math' is not among the rewards: mth"]),
        (
            f"{TWO}rewards = [{{source = 'mth'}}]\nevaluation.correct = 'mth'\n",
            [],
            ["mixture.words.rewards[0].source: there is no reward source 'mth'", "Did you mean 'math'"],
        ),
        (f"{TWO}rewards = []\nevaluation.correct = ''\n", [], ["mixture.words: ", "needs rewards"]),
        (
            TWO,
            ["gro.terms.grpo.schedule={kind = 'metric', metric = 'task/sumss/reward/mean', above = 1.0}"],
            ["has no part 'sumss'", "Did you mean 'sums'"],
        ),
        (TWO, ["gro.preset=dpo", "data.pairs.path=a.jsonl"], ["mixture", "no term reads online groups"]),
        (f"{TWO}{ALSO}", ["evaluation.best=quizz"], ["evaluation.best = 'quizz'", "Did you mean 'quiz'"]),
        (f"{TWO}[[evaluation.also]]\ntask = 'aime244'\n", [], ["evaluation.also[0].task", "Did you mean 'aime24'"]),
        (f"{TWO}[[evaluation.also]]\ntask = 'sums.toml'\n", [], ["evaluation.also names 'sums'", "evaluates anyway"]),
        (f"{TWO}{ALSO}{ALSO}", [], ["evaluation.also", "'quiz' twice"]),
        (f"{TWO}{ALSO}samples = 4\n", [], ["samples = 4 at temperature 0"]),
        (f"{TWO}{ALSO}evaluation.correct = 'mth'\n", [], ["evaluation.also.quiz: evaluation.correct = 'mth'"]),
        (f"{TWO}{ALSO}data.eval = 'none'\n", [], ["evaluation.also.quiz", "data.eval is not set"]),
        (f"{TWO}environment.tools = ['pithon']\n", [], ["mixture.words.environment.tools: ", "'pithon'", "'python'"]),
        (f"{TWO}environment.max_turns = 3\n", [], ["mixture.words.environment", "without a name or tools"]),
        (f"{TWO}{ALSO}environment.name = 'gues'\n", [], ["evaluation.also.quiz.environment.name: ", "'gues'"]),
        (
            f"{TWO}environment = {{name = 'guess-number', options = {{hi = 3}}}}\n",
            [],
            ["mixture.words.environment 'guess-number' has no option 'hi'"],
        ),
        (
            f"{TWO}environment.tools = ['python']\n",
            ["gro.terms.grpo.credit.level=turn"],
            ["mixture.sums: ", "level = 'turn'", "set environment.name"],
        ),
        (TWO, ["mixture=[{task = 'words.toml'}]"], ["cannot be listed by --set", "[[mixture]]", "reasoner run A=2"]),
        ("", ["mixture = [ 'sums' ]"], ["cannot be listed by --set", "[[mixture]]"]),
        (TWO, ["evaluation.also=[{task = 'quiz.toml'}]"], ["cannot be listed by --set", "[[evaluation.also]]"]),
        (TWO, ["sampling.max_tokens=5", "mixture.words.sampling.max_tokens=x"], ["mixture.words.sampling.max_tokens"]),
    ],
)
def test_what_is_refused_and_how(folder: Path, text: str, sets: list[str], parts: list[str]) -> None:
    with pytest.raises(ReasonerError) as caught:
        load_config(written(folder, text), sets=sets)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("sets", [["mixture=[]"], ["evaluation.also=[ ]"], ["mixture.words.weight=2"]])
def test_a_set_that_lists_no_task_is_none(folder: Path, sets: list[str]) -> None:
    text = TWO if "words" in sets[0] else TASK.format(name="sums")
    assert load_config(written(folder, text), sets=sets).config.also == {}


def test_every_task_keeps_its_own_environment(folder: Path) -> None:
    """Also a complete configuration, and what is set for all parts."""
    text = TWO + "environment = { tools = ['calculator'], format = 'tags', max_turns = 3 }\n"
    text += ALSO + "environment = { name = 'guess-number', format = 'tags' }\n"
    config = config_of(folder, text)
    assert {name: (each.tools, each.name) for name, each in config.environments.items()} == {
        **{"words": (["calculator"], ""), "quiz": ([], "guess-number")}
    }
    assert config.environment is config.parts["sums"].environment is None
    words = config.parts["words"].environment
    assert words is not None
    assert words.max_turns == 3
    complete = folder / "config.toml"
    complete.write_text(to_toml(config))
    assert load_config(complete).config == config
    everywhere = config_of(folder, TWO, "environment={tools=['calculator'], format='tags'}")
    assert list(everywhere.environments) == ["sums", "words"]
    single = load_config("calc", "laptop").config
    assert dict(single.environments) == {"calc": single.environment}


def test_a_curriculum_over_parts_needs_parts() -> None:
    with pytest.raises(ReasonerError, match=r"curriculum\.parts = 'pass-rate' has no effect without"):
        load_config(MATH, "laptop", sets=["curriculum.parts=pass-rate"])


def test_equal_ids_in_two_parts_are_refused_with_what_to_do(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "sums.jsonl").write_text('{"question": "another?", "answer": "1"}\n')
    resolved = load_config(written(folder, TWO), sets=[f"mixture.words.data.train.path={folder / 'more/sums.jsonl'}"])
    with pytest.raises(ReasonerError, match=r"mixture: sums and words both have a problem 'sums:0' in data\.train"):
        read_sources(resolved.config, resolved.manager, training=True)


def test_what_may_change_on_resume_may_in_a_part_too() -> None:
    assert allowed("mixture.math-gsm8k.rewards.math.timeout_s") == allowed("rewards.math.timeout_s")
    assert allowed("evaluation.also.aime24.evaluation.every") == allowed("evaluation.every") == ""
    assert allowed("mixture.math-gsm8k.weight") is None
