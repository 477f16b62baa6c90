"""The HTML report in a real browser: its scripts unpack the data, filter, open groups, and nothing hostile runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reasoner.api.page import Report
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.records import EnvironmentReport, Rollout, ToolCall, Turn
from reasoner.report.write import make_report, save
from tests.browser import CHROMIUM, open_page
from tests.made_up import HOSTILE, made_up_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: scripts/install-test-tools"),
]

USE = """
const $ = (css) => document.querySelector(css), $$ = (css) => [...document.querySelectorAll(css)];
const rows = () => $$(".groups button").length, count = () => $("#count").textContent;
const fill = async (name, value) => {
  const field = $(`[name=${name}]`);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  await rest(300);
};
const press = (key, target = document.body) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
"""

LOOK = (
    USE
    + """
const said = { all: count(), rows: rows(), first: $("#group h3").textContent, cards: $$(".card").length };
await fill("when", "s3");
said.step3 = count();
$(".groups button").focus();
$(".groups button").click();
said.focus = document.activeElement.closest(".groups") !== null;
said.title = $("#group h3").textContent;
said.current = $$('.groups [aria-current="true"]').length;
said.hash = location.hash;
press("j");
said.next = $("#group h3").textContent;
press("k");
said.back = $("#group h3").textContent;
await fill("source", "0");
await fill("verdict", "positive");
said.right = count();
said.dimmed = $$(".card.out").length;
said.shown = $$(".card").length;
$$("button").find((each) => each.textContent === "Reset").click();
await fill("q", "COUNTS AGAIN");
said.found = count();
await fill("min", "0.4");
said.none = count();
$$("button").find((each) => each.textContent === "Reset").click();
said.reset = count();
await fill("problem", "eval:7");
said.evaluations = count();
$$(".tools button").find((each) => each.textContent === "evaluation after step 3").click();
said.beside = $$(".cards").length;
await fill("problem", "train:2-");
$$(".tools button").find((each) => each.textContent === "weight").click();
said.up = $$(".written .plus").length;
said.down = $$(".written .minus").length;
said.title_of_token = $(".written .plus").title;
const plot = $("#chart-reward svg");
plot.dispatchEvent(new FocusEvent("focus"));
press("Home", plot);
said.tip = $("#tip").textContent;
press("Escape", plot);
said.hidden = $("#tip").hidden;
return said;
"""
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = made_up_run(folder / "runs", steps=3, every=3, problems=3)
    save(make_report([run])[1], folder / "report.html")
    return folder / "report.html"


def test_groups_are_filtered_opened_and_coloured(report: Path) -> None:
    page = open_page(report, LOOK)
    assert page.console == []
    message = page.said
    assert message["all"] == f"{2 * 24 + 3 * 3 * 8} responses in {2 * 24 + 9} groups"
    assert message["rows"] == 50  # a page of the list
    assert message["first"].startswith("step 1 · train:1-")
    assert message["cards"] == 8
    assert message["step3"] == "24 responses in 3 groups"
    assert (message["title"], message["next"], message["back"]) == (
        "step 3 · train:3-0",
        "step 3 · train:3-1",
        "step 3 · train:3-0",
    )
    assert message["current"] == 1
    assert message["focus"]
    assert message["hash"].startswith("#when=s3&group=")
    assert 0 < int(message["right"].split()[0]) < 24
    assert 0 < message["dimmed"] < message["shown"] == 8
    assert 0 < int(message["found"].split()[0]) < 120
    assert message["none"] == "0 responses in 0 groups"
    assert message["reset"] == message["all"]
    assert message["evaluations"] == "2 responses in 2 groups"
    assert message["beside"] == 2
    assert message["up"] > 0
    assert message["down"] > 0
    assert "log-probability -" in message["title_of_token"]
    assert "weight " in message["title_of_token"]
    assert "step 1" in message["tip"]
    assert "math: " in message["tip"]
    assert message["hidden"]


def test_hostile_text_stays_text_and_a_link_opens_what_it_names(tmp_path: Path) -> None:
    run = made_up_run(
        tmp_path / "runs", steps=2, every=2, texts=HOSTILE, problems=2, end=RuntimeError(f"died of {HOSTILE[0]}")
    )
    save(make_report([run])[1], tmp_path / "report.html")
    driver = """
    const script = document.createElement("script");
    script.textContent = "window.alerted = true";
    document.body.append(script);
    return { images: document.images.length, scripts: document.scripts.length, alerted: window.alerted ?? null,
      text: [...document.querySelectorAll(".card")].map((each) => each.textContent).join("|"),
      controls: document.querySelectorAll(".control").length, title: document.querySelector("#group h3").textContent,
      hits: document.querySelectorAll(".hit").length, wide: document.documentElement.scrollWidth };
    """
    page = open_page(tmp_path / "report.html", driver, "#problem=train%3A2&q=img", width=500)
    (refused,) = page.console
    assert "violates the following Content Security Policy" in refused
    assert page.said["alerted"] is None
    assert page.said["images"] == 0
    assert page.said["scripts"] == 4  # data, the page's own, the driver, and the one that it put in
    assert page.said["title"].startswith("step 2 · train:2-")
    assert "<img src=x onerror=alert(1)>" in page.said["text"]
    assert "U+202E" in page.said["text"]
    assert page.said["controls"] > 0
    assert page.said["hits"] >= len("img")
    assert page.said["wide"] <= 500


NUMBERS = """
const broken = [];
for (const cell of document.querySelectorAll(".figures td")) {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const found of node.data.matchAll(/[-+]?[0-9][0-9.,]*%?/g)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) broken.push(found[0]);
    }
  }
}
const table = document.querySelector(".figures");
return { broken, cells: document.querySelectorAll(".figures td").length, width: document.documentElement.scrollWidth,
  table: table.getBoundingClientRect().width, room: table.parentElement.clientWidth };
