#!/usr/bin/env python3
"""Writes the parts of the documentation that code knows: methods, metrics, hooks, commands, configuration, the layout.

    .venv/bin/python scripts/document.py

Run it after changing a command, an option, a key, a hook, a method, a metric or the first sentence of a package. A test
holds that the pages are up to date.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from typer.main import get_command

import reasoner.records
from reasoner.cli.app import app
from reasoner.gro.spec import describe
from reasoner.gro.spec.presets import PRESETS
from reasoner.loading.other_names import table
from reasoner.monitoring.metrics import METRICS
from reasoner.plugins import hookspecs
from reasoner.runs.resuming.rules import ALLOWED, ON_REQUEST
from reasoner.testing.attack_corpus import EXAMPLES, FORMS, fixed_attacks, problem_attacks
from scripts import models_table
from scripts.keys import configuration

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- (?P<name>\w+): scripts/document\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def methods() -> str:
    """One row per term of every preset."""
    lines = [
        "| preset | weight, term | source | unit | credit | evidence | anchor | link | aggregation | KL | paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        for index, (term_name, weighted) in enumerate(preset.terms.items()):
            choices = describe.choices_of(weighted.term)
            schedule = describe.schedule(weighted.schedule)
            own = "" if len(preset.terms) == 1 else f"{weighted.weight:g} `{term_name}`"
            cells = [
                f"`{name}`" if index == 0 else "",
                own + (f" ({schedule})" if schedule else ""),
                choices["source"],
                weighted.term.evidence.unit,
                *(choices[key] for key in ("credit", "evidence", "anchor", "link", "aggregation")),
                choices.get("KL", ""),
                preset.paper if index == 0 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """One row per metric."""
    rows = [f"| `{metric.name}` | {metric.unit} | {metric.meaning.replace('|', chr(92) + '|')} |" for metric in METRICS]
    return "\n".join(["| name | unit | meaning |", "|---|---|---|", *rows]) + "\n"


def found(name: str) -> str:
    """What a script in scripts/ found and wrote: validate_gro, bench_scoring.py, bench_math.py, try_attacks.py,
    try_shortcuts.py, bench_checkpoint.py, bench_step_cost.py."""
    return (DOCS / "validation" / f"{name}.md").read_text(encoding="utf-8").partition("\n")[2]


def shortcuts() -> str:
    """One row per attack that `reasoner rewards attack` tries."""
    tried = [*fixed_attacks()]
    for problem in EXAMPLES:
        tried += problem_attacks(problem, [problem.answer], tuple(FORMS), ["another answer"])
    spares: dict[str, set[str]] = {}
    for attack in tried:
        spares.setdefault(attack.name, {"answer", "form", "text"}).intersection_update(attack.spares)
    rows = [f"| {name} | no | {'may' if 'form' in spared else 'no'} |" for name, spared in spares.items()]
    return "\n".join(["| attack | reward for the answer | reward for the form |", "|---|---|---|", *rows]) + "\n"


def hooks() -> str:
    """One row per hook."""
    rows = []
    for name, function in vars(hookspecs).items():
        if hasattr(function, f"{hookspecs.PROJECT}_spec"):
            first = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
            parameters = ", ".join(inspect.signature(function).parameters)
            rows.append(f"| `{name}({parameters})` | {first} |")
    return "\n".join(["| hook | when, and what for |", "|---|---|", *rows]) + "\n"


def records() -> str:
    """One row per field of what a verifier gets and returns: the docstrings of `reasoner.records`."""
    tree = ast.parse(inspect.getsource(reasoner.records))
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    aliases = {
        ast.unparse(statement.targets[0]): statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
    }
    rows = []
    for name in ("Problem", "Message", "Response", "Score"):
        for at, node in enumerate(classes[name]):
            if not isinstance(node, ast.AnnAssign):
                continue
            after = classes[name][at + 1] if at + 1 < len(classes[name]) else None
            text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            hint = aliases.get(ast.unparse(node.annotation), node.annotation)
            kind = re.sub(r"Annotated\[(.*), '\w+'\]", r"\1", ast.unparse(hint)).replace("|", "\\|")
            rows.append(f"| `{name.lower()}.{ast.unparse(node.target)}` | `{kind}` | {' '.join(text.split())} |")
    return "\n".join(["| | type | what it holds |", "|---|---|---|", *rows]) + "\n"


def changes() -> str:
    """What may change in a run that goes on: keys by what may differ afterwards."""
    by_effect: dict[str, list[str]] = {}
    for key, effect in ALLOWED.items():
        by_effect.setdefault(effect or "nothing", []).append(f"`{key}`")
    for key, effect in ON_REQUEST.items():
        by_effect.setdefault(f"with `--accept-changes` alone: {effect}", []).append(f"`{key}`")
    rows = [f"| {', '.join(keys)} | {effect} |" for effect, keys in by_effect.items()]
    return "\n".join(["| keys | what may differ |", "|---|---|", *rows]) + "\n"


def commands() -> str:
    """A section per command: what `--help` says of it."""
    return "\n".join(_command(name, command) for name, command in _commands(get_command(app), "reasoner"))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands that do something, in the order of `--help`; hidden ones are not for users."""
    inner = getattr(command, "commands", {})
    if not inner and not command.hidden:
        yield name, command
    for child, item in inner.items():
        yield from _commands(item, f"{name} {child}")


