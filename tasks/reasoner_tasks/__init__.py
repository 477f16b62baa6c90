"""The built-in tasks: TOML files beside this one, and the generators that they name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from reasoner import Generator, hookimpl


@hookimpl
def register_tasks() -> Iterable[Path]:
    """Every TOML file of this package."""
    return sorted(Path(__file__).parent.glob("*.toml"))


@hookimpl
def register_generators() -> Mapping[str, Generator]:
    """All of them, by name."""
    from reasoner_tasks.calculations import calculations, numbers_to_guess
    from reasoner_tasks.generators import gsm_symbolic
    from reasoner_tasks.instruction_problems import instruction_problems
    from reasoner_tasks.stdin_exercises import stdin_exercises
    from reasoner_tasks.word_problems import word_problems

    return {
        "gsm_symbolic": gsm_symbolic,
        "instruction_problems": instruction_problems,
        "stdin_exercises": stdin_exercises,
        "word_problems": word_problems,
        "calculations": calculations,
        "numbers_to_guess": numbers_to_guess,
    }
