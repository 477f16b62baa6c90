"""`reasoner algorithms`: the methods, each a row of choices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import typer
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reasoner.cli import options
from reasoner.cli.console import out
from reasoner.gro.spec import describe
from reasoner.gro.spec.presets import Preset, Weighted
from reasoner.gro.spec.terms import Teacher, Term
from reasoner.loading import term_toml
from reasoner.plugins import manager as hooks

app = typer.Typer(help="List the methods, and show what each one is.", no_args_is_help=True)

LEGEND = {
    "unit": "the unit that gets a weight: a token, a response, a pair of responses",
    "evidence": "the quantity that is made likelier or less likely; l: log-probability, diff: chosen - rejected, s: "
    "logistic function",
    "anchor": "what the evidence is compared with, u = evidence - anchor; old: the policy that sampled, 0: nothing",
    "credit": "c, from the rewards R of a group; mean and std are the group's, whitened: over the batch",
    "link": "the loss as a function of u and c; clip(low, high): the ratio e^u counts between 1 - low and 1 + high",
    "aggregation": "how units are averaged; constant(longest): divided by the longest response allowed",
}
PAPER = re.compile(r"\d{4}\.\d{4,5}")
NEEDS = {
    "pairs": "preference pairs: [data.pairs], or source = 'online' to form them from online groups",
    "labelled": "labelled responses: [data.labelled], or source = 'online' to label sampled ones by their reward",
    "demos": "demonstrations: [data.demos]",
}


@app.command("list")
def list_algorithms(plugin: options.Plugins = None) -> None:
    """List all methods and mixtures, one row of choices per term.

    Example: reasoner algorithms list --plugin my_method.py
    """
    presets = hooks.algorithms(hooks.build_manager(plugin or ())).presets
    console = out()
    console.print(_table({name: preset for name, preset in presets.items() if len(preset.terms) == 1}))
    console.print(Text("\nSeveral terms (weight, term)", style="bold"))
    console.print(_table({name: preset for name, preset in presets.items() if len(preset.terms) > 1}))
    legend = Table.grid(padding=(0, 2))
    for column, meaning in LEGEND.items():
        legend.add_row(Text(column, style="bold"), Text(meaning))
    console.print(Text("\nWhat the columns mean", style="bold"))
    console.print(legend)
    if any(preset.equals for preset in presets.values()):
        console.print(Text("\nWhat newer methods equal", style="bold"))
        for name, preset in presets.items():
            if preset.equals:
                console.print(Padding(Text(f"- {name}: {preset.equals}"), (0, 0, 0, 2)))
    console.print(Text("\nFormula, numbers, needs and TOML of one: reasoner algorithms show NAME"), soft_wrap=True)


def _table(presets: Mapping[str, Preset]) -> Table:
    """Two lines per term, so that it is readable at 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    columns = {"preset\npaper": 20, "unit\nanchor": 8, "credit\nlink": 22, "evidence\naggregation": 22}
    for column, width in columns.items():
        table.add_column(column, overflow="fold", min_width=width)
    for name, preset in presets.items():
        for index, (term_name, weighted) in enumerate(preset.terms.items()):
            term = weighted.term
            own = f"  {weighted.weight:g} {term_name}"
            paper = preset.paper if PAPER.fullmatch(preset.paper) else ""
            head = f"{name}\n{paper}" if len(preset.terms) == 1 else f"{name if index == 0 else ''}\n{own}"
            table.add_row(
                Text(head),
                Text(f"{term.evidence.unit}\n{describe.anchor(term.anchor, term.evidence)}"),
                Text(f"{describe.credit(term.credit)}\n{describe.link(term.link)}"),
                Text(f"{describe.evidence(term.evidence)}\n{describe.aggregation(term.aggregation)}"),
            )
    return table


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name of a method (`reasoner algorithms list`).")],
    plugin: options.Plugins = None,
) -> None:
    """Show one method: its formula, its numbers, what it needs, and its terms as TOML.

    Example: reasoner algorithms show dpo
    """
    presets = hooks.algorithms(hooks.build_manager(plugin or ())).presets
    preset = hooks.find("method", name, presets, "reasoner algorithms list")
    console = out()
    paper = f"arXiv {preset.paper}" if PAPER.fullmatch(preset.paper) else preset.paper
    console.print(Text(f"{name}: {paper}", style="bold"))
    for term_name, weighted in preset.terms.items():
        console.print()
        console.print(Text(_heading(term_name, weighted), style="bold"))
        console.print(Text(f"  L = {_formula(weighted.term)}"))
        table = Table.grid(padding=(0, 2))
        for choice, text in describe.choices_of(weighted.term).items():
            table.add_row(Text(f"  {choice}"), Text(text, overflow="fold"))
        console.print(table)
    if preset.equals:
        console.print(Text("\nEquals", style="bold"))
        console.print(Padding(Text(preset.equals), (0, 0, 0, 2)))
    if preset.note:
        console.print(Text("\nNot part of the method", style="bold"))
        console.print(Padding(Text(preset.note), (0, 0, 0, 2)))
    console.print(Text("\nNeeds", style="bold"))
    for need in dict.fromkeys(need for weighted in preset.terms.values() for need in _needs(weighted.term)):
        console.print(Text(f"  - {need}"))
    console.print(Text("\nThe same as TOML", style="bold"))
    tables = [term_toml(term_name, weighted).strip() for term_name, weighted in preset.terms.items()]
    console.print(Text("\n\n".join(['[gro]\npreset = ""', *tables])), soft_wrap=True)


def _heading(name: str, weighted: Weighted) -> str:
    factor = describe.schedule(weighted.schedule)
    return f"term {name}, weight {weighted.weight:g}{f' x ({factor})' if factor else ''}"


def _formula(term: Term) -> str:
    """The loss with the choices put in: `- 1/P sum_pairs log s(u), u = ...`."""
    formula = describe.LINK_FORMULAS[getattr(term.link, "kind", "custom")]
    parts = [f"- {describe.UNIT_SUMS[term.evidence.unit]} {formula}"]
    parts.append(f"u = {describe.evidence(term.evidence)}{_minus(describe.anchor(term.anchor, term.evidence))}")
    parts.append(f"c = {describe.credit(term.credit)}")
    return ", ".join(parts)


def _minus(anchor: str) -> str:
    return "" if anchor == "0" else f" - {'l_old' if anchor == 'old' else anchor}"


def _needs(term: Term) -> list[str]:
    needs = []
    if term.source == "online":
        needs.append("online groups: a sampler, training problems and rewards")
        if term.compares:
            needs.append("at least 2 responses per problem (sampling.group_size)")
    else:
        needs.append(NEEDS[term.source])
    if term.needs_reference:
        needs.append("a reference policy: a frozen copy of the initial model, made automatically")
    if isinstance(term.credit, Teacher):
        teacher = "your [teacher]" if term.credit.sees == "prompt" else "the initial model, or your [teacher]"
        needs.append(f"a frozen teacher with the same tokenizer: {teacher}")
    if term.needs_critic:
        needs.append("a critic: a value model of its own ([critic])")
    if term.needs_greedy:
        needs.append("one greedy response per problem, sampled automatically")
    return needs
