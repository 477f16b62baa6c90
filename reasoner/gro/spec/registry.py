"""What can be named in `[gro]`: the built-in methods and those of plugins. No torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from reasoner.gro.spec.presets import PRESETS, Preset
from reasoner.gro.spec.terms import CreditFunction, CustomCredit, CustomLink, LinkFunction, Term


@dataclass(frozen=True, slots=True)
class Algorithms:
    """Methods, credits and links by name. A plugin's `register_algorithms` returns its own."""

    presets: Mapping[str, Preset] = field(default_factory=dict)
    credits: Mapping[str, CreditFunction] = field(default_factory=dict)
    """`(rewards_NG, valid_NG, **options) -> credit_NG`: rewards of G responses to each of N problems, and which of them
    are valid; others get no credit whatever is returned"""
    links: Mapping[str, LinkFunction] = field(default_factory=dict)
    """`(u, c, **options) -> value`: u = evidence - anchor, c = credit; the value is maximised, elementwise and
    differentiable in u, and flat where c = 0: what has no credit gets no forward pass. A run refuses another one"""

    def bind(self, term: Term) -> Term:
        """The term with the functions that its `custom` credit and link name, their options bound.

        Raises:
            KeyError: no such function; `mistakes` finds that before a run.
        """
        credit, link = term.credit, term.link
        if isinstance(credit, CustomCredit):
            credit = partial(self.credits[credit.name], **credit.options)
        if isinstance(link, CustomLink):
            link = partial(self.links[link.name], **link.options)
        return replace(term, credit=credit, link=link)


BUILT_IN = Algorithms(presets=PRESETS)


def options_of(function: Callable[..., Any]) -> list[str]:
    """The options that a plugin's credit or link takes by name: its parameters after the two tensors."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]


def takes_any_option(function: Callable[..., Any]) -> bool:
    """Whether it has `**options`."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds
