"""Methods by name: what they fill, what they print, what is refused, and a plugin with a method of its own."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli_w
import torch
from typer.testing import CliRunner

from reasoner.cli.app import app
from reasoner.config import Config, TermConfig
from reasoner.errors import ConfigError, UserError
from reasoner.gro.inputs import ObjectiveInputs
from reasoner.gro.objective import weigh
from reasoner.gro.spec.presets import PRESETS, Weighted
from reasoner.gro.spec.registry import BUILT_IN
from reasoner.gro.spec.terms import Clip, CustomCredit, Teacher, Term
from reasoner.gro.term_plan import credit_of, plan
from reasoner.loading import Resolved, load_config, term_table, to_toml
from reasoner.loading.introspection import annotation_at
from reasoner.plugins import hookspecs
from reasoner.plugins import manager as hooks
from reasoner.training.build.trainer import _bound_terms

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "plugins" / "tanh_grpo.py"
OFFLINE = {name: {"path": f"{name}.jsonl"} for name in ("pairs", "labelled", "demos")}
TASK: Mapping[str, Any] = {
    "model": {"path": "some/model"},
    "data": {
        "train": {"generator": "gsm_symbolic", "limit": 20, "seed": 1},
        "eval": {"generator": "gsm_symbolic", "limit": 10, "seed": 2},
        **OFFLINE,
    },
    "rewards": [{"source": "math"}, {"source": "boxed_format", "weight": 0.5}],
    "evaluation": {"correct": "math"},
    "run": {"steps": 20},
}


def load(tmp_path: Path, *sets: str, plugins: Sequence[Path] = (), **sections: Any) -> Resolved:
    """A task with everything that a method can need; `sections` replace some, None takes one away."""
    table = {name: value for name, value in {**TASK, **sections}.items() if value is not None}
    task = tmp_path / "trial.toml"
    task.write_text(tomli_w.dumps(table), encoding="utf-8")
    return load_config(task, sets=sets, plugins=[str(plugin) for plugin in plugins])


def weighted_terms(config: Config) -> dict[str, Weighted]:
    return {name: Weighted(each.term, each.weight, each.schedule) for name, each in config.gro.terms.items()}


def shown(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["algorithms", *arguments], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert outcome.exit_code == 0
    return outcome.output


def _teacher_of(name: str) -> list[str]:
    """A teacher for a method that needs another model than the policy."""
    credits = [weighted.term.credit for weighted in PRESETS[name].terms.values()]
    return ["teacher.path=big"] if Teacher() in credits else []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_terms_and_its_saved_configuration_loads_to_the_same(tmp_path: Path, name: str) -> None:
    resolved = load(tmp_path, f"gro.preset={name}", *_teacher_of(name))
    assert weighted_terms(resolved.config) == PRESETS[name].terms
    assert {resolved.origins[f"gro.terms.{term}.evidence.unit"] for term in PRESETS[name].terms} == {f"preset {name}"}
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(resolved.config), encoding="utf-8")
    assert load_config(saved).config == resolved.config


@pytest.mark.parametrize("name", PRESETS)
def test_the_toml_that_show_prints_loads_to_the_same_terms(tmp_path: Path, name: str) -> None:
    table = tomllib.loads(shown("show", name).partition("The same as TOML\n")[2])
    assert table["gro"]["preset"] == ""
    written = load(tmp_path, *_teacher_of(name), gro=table["gro"]).config.gro.terms
    assert written == load(tmp_path, f"gro.preset={name}", *_teacher_of(name)).config.gro.terms


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if len(preset.terms) == 1])
def test_a_term_takes_a_method_of_one_term(tmp_path: Path, name: str) -> None:
    config = load(tmp_path, f"gro.terms.mine.preset={name}", *_teacher_of(name)).config
    assert weighted_terms(config) == {"mine": PRESETS[name].terms[name]}


def test_names_with_signs_are_addressed_as_they_are(tmp_path: Path) -> None:
    resolved = load(tmp_path, "gro.preset=reinforce++", "gro.terms.reinforce++.link.high=0.3")
    assert resolved.config.gro.terms["reinforce++"].link == Clip(high=0.3)
    assert resolved.origins["gro.terms.reinforce++.link.high"] == "--set"
    with pytest.raises(ConfigError, match=r"\(gro\.terms\.reinforce\+\+\.link\.low: --set;"):
        load(tmp_path, "gro.preset=reinforce++", "gro.terms.reinforce++.link.low=2.0")


def test_the_list_has_every_method_and_fits_80_columns() -> None:
    lines = shown("list").splitlines()
    assert max(map(len, lines)) <= 80
    firsts = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    assert [name for name in PRESETS if firsts.count(name) != 1] == []


def test_the_list_says_what_each_of_its_columns_means() -> None:
    text = shown("list")
    heads = set(" ".join(text.splitlines()[:2]).split()) - {"preset", "paper"}
    legend = text.partition("What the columns mean\n")[2]
    assert heads == {line.split()[0] for line in legend.splitlines() if re.match(r"[a-z]+ {2,}", line)}
    assert len(heads) == 6


def test_show_says_what_of_a_paper_is_a_setting_and_its_keys_are_there() -> None:
    text = " ".join(shown("show", "dapo").split())
    assert "Dynamic sampling, the paper's replacement of groups whose rewards are all equal, is a setting:" in text
    for preset in PRESETS.values():
        for key in re.findall(r"\b[a-z_]+\.[a-z_.]+\b", preset.note):
            assert annotation_at(tuple(key.split("."))) is not None, key
    assert "sampling.refills" in PRESETS["dapo"].note
    assert "Not part of the method" not in shown("show", "grpo")


def test_what_a_newer_method_equals_is_in_list_show_and_documentation() -> None:
    known = {name: preset.equals for name, preset in PRESETS.items() if preset.equals}
    listed = " ".join(shown("list").split())
    rows = (ROOT / "docs" / "gro.md").read_text(encoding="utf-8").replace("`", "").splitlines()
    for name, equals in known.items():
        assert f"- {name}: {equals} " in f"{listed} "
        assert f"Equals {equals} " in " ".join(shown("show", name).split())
        assert any(
            name in row.split("|")[1].replace(",", "").split() and row.endswith(f" {equals} |")
            for row in rows
            if row.startswith("| ")
        ), name
    assert "Equals" not in shown("show", "grpo")


def test_the_list_has_the_methods_of_plugins() -> None:
    lines = shown("list", "--plugin", str(EXAMPLE)).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [index for index, line in enumerate(lines) if line.startswith("tanh-grpo ")]
    assert lines[row].split() == ["tanh-grpo", "token", "rank", "l"]
    assert lines[row + 1].split() == ["old", "tanh(width", "0.2)", "response-mean"]


NEEDS: Mapping[str, Callable[[Term], bool]] = {
    "online groups": lambda term: term.source == "online",
    "at least 2 responses per problem": lambda term: term.source == "online" and term.compares,
    "preference pairs": lambda term: term.source == "pairs",
    "labelled responses": lambda term: term.source == "labelled",
    "demonstrations": lambda term: term.source == "demos",
    "a reference policy": lambda term: term.needs_reference,
    "a critic": lambda term: term.needs_critic,
    "a frozen teacher": lambda term: term.needs_teacher,
    "one greedy response": lambda term: term.needs_greedy,
}


@pytest.mark.parametrize("name", PRESETS)
def test_show_says_what_a_method_is_and_needs(name: str) -> None:
    text = shown("show", name)
    assert text.partition("\n")[0] in (f"{name}: {PRESETS[name].paper}", f"{name}: arXiv {PRESETS[name].paper}")
    for term, weighted in PRESETS[name].terms.items():
        assert f"\nterm {term}, weight {weighted.weight:g}" in text
    needs = text.partition("\nNeeds\n")[2].partition("\nThe same as TOML\n")[0]
    found = {need for need in NEEDS if f"  - {need}" in needs}
    terms = [weighted.term for weighted in PRESETS[name].terms.values()]
    assert found == {need for need, holds in NEEDS.items() if any(holds(term) for term in terms)}


def test_show_of_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no method 'grpoo'. Did you mean 'grpo'\? See `reasoner algorithms list`"):
        shown("show", "grpoo")


def schedule(**choices: Any) -> str:
    return "gro.terms.grpo.schedule={" + ", ".join(f"{key} = {value!r}" for key, value in choices.items()) + "}"


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        # names
        (["gro.preset=grpoo"], ["gro.preset = 'grpoo' (--set)", "Did you mean 'grpo'?", "There are: reinforce, rloo"]),
        (["gro.terms.grpo.preset=dpoo"], ["gro.terms.grpo.preset = 'dpoo' (--set)", "Did you mean 'dpo'?"]),
        (["gro.terms.x.preset=cpo"], ["gro.terms.x.preset = 'cpo'", "terms prefer, sft", "Use gro.preset = 'cpo'"]),
        (
            ["gro.terms.grop.weight=1"],
            ["gro.terms.grop (--set): there is no such term. Did you mean 'grpo'?", "'grpo' has: grpo"],
        ),
        (["gro.preset=", "gro.terms.a.weight=1.0"], ["gro.terms.a (--set): there is no such term. A new term needs"]),
        (["gro.terms=3"], ["gro.terms = 3 (--set): must be a table"]),
        (
            ["gro.terms.grpo.link.kind=clpi"],
            ["gro.terms.grpo.link.kind", "one of linear, ratio, clip,", "mean 'clip'?"],
        ),
        (["gro.terms.grpo.credit.kind=bset"], ["gro.terms.grpo.credit.kind", "one of advantage, best", "mean 'best'?"]),
        (["gro.terms.grpo.link.kind=custom"], ["gro.terms.grpo.link.name is needed and not set"]),
        (
            ["gro.terms.grpo.link={kind = 'custom', name = 'tnah'}"],
            ["gro.terms.grpo.link.name = 'tnah': no plugin registers it. Did you mean 'tanh'?", "Registered: tanh."],
        ),
        (
            ["gro.terms.grpo.credit={kind = 'custom', name = 'rnak'}"],
            ["gro.terms.grpo.credit.name = 'rnak': no plugin registers it. Did you mean 'rank'?"],
        ),
        (
            ["gro.terms.grpo.link={kind = 'custom', name = 'tanh', options = {widht = 1.0}}"],
            ["gro.terms.grpo.link.options.widht: 'tanh' has no such option. Did you mean 'width'?"],
        ),
        (
            ["gro.terms.grpo.credit={kind = 'custom', name = 'rank', options = {ties = 1}}"],
            ["gro.terms.grpo.credit.options.ties: 'rank' has no such option. It has: none."],
        ),
        # keys of a term outside of a term
        (["gro.link.high=0.3"], ["gro.link (--set): unknown key. It belongs into a term: gro.terms.grpo.link."]),
        (["gro.weight=0.3"], ["gro.weight = 0.3 (--set)", "It belongs into a term: gro.terms.grpo.weight."]),
        (["gro.preset=cpo", "gro.evidence.beta=1"], ["gro.terms.prefer.evidence or gro.terms.sft.evidence."]),
        (["gro.lnk.high=0.3"], ["gro.lnk (--set): unknown key.", "[gro] has: preset, terms."]),
        # groups, updates, models
        (["gro.preset=rloo", "sampling.group_size=1"], ["sampling.group_size = 1", "gro.terms.rloo", "at least 2"]),
        (["sampling.group_size=1"], ["gro.terms.grpo", "at least 2", "(sampling.group_size: --set"]),
        (
            ["gro.preset=dpo", "gro.terms.dpo.source=online", "sampling.group_size=1"],
            ["sampling.group_size = 1", "gro.terms.dpo", "at least 2"],
        ),
        (["gro.preset=rloo", "learning.updates_per_step=2"], ["= 2", "gro.terms.rloo.link.kind", "link.kind = 'clip'"]),
        (["gro.preset=rloo", "learning.epochs=2"], ["= 2", "gro.terms.rloo.link.kind = 'linear'", "use 1"]),
        (["learning.updates_per_step=3"], ["learning.problems_per_step = 8 is not divisible", "_per_step: --set"]),
        (
            ["gro.preset=dpo", "data.pairs.per_step=6", "learning.updates_per_step=4"],
            ["data.pairs.per_step = 6 is not divisible by learning.updates_per_step = 4"],
        ),
        (["gro.preset=kto", "data.labelled.per_step=1"], ["gro.terms.kto.anchor.kind", "raise data.labelled.per_step"]),
        # choices that do not fit
        (["gro.terms.grpo.weight=-1.0"], ["gro.terms.grpo.weight = -1.0 (--set): must be at least 0"]),
        (
            ["gro.preset=dpo", "gro.terms.dpo.evidence.beta=-0.1"],
            ["[gro.terms.dpo] evidence.beta must be above 0, got -0.1", "(gro.terms.dpo.evidence.beta: --set)"],
        ),
        (
            ["gro.terms.grpo.anchor.kind=none"],
            ["link.kind = 'clip' needs anchor.kind = 'old'", "gro.terms.grpo.anchor.kind: --set"],
        ),
        (
            ["gro.terms.grpo.kl={coefficient = 0.1, estimator = 'k1'}"],
            ["[gro.terms.grpo] kl.estimator = 'k1' belongs into the reward", "use k2 or k3"],
        ),
        (
            ["gro.preset=dpo", "gro.terms.dpo.aggregation.kind=token-mean"],
            ["aggregation.kind = 'token-mean' does not fit evidence.unit = 'pair'; it takes pairs"],
        ),
        (
            ["gro.preset=sft", "gro.terms.sft.correction.kind=truncate"],
            ["[gro.terms.sft] correction.kind = 'truncate' needs source = 'online', got 'demos'"],
        ),
        (
            ["gro.preset=sft", "gro.terms.sft.anchor.kind=old"],
            ["[gro.terms.sft] anchor.kind = 'old' needs source = 'online', got 'demos'"],
        ),
        (
            ["gro.preset=ppo", "gro.terms.ppo.credit.combine=normalise-then-sum"],
            ["[gro.terms.ppo] credit.combine = 'normalise-then-sum'", "not with baseline = 'critic'"],
        ),
        (
            ["gro.terms.echo={preset='sft', source='online', evidence={tokens='observed'}}"],
            ["gro.terms.echo.evidence.tokens = 'observed' reads what tools and environments write", "environment.name"],
        ),
        (
            ["gro.terms.grpo.credit.level=turn"],
            ["gro.terms.grpo.credit.level = 'turn' credits the turns", "set environment.name"],
        ),
        (
            ["gro.terms.grpo.credit.level=turn", "environment.name=maze"],
            ["which is no part of the reward: add the reward source 'environment'"],
        ),
        (
            ["gro.preset=ppo", "gro.terms.ppo.credit.level=turn"],
            ["[gro.terms.ppo] credit.level = 'turn' gives each turn", "got 'token', 'sum-then-normalise', 'critic'"],
        ),
        (
            ["gro.preset=gspo", "gro.terms.gspo.credit.level=turn"],
            ["[gro.terms.gspo] credit.level = 'turn'", "it needs evidence.unit = 'token'"],
        ),
        # schedules
        (
            [schedule(kind="linear", first=10, last=5)],
            ["gro.terms.grpo.schedule", "first = 10 must come before last = 5"],
        ),
        ([schedule(kind="switch", at=20)], ["gro.terms.grpo.schedule: at = 20", "last step, 20", "would never come"]),
        ([schedule(kind="switc")], ["gro.terms.grpo.schedule.kind", "one of constant, linear", "mean 'switch'?"]),
        ([schedule(at=3)], ["gro.terms.grpo.schedule.at = 3 (--set): unknown key", 'with kind = "constant" has: kind']),
        ([schedule(kind="metric", above=0.7)], ["gro.terms.grpo.schedule.metric is needed and not set"]),
        (
            [schedule(kind="metric", metric="groups/no_credit")],
            ["gro.terms.grpo.schedule: exactly one of above, below is needed"],
        ),
        (
            [schedule(kind="metric", metric="groups/no_credit", above=0.7, below=0.1)],
            ["gro.terms.grpo.schedule: exactly one of above, below is needed"],
        ),
        (
            [schedule(kind="metric", metric="groups/nocredit", above=0.7)],
            ["gro.terms.grpo.schedule.metric = 'groups/nocredit'", "Did you mean 'groups/no_credit'?"],
        ),
        (
            [schedule(kind="metric", metric="reward/maths/mean", above=0.7)],
            ["no reward source 'maths'. Did you mean 'math'? It has: math, boxed_format."],
        ),
        ([schedule(kind="metric", metric="term/gpro/loss", above=0.7)], ["no term 'gpro'. Did you mean 'grpo'?"]),
    ],
)
def test_what_is_refused_and_how(tmp_path: Path, sets: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *sets, plugins=[EXAMPLE], gro={"preset": "grpo"})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("metric", ["groups/no_credit", "reward/math/mean", "reward/mean", "term/grpo/clipped_share"])
def test_a_schedule_reads_any_metric_that_the_run_has(tmp_path: Path, metric: str) -> None:
    choice = schedule(kind="metric", metric=metric, above=0.7)
    assert load(tmp_path, choice, gro={"preset": "grpo"}).origins["gro.terms.grpo.schedule.metric"] == "--set"


@pytest.mark.parametrize(
    ("preset", "sections", "parts"),
    [
        ("dpo", ("train", "eval"), ["gro.terms.dpo.source = 'pairs' needs", "[data.pairs]", "dpo.source=online"]),
        ("kto", ("train", "eval"), ["gro.terms.kto.source = 'labelled' needs", "--set data.labelled.path=FILE"]),
        ("sft", ("train", "eval"), ["gro.terms.sft.source = 'demos' needs", "--set data.demos.path=FILE."]),
        ("grpo+sft", ("train", "eval"), ["gro.terms.sft.source = 'demos' needs"]),
        ("grpo", ("eval", *OFFLINE), ["gro.terms.grpo reads online groups", "needs data.train, which is not set"]),
        (
            "rloo+kto",
            ("pairs",),
            [
                "gro.terms.rloo reads online groups",
                "needs data.train, data.eval (or data.holdout = 0.05), which is not set",
            ],
        ),
    ],
)
def test_a_term_whose_data_is_not_there_is_refused(
    tmp_path: Path, preset: str, sections: Sequence[str], parts: list[str]
) -> None:
    data = {name: TASK["data"][name] for name in sections}
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"gro.preset={preset}", data=data)
    for part in parts:
        assert part in str(caught.value)


def test_fresh_groups_need_rewards_and_evaluation_and_offline_data_does_not(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"gro\.terms\.grpo reads online groups .* needs rewards, evaluation, which is not set"
    ):
        load(tmp_path, "gro.preset=grpo", rewards=None, evaluation=None)
    with pytest.raises(ConfigError, match=r"needs evaluation, which is not set"):
        load(tmp_path, "gro.preset=grpo", evaluation=None)
    config = load(tmp_path, "gro.preset=dpo", rewards=None, evaluation=None, data=OFFLINE).config
    assert (config.online, config.rewards, config.evaluation) == (False, [], None)


def test_offline_training_samples_where_there_is_all_that_an_evaluation_needs(tmp_path: Path) -> None:
    assert load(tmp_path, "gro.preset=dpo").config.has_sampler
    for sets, sections in (
        (["data.eval=none"], {}),
        ([], {"evaluation": None}),
        (["evaluation={every=5}", "data.eval=none", "data.holdout=0.05"], {"evaluation": None, "rewards": None}),
        (["evaluation={every=5}", "data.holdout=0.05"], {"evaluation": None, "rewards": None, "data": OFFLINE}),
    ):
        config = load(tmp_path, "gro.preset=dpo", *sets, **sections).config
        assert (config.online, config.has_sampler) == (False, False), (sets, sections)


@pytest.mark.parametrize(
    ("sets", "sections", "message"),
    [
        (["gro.preset=grpo", "evaluation={every=5}"], {"evaluation": None}, "evaluation.correct is needed and not set"),
        (["gro.preset=dpo", "evaluation={every=5}"], {"evaluation": None}, "one of math, boxed_format"),
        (["gro.preset=dpo", "evaluation.every=5", "data.eval=none"], {}, "data.holdout = 0.05, or set data.eval"),
        (["evaluation={every=5}"], {"evaluation": None}, "evaluation.correct is needed and not set"),
        (
            ["gro.preset=dpo", "evaluation.correct=maths"],
            {},
            "'maths' is not among the rewards: math, boxed_format; name one of them, or nothing",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused(
    tmp_path: Path, sets: list[str], sections: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(tmp_path, *sets, **sections)


def test_the_example_is_short_and_imports_no_torch() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    assert [line for line in lines if line.startswith(("import torch", "from torch"))] == []
    assert "reasoner run math-gsm8k --plugin plugins/tanh_grpo.py --set gro.preset=tanh-grpo" in lines


def test_a_method_of_a_plugin_loads_like_a_built_in_one(tmp_path: Path) -> None:
    resolved = load(tmp_path, "gro.preset=tanh-grpo", plugins=[EXAMPLE])
    found = hooks.algorithms(hooks.build_manager([str(EXAMPLE)]))
    assert list(found.presets) == [*BUILT_IN.presets, "tanh-grpo"]
    assert weighted_terms(resolved.config) == found.presets["tanh-grpo"].terms
    saved = tmp_path / "config.toml"
    saved.write_text(to_toml(resolved.config), encoding="utf-8")
    assert load_config(saved).config == resolved.config
    table = tomllib.loads(shown("show", "tanh-grpo", "--plugin", str(EXAMPLE)).partition("TOML\n")[2])
    assert load(tmp_path, plugins=[EXAMPLE], gro=table["gro"]).config.gro.terms == resolved.config.gro.terms
    mixed = load(
        tmp_path, "gro.terms.dapo.credit={kind = 'custom', name = 'rank'}", plugins=[EXAMPLE], gro={"preset": "dapo"}
    )
    assert mixed.config.gro.terms["dapo"].credit == CustomCredit("rank")


TILTED = """
from dataclasses import replace
from reasoner import PRESETS, Algorithms, CustomLink, Preset, Weighted, hookimpl

