"""Layers of the configuration: what wins, where it came from, what is refused and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from reasoner.errors import ConfigError, UserError
from reasoner.gro.spec.presets import PRESETS
from reasoner.gro.spec.terms import Anchor, Clip, Linear, Term
from reasoner.loading import Resolved, introspection, load_config, settings_of, to_toml
from reasoner.loading import task_layers as settings_load
from reasoner.loading.task_files import find_task
from reasoner.plugins import manager as hooks

TASK: Mapping[str, object] = {
    "title": "a test",
    "prompt": {"system": "Be brief."},
    "model": {"path": "some/model"},
    "data": {
        "train": {"generator": "gsm_symbolic", "limit": 20, "seed": 1, "shuffle": False},
        "eval": {"generator": "gsm_symbolic", "limit": 10, "seed": 2},
    },
    "rewards": [{"source": "math", "weight": 1.0}, {"source": "boxed_format", "weight": 0.5}],
    "gro": {"preset": "grpo", "terms": {"grpo": {"kl": {"estimator": "k2"}}}},
    "evaluation": {"correct": "math"},
    "profiles": {
        "laptop": {"sampling": {"max_tokens": 96}, "run": {"steps": 3}},
        "gpu": {"data": {"train": {"hub": "a/b", "options": {"name": "main"}}}},
    },
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write(tmp_path / "trial.toml", TASK)


TRUNCATED = "gro.terms.grpo.correction.kind=truncate"


def write(path: Path, table: Mapping[str, object]) -> Path:
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return path


def laptop(task: Path, *sets: str) -> Resolved:
    return load_config(task, "laptop", sets=sets)


def shipped() -> list[tuple[str, str]]:
    registered = hooks.task_files(hooks.build_manager())
    return [(name, profile) for name, path in registered.items() for profile in find_task(name, registered).profiles]


@pytest.mark.parametrize(("name", "profile"), shipped())
def test_every_shipped_task_loads_with_every_profile(name: str, profile: str) -> None:
    resolved = load_config(name, profile)
    assert (resolved.config.task, resolved.config.profile) == (name, profile)


def test_each_layer_wins_over_the_ones_below_and_says_so(task: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", {"run": {"steps": 7}, "learning": {"decay": "cosine"}})
    resolved = load_config(task, "laptop", [file], ["learning.decay=linear", "run.seed=4"])
    config, origins = resolved.config, resolved.origins
    assert (config.run.steps, origins["run.steps"]) == (7, str(file))
    assert (config.learning.decay, origins["learning.decay"]) == ("linear", "--set")
    assert (config.sampling.max_tokens, origins["sampling.max_tokens"]) == (96, "profile laptop")
    assert (config.prompt.system, origins["prompt.system"]) == ("Be brief.", str(task))
    term = config.gro.terms["grpo"]
    assert (term.kl.estimator, origins["gro.terms.grpo.kl.estimator"]) == ("k2", str(task))
    assert (term.link, origins["gro.terms.grpo.link.low"]) == (Clip(), "preset grpo")
    assert (config.scoring.workers, origins["scoring.workers"]) == (2, "default")
    assert set(origins) == {".".join(path) for path in settings_of(config)}


def test_several_files_are_laid_over_each_other_in_their_order(task: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", {"run": {"steps": 7, "seed": 1}, "rewards": {"math": {"weight": 3.0}}})
    two = write(tmp_path / "two.toml", {"run": {"steps": 9}, "data": {"train": {"path": "x.jsonl"}}})
    three = write(tmp_path / "three.toml", {"data": {"train": {"hub": "c/d"}}, "rewards": [{"source": "math"}]})
    resolved = load_config(task, "laptop", [one, two, three], ["run.keep_last=3"])
    config, origins = resolved.config, resolved.origins
    assert (config.run.steps, origins["run.steps"]) == (9, str(two))
    assert (config.run.seed, origins["run.seed"]) == (1, str(one))
    assert (config.run.keep_last, origins["run.keep_last"]) == (3, "--set")
    assert config.data.train is not None
    assert (config.data.train.path, config.data.train.hub) == (None, "c/d")  # a new origin drops that of the file below
    assert [(reward.source, reward.weight) for reward in config.rewards] == [("math", 1.0)]  # and a list a table
    assert load_config(task, "laptop", [two, one]).config.run.steps == 7
    write(two, {"learning": {"decay": "fast"}})
    with pytest.raises(ConfigError, match=r'"fast" \(.*two\.toml\)'):
        load_config(task, "laptop", [one, two, three])


def test_a_complete_configuration_comes_before_the_files_that_change_it(task: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(laptop(task, "run.steps=3", "run.seed=8").config), encoding="utf-8")
    more = write(tmp_path / "more.toml", {"run": {"steps": 7}})
    resolved = load_config(task, config_files=[saved, more])
    assert (resolved.config.run.steps, resolved.origins["run.steps"]) == (7, str(more))
    assert (resolved.config.run.seed, resolved.origins["run.seed"]) == (8, str(saved))
    for files in ([more, saved], [saved, saved]):
        with pytest.raises(ConfigError, match=r"--config .*config\.toml is a complete configuration.*give it first"):
            load_config(task, config_files=files)
    part = write(tmp_path / "part.toml", {"task": "trial", "run": {"steps": 7}})
    with pytest.raises(ConfigError, match=r"part\.toml sets 'task'"):
        load_config(task, "laptop", [more, part])


def test_a_layer_that_names_a_preset_drops_what_lower_layers_set_in_gro(task: Path) -> None:
    terms = laptop(task, "gro.preset=rloo").config.gro.terms
    assert {name: config.term for name, config in terms.items()} == {"rloo": PRESETS["rloo"].term}


def test_a_layer_that_names_the_preset_of_a_term_drops_what_lower_layers_set_in_it(task: Path) -> None:
    resolved = laptop(task, "gro.terms.grpo.preset=dapo", "gro.terms.grpo.entropy=0.01")
    assert resolved.config.gro.terms["grpo"].term == replace(PRESETS["dapo"].term, entropy=0.01)
    assert resolved.origins["gro.terms.grpo.link.high"] == "preset dapo"


def test_a_new_term_stands_beside_those_of_the_preset(task: Path) -> None:
    raft = laptop(task, "gro.terms.best.preset=raft", "gro.terms.best.weight=0.1").config.gro.terms
    assert list(raft) == ["grpo", "best"]
    assert (raft["best"].term, raft["best"].weight) == (PRESETS["raft"].term, 0.1)
    bare = laptop(task, "gro.terms.push.source=online", "gro.terms.push.anchor.kind=old").config.gro.terms
    assert bare["push"].term == Term(anchor=Anchor("old"))


def test_a_layer_that_sets_kind_replaces_the_table(task: Path) -> None:
    assert laptop(task, "gro.terms.grpo.link.kind=linear").config.gro.terms["grpo"].link == Linear()
    assert laptop(task, "gro.terms.grpo.link.low=0.1").config.gro.terms["grpo"].link == Clip(low=0.1)


def test_a_new_data_origin_drops_the_old_one_and_what_belonged_to_it(task: Path) -> None:
    train = load_config(task, "gpu", sets=["data.train.path=x.jsonl"]).config.data.train
    assert train is not None
    assert (train.path, train.hub, train.generator, train.options, train.seed) == ("x.jsonl", None, None, {}, 0)
    assert (train.limit, train.shuffle) == (20, False)
    hub = load_config(task, "gpu").config.data.train
    assert hub is not None
    assert (hub.path, hub.hub, hub.options) == (None, "a/b", {"name": "main"})


def test_a_file_takes_the_columns_of_the_data_set_below_it_and_other_origins_do_not() -> None:
    columns = {"question": "text", "answer": "code", "tests": "test_list", "setup": "test_setup_code"}
    for origin, kept in (("path=mbpp.jsonl", columns), ("hub=a/b", {}), ("generator=gsm_symbolic", {})):
        sets = [f"data.train.{origin}", "data.train.limit=9"]
        train = load_config("code-mbpp", "gpu", sets=sets).config.data.train
        assert train is not None
        assert train.columns == kept
    own = load_config(
        "code-mbpp", "gpu", sets=["data.train.path=mine.jsonl", "data.train.columns={}"]
    ).config.data.train
    assert own is not None
    assert own.columns == {}


def test_a_table_of_columns_is_one_value_and_a_name_in_it_one_entry(tmp_path: Path) -> None:
    """The same rule for every table whose keys are the user's, in every layer."""
    own = {"tests": "t"}
    file = write(tmp_path / "own.toml", {"data": {"train": {"columns": own, "path": "x.jsonl"}}})

    def columns(*sets: str, config: Path | None = None) -> Mapping[str, str]:
        train = load_config("code-mbpp", "gpu", [config] if config else [], sets).config.data.train
        assert train is not None
        return train.columns

    below = columns()
    assert len(below) == 4
    assert columns(config=file) == own
    assert columns("data.train.columns={}") == {}
    assert columns("data.train.columns={answer = 'a'}") == {"answer": "a"}
    assert columns("data.train.columns.answer=a") == {**below, "answer": "a"}
    assert columns("data.train.columns.answer=a", config=file) == {**own, "answer": "a"}
    kwargs = [["model.chat_template_kwargs={a = 1}"], ["model.chat_template_kwargs.b=2"]]
    base = write(tmp_path / "base.toml", {"model": {"chat_template_kwargs": {"c": 3}}})
    assert [load_config("code-mbpp", "gpu", [base], sets).config.model.chat_template_kwargs for sets in kwargs] == [
        {"a": 1},
        {"c": 3, "b": 2},
    ]


