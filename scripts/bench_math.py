#!/usr/bin/env python3
"""`math` next to bare math-verify, on the same responses, in one process on one core.

    scripts/bench_math.py --path gsm8k-test.jsonl [--path gsm8k-train.jsonl] [--limit 1000] [--write]

1. Solutions in the manner of GSM8K from the given JSON-lines files (field `answer`): every second one with its final
   number raised by 1. math-verify gets the bare number as the reference, which is less work.
2. The labelled cases whose answers need LaTeX (tests/unit/cases), without those that are there to blow up a verifier.

Both sides are imported before; caches are emptied before every round, rounds alternate the order, CPU time is counted
and the fastest round of each side is reported. Then a table of how often each agrees with the labels. `--write` writes
both to docs/validation/math.md, which scripts/document.py puts into docs/rewards.md.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from math_verify import parse, verify
from math_verify import parser as mathverify_parser
from sympy.core.cache import clear_cache

from reasoner import Problem, Response
from reasoner_rewards import equality, symbolic
from reasoner_rewards.math import math
from scripts.harness import parser_of, write_page

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "unit" / "cases" / "math_cases.jsonl"
PAGE = "math.md"
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Case:
    """A response, the reference as each side gets it, and the right verdict."""

    kind: str
    response: str
    reference: str
    bare_reference: str
    right: bool
    extract: str = "strict"


Verifier = Callable[[Case], bool]


def ours(case: Case) -> bool:
    response = Response(case.response, (1,), (True,), (0.0,), "stop", 0)
    score = math(Problem("bench", (), case.reference), response, extract=case.extract)
    return bool(getattr(score, "value", score) == 1.0)


def bare(case: Case) -> bool:
    return bool(verify(parse(case.bare_reference), parse(case.response)))


def gsm8k_cases(paths: Sequence[str], limit: int) -> list[Case]:
    solutions = [
        json.loads(line)["answer"] for path in paths for line in Path(path).read_text("utf-8").split("\n") if line
    ]
    cases = []
    for index, solution in enumerate(solutions[:limit]):
        number = solution.rpartition("####")[2].strip()
        wrong = re.sub(r"(?<=#### ).*$", str(int(number.replace(",", "")) + 1), solution)
        cases.append(Case("gsm8k", wrong if index % 2 else solution, solution, number, not index % 2))
    return cases


def labelled_cases() -> list[Case]:
    rows = [json.loads(line) for line in CASES.read_text("utf-8").split("\n") if line]
    return [
        Case(
            row["kind"],
            row["response"],
            row["reference"],
            bare_reference(row["reference"]),
            row["score"] == 1.0,
            row.get("extract", "strict"),
        )
        for row in rows
        if row["kind"] != "bounds"
    ]


def bare_reference(reference: str) -> str:
    """What a user of math-verify passes: the number of a solution, LaTeX between dollars, anything else as it is."""
    text = reference.rpartition("####")[2].strip()
    return f"${text}$" if "\\" in text or "^" in text else text


def needs_latex(case: Case) -> bool:
    score: Any = math(Problem("bench", (), case.reference), Response(case.response, (1,), (True,), (0.0,), "stop", 0))
    return score.parts["means"] == "expression" and not score.note.startswith(("not ", "arithmetic"))


def empty_caches() -> None:
    symbolic._parse_checked.cache_clear()
    equality._reference_number.cache_clear()
    for cached in (
        mathverify_parser.parse_latex_cached,
        mathverify_parser.parse_expr_cached,
        mathverify_parser.extract_latex,
    ):
        cached.cache_clear()
    clear_cache()


def seconds(verifier: Verifier, cases: Sequence[Case]) -> float:
    empty_caches()
    start = time.process_time()
    for case in cases:
        verifier(case)
    return time.process_time() - start


def rates(cases: Sequence[Case]) -> tuple[float, float]:
    """Verifications per second, ours and bare math-verify's."""
    times: dict[str, list[float]] = defaultdict(list)
    sides: list[tuple[str, Verifier]] = [("math", ours), ("math-verify", bare)]
    for round_index in range(ROUNDS):
        for side, verifier in sides if round_index % 2 else sides[::-1]:
            times[side].append(seconds(verifier, cases))
    return len(cases) / min(times["math"]), len(cases) / min(times["math-verify"])


def speed_table(gsm8k: Sequence[Case], labelled: Sequence[Case]) -> Iterator[str]:
    """The lines of a table: verifications per second of one core."""
    latex = [case for case in labelled if needs_latex(case)]
    agreed = [case for case in latex if ours(case) == bare(case) == case.right]
    yield "| verifications per second of one core | cases | `math` | math-verify | ratio |"
    yield "|---|---:|---:|---:|---:|"
    for name, cases in {
        "GSM8K solutions": gsm8k,
        "answers that need LaTeX": latex,
        "of these, both say right": [case for case in agreed if case.right],
        "of these, both say wrong": [case for case in agreed if not case.right],
        "all labelled cases": labelled,
    }.items():
        own, library = rates(cases)
        yield f"| {name} | {len(cases)} | {own:,.0f} | {library:,.0f} | {own / library:.1f} |"


def agreement_table(cases: Sequence[Case]) -> Iterator[str]:
    """The lines of a table: how often each side is wrong, by kind of answer."""
    faults = "false positives, false negatives"
    yield f"| kind of answer | labelled right | labelled wrong | `math`: {faults} | math-verify: {faults} |"
    yield "|---|---:|---:|---|---|"
    kinds = defaultdict(list)
    for case in cases:
        kinds[case.kind].append((case.right, ours(case), bare(case)))
    for kind, rows in [*sorted(kinds.items()), ("all", [row for of_kind in kinds.values() for row in of_kind])]:
        right = sum(label for label, _, _ in rows)
        reasoner_faults = _faults([(label, verdict) for label, verdict, _ in rows])
        library_faults = _faults([(label, verdict) for label, _, verdict in rows])
        yield f"| {kind} | {right} | {len(rows) - right} | {reasoner_faults} | {library_faults} |"


def _faults(verdicts: Sequence[tuple[bool, bool]]) -> str:
    false = [sum(verdict and not right for right, verdict in verdicts)]
    false.append(sum(right and not verdict for right, verdict in verdicts))
    return f"{false[0]}, {false[1]} ({1 - sum(false) / len(verdicts):.1%} agree)" if any(false) else "0, 0"


def main() -> None:
    arguments = parser_of(__doc__, PAGE)
    arguments.add_argument(
        "--path", action="append", required=True, help="JSON lines with an `answer` field; may be repeated"
    )
    arguments.add_argument("--limit", type=int, default=1000, help="solutions (default 1000)")
    options = arguments.parse_args()
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gsm8k, labelled = gsm8k_cases(options.path, options.limit), labelled_cases()
    lines = []
    for line in (*speed_table(gsm8k, labelled), "", *agreement_table([*gsm8k, *labelled])):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        write_page(PAGE, "bench_math.py; CPU time of one process, fastest of four rounds", "\n".join(lines))


if __name__ == "__main__":
    main()
