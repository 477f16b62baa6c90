#!/usr/bin/env python3
"""`math` next to bare math-verify, on the same responses, in one process on one core.

    scripts/bench_math.py --path gsm8k-test.jsonl [--path gsm8k-train.jsonl] [--limit 1000]

1. Solutions in the manner of GSM8K from the given JSON-lines files (field `answer`): every second one with its final
   number raised by 1. math-verify gets the bare number as the reference, which is less work.
2. The labelled cases whose answers need LaTeX (tests/unit/cases), without those that are there to blow up a verifier.

Both sides are imported before; caches are emptied before every round, rounds alternate the order, CPU time is counted
and the fastest round of each side is reported. Then a table of how often each agrees with the labels.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from math_verify import parse, verify
from math_verify import parser as mathverify_parser
from sympy.core.cache import clear_cache

from reasoner import Problem, Response
from reasoner_rewards import equality, symbolic
from reasoner_rewards.math import math

CASES = Path(__file__).parent.parent / "tests" / "unit" / "cases" / "math_cases.jsonl"
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


def compare_speed(name: str, cases: Sequence[Case]) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    sides: list[tuple[str, Verifier]] = [("math", ours), ("math-verify", bare)]
    for round_index in range(ROUNDS):
        for side, verifier in sides if round_index % 2 else sides[::-1]:
            times[side].append(seconds(verifier, cases))
    rate = {side: len(cases) / min(spent) for side, spent in times.items()}
    mine, theirs = rate["math"], rate["math-verify"]
    print(f"{name:<34} {len(cases):>5} {mine:>10.0f} {theirs:>12.0f} {mine / theirs:>7.1f}x")


def print_agreement(cases: Sequence[Case]) -> None:
    columns = f"{'math: wrong, false positives':<30} {'math-verify: wrong, false positives':<36} agree"
    print(f"\n{'kind':<12} {'cases':>5}   {columns}")
    kinds = defaultdict(list)
    for case in cases:
        kinds[case.kind].append((case.right, ours(case), bare(case)))
    kinds["all"] = [row for rows in list(kinds.values()) for row in rows]
    for kind, rows in kinds.items():
        mine = f"{sum(r != m for r, m, _ in rows)}, {sum(m and not r for r, m, _ in rows)}"
        theirs = f"{sum(r != t for r, _, t in rows)}, {sum(t and not r for r, _, t in rows)}"
        print(f"{kind:<12} {len(rows):>5}   {mine:<30} {theirs:<36} {sum(m == t for _, m, t in rows) / len(rows):.0%}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--path", action="append", required=True, help="JSON lines with an `answer` field; may be repeated"
    )
    arguments.add_argument("--limit", type=int, default=1000, help="solutions (default 1000)")
    given = arguments.parse_args()
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gsm8k, labelled = gsm8k_cases(given.path, given.limit), labelled_cases()
    latex = [case for case in labelled if needs_latex(case)]
    agreed = [case for case in latex if ours(case) == bare(case) == case.right]
    print(f"{'verifications per second of one core':<34} {'cases':>3} {'math':>10} {'math-verify':>12} {'ratio':>8}")
    compare_speed("GSM8K solutions", gsm8k)
    compare_speed("LaTeX answers", latex)
    compare_speed("LaTeX, both say right", [case for case in agreed if case.right])
    compare_speed("LaTeX, both say wrong", [case for case in agreed if not case.right])
    compare_speed("all labelled cases", labelled)
    print_agreement([*gsm8k, *labelled])


if __name__ == "__main__":
    main()