def test_sources_of_several_files_are_lists_also_with_set(task: Path) -> None:
    for given, path in (
        ("x.jsonl", "x.jsonl"),
        ('["a.jsonl", "b/*.jsonl"]', ["a.jsonl", "b/*.jsonl"]),
        ('"[odd] name.jsonl"', "[odd] name.jsonl"),
    ):
        train = laptop(task, f"data.train.path={given}").config.data.train
        assert train is not None
        assert train.path == path
    saved = laptop(task, 'data.train.path=["a.jsonl", "b.jsonl"]').config
    file = task.with_name("config.toml")
    file.write_text(to_toml(saved), encoding="utf-8")
    assert load_config(file).config == saved
    with pytest.raises(ConfigError, match=r"data\.train\.path"):
        laptop(task, "data.train.path=[]")


def test_files_that_a_task_names_are_beside_it_and_those_of_set_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "units.py").write_text(PLUGIN)
    files = ["a.jsonl", "/b.jsonl", "~/c.jsonl"]
    data = {"train": {"path": files}, "eval": {"path": "../d.jsonl"}}
    own = {**{key: value for key, value in TASK.items() if key != "profiles"}, "data": data, "plugins": ["units.py"]}
    own["profiles"] = {"only": {"data": {"pairs": {"path": "p.jsonl"}}}}
    write(tmp_path / "tasks" / "own.toml", own)
    write(tmp_path / "tasks" / "more.toml", {"data": {"demos": {"path": "e.jsonl"}}})
    monkeypatch.chdir(tmp_path)
    more = ["data.labelled.path=f.jsonl"]
    config = load_config("tasks/own.toml", None, [Path("tasks/more.toml")], more, ["tasks/units.py"]).config
    assert {name: source.path for name, source in config.data.sources.items()} == {
        "train": ["tasks/a.jsonl", "/b.jsonl", "~/c.jsonl"],
        "eval": "tasks/../d.jsonl",
        "pairs": "tasks/p.jsonl",
        "demos": "tasks/e.jsonl",
        "labelled": "f.jsonl",
    }
    assert config.plugins == ["tasks/units.py"]
    monkeypatch.chdir(tmp_path / "tasks")
    here = load_config("own.toml").config
    assert here.data.train is not None
    assert (here.data.train.path, here.plugins) == (files, ["units.py"])
    saved = tmp_path / "config.toml"  # a run's own configuration names its files as the run found them
    saved.write_text(to_toml(here), encoding="utf-8")
    assert load_config(saved).config == here


