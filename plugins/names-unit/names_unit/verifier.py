"""The reward source `names_unit`: 1.0 if the last line of a response names the unit."""

from reasoner import Problem, Response, Score, reward


@reward("names_unit", timeout_s=1.0)
def names_unit(problem: Problem, response: Response, *, unit: str = "km") -> Score:
    """1.0 if the last line of the response names the unit as a word of its own, else 0.0.

    The last line, because a unit somewhere in the working says nothing of the answer; a word, because `k` is in `km`.

    Args:
        unit: what to look for, case included
    """
    lines = response.text.strip().splitlines()
    named = bool(lines) and unit in lines[-1].split()
    return Score(float(named), note="" if named else f"no {unit} in the last line")
