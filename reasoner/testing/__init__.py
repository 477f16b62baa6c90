"""For the tests of reward sources: problems and responses, and the contract that every source must keep.

cases.py (a problem, a response, the expected value) --> contract.py (`check_source`), bench.py (`rewards bench`)
pytest_plugin.py   the fixture `score_in_worker`
"""

from reasoner.testing.contract import Case, Check, Checklist, check_source, make_problem, make_response

__all__ = ["Case", "Check", "Checklist", "check_source", "make_problem", "make_response"]