def _command(name: str, command: Any) -> str:
    parameters = [param for param in command.params if param.name != "help"]
    arguments = " ".join(
        _written(parameter, command) for parameter in parameters if not parameter.opts[0].startswith("-")
    )
    text = _help(inspect.cleandoc(command.help))
    rows = [f"| `{_written(parameter, command)}` | {_meaning(parameter)} |" for parameter in parameters]
    table = ["| | |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## `{' '.join(filter(None, (name, arguments)))}`", "", text, "", *table])


def _help(text: str) -> str:
    """Paragraphs, with the examples at their end as a block."""
    words, _, examples = re.sub(r"\nExamples?:\s", "\0", f"\n{text}").partition("\0")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    block = ["", "```bash", *lines, "```"] if lines else []
    return "\n".join([words.strip(), *block])


def _written(parameter: Any, command: Any) -> str:
    """`TASK`, `--steps N`, `--dry-run`."""
    (hint, *_) = (kind for kind in _types(parameter, command) if kind is not NoneType)
    value = parameter.metavar or {int: "N", float: "X", bool: ""}.get(hint) or ("PATH" if hint is Path else "TEXT")
    if not parameter.opts[0].startswith("-"):
        return str(parameter.metavar or parameter.name.upper())
    option = str(max(parameter.opts, key=len))
    return option if hint is bool else f"{option} {value}"


def _types(parameter: Any, command: Any) -> tuple[Any, ...]:
    hint = get_type_hints(command.callback)[parameter.name]
    return get_args(hint) or (hint,)


def _meaning(parameter: Any) -> str:
    shown = "" if parameter.default in (None, False) or parameter.required else f" Default: `{parameter.default}`."
    needed = " Needed." if parameter.required and parameter.opts[0].startswith("-") else ""
    return f"{parameter.help}{needed}{shown}".replace("|", "\\|")


FOLDERS = {
    "rewards": "built-in reward sources (math, code, models, formats, answers, length, judges), tools and environments",
    "tasks": "built-in tasks: math-gsm8k, math-python, calc, calc-no-tool, guess-number, math-500, aime24, aime25, "
    "code-mbpp, code-humaneval, code-stdin, code-contests, instructions, ifeval",
    "plugins": "examples: a method, verifiers (a unit, SQL, puzzles), tasks of reasoning-gym and verifiers, OpenEnv",
    "tests": "unit, integration (real vLLM, real processes), docs",
    "scripts": "quickstart, install, test, check, validate_gro, check_models, benchmarks",
    "docs": "README.md is the index: getting started, concepts, tasks, rewards, methods, every command and figure",
}
"""top-level folders beside `reasoner`, which hold no package that could say this itself"""


def layout() -> str:
    """The tree of the checkout: every package of `reasoner` by the first sentence of its docstring."""
    package = ROOT / "reasoner"
    files = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
    folders = sorted(path.parent for path in package.glob("*/__init__.py"))
    lines = [_place("reasoner/", _first_sentence(package / "__init__.py"))]
    lines += [_place(f"  {path.name}", _first_sentence(path)) for path in files]
    lines += [_place(f"  {path.name}/", _first_sentence(path / "__init__.py")) for path in folders]
    lines += [_place(f"{name}/", meaning) for name, meaning in FOLDERS.items()]
    return "\n".join(["```", *lines, "```", ""])


def _place(name: str, meaning: str) -> str:
    return f"{name:<18} {meaning}"


def _first_sentence(path: Path) -> str:
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


TABLES: Mapping[str, Callable[[], str]] = {
    "methods": methods,
    "metrics": metrics,
    "validation": partial(found, "gro"),
    "embedded": partial(found, "embedded"),
    "evening": partial(found, "evening"),
    "scoring": partial(found, "scoring"),
    "mathematics": partial(found, "math"),
    "attacks": partial(found, "attacks"),
    "shortcuts": shortcuts,
    "shortcuts_found": partial(found, "shortcuts"),
    "models": lambda: models_table.table(models_table.read()),
    "checkpoints": partial(found, "checkpoints"),
    "step_cost": partial(found, "step_cost"),
    "configuration": configuration,
    "hooks": hooks,
    "records": records,
    "changes": changes,
    "trl": lambda: table("TRL"),
    "verl": lambda: table("verl"),
    "commands": commands,
    "layout": layout,
}


def written(text: str) -> str:
    """The page with its tables as they should be."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def main() -> None:
    """Write every page that has such a part."""
    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