@hookimpl
def register_algorithms():
    term = replace(PRESETS["grpo"].term, link=CustomLink("tilted"))
    links = {"tilted": lambda u, c, pull=0.0: c * u - pull * u.square()}
    return Algorithms({"tilted-grpo": Preset({"tilted": Weighted(term)}, "an example")}, {}, links)
"""


def test_a_link_of_a_plugin_that_is_not_flat_without_credit_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    """With the options that it is used with: of the same link, one use keeps the contract and another does not."""
    file = tmp_path / "tilted.py"
    file.write_text(TILTED)

    def bound(*sets: str) -> Mapping[str, Term]:
        config = load(tmp_path, "gro.preset=tilted-grpo", *sets, plugins=[file]).config
        return _bound_terms(cast(Any, SimpleNamespace(config=config, manager=hooks.build_manager([str(file)]))))

    assert callable(bound()["tilted"].link)
    with pytest.raises(
        ConfigError, match=r"gro\.terms\.tilted\.link\.name = 'tilted': for credit 0 this link has"
    ) as no:
        bound("gro.terms.tilted.link.options={pull = 0.5}")
    assert "the slope 8 at u = -8. Responses without credit get no forward pass" in str(no.value)


def test_the_page_about_plugins_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    hooked = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert set(re.findall(r"^\| `(register_\w+)` \|", page, re.MULTILINE)) == hooked
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    bash = "".join(re.findall(r"^```bash\n(.*?tanh_grpo.*?)^```$", page, re.MULTILINE | re.DOTALL))
    monkeypatch.chdir(ROOT)
    assert load(tmp_path, **tomllib.loads(toml)).config.gro.terms["dapo"].credit == CustomCredit("rank")
    runs = [shlex.split(line) for line in bash.splitlines() if line.startswith("reasoner run math-")]
    assert runs
    for words in runs:
        sets = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
        assert (
            load(tmp_path, *sets, plugins=[Path(words[words.index("--plugin") + 1])]).config.gro.preset == "tanh-grpo"
        )


WIDTH = 0.3
REWARDS: list[list[float | None]] = [[0.0, 1.0, 0.5], [2.0, None, -1.0], [1.0, 1.0, 1.0]]
"""two groups with differences (None: abstained) and one without"""
LENGTHS = [1, 3, 2, 4, 2, 3, 1, 2, 4]


def expected_weights(logprobs_RT: torch.Tensor, old_RT: torch.Tensor) -> list[list[float]]:
    """w[i,t] = credit_i (1 - tanh^2(u / width)) / (valid responses x length_i), u = l - l_old, in plain Python."""
    valid = sum(reward is not None for group in REWARDS for reward in group)
    weights = []
    for i, length in enumerate(LENGTHS):
        group, own = REWARDS[i // 3], REWARDS[i // 3][i % 3]
        others = [reward for j, reward in enumerate(group) if j != i % 3 and reward is not None]
        credit = 0.0 if own is None else sum((own > other) - (own < other) for other in others) / max(1, len(others))
        row = [0.0] * max(LENGTHS)
        for t in range(length):
            distance = (float(logprobs_RT[i, t]) - float(old_RT[i, t])) / WIDTH
            row[t] = credit * (1.0 - math.tanh(distance) ** 2) / (valid * length)
        weights.append(row)
    return weights


def test_the_weights_of_a_plugin_s_method_are_what_its_formulas_say(tmp_path: Path) -> None:
    sets = ["gro.preset=tanh-grpo", f"gro.terms.tanh.link.options.width={WIDTH}"]
    term = load(tmp_path, *sets, plugins=[EXAMPLE]).config.gro.terms["tanh"].term
    algorithms = hooks.algorithms(hooks.build_manager([str(EXAMPLE)]))
    generator = torch.Generator().manual_seed(5)
    shape = (len(LENGTHS), max(LENGTHS))
    old_RT = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    logprobs_RT = old_RT + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = ObjectiveInputs(
        rewards_NG=torch.tensor([[math.nan if r is None else r for r in group] for group in REWARDS]).double(),
        valid_NG=torch.tensor([[r is not None for r in group] for group in REWARDS]),
        mask_RT=torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None],
        old_RT=old_RT,
    )
    bound = algorithms.bind(term)
    planned = plan("tanh", bound, inputs, credit_of(bound, inputs), max_tokens=8)
    weights_RT = weigh([planned], inputs, range(shape[0]), logprobs_RT)[0].weights_RT
    expected_RT = torch.tensor(expected_weights(logprobs_RT, old_RT), dtype=torch.float64)
    assert torch.allclose(weights_RT, expected_RT, rtol=1e-12, atol=1e-15)
    assert expected_RT.count_nonzero() == 1 + 3 + 4 + 3  # the middle, the abstained and the equal ones get none
    assert planned.active_R.tolist() == [True, True, False, True, False, True, False, False, False]


TAKEN = """
from reasoner import hookimpl
from reasoner.gro.spec.registry import Algorithms
from reasoner.gro.spec.presets import PRESETS

