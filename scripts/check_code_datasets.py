#!/usr/bin/env python3
"""Holds the reward source `code` against MBPP and HumanEval: right programs must pass, wrong ones fail.

    scripts/check_code_datasets.py --mbpp mbpp.jsonl --humaneval HumanEval.jsonl.gz

For every problem the data set's own solution and mutants of it (`MUTATIONS`) are scored as a run would, in worker
processes, and beside that run as plain Python together with the data set's tests. Both must agree on every program:
then a mutant that passes is equivalent as far as the tests of the data set can tell, and none passes because of the
source.
Prints the counts, every solution that does not pass and every disagreement; exit code 1 when there is a disagreement.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasoner.config import Config
from reasoner.data.problems import load_held_out
from reasoner.loading import load_config
from reasoner.records import Component, Problem
from reasoner.sandbox import ISOLATED, PYTHON, Limits, Sandbox, open_sandbox
from reasoner.scoring.service import ScoringService
from reasoner.testing.cases import make_response, score_cases

SOLUTION = "solution"
TIMEOUT_S, PROGRAM_TIMEOUT_S = 3.0, 6.0
"""wall seconds per test and per program: many a mutant never ends"""
PLAIN = b"exec(compile(open('all.py').read(), 'all.py', 'exec'), {'__name__': 'program'})"
Mutation = Callable[[ast.AST], ast.AST | None]
"""changes a node in place or gives another; None: it does not fit"""
SWAPPED: dict[type[ast.AST], Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def swap_operator(node: ast.AST) -> ast.AST | None:
    """`a + b` becomes `a - b`, `a < b` becomes `a >= b`, ..."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPPED:
        node.op = SWAPPED[type(node.op)]()
        return node
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        node.ops[0] = SWAPPED[type(node.ops[0])]()
        return node
    return None


def wrong_return(node: ast.AST) -> ast.AST | None:
    """`return a` becomes `return [a]`."""
    if isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.List([node.value], ast.Load())
        return node
    return None


def off_by_one(node: ast.AST) -> ast.AST | None:
    """An integer constant n becomes n + 1."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return ast.Constant(node.value + 1)
    return None


def negated_condition(node: ast.AST) -> ast.AST | None:
    """`if a` and `while a` become `if not a` and `while not a`."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return node
    return None


