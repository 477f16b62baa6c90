"""The reward source `instructions`: whether a response follows the instructions of its problem."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from reasoner import MissingDependencyError, Problem, Response, Score, after_thinking, nearest, reward
from reasoner_rewards.answer_text import says_something
from reasoner_rewards.text_checks import TEXT_CHECKS, follows, read_text_checks

Checkers = Literal["own", "ifeval", "ifbench"]
PACKAGE = "if_verifiable"
LANGUAGE_SEED = 0
"""langdetect draws samples of a text; with a seed it says the same twice"""


class InstructionsOptions(BaseModel):
    """Options of `instructions`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkers: Checkers = "own"
    """which instructions there are: those of this source (`own`), or those of IFEval or IFBench, which need
    `reasoner[instructions]`"""
    mode: Literal["strict", "loose"] = "strict"
    """`loose` also tries the response without its first line, its last line and both, and without asterisks, as IFEval
    does"""
    score: Literal["all", "share"] = "all"
    """1.0 for all instructions and 0.0 otherwise, or the share of those that are followed"""


def _preflight(options: InstructionsOptions) -> str:
    if options.checkers == "own":
        return f"{len(TEXT_CHECKS)} kinds of instructions of its own"
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingDependencyError(
            f"checkers = {options.checkers!r} needs if-verifiable; install it with `pip install "
            "'reasoner[instructions]'`"
        )
    return f"the checkers of {options.checkers}"


def _check_problem(problem: Problem, options: InstructionsOptions) -> str:
    """Try the checkers of a problem on a text.

    Raises:
        ValueError: one is unknown, its arguments are wrong, or it lacks its data.
    """
    _check_instructions(problem, "A text.\nIt has two lines.", options)
    return "can be checked"


# The first call of a worker imports the package, which imports datasets.
@reward(
    "instructions",
    timeout_s=60.0,
    preflight=_preflight,
    check_problem=_check_problem,
    needs_answer=False,
    aspect="form",
)
def instructions(problem: Problem, response: Response, *, options: InstructionsOptions) -> Score:
    """1.0 if the response follows all instructions of its problem, else 0.0; what it says is not looked at.

    With `checkers = "own"` the problem's field `instructions` lists them, `{"id": "words", "count": 3}`; the kinds are
    in `constraints.py`. A response that was cut follows none of them: one that never ends could not have too few words.

    With `ifeval` or `ifbench` the fields are those of the data sets, `instruction_id_list` and `kwargs`, and the
    checkers are those of the package if-verifiable. Some need data of NLTK, which nothing here downloads. An
    instruction that the package does not know fails the call, where the package itself leaves it out.

    Only what follows the thinking counts, and a text without a letter, number or symbol follows nothing: a checker that
    finds no language in `?!` would let it pass.

    Parts: `instructions`, their names; `followed`, for each whether it is, in the chosen mode.

    Raises:
        ValueError: the problem has no such instructions (the problem is broken, not the response).
        MissingDependencyError: the package is not installed.
    """
    text = after_thinking(response.text)
    names, followed = _check_instructions(problem, text if text and says_something(text) else "", options)
    note = ""
    if text is None:
        note = "the think block is not closed"
    elif options.checkers == "own" and response.finish_reason != "stop":
        note = f"not finished (finish reason {response.finish_reason!r})"
    elif not says_something(text):
        note = "the response says nothing"
    if note:
        followed = [False] * len(names)
    elif not all(followed):
        missed = [name for name, holds in zip(names, followed, strict=True) if not holds]
        note = f"not followed: {', '.join(missed)}"
    value = float(all(followed)) if options.score == "all" else sum(followed) / len(followed)
    return Score(value, {"instructions": names, "followed": followed}, note)


def _check_instructions(problem: Problem, text: str, options: InstructionsOptions) -> tuple[list[str], list[bool]]:
    """The names of the instructions, and which of them a text follows."""
    variants = [text] if options.mode == "strict" else loose_variants(text)
    if options.checkers == "own":
        read = read_text_checks(problem.id, problem.fields.get("instructions"))
        return [name for name, _ in read], [
            any(follows(variant, name, arguments) for variant in variants) for name, arguments in read
        ]
    names, arguments = _read(problem)
    checkers = _registry(options.checkers)
    return names, [
        _holds(problem, checkers, name, argument, variants) for name, argument in zip(names, arguments, strict=True)
    ]


def loose_variants(text: str) -> list[str]:
    """The text, without its first line, its last line and both, and each of these without asterisks (2311.07911)."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def _read(problem: Problem) -> tuple[list[str], list[Mapping[str, Any]]]:
    names, arguments = problem.fields.get("instruction_id_list"), problem.fields.get("kwargs")
    fits = isinstance(names, list) and isinstance(arguments, list) and len(names) == len(arguments) > 0
    if not fits or not all(isinstance(argument, Mapping) for argument in arguments or ()):
        raise ValueError(
            f"problem {problem.id!r}: the fields 'instruction_id_list' and 'kwargs' must be lists of the same length, "
            f"got {str(names)[:100]} and {str(arguments)[:100]}"
        )
    return list(names or ()), list(arguments or ())


def _holds(
    problem: Problem, checkers: Mapping[str, Any], name: str, arguments: Mapping[str, Any], variants: Sequence[str]
) -> bool:
    """
    Raises:
        ValueError: there is no such instruction, its arguments are wrong or missing, or its data are not installed.
    """
    if name not in checkers:
        raise ValueError(f"problem {problem.id!r}: there is no instruction {name!r}.{nearest(name, checkers)}")
    checker = checkers[name](name)
    present = {key: value for key, value in arguments.items() if value is not None}
    missing = set(checker.get_instruction_args_keys()) - set(present) - {"prompt"}
    if missing:  # the checker would draw them at random
        raise ValueError(f"problem {problem.id!r}: {name!r} needs {', '.join(sorted(missing))}, got {present}")
    try:
        checker.build_description(**present)
        if "prompt" in (checker.get_instruction_args() or {}):
            checker.build_description(prompt=problem.messages[-1].content)
        return any(bool(variant.strip()) and bool(checker.check_following(variant)) for variant in variants)
    except LookupError as error:
        resource = next((line.split("'")[1] for line in str(error).splitlines() if "download('" in line), "all")
        raise ValueError(
            f"problem {problem.id!r}: {name!r} needs data of NLTK: python -m nltk.downloader {resource}"
        ) from error
    except TypeError as error:
        raise ValueError(f"problem {problem.id!r}: {name!r} does not take {present}: {error}") from error


@lru_cache(maxsize=2)
def _registry(checkers: Literal["ifeval", "ifbench"]) -> Mapping[str, Any]:
    """The checkers of a benchmark by name. IFBench's module downloads data of NLTK when it is imported: not here."""
    try:
        nltk: Any = importlib.import_module("nltk")
        downloads = nltk.download
        nltk.download = lambda *_, **__: False
        try:
            module = importlib.import_module(f"{PACKAGE}.{checkers}.instructions_registry")
        finally:
            nltk.download = downloads
        importlib.import_module("langdetect").DetectorFactory.seed = LANGUAGE_SEED
    except ImportError as error:
        raise MissingDependencyError(
            f"checkers = {checkers!r} needs if-verifiable; install it with `pip install 'reasoner[instructions]'`"
        ) from error
    registry: Mapping[str, Any] = module.INSTRUCTION_DICT
    return registry
