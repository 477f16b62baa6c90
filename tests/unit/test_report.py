"""The report of made-up runs: what it says, what it holds, and that nothing in it is markup but its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer

from reasoner.cli.results.report import leaving_report
from reasoner.errors import DataError, RunError, UserError
from reasoner.evaluation.examples import shortened
from reasoner.evaluation.metrics import Criterion, Evaluation, estimate
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.io.serialization import to_json
from reasoner.monitoring.summary import as_text
from reasoner.monitoring.view import Summary
from reasoner.records import EnvironmentReport, Response, Rollout, ToolCall, Turn
from reasoner.report import collect as collect_module
from reasoner.report import panels
from reasoner.report.collect import collect
from reasoner.report.compare import settings
from reasoner.report.pieces import Pieces, load_pieces
from reasoner.report.text import as_markdown, escaped
from reasoner.report.write import make_report, save, write_plots
from reasoner.runs.examples import read_examples
from reasoner.runs.folder import GATE, Evaluated, read_evaluations, read_gate
from reasoner.runs.reader import read_run
from reasoner.runs.starts import record_start
from tests.made_up import HOSTILE, edit_json, made_up_run, write_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `first` and `second`, and a hostile one; they are only read."""
    output = tmp_path_factory.mktemp("made")
    made_up_run(output, steps=6, every=3, problems=3).rename(output / "first")
    made_up_run(output, steps=3, problems=2, seed=1, gain=0.2, sets=["gro.preset=rloo"]).rename(output / "second")
    evil = RuntimeError(f"died of {HOSTILE[0]}")
    made_up_run(output, steps=2, problems=2, texts=HOSTILE, end=evil).rename(output / "hostile")
    return output


def page_of(*runs: Path, tokens: int = 10**9) -> str:
    return make_report(runs, tokens=tokens)[1]


def data_of(page: str) -> dict[str, Any]:
    packed = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', page)
    assert packed
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return data