def dropped_statement(node: ast.AST) -> ast.AST | None:
    """An assignment or a call for its effect becomes `pass`."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return ast.Pass() if isinstance(node, (ast.AugAssign, ast.Assign, ast.Expr)) and not docstring else None


MUTATIONS: tuple[Mutation, ...] = (
    swap_operator,
    wrong_return,
    off_by_one,
    negated_condition,
    dropped_statement,
)


class Replace(ast.NodeTransformer):
    """Applies a mutation to one node."""

    def __init__(self, target: ast.AST, mutation: Mutation) -> None:
        self.target, self.mutation = target, mutation

    def visit(self, node: ast.AST) -> ast.AST:
        changed = self.mutation(node) if node is self.target else self.generic_visit(node)
        assert changed is not None
        return changed


def mutant(problem: Problem, mutation: Mutation, draw: random.Random) -> str | None:
    """The solution with the mutation at one place; None: there is no place for it.

    Helpers that HumanEval's prompt shows stay as they are: they are part of its tests, and a program that changes them
    would pass or fail in plain Python by that.
    """
    tree = ast.parse(solution(problem))
    entry = problem.fields.get("entry_point")
    parts = [statement for statement in tree.body if entry is None or getattr(statement, "name", None) == entry]
    nodes = [node for part in parts for node in ast.walk(part)]
    places = [node for node in nodes if mutation(copy.deepcopy(node)) is not None]
    if not places:
        return None
    return ast.unparse(ast.fix_missing_locations(Replace(draw.choice(places), mutation).visit(tree)))


@dataclass(frozen=True)
class Program:
    """One program for one problem."""

    problem: Problem
    kind: str
    """`solution`, or the name of a mutation"""
    text: str


def solution(problem: Problem) -> str:
    """The data set's own; HumanEval's goes on where the prompt ends."""
    prelude = str(problem.fields.get("prelude", ""))
    return f"{prelude.rstrip()}\n{problem.answer}" if prelude else problem.answer


def programs(problems: Sequence[Problem], seed: int | None) -> Iterator[Program]:
    """Every solution, and one mutant of each kind; without mutants for seed None."""
    for problem in problems:
        yield Program(problem, SOLUTION, solution(problem))
        for mutation in MUTATIONS if seed is not None else ():
            draw = random.Random(f"{seed}:{problem.id}:{mutation.__name__}")
            text = mutant(problem, mutation, draw)
            if text is not None:
                yield Program(problem, mutation.__name__, text)


def scored(config: Config, candidates: Sequence[Program]) -> list[Component]:
    """What the source says, in the workers of a run."""
    (reward,) = config.rewards
    pairs = [(item.problem, make_response(f"```python\n{item.text}\n```")) for item in candidates]
    with ScoringService([reward], config.scoring) as service:
        return [parts[0] for parts in score_cases(service, pairs, progress(len(pairs)))]


def passes_plainly(sandbox: Sandbox, program: Program) -> bool:
    """Whether program and tests, in one namespace and one process, run to their end."""
    fields = program.problem.fields
    tests = fields["tests"]
    parts = [program.text, fields.get("setup", ""), *([tests] if isinstance(tests, str) else tests)]
    if "entry_point" in fields:
        parts.append(f"check({fields['entry_point']})")
    files = {"all.py": "\n\n".join(parts).encode(), "main.py": PLAIN}
    limits = Limits(wall_s=PROGRAM_TIMEOUT_S, cpu_s=PROGRAM_TIMEOUT_S)
    return sandbox.run([PYTHON, *ISOLATED, "main.py"], files, b"", limits).ok


def check(name: str, config: Config, problems: Sequence[Problem], seed: int | None) -> int:
    """Check problems of one data set; the number of disagreements."""
    candidates = list(programs(problems, seed))
    verdicts = scored(config, candidates)
    sandbox = open_sandbox()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        plain = list(pool.map(lambda program: passes_plainly(sandbox, program), candidates))
    passed = [verdict.value == 1.0 for verdict in verdicts]
    failed = sum(verdict.failure is not None for verdict in verdicts)
    print(f"{name}: {len(problems)} problems, {len(candidates)} programs, {failed} failed calls")
    for kind in dict.fromkeys(program.kind for program in candidates):
        of_kind = [index for index, program in enumerate(candidates) if program.kind == kind]
        in_sandbox, in_plain = (sum(result[index] for index in of_kind) for result in (passed, plain))
        print(f"  {kind:18} {in_sandbox:4} of {len(of_kind):4} pass; as plain Python {in_plain:4}")
    different = [index for index in range(len(candidates)) if passed[index] != plain[index]]
    shown = [
        i for i, program in enumerate(candidates) if program.kind == SOLUTION and not passed[i] and i not in different
    ]
    for title, indices in (("solutions that fail in plain Python, too", shown), ("disagreements", different)):
        print(f"  {title}: {len(indices)}")
        for index in indices:
            verdict = verdicts[index]
            why = verdict.failure.message if verdict.failure else verdict.note
            place = candidates[index].problem.fields["task_id"]
            print(f"    task {place}, {candidates[index].kind}: {verdict.value}, plain {plain[index]}: {why}")
    return len(different)


def progress(total: int) -> Callable[[int], None]:
    """Says now and then how far it is."""

    def tell(done: int) -> None:
        if done % 500 == 0 or done == total:
            print(f"  {done} of {total}", file=sys.stderr, flush=True)

    return tell


def main() -> None:
    """Check the data sets that were named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mbpp", type=Path, help="MBPP as JSON lines")
    parser.add_argument("--humaneval", type=Path, help="HumanEval as JSON lines (.gz)")
    parser.add_argument("--first", type=int, default=0, help="number of the first problem, from 0")
    parser.add_argument("--limit", type=int, help="problems from there; without it: all")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the mutations")
    parser.add_argument("--harness", choices=("outside", "inside"), default="outside", help="option of the source")
    parser.add_argument("--no-mutants", action="store_true", help="only the solutions")
    arguments = parser.parse_args()
    files = {"code-mbpp": arguments.mbpp, "code-humaneval": arguments.humaneval}
    disagreements = 0
    for task, file in files.items():
        if file is None:
            continue
        sets = [
            f"data.eval.path={json.dumps(str(file))}",
            f"rewards.code.options.harness={arguments.harness}",
            f"rewards.code.options.timeout_s={TIMEOUT_S}",
            f"rewards.code.options.program_timeout_s={PROGRAM_TIMEOUT_S}",
            "scoring.max_failure_rate=1.0",
            "data.eval.shuffle=false",
            "data.eval.limit=none",
        ]
        config = load_config(task, "gpu", sets=sets).config
        last = None if arguments.limit is None else arguments.first + arguments.limit
        problems = load_held_out(config.data, config.prompt, {})[arguments.first : last]
        disagreements += check(task, config, problems, None if arguments.no_mutants else arguments.seed)
    raise SystemExit(1 if disagreements else 0)


if __name__ == "__main__":
    main()