def test_a_held_out_share_takes_the_place_of_evaluation_data(task: Path) -> None:
    config = laptop(task, "data.eval=none", "data.holdout=0.05").config
    assert (config.data.eval, config.data.holdout) == (None, 0.05)
    with pytest.raises(ConfigError, match=r"needs data\.eval \(or data\.holdout = 0\.05\)"):
        laptop(task, "data.eval=none")
    with pytest.raises(
        ConfigError, match=r"data\.holdout = 0\.1 has no effect together with data\.eval.*data\.eval=none"
    ):
        laptop(task, "data.holdout=0.1")
    assert laptop(task, "data.holdout=0.1", "data.pairs.path=x.jsonl").config.data.eval is not None
    for share in ("0", "1", "1.5"):
        with pytest.raises(ConfigError, match=r"data\.holdout = .*: must be (above 0|below 1)"):
            laptop(task, "data.eval=none", f"data.holdout={share}")


def test_a_template_is_text_for_a_key_of_a_free_table_too(task: Path) -> None:
    def columns(value: str) -> object:
        train = laptop(task, f"data.train.columns{value}").config.data.train
        assert train is not None
        return train.columns

    template = "{{ reward_model.ground_truth }}"
    assert columns(f".answer={template}") == {"answer": template}
    assert columns(f'.answer="{template}"') == {"answer": template}
    assert columns("={answer = '{{ a }}'}") == {"answer": "{{ a }}"}
    with pytest.raises(ConfigError, match="the value is not TOML"):
        laptop(task, "data.train.columns={answer")