class Elements(HTMLParser):
    """Every element that a parser finds, by name, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def test_the_page_holds_every_response_with_its_tokens(made: Path) -> None:
    data = data_of(page_of(made / "first"))
    assert data["runs"] == ["first"]
    assert data["sources"] == ["math", "boxed_format"]
    rollouts = read_parquet(made / "first" / "rollouts" / "step-000002.parquet", Rollout)
    groups = [group for group in data["groups"] if group["training"] and group["step"] == 2]
    responses = [response for group in groups for response in group["responses"]]
    assert len(responses) == len(rollouts) == 24
    for response, rollout in zip(responses, rollouts, strict=True):
        assert response["text"].removesuffix("<|im_end|>") == rollout.response.text
        assert sum(response["lengths"]) == len(response["text"])
        assert response["logprobs"] == [round(-100 * logprob) for logprob in rollout.response.sampler_logprobs]
        assert response["reward"] == rollout.reward
        assert response["credit"] == pytest.approx(rollout.credit, rel=1e-4)
        weights = response["weights"]
        expanded = weights if isinstance(weights, list) else [weights] * len(rollout.response.token_ids)
        assert expanded == pytest.approx(rollout.weights, rel=1e-4)
        assert response["components"]["0"]["parts"] == rollout.components[0].parts
    problems = {data["problems"][group["problem"]]["id"] for group in groups}
    assert problems == {"train:2-0", "train:2-1", "train:2-2"}


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_script(made: Path) -> None:
    page = page_of(made / "hostile", made / "first")
    elements = Elements(page).found
    (policy,) = [a["content"] or "" for tag, a in elements if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for name, kind in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert [a.get("type") for tag, a in elements if tag == "script"] == ["text/plain", None]
    for tag, attributes in elements:
        assert tag not in ("img", "iframe", "link", "object", "b")
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert page.startswith("<!doctype html>")
    assert "died of &lt;/script&gt;" in page


def test_several_runs_are_compared_with_the_first(made: Path) -> None:
    page = page_of(made / "first", made / "second")
    assert "second against first" in page
    assert "gro.terms.*.credit.baseline" in page
    assert "Reward: boxed_format" in page
    data = data_of(page)
    assert data["runs"] == ["first", "second"]
    assert {group["run"] for group in data["groups"]} == {0, 1}
    assert [curve["label"] for curve in data["charts"]["reward-math"]["series"]] == ["first", "second"]


def test_what_does_not_fit_is_left_out_and_said(made: Path) -> None:
    page = page_of(made / "first", tokens=3000)
    data = data_of(page)
    count = sum(len(group["responses"]) for group in data["groups"])
    assert 0 < count < 216
    assert f"Showing {count} of 216 responses" in page
    assert sum(each["tokens"] for group in data["groups"] for each in group["responses"]) <= 3000
    assert "Showing" not in page_of(made / "first")


def test_a_damaged_rollout_file_is_said_and_the_rest_is_there(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    broken = run / "rollouts" / "step-000002.parquet"
    broken.write_bytes(broken.read_bytes()[:1000])
    # A step that was not committed: written, and then the run was killed.
    shutil.copy(run / "rollouts" / "step-000003.parquet", run / "rollouts" / "step-000007.parquet")
    page = page_of(run)
    assert "step-000002.parquet cannot be read" in page
    assert {group["step"] for group in data_of(page)["groups"]} == {0, 1, 3, 4, 5, 6}


def test_a_run_without_tokenizer_has_no_tokens_to_colour(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    shutil.rmtree(run / "model")
    config = (run / "config.toml").read_text().replace("embedded:smollm2-135m-instruct", str(tmp_path / "nowhere"))
    (run / "config.toml").write_text(config)
    page = page_of(run)
    assert "no tokens to colour" in page
    response = data_of(page)["groups"][0]["responses"][0]
    assert "lengths" not in response
    assert response["text"]


def test_a_run_that_failed_before_its_first_step_has_a_report(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "hostile", tmp_path / "empty"))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (run / name).write_text("")
    shutil.rmtree(run / "rollouts")
    page = page_of(run)
    assert "0 of 2 steps" in page
    assert 'id="responses"' not in page
    assert "0 of 2 steps" in as_markdown(collect([run]))


def test_a_run_on_offline_data_is_told_by_its_terms(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "offline"))
    shutil.rmtree(run / "rollouts")
    (run / "evaluations.jsonl").write_text("")
    steps = [
        {
            "step": n,
            "curriculum/tried": n / 9,
            "term/dpo/loss": 0.7 - 0.1 * n,
            "term/dpo/accuracy": 0.5 + 0.04 * n,
            "time/total": 2.0,
        }
        for n in range(1, 7)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    page = page_of(run)
    assert "<h3>Dpo loss</h3>" in page
    assert "dpo: preference accuracy" in page
    assert "<figcaption>Curriculum</figcaption>" in page
    assert 'id="responses"' not in page
    assert 'id="evaluation"' not in page
    assert "| dpo accuracy | 56% | 72% |" in as_markdown(collect([run]))


def test_held_out_rows_have_tiles_a_table_and_curves(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "offline"))
    shutil.rmtree(run / "rollouts")
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "term/dpo/loss": 0.7, "time/total": 2.0}) + "\n")
    evaluations = []
    for step, loss in ((0, 0.69), (1, 0.6), (2, 0.5)):
        losses = {f"pairs:{n}": loss + 0.01 * (n % 3) for n in range(12)}
        figures = (estimate("term/dpo/loss", "number", losses, 1),)
        evaluations.append(to_json(Evaluated(step, Evaluation(0, 0, 0, figures, rows=12))) + "\n")
    (run / "evaluations.jsonl").write_text("".join(evaluations))
    report = collect([run])
    (comparison,) = [each.comparison for each in report.runs if each.comparison]
    assert [(row.name, row.tone) for row in comparison.rows] == [("term/dpo/loss", "better")]  # it fell
    page = page_of(run)
    assert "<h3>Held-out dpo loss</h3>" in page
    assert "Evaluation: held-out dpo loss" in page
    assert "| held-out dpo loss | 0.700 [" in as_markdown(report)


def test_runs_that_were_judged_by_other_thresholds_are_not_compared_by_accuracy(made: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(made / "first", tmp_path / "other"))
    lenient = [replace(each, evaluation=replace(each.evaluation, threshold=0.5)) for each in read_evaluations(other)]
    (other / "evaluations.jsonl").write_text("".join(to_json(each) + "\n" for each in lenient))
    (comparison,) = collect([made / "first", other]).comparisons
    assert "What counts as correct differs (by math >= 1 and by math >= 0.5)" in comparison.note
    assert not [row.name for row in comparison.rows if "@" in row.name]
    assert "length" in [row.name for row in comparison.rows]


def test_numbers_that_are_not_finite_become_gaps(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    file = run / "rollouts" / "step-000001.parquet"
    rows = read_parquet(file, Rollout)
    nan = float("nan")
    response = replace(rows[0].response, sampler_logprobs=(nan,) * len(rows[0].response.token_ids))
    rows[0] = replace(
        rows[0], response=response, reward=nan, credit=float("inf"), weights=(nan,) * len(response.token_ids)
    )
    write_parquet(file, rows)
    data = data_of(page_of(run))
    first = next(group for group in data["groups"] if group["step"] == 1)["responses"][0]
    assert (first["reward"], first["credit"], first["logprobs"][0]) == (None, None, None)
    assert None in data["charts"]["gradient-norm"]["series"][0]["values"]  # step 5


def test_who_worked_when_is_drawn_for_the_last_steps(made: Path, tmp_path: Path) -> None:
    page = page_of(made / "first")
    (chart,) = re.findall(r'<svg class="plot"[^>]*aria-label="Who worked when.*?</svg>', page)
    assert (
        'aria-label="Who worked when, steps 1 to 6, share of the time: sampler 50%; scoring 32%; learner 44%;' in chart
    )
    assert re.findall(r">step (\d+)</text>", chart) == ["1", "2", "3", "4", "5", "6"]
    assert chart.count("<rect") == 6 * 4
    assert "<title>step 2, learner: 11 s from 14.1 s</title>" in chart
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    lines = (run / "timeline.jsonl").read_text().splitlines(keepends=True)
    odd = json.loads(lines[0]) | {"step": 7, "lanes": {"<script>": [[0, 1]]}}
    (run / "timeline.jsonl").write_text("".join(lines[:2]) + json.dumps(odd) + "\n")  # of a step that is not committed
    assert "Who worked when, steps 1 to 2," in page_of(run)
    (run / "timeline.jsonl").unlink()
    assert "Who worked when" not in page_of(run)


def test_intervals_and_timelines_cost_no_more_in_a_longer_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    for name in ("metrics.jsonl", "timeline.jsonl"):
        last = json.loads((run / name).read_text().splitlines()[-1])
        with (run / name).open("a") as file:
            file.writelines(json.dumps(last | {"step": step}) + "\n" for step in range(last["step"] + 1, 1001))
    calls = Counter[str]()

    def counted(module: ModuleType, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: calls.update([name]) or function(*args))

    counted(panels, "half_width")
    counted(collect_module, "from_json")
    report = collect([run])
    assert [timeline.step for timeline in report.runs[0].timeline] == [*range(995, 1001)]
    assert calls["from_json"] == 7
    curves = sum(len(panel.series) for panel in report.charts)
    assert 0 < calls["half_width"] <= curves * len(report.runs[0].files)


def test_the_home_folder_is_not_told(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "secret-name" / "first"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "secret-name")
    edit_json(run / "environment.json", chosen={"model": f"{tmp_path}/secret-name/models/mine", "steps": "6"})
    assert "<dd>~/models/mine</dd>" in page_of(run)
    assert "secret-name" not in page_of(run)
    assert "secret-name" not in as_markdown(collect([run]))


def test_long_texts_are_cut(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    file = run / "rollouts" / "step-000001.parquet"
    rows = read_parquet(file, Rollout)
    component = replace(rows[0].components[0], note="n" * 10_000, parts={"list": ["x" * 10_000], "number": 1.5})
    rows[0] = replace(rows[0], components=(component, *rows[0].components[1:]))
    write_parquet(file, rows)
    data = data_of(page_of(run))
    first = next(group for group in data["groups"] if group["step"] == 1)["responses"][0]["components"]["0"]
    assert first["note"].endswith("n ... [8,000 more characters]")
    assert len(first["parts"]["list"]) < 2100
    assert first["parts"]["number"] == 1.5


def test_pieces_are_the_text_also_where_tokens_share_a_character(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pieces = load_pieces(tmp_path, {})
    assert pieces is not None
    text = " a 混合 \N{FACE WITH TEARS OF JOY}!<|im_end|>"
    ids = tokenizer.encode(text).ids
    found = pieces(ids)
    assert len(found) == len(ids)
    assert "".join(found) == text
    assert found[0] == " "
    assert ids[-1] in pieces.special
    assert pieces([]) == []
    assert load_pieces(tmp_path / "nothing", {"model": {"path": "./nowhere"}}) is None


def test_pieces_keep_the_space_that_a_decoder_drops_at_the_start() -> None:
    from tokenizers.decoders import Metaspace as MetaspaceDecoder
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Metaspace

    core = Tokenizer(WordLevel({"▁a": 0, "▁good": 1, "▁day": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer, core.decoder = Metaspace(), MetaspaceDecoder()
    assert Pieces(core)([1, 2]) == [" good", " day"]


def test_the_text_report_says_what_matters_and_escapes_the_rest(made: Path, tmp_path: Path) -> None:
    text = as_markdown(collect([made / "first"]))
    assert text.startswith("# first\n")
    assert "| accuracy (avg@1) |" in text
    assert "## Where" not in text
    assert re.search(r"\| boxed_format \| .* \| rose \|", text)
    assert "- step 5: update NOT APPLIED" in text
    assert "- step 1: entropy is 0.02 nats. Lower learning.learning_rate." in text
    hostile = as_markdown(collect([made / "hostile"]))
    assert "<script" not in hostile
    assert "RuntimeError: died of &lt;/script>" in hostile
    both = as_markdown(collect([made / "first", made / "second"]))
    assert "## second against first" in both
    assert "| gro.terms.\\*.link.kind | clip | linear |" in both
    save(text, tmp_path / "deep" / "report.md")
    assert (tmp_path / "deep" / "report.md").read_text() == text


def test_the_report_has_the_gate_and_responses_before_and_after(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    gate, page, text = read_gate(run), page_of(run), as_markdown(collect([run]))
    assert gate
    assert gate.sentence in page
    assert escaped(gate.sentence) in text
    examples = read_examples(run, 0, 6, {"math-gsm8k": Criterion("math")})
    assert len(examples) == 3
    first = {row.problem.id: row for row in read_parquet(run / "rollouts" / "eval-000000.parquet", Rollout)}
    last = {row.problem.id: row for row in read_parquet(run / "rollouts" / "eval-000006.parquet", Rollout)}
    judged = [name for name in first if not (failed(first[name]) or failed(last[name]))]
    for example in examples:
        alike = [
            name
            for name in judged
            if (right(first[name]), right(last[name])) == (example.right_before, example.right_after)
        ]
        assert (example.alike, example.problems) == (len(alike), len(judged))
        assert (example.before, example.after) in {(first[n].response.text, last[n].response.text) for n in alike}
        assert example.kind in page
        assert example.kind in text
        assert escaped(shortened(example.after, 300)) in text
    assert "## Responses before and after training" in text
    (run / GATE).unlink()
    (run / "rollouts" / "eval-000006.parquet").unlink()
    assert "Responses before and after" not in page_of(run)
    assert "Before training, on" not in page_of(run)
    hostile = page_of(made / "hostile")
    assert 'id="examples"' in hostile
    assert "<img" not in hostile


def right(rollout: Rollout) -> bool:
    return rollout.components[0].value == 1.0


def failed(rollout: Rollout) -> bool:
    return rollout.components[0].failure is not None


def test_charts_become_files(made: Path, tmp_path: Path) -> None:
    files = write_plots(collect([made / "first"]), tmp_path / "plots")
    assert {"reward.svg", "stage-times.svg", "grpo-mass-of-the-weights.svg"} <= {file.name for file in files}
    assert sorted(files) == sorted((tmp_path / "plots").iterdir())
    (tmp_path / "blocked").touch()
    with pytest.raises(UserError, match=r"--plots .*blocked cannot be written"):
        write_plots(collect([made / "first"]), tmp_path / "blocked")


@pytest.mark.parametrize(("error", "written"), [(None, True), (RunError("died"), True), (KeyboardInterrupt(), False)])
def test_a_run_leaves_a_report_unless_it_was_interrupted(
    made: Path, tmp_path: Path, error: BaseException | None, written: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(made / "second", tmp_path / "second"))
    with nullcontext() if error is None else pytest.raises(type(error)), leaving_report() as report_on:
        report_on(run)
        if error is not None:
            raise error
    assert (run / "report.html").exists() == written
    assert ("Report:" in capsys.readouterr().out) == written


def test_a_report_that_cannot_be_written_fails_no_run(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(made / "second", tmp_path / "second"))
    (run / "evaluations.jsonl").write_text("broken\n")
    with leaving_report() as report_on:
        report_on(run)
    text = capsys.readouterr().out
    assert "The report could not be written: " in text
    assert f"reasoner report {run}" in text


def test_a_reward_or_a_term_that_one_run_lacks_is_one_row(made: Path) -> None:
    runs = [each.run for each in collect([made / "first", made / "second"]).runs]
    mixture = replace(
        runs[1],
        config={**runs[1].config} | {"gro": {"terms": {"a": {"preset": "dpo", "weight": 0.5}, "b": {"entropy": 0.0}}}},
    )
    rows = dict(settings([runs[0], mixture]))
    assert rows["gro.terms.a"] == (None, "preset dpo, weight 0.5")
    assert rows["gro.terms.b"] == (None, "set")
    assert not [key for key in rows if key.startswith("gro.terms.grpo.")]
    one = replace(runs[0], config={**runs[0].config} | {"rewards": [{"source": "math", "weight": 2.0}]})
    rows = dict(settings([runs[0], one]))
    assert rows["rewards.math.weight"] == ("1.0", "2.0")
    assert rows["rewards.boxed_format"] == ("weight 0.5", None)


def test_what_cannot_be_written_or_is_no_run_is_said(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*report\.html cannot be written"):
        save("", tmp_path / "file" / "report.html")
    with pytest.raises(DataError, match="is not a run folder"):
        collect([tmp_path])


def test_dropped_groups_are_in_the_report_and_say_so(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "first", tmp_path / "first"))
    file = run / "rollouts" / "step-000002.parquet"
    rows = [
        replace(row, credit=None, weights=None, dropped=True) if at < 8 else row
        for at, row in enumerate(read_parquet(file, Rollout))
    ]
    write_parquet(file, rows)
    groups = [group for group in data_of(page_of(run))["groups"] if group["training"]]
    assert [group["dropped"] for group in groups if group["step"] == 2] == [True, False, False]
    assert not any(group["dropped"] for group in groups if group["step"] != 2)


def test_a_significant_change_of_length_is_not_shown_as_noise(made: Path) -> None:
    """Grey is noise; a length beyond it has a colour of its own, neither that of better nor that of worse."""
    comparison = collect([made / "first"]).runs[0].comparison
    assert comparison
    (length,) = (row for row in comparison.rows if row.difference.unit == "tokens")
    moved = replace(length, difference=replace(length.difference, low=5.0, high=9.0, change=7.0, p=0.001))
    still = replace(length, difference=replace(length.difference, low=-5.0, high=9.0, change=2.0, p=0.5))
    assert (moved.tone, still.tone) == ("changed", "neutral")
    style = (files("reasoner.report") / "assets" / "style.css").read_text()
    for place in (".tile.{} .chip", "tr.{} .change", "tr.{} .change-plot .dot", "tr.{} .change-plot .reach"):
        rules = [re.search(re.escape(place.format(tone)) + r" \{([^}]*)\}", style) for tone in ("better", "changed")]
        assert all(rules), place
        assert len({rule[1] for rule in rules if rule}) == 2


def test_the_report_and_the_terminal_have_one_clock(tmp_path: Path) -> None:
    """Steps of 25 s of which 12 are sampled; also of a run that was resumed, as there is one total for all starts."""
    folder = made_up_run(tmp_path, steps=4, problems=1)
    edit_json(folder / "status.json", seconds={"set_up": 20.0, "evaluation": 40.0, "total": 180.0})
    record_start(folder, json.loads((folder / "environment.json").read_text()), step=2)
    run = read_run(folder)
    summary = Summary(
        task="t",
        correct="math",
        history=run.metrics,
        warnings=(),
        evaluations=None,
        examples=(),
        gate=None,
        set_up_s=run.times.set_up,
        evaluation_s=run.times.evaluation,
        total_s=run.times.total,
        run_folder=folder,
        model_folder=folder,
        next_commands={},
    )
    report, text = make_report([folder], "md")
    rows = re.findall(r"^\| ([a-z -]+) \| ([\d:. s]+) \| (\d*%?) \|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows][-4:] == ["rest of the steps", "evaluation", "everything else", "total"]
    assert rows[-1][1:] == ("3:00", "")
    assert rows[-2][1:] == ("20 s", "11%")
    shown = " ".join(as_text(summary, ascii_only=True).replace("|", " ").split())
    for name, time, share in rows:
        assert " ".join(f"{name} {time} {share}".split()) in shown
    assert sum(report.runs[0].seconds.values()) == pytest.approx(180.0)


def in_turns(run: Path) -> Path:
    """The run with a tool call in the middle of every response of its evaluations and of its second step."""
    for file in (run / "rollouts").glob("*.parquet"):
        rows = read_parquet(file, Rollout)
        write_parquet(file, [replace(row, response=_with_call(row.response)) for row in rows])
    return run


def _with_call(response: Response) -> Response:
    size = len(response.token_ids)
    turns = (
        Turn("assistant", 0, 3, "abc", (ToolCall("add", {"a": 1, "b": "x"}), ToolCall("", {}, "not <b>JSON</b>"))),
        Turn("tool", 3, 5, "de", (), "add", "took \N{PERSONAL COMPUTER} 3 s", 3.04),
        Turn("assistant", 5, size, response.text),
    )
    mask = tuple(at not in (3, 4) for at in range(size))
    return replace(response, turns=turns, policy_mask=mask, report=EnvironmentReport())


def test_turns_are_told_with_their_calls_results_and_errors(made: Path, tmp_path: Path) -> None:
    run = in_turns(Path(shutil.copytree(made / "first", tmp_path / "first")))
    response = data_of(page_of(run))["groups"][0]["responses"][0]
    size = len(response["lengths"])
    assert response["tokens"] == size - 2
    assert response["foreign"] == [3, 4]
    assert [(turn["role"], turn["first"], turn["end"]) for turn in response["turns"]] == [
        ("assistant", 0, 3),
        ("tool", 3, 5),
        ("assistant", 5, size),
    ]
    ends = [turn["text"] for turn in response["turns"]]
    assert ends == [[0, sum(response["lengths"][:3])], [ends[0][1], ends[2][0]], [ends[1][1], len(response["text"])]]
    assert response["turns"][0]["calls"] == [
        {"name": "add", "arguments": 'a = 1, b = "x"', "error": ""},
        {"name": "", "arguments": "", "error": "not <b>JSON</b>"},
    ]
    tool = response["turns"][1]
    assert (tool["tool"], tool["error"], tool["seconds"]) == ("add", "took \N{PERSONAL COMPUTER} 3 s", 3.04)
    before = next(iter(read_examples(run, 0, 6, {"math-gsm8k": Criterion("math")}))).before
    assert before.startswith("abc \N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}add failed: took")
    summary = Summary(
        "t",
        "math",
        [],
        [],
        None,
        read_examples(run, 0, 6, {"math-gsm8k": Criterion("math")}),
        None,
        0.0,
        0.0,
        0.0,
        run,
        run,
        {},
    )
    for ascii_only, mark in ((False, "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}add failed"), (True, "[add failed")):
        assert mark in " ".join(as_text(summary, ascii_only).split())


def test_without_a_tokenizer_turns_have_their_texts(made: Path, tmp_path: Path) -> None:
    run = in_turns(Path(shutil.copytree(made / "first", tmp_path / "first")))
    shutil.rmtree(run / "model")
    config = (run / "config.toml").read_text().replace("embedded:smollm2-135m-instruct", str(tmp_path / "nowhere"))
    (run / "config.toml").write_text(config)
    response = data_of(page_of(run))["groups"][0]["responses"][0]
    assert "lengths" not in response
    assert [turn["text"] for turn in response["turns"]] == [[0, 3], [3, 5], [5, len(response["text"])]]
    assert response["text"].startswith("abcde")
