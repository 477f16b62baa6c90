"""The worked examples in the docstrings of the objective and the learner: they run, and none is missing."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import reasoner.gro
import reasoner.learning
from reasoner.gro.credit import credit
from reasoner.gro.evidence import response_evidence
from reasoner.gro.importance import correction
from reasoner.gro.kl import kl_estimate
from reasoner.gro.links import link
from reasoner.gro.pairs import mine_pairs
from reasoner.gro.spec.schedules import Ramp, Schedule, factor
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Correction,
    Credit,
    Divergence,
    Evidence,
    Link,
    Pairing,
)
from reasoner.gro.term_plan import plan
from reasoner.learning.schedule import LearningRateDecay, learning_rate

WORDS = ("reasoner.gro.spec.describe", "reasoner.gro.spec.registry", "reasoner.gro.spec.validation")
"""modules of the objective that say something in words and compute nothing"""
EXEMPT = {
    "only_adapter": "chooses weights by name",
    "packed_attention": "transformers calls it; its parts are compared with plain attention over single sequences",
    "perturbed": "a context around a model; its arithmetic is `noise`",
    "read_adapter": "weights between files and a model",
    "save_adapter": "weights between files and a model",
    "sources": "chooses weights by name",
    "write_adapter": "weights between files and a model",
    "exact_weight": "needs DeepSpeed's engine",
    "moments": "needs DeepSpeed's engine",
    "update_critic": "trains a critic; its arithmetic is `value_loss`",
}
"""public functions with tensors or floats in their signature, and why they have no example"""


def modules() -> Iterator[ModuleType]:
    for package in (reasoner.gro, reasoner.learning):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)
    yield importlib.import_module("reasoner.training.critic_update")


MODULES = list(modules())
TESTS = [test for module in MODULES for test in doctest.DocTestFinder().find(module) if test.examples]
FUNCTIONS = [
    (module, function)
    for module in MODULES
    for name, function in vars(module).items()
    if isinstance(function, FunctionType) and function.__module__ == module.__name__ and not name.startswith("_")
]


def computes(module: ModuleType, function: FunctionType) -> bool:
    """Whether it takes or gives numbers: tensors, floats; of the objective every function, of packing too."""
    if module.__name__ in WORDS:
        return False
    if module.__name__.startswith("reasoner.gro") or module.__name__.endswith("batching.packing"):
        return bool(function.__annotations__["return"] != "str")
    return any(word in str(inspect.signature(function)) for word in ("Tensor", "float"))


COMPUTING = [(module, function) for module, function in FUNCTIONS if computes(module, function)]


def called(docstring: str) -> set[str]:
    """The functions that the examples of a docstring call."""
    source = "".join(example.source for example in doctest.DocTestParser().get_examples(docstring))
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {node.id for node in calls if isinstance(node, ast.Name)}


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name.removeprefix("reasoner."))
def test_the_example_is_right(test: doctest.DocTest) -> None:
    shown: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=shown.append).failed == 0, "".join(shown)


@pytest.mark.parametrize(
    ("module", "function"),
    [(module, function) for module, function in COMPUTING if function.__name__ not in EXEMPT],
    ids=lambda value: value.__name__.removeprefix("reasoner."),
)
def test_what_computes_has_an_example(module: ModuleType, function: FunctionType) -> None:
    """In its own docstring, or in that of its module."""
    examples = called(inspect.getdoc(function) or "") | called(module.__doc__ or "")
    assert function.__name__ in examples, f"{module.__name__}.{function.__name__} has no worked example"


def test_what_is_exempt_is_there_and_computes() -> None:
    assert set(EXEMPT) <= {function.__name__ for _, function in COMPUTING}
    assert len(COMPUTING) > 30


def choices_of(spec: type, name: str) -> set[Any]:
    """The values of a `Literal`, of a field or of a type itself."""
    hint = get_type_hints(spec)[name]
    assert get_origin(hint) is Literal
    return set(get_args(hint))


KINDS: list[tuple[Callable[..., Any], set[str]]] = [
    (credit, {kind.__name__ for kind in get_args(Credit)} - {"CustomCredit"}),
    (credit, choices_of(Advantage, "baseline") | choices_of(Advantage, "scale") | {"normalise-then-sum"}),
    (link, {kind.__name__ for kind in get_args(Link)} - {"CustomLink"}),
    (link, choices_of(Divergence, "measure")),
    (response_evidence, choices_of(Evidence, "reduce")),
    (correction, (choices_of(Correction, "kind") - {"none"}) | choices_of(Correction, "level")),
    (kl_estimate, choices_of(KL, "estimator")),
    (plan, choices_of(Aggregation, "kind")),
    (mine_pairs, choices_of(Pairing, "rule")),
    (factor, {kind.__name__ for kind in get_args(Schedule)} | choices_of(Ramp, "kind")),
    (learning_rate, set(get_args(LearningRateDecay))),
]


@pytest.mark.parametrize(("function", "kinds"), KINDS, ids=lambda value: getattr(value, "__name__", "kinds"))
def test_every_choice_is_in_an_example(function: Callable[..., Any], kinds: set[str]) -> None:
    """A new kind of credit or link is worked out with numbers where the others are."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(function) or "")
    nodes = [node for example in examples for node in ast.walk(ast.parse(example.source))]
    named = {node.id for node in nodes if isinstance(node, ast.Name)}
    values = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert kinds - named - values == set()
