"""Test helpers for plugins: problems, responses, and the contracts of reward sources, tools, environments and links.

contract.py, environment_contract.py   `check_source`; `check_tool`, `check_environment`, and games of a script
link_contract.py                       `check_link`
checklist.py, examples.py              what was checked; arguments that a schema allows
cases.py, bench.py                     a response and the value that it must get; a verifier measured on many
attack.py, attack_corpus.py            a source attacked with the known shortcuts to a reward; the shortcuts
pytest_plugin.py                       the fixture `score_in_worker`
"""

from reasoner.testing.attack import AttackReport, attack_source
from reasoner.testing.contract import Case, Check, Checklist, check_source, make_problem, make_response
from reasoner.testing.environment_contract import check_environment, check_tool
from reasoner.testing.link_contract import check_link

__all__ = [
    "AttackReport",
    "Case",
    "Check",
    "Checklist",
    "attack_source",
    "check_environment",
    "check_link",
    "check_source",
    "check_tool",
    "make_problem",
    "make_response",
]
