"""For the tests of reward sources: problems and responses, and the contract that every source must keep.

contract.py                  `check_source`, and what it needs
cases.py, bench.py           a response and the value that it must get; a verifier measured on many
attack.py, attack_corpus.py  a source attacked with the known shortcuts to a reward; the shortcuts
pytest_plugin.py             the fixture `score_in_worker`
"""

from reasoner.testing.attack import AttackReport, attack_source
from reasoner.testing.contract import Case, Check, Checklist, check_source, make_problem, make_response

__all__ = [
    "AttackReport",
    "Case",
    "Check",
    "Checklist",
    "attack_source",
    "check_source",
    "make_problem",
    "make_response",
]