@hookimpl
def register_algorithms():
    return Algorithms(presets={"grpo": PRESETS["dapo"]})
"""
NEEDY = """
from reasoner import hookimpl
from reasoner.gro.spec.registry import Algorithms

@hookimpl
def register_algorithms():
    return Algorithms(links={"cubic": lambda u, c, slope, bend=1.0: c * u * slope})
"""


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "taken.py"
    plugin.write_text(TAKEN)
    with pytest.raises(
        UserError, match=r"method 'grpo' is registered twice: the one of '2402\.03300' and the one of '2503"
    ):
        load(tmp_path, "gro.preset=dpo", plugins=[plugin])
    copy = tmp_path / "copy.py"
    copy.write_text(EXAMPLE.read_text(encoding="utf-8"))
    with pytest.raises(UserError, match="method 'tanh-grpo' is registered twice"):
        load(tmp_path, "gro.preset=dpo", plugins=[EXAMPLE, copy])


def test_an_option_without_a_default_must_be_set(tmp_path: Path) -> None:
    plugin = tmp_path / "needy.py"
    plugin.write_text(NEEDY)
    bare = "gro.terms.grpo.link={kind = 'custom', name = 'cubic'}"
    with pytest.raises(ConfigError, match=r"gro\.terms\.grpo\.link\.options\.slope is needed and not set: 'cubic'"):
        load(tmp_path, bare, plugins=[plugin], gro={"preset": "grpo"})
    given = bare.replace("'cubic'", "'cubic', options = {slope = 2.0}")
    assert (
        load(tmp_path, given, plugins=[plugin], gro={"preset": "grpo"}).config.gro.terms["grpo"].link.kind == "custom"
    )


def test_the_table_of_a_term_has_every_choice() -> None:
    assert {"preset", *term_table(PRESETS["grpo"].terms["grpo"])} == set(TermConfig.model_fields)