def test_entries_of_rewards_are_addressed_by_source_and_by_index(task: Path) -> None:
    resolved = laptop(task, "rewards.1.weight=0.1", "rewards.math.timeout_s=3")
    assert [(r.source, r.weight, r.timeout_s) for r in resolved.config.rewards] == [
        ("math", 1.0, 3.0),
        ("boxed_format", 0.1, None),
    ]
    assert resolved.origins["rewards.boxed_format.weight"] == "--set"
    assert resolved.origins["rewards.boxed_format.source"] == str(task)


def test_a_list_of_rewards_replaces_the_lower_list_and_a_table_changes_an_entry(task: Path, tmp_path: Path) -> None:
    lists = write(tmp_path / "list.toml", {"rewards": [{"source": "math", "weight": 2.0}]})
    assert [(r.source, r.weight) for r in load_config(task, "laptop", [lists]).config.rewards] == [("math", 2.0)]
    table = write(tmp_path / "table.toml", {"rewards": {"math": {"weight": 3.0}}})
    assert [r.weight for r in load_config(task, "laptop", [table]).config.rewards] == [3.0, 0.5]
    typo = write(tmp_path / "typo.toml", {"rewards": {"mth": {"weight": 3.0}}})
    with pytest.raises(ConfigError, match=r"rewards\.mth\.weight .*no entry 'mth'\. Did you mean 'math'"):
        load_config(task, "laptop", [typo])


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("learning.max_grad_norm=none", "learning.max_grad_norm", None),
        ("run.output=2026-01-31", "run.output", "2026-01-31"),
        ("model.path=1", "model.path", "1"),
        ('model.path="a=b"', "model.path", "a=b"),
        ("prompt.template={{ question }}", "prompt.template", "{{ question }}"),
        ('sampling.stop=["a", "b"]', "sampling.stop", ["a", "b"]),
        ("learning.betas=[0.9, 0.95]", "learning.betas", [0.9, 0.95]),
        ("model.chat_template_kwargs={enable_thinking = false}", "model.chat_template_kwargs.enable_thinking", False),
    ],
)
def test_values_of_set(task: Path, argument: str, key: str, value: object) -> None:
    assert settings_of(laptop(task, argument).config)[tuple(key.split("."))].value == value


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (
            ["learning.weight_deca=1"],
            ["learning.weight_deca = 1 (--set)", "unknown key", "Did you mean 'weight_decay'"],
        ),
        (["modle.path=x"], ["modle", "Did you mean 'model'"]),
        (
            ["gro.terms.grpo.link.hihg=1"],
            ["gro.terms.grpo.link.hihg", "Did you mean 'high'", 'with kind = "clip" has: kind, low, high, dual'],
        ),
        (
            ["gro.preset=rloo", "gro.terms.rloo.link.low=1"],
            ["gro.terms.rloo.link.low", 'with kind = "linear" has: kind'],
        ),
        (["learning.decay=cosin"], ['"cosin" (--set)', "one of constant, linear, cosine", "Did you mean 'cosine'"]),
        (["run.steps=ten"], ['run.steps = "ten" (--set): must be a whole number']),
        (["run.steps=2.0"], ["run.steps = 2.0 (--set): must be a whole number"]),
        (["run.steps=true"], ["must be a whole number"]),
        (["run.steps=0"], ["run.steps = 0 (--set): must be at least 1"]),
        (["learning.learning_rate=nan"], ["learning.learning_rate", "must be a finite number"]),
        (["learning.max_grad_norm=-1"], ["must be above 0", "or none"]),
        (["learning.betas=[0.9, 1.0]"], ["learning.betas.1 = 1.0 (--set): must be below 1"]),
        (["sampling.stop=x"], ["sampling.stop", "must be a list"]),
        (["curriculum.kind=passrate"], ["one of none, pass-rate", "Did you mean 'pass-rate'"]),
        (["curriculum.longest_rest=0"], ["must be at least 1"]),
        (
            ["curriculum.kind=pass-rate", "gro.preset=dpo", "data.pairs.path=x.jsonl"],
            ["curriculum.kind = 'pass-rate' chooses the problems of online groups, and no term reads any"],
        ),
        (
            ["gro.terms.grpo.schedule={kind = 'metric', metric = 'curriculum/resting', above = 0.5}"],
            ["'curriculum/resting': the run does not measure it without a curriculum"],
        ),
        (["model=3"], ["model = 3 (--set): must be a table with the keys path, dtype"]),
        (["sampling.top_p=1.0"], ["sampling.top_p (--set): no longer there, leave out: training samples"]),
        (
            ["sampling.mode=server"],
            ["sampling.mode (--set): no longer there, leave out: sampling.servers alone says whether servers sample"],
        ),
        (
            ["sampling.ahead=1"],
            ["sampling.ahead (--set): no longer there, set sampling.max_staleness: the same number"],
        ),
        (
            ["run.ranks=6", "sampling.tensor_parallel=4"],
            ["sampling.tensor_parallel = 4 does not divide the 6 ranks", "set it to 1, 2, 3 or 6"],
        ),
        (["sampling.engine=hf", "sampling.tensor_parallel=2"], ["tensor_parallel = 2 needs vLLM"]),
        (
            ["run.ranks=6", "learning.sequence_parallel=4"],
            ["learning.sequence_parallel = 4 does not divide the 6 ranks", "possible: 1, 2, 3, 6"],
        ),
        (
            ["learning.engine=deepspeed", "learning.optimizer=adamw-8bit"],
            ["learning.optimizer = 'adamw-8bit' needs the torch engine"],
        ),
        (["run.ranks=2", "learning.optimizer=adamw-8bit"], ["needs the torch engine on one rank"]),
        (
            ["model.device=cpu", "learning.optimizer=paged-adamw-8bit"],
            ["moves moments off a GPU, and model.device is 'cpu'"],
        ),
        (
            ["learning.routing_replay=true", "sampling.servers=['http://a:8000']"],
            ["learning.routing_replay needs a sampler", "sampling.servers are not asked", "leave one of them out"],
        ),
        (
            ["lora.quantization=nf4"],
            ["gro.terms.grpo.correction.kind = 'none' with lora.quantization = 'nf4'", "correction.kind=truncate"],
        ),
        (
            ["lora.quantization=nf4", "lora.handover=merged"],
            ["lora.quantization = 'nf4' has the adapter handed over alone", "'merged'; use 'auto'"],
        ),
        (
            [
                "lora.quantization=nf4",
                TRUNCATED,
                "learning.engine=deepspeed",
                "learning.deepspeed.zero_stage=3",
            ],
            ["lora.quantization = 'nf4' with learning.deepspeed.zero_stage = 3", "use zero_stage 2"],
        ),
        (
            ["learning.mlp_tile=64", "run.ranks=2", "learning.deepspeed.zero_stage=3"],
            ["learning.mlp_tile = 64 with learning.deepspeed.zero_stage = 3", "use zero_stage 2"],
        ),
        (["lora.quantization=int4"], ["lora.quantization", "must be one of nf4"]),
        (
            ["lora.rank=4", "sampling.quantization=fp8", "model.device=cpu", TRUNCATED],
            ["sampling.quantization = 'fp8' needs CUDA", "model.device is 'cpu'; leave it out"],
        ),
        (["sampling.quantization=fp8", TRUNCATED], ["sampling.quantization = 'fp8' rounds weights", "lora.rank=16"]),
        (
            ["lora.rank=4", "sampling.quantization=fp8"],
            ["gro.terms.grpo.correction.kind = 'none' with sampling.quantization = 'fp8'"],
        ),
        (
            ["lora.rank=4", "sampling.quantization=fp8", "sampling.engine=hf", TRUNCATED],
            ["sampling.quantization = 'fp8' is of a vLLM engine", "not of sampling.engine = 'hf'"],
        ),
        (
            ["lora.rank=4", "sampling.quantization=fp8", "sampling.servers=['http://127.0.0.1:8000']", TRUNCATED],
            ["sampling.quantization = 'fp8' is of a vLLM engine", "not of sampling.servers"],
        ),
        (["learning.sequence_parallel=2"], ["does not divide the 1 rank into", "run.ranks, or --gpus"]),
        (
            ["run.ranks=2", "learning.sequence_parallel=2", "learning.packing=padded"],
            ["learning.sequence_parallel = 2 shares packed rows", "use 'auto'"],
        ),
        (
            ["run.ranks=8", "rewards.math.max_calls=7"],
            ["rewards.math.max_calls = 7 is divided over the 8 ranks that score", "allow at least 8"],
        ),
        (
            ["run.ranks=8", "sampling.tensor_parallel=4", "rewards.math.max_calls=1"],
            ["rewards.math.max_calls = 1 is divided over the 2 ranks that score", "allow at least 2"],
        ),
        (["environment.max_turns=3"], ["environment", "has no effect without a name or tools"]),
        (["environment.tools=['calculator', 'calculator']"], ["environment", "names 'calculator' twice"]),
        (
            ["environment.tools=['calculator']", "environment.format=tag"],
            ["native, fenced, tags", "Did you mean 'tags'"],
        ),
        (["environment.tools=['calculator']", "environment.options.a=1"], ["options are those of the environment"]),
        (["environment.tools=['calculator']", "environment.max_turns=0"], ["environment.max_turns = 0", "at least 1"]),
        (["environment.tools=['calculator']", "environment.turns=2"], ["environment.turns", "unknown key"]),
        (
            ["environment.tools=['calculator']", "environment.tool_options.calculater.digits=9"],
            ["'calculater' is not among the tools", "Did you mean 'calculator'"],
        ),
        (
            ["environment.tools=['calculator']", "prompt.format=plain", "prompt.system="],
            ["environment.format = 'native'", "set environment.format = 'fenced' or 'tags'"],
        ),
        (
            [
                "environment.tools=['calculator']",
                "gro.preset=sft",
                "data.demos.path=x.jsonl",
                "data.eval=none",
                "evaluation=none",
            ],
            ["environment has no effect: the method samples no responses"],
        ),
        (["environment.tools=['calculater']"], ["there is no tool 'calculater'", "Did you mean 'calculator'"]),
        (["environment.name=gues"], ["environment.name: there is no environment 'gues'", "Registered: "]),
        (
            ["environment.tools=['calculator']", "environment.tool_options.calculator.max_digit=9"],
            ["tool 'calculator' has no option 'max_digit'", "Did you mean 'max_digits'"],
        ),
        (["lora.handover=adapters"], ["one of auto, adapter, merged", "Did you mean 'adapter'"]),
        (["data.eval.seed=1"], ["data.train.seed and data.eval.seed are both 1"]),
        (["evaluation.correct=maths"], ["evaluation.correct = 'maths'", "not among the rewards: math, boxed_format"]),
        (["rewards.mth.weight=2"], ["no entry 'mth'", "Did you mean 'math'", "math, boxed_format"]),
        (["rewards.math.weight=x"], ['rewards.math.weight = "x" (--set): must be a number']),
        (["rewards=[{source = 'math'}, {source = 'math'}]"], ["names the source 'math' twice"]),
        (["rewards=[{source = 'math'}, {source = 'boxed_fromat'}]"], ["Did you mean 'boxed_format'"]),
        (["rewards.math.options.strictly=true"], ["'math' has no option 'strictly'"]),
        (["data.train.generator=gsm_symbolc"], ["data.train.generator", "Did you mean 'gsm_symbolic'"]),
        (["data.train.options.level=2"], ["data.train.options.level", "no such option"]),
        (["data.train.path=a.jsonl", "data.train.hub=a/b"], ["data.train.path and data.train.hub", "one origin"]),
        (["data.train.limit=none"], ["a generator needs `limit`"]),
        (["run.steps=1", "run.steps=2"], ["run.steps=1", "run.steps=2", "same key"]),
        (["run={steps=1}", "run.steps=2"], ["same key"]),
        (["steps"], ["key=value"]),
        (["sampling.stop=[a"], ["not TOML", "Quote it"]),
        (["prompt.template={{ question"], ["prompt.template, line 1: not a Jinja template"]),
        (["prompt.examples=[{user = 'a'}]"], ["needs exactly `user` and `assistant`", "['user']"]),
        (["profile=gpu"], ["'profile'", "command line"]),
        ([f"prompt.examples={'[' * 100_000}"], ["prompt.examples=[[", "nested more than 100 levels deep"]),
        ([f"model.chat_template_kwargs={'{a=' * 5000}1{'}' * 5000}"], ["nested more than 100 levels deep"]),
        ([f"run.steps={'9' * 5000}"], ["must be a whole number"]),
    ],
)
def test_what_is_refused_and_how(task: Path, sets: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        laptop(task, *sets)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("value", ["0.005", "1e-300", "0.00999", "2.01", "1e9", "-1", "nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["sampling.temperature", "evaluation.temperature"])
def test_temperatures_that_no_engine_takes_are_refused_at_load(task: Path, key: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{key} = .*\(--set\): must be (at least 0.01|at most 2|0 \(greedy\) or|a fin)"
    ):
        laptop(task, f"{key}={value}")


def test_temperatures_at_the_bounds_are_taken_and_zero_only_evaluates(task: Path) -> None:
    for value in (0.01, 0.7, 2.0, 2):
        config = laptop(task, f"sampling.temperature={value}", f"evaluation.temperature={value}").config
        assert config.evaluation is not None
        assert config.sampling.temperature == config.evaluation.temperature == value
    assert laptop(task, "evaluation.temperature=0").config.evaluation.temperature == 0.0  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"sampling.temperature = 0 .*must be at least 0.01"):
        laptop(task, "sampling.temperature=0")


def test_a_task_file_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    for text in (
        f"x = {'[' * 100_000}",
        f"x = {'{a = ' * 3000}1{'}' * 3000}",
        f"{'a.' * 3000}b = 1",
        "[" + "a." * 3000 + "b]",
        "'a' . " * 50_000 + "b = 1",
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"deep\.toml: nested more than 100 levels deep"):
            load_config(file, "laptop")
    file.write_text(f"x = {'9' * 5000}")
    with pytest.raises(ConfigError, match=r"deep\.toml: not TOML: Exceeds the limit"):
        load_config(file, "laptop")


def test_several_errors_are_one_message_with_a_line_each(task: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        laptop(task, "run.steps=0", "learning.decay=x", "sampling.grop_size=4")
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_key_is_named_with_what_it_means(tmp_path: Path) -> None:
    lacking = write(tmp_path / "x.toml", {key: value for key, value in TASK.items() if key != "model"})
    with pytest.raises(ConfigError, match=r"^model is needed and not set\. The model that is trained\.$"):
        load_config(lacking, "laptop")


def test_a_task_without_a_method_only_evaluates(task: Path, tmp_path: Path) -> None:
    only = write(tmp_path / "only.toml", {key: value for key, value in TASK.items() if key != "gro"})
    resolved = load_config(only, "laptop")
    config, typed = resolved.config, resolved.typed
    assert typed == f"{only} --profile laptop"
    assert (config.gro.terms, config.online) == ({}, False)
    with pytest.raises(
        ConfigError,
        match=r"task 'only' only evaluates.*`reasoner eval /.*only.toml --profile laptop`.*--set gro.preset=grpo",
    ):
        config.check_trains(typed)
    load_config(only, "laptop", sets=["gro.preset=grpo"]).config.check_trains("")
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config), encoding="utf-8")
    assert load_config(saved).config == config
    assert laptop(task, "gro.preset=").config.gro.terms == {}
    with pytest.raises(ConfigError, match=r"gro.weight.*It belongs into a term: gro.terms.NAME.weight"):
        load_config(only, "laptop", sets=["gro.weight=1"])


def test_unknown_tasks_profiles_and_files(task: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'math-gsm8'. Did you mean 'math-gsm8k'"):
        load_config("math-gsm8")
    with pytest.raises(ConfigError, match=r"no such profile. Did you mean 'laptop'\? It has: laptop, gpu"):
        load_config(task, "labtop")
    with pytest.raises(UserError, match=r"nowhere.toml: No such file"):
        load_config(task, "laptop", [tmp_path / "nowhere.toml"])
    (tmp_path / "broken.toml").write_text("[run]\nsteps = = 3\n")
    with pytest.raises(ConfigError, match=r"broken.toml: not TOML: .*line 2, column 9"):
        load_config(task, "laptop", [tmp_path / "broken.toml"])


def test_what_the_configuration_may_contain_is_evaluated_once(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_config(task)
    monkeypatch.setattr(introspection, "get_type_hints", lambda *_, **__: pytest.fail("evaluated again"))
    assert load_config(task).config == load_config(task).config


@pytest.mark.parametrize(("gpu", "profile"), [(True, "gpu"), (False, "laptop")])
def test_the_default_profile_goes_by_the_gpu(
    task: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, profile: str
) -> None:
    monkeypatch.setattr(settings_load, "has_nvidia_gpu", lambda: gpu)
    resolved = load_config(task)
    assert resolved.config.profile == profile
    assert "NVIDIA GPU" in resolved.origins["profile"]


def test_a_task_without_the_default_profile_asks_for_one(tmp_path: Path) -> None:
    task = write(tmp_path / "x.toml", {**TASK, "profiles": {"small": {}, "large": {}}})
    with pytest.raises(ConfigError, match="choose a profile with --profile: small, large"):
        load_config(task)
    plain = write(tmp_path / "y.toml", {key: value for key, value in TASK.items() if key != "profiles"})
    assert load_config(plain).config.profile == ""


def test_a_saved_configuration_repeats_the_run_whatever_the_task_says_now(task: Path, tmp_path: Path) -> None:
    config = laptop(
        task, "gro.preset=dapo", "learning.max_grad_norm=none", "rewards.math.timeout_s=2", "data.train.path=x.jsonl"
    ).config
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config), encoding="utf-8")
    write(task, {**TASK, "scoring": {"workers": 9}, "evaluation": {"correct": "math", "max_tokens": 5}})
    assert load_config(task, config_files=[saved]).config == config
    assert load_config(saved).config == config
    assert load_config(saved, sets=["gro.preset=rloo"]).config.gro == laptop(task, "gro.preset=rloo").config.gro
    with pytest.raises(ConfigError, match="complete configuration with profile 'laptop': --profile gpu"):
        load_config(task, "gpu", [saved])
    with pytest.raises(ConfigError, match="of task 'trial', not of 'math-gsm8k'"):
        load_config("math-gsm8k", config_files=[saved])


def test_an_environment_is_none_or_a_section_with_defaults_and_is_saved_as_it_is(task: Path, tmp_path: Path) -> None:
    assert laptop(task).config.environment is None
    config = laptop(task, "environment.tools=['calculator']", "environment.format=tags").config
    assert config.environment is not None
    assert (config.environment.tools, config.environment.name) == (["calculator"], "")
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(config), encoding="utf-8")
    assert load_config(saved).config == config
    assert load_config(saved, sets=["environment=none"]).config.environment is None