"""


@pytest.mark.parametrize("width", [500, 600, 1200])
def test_no_number_of_the_evaluation_breaks_and_the_table_fits(report: Path, width: int) -> None:
    message = open_page(report, NUMBERS, width=width).said
    assert message["cells"] > 20
    assert message["broken"] == []
    assert message["width"] <= width
    assert message["table"] <= message["room"] + 1 or width < 600  # below it the table is scrolled


def test_dropped_groups_are_named_and_filtered(report: Path, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "runs", steps=2, every=2, problems=3)
    file = run / "rollouts" / "step-000002.parquet"
    rows = read_parquet(file, Rollout)
    write_parquet(file, [replace(row, credit=None, weights=None, dropped=True) for row in rows[:8]] + rows[8:])
    save(make_report([run])[1], tmp_path / "report.html")
    driver = (
        USE
        + """
    const said = { dropped: count(), row: $(".groups button").textContent, card: $(".card-head").textContent };
    await fill("when", "trained");
    said.trained = count();
    said.other = $(".card-head").textContent;
    return said;
    """
    )
    message = open_page(tmp_path / "report.html", driver, "#when=dropped").said
    assert (message["dropped"], message["trained"]) == ("8 responses in 1 group", "40 responses in 5 groups")
    assert "step 2, dropped · train:2-0" in message["row"]
    assert "not trained on" in message["card"]
    assert "credit" not in message["card"]
    assert "not trained on" not in message["other"]
    asked = "return { asked: document.querySelector('[name=when] [value=dropped]') !== null };"
    assert open_page(tmp_path / "report.html", asked).said["asked"]
    assert not open_page(report, asked).said["asked"]


IN_A_FRAME = (
    USE
    + """
const said = { rows: rows() };
$('nav a[href="#settings"]').click();
await rest(300);
said.address = location.href;
said.still = $$("#settings").length;
await fill("when", "s3");
said.step3 = count();
$(".groups button").click();
said.title = $("#group h3").textContent;
try { said.outside = String(parent.document.title); } catch (error) { said.outside = error.name; }
return said;
"""
)
NOTEBOOK = """<!doctype html><title>a notebook</title><body>{frame}<script>
addEventListener("message", (event) => {{
  const box = document.createElement("pre");
  box.id = "said";
  box.textContent = event.data;
  document.body.append(box);
}});
</script>"""


def test_a_notebook_shows_it_in_a_frame_that_reaches_nothing_of_the_notebook(report: Path) -> None:
    def around(page: str) -> str:
        return NOTEBOOK.format(frame=Report(page, 'a "report"')._repr_html_())

    page = open_page(report, IN_A_FRAME, around=around)
    assert page.console == []
    assert page.said["rows"] == 50
    assert page.said["address"] == "about:srcdoc#settings"
    assert page.said["still"] == 1
    assert page.said["step3"] == "24 responses in 3 groups"
    assert page.said["title"] == "step 3 · train:3-0"
    assert page.said["outside"] == "SecurityError"


def test_turns_stand_apart_with_their_calls_and_errors(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "runs", steps=1, every=1, problems=1)
    calls = (ToolCall("add", {"a": 1}), ToolCall("", {}, f"no JSON: {HOSTILE[0]}"))
    for file in (run / "rollouts").glob("*.parquet"):
        rollouts = []
        for row in read_parquet(file, Rollout):
            size = len(row.response.token_ids)
            turns = (
                Turn("assistant", 0, 3, "abc", calls),
                Turn("tool", 3, 5, "de", (), "add", "timeout", 3.04),
                Turn("assistant", 5, size, row.response.text),
            )
            mask = tuple(at not in (3, 4) for at in range(size))
            response = replace(row.response, turns=turns, policy_mask=mask, report=EnvironmentReport())
            rollouts.append(replace(row, response=response))
        write_parquet(file, rollouts)
    save(make_report([run])[1], tmp_path / "report.html")
    look = """
    $$(".tools button").find((each) => each.textContent === "log-probability").click();
    const card = $(".card"), turns = [...card.querySelectorAll(".turn")];
    return { kinds: turns.map((each) => each.className), heads: turns.map((each) => each.firstChild.textContent),
      calls: [...card.querySelectorAll(".call")].map((each) => each.textContent),
      texts: turns.map((each) => each.querySelector(".written").textContent),
      foreign: turns.map((each) => each.querySelectorAll(".foreign").length),
      numbers: [...turns[2].querySelectorAll(".written span")].slice(0, 1).map((each) => each.title),
      scripts: document.scripts.length, head: card.querySelector(".card-head").textContent };
    """
    page = open_page(tmp_path / "report.html", USE + look, "#when=s1")
    assert page.console == []
    message = page.said
    assert message["kinds"] == ["turn assistant", "turn tool", "turn assistant"]
    assert message["heads"] == ["policy", "result of add3.0 stimeout", "policy"]
    assert message["calls"] == ["calls add(a = 1)", f"calls a call that cannot be read no JSON: {HOSTILE[0]}"]
    assert [len(text) for text in message["texts"][:2]] == [3, 2]
    assert message["foreign"] == [0, 2, 0]
    assert message["numbers"][0].startswith("token 6\n")
    assert "2 turns" in message["head"]
