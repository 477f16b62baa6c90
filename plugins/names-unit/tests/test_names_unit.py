"""What `names_unit` must return, and the contract of reward sources."""

from pathlib import Path

import pytest

from names_unit.verifier import names_unit
from reasoner import Score
from reasoner.testing import Case, check_source, make_problem, make_response

PLUGIN = str(Path(__file__).resolve().parents[1] / "names_unit" / "__init__.py")
DISTANCE = make_problem("How far is it, in km?", "12")
CASES = [
    Case(DISTANCE, make_response("First 5, then 7.\n12 km"), 1.0),
    Case(DISTANCE, make_response("It is 12 km\nfrom here."), 0.0),
    Case(DISTANCE, make_response("12km"), 0.0),
    Case(DISTANCE, make_response(""), 0.0),
]


def test_it_keeps_the_contract() -> None:
    checklist = check_source(names_unit, CASES, plugins=[PLUGIN])
    assert checklist.passed, str(checklist)


@pytest.mark.parametrize(("text", "value"), [("3 kg", 1.0), ("3 KG", 0.0), ("3 km", 0.0)])
def test_the_unit_is_an_option(text: str, value: float) -> None:
    score = names_unit(DISTANCE, make_response(text), unit="kg")
    assert isinstance(score, Score)
    assert score.value == value