PLUGIN = """
from reasoner import hookimpl, reward

@reward("unit")
def unit(problem, response, *, name: str = "km") -> float:
    return float(name in response.text)

@hookimpl
def register_rewards():
    return [unit]
"""


def test_plugins_of_the_command_line_and_of_the_file_are_both_known(task: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "units.py"
    plugin.write_text(PLUGIN)
    rewards = "rewards=[{source = 'math'}, {source = 'unit', options = {name = 'm'}}]"
    given = load_config(task, "laptop", sets=[rewards], plugins=[str(plugin)])
    assert (given.config.plugins, given.origins["plugins"]) == ([str(plugin)], "--plugin")
    saved = write(tmp_path / "own.toml", {"plugins": [str(plugin)]})
    assert load_config(task, "laptop", [saved], [rewards]).config.rewards == given.config.rewards
    with pytest.raises(ConfigError, match="no reward source 'unit'"):
        laptop(task, rewards)


@pytest.mark.parametrize(
    "sets",
    [
        [TRUNCATED],
        [TRUNCATED, "learning.engine=deepspeed", "learning.deepspeed.zero_stage=2"],
        [TRUNCATED, "sampling.quantization=fp8"],
        ["gro.terms.grpo.correction.kind=mask"],
    ],
)
def test_a_quantized_base_is_taken_with_an_adapter_and_a_correction(task: Path, sets: list[str]) -> None:
    config = laptop(task, "lora.quantization=nf4", *sets).config
    assert config.lora is not None
    assert config.lora.quantization == "nf4"
    assert config.quantized
    assert not laptop(task, "lora.rank=4").config.quantized
