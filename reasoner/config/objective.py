"""Sections on the objective: `[gro]` and its terms.

The choices of a term are the types of `reasoner.gro.spec.terms`; the checks between them are in its `validation`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Self

from pydantic import Field, model_validator

from reasoner.config.section import Section
from reasoner.gro.spec.schedules import Constant, Schedule
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Anchor,
    Correction,
    Credit,
    Evidence,
    Linear,
    Link,
    Pairing,
    Source,
    Teacher,
    Term,
)
from reasoner.gro.spec.validation import mistake_of_term


class TermConfig(Section):
    """`[gro.terms.NAME]`: one term of the objective. `preset` fills every other key; each can be overridden."""

    preset: str = ""
    """Name of the method that fills the other keys (`reasoner algorithms list`); empty for none."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the term in the objective, multiplied by the schedule."""
    schedule: Annotated[Schedule, Field(discriminator="kind")] = Constant()
    """Factor of the weight over the course of the run."""
    source: Source = "online"
    """Responses that the term reads: `online` groups, sampled by the policy, or one of the data sets `[data.pairs]`,
    `[data.labelled]`, `[data.demos]`."""
    credit: Annotated[Credit, Field(discriminator="kind")] = Advantage()
    """How good a response was: the advantage, or another credit."""
    evidence: Evidence = Evidence()
    """What the policy says of a token, a response or a pair, from its log-probabilities."""
    anchor: Anchor = Anchor()
    """Constant that the evidence is compared with, such as the old policy's log-probability or a margin."""
    link: Annotated[Link, Field(discriminator="kind")] = Linear()
    """How the distance between evidence and anchor becomes a weight, for example PPO's clipped ratio."""
    aggregation: Aggregation = Aggregation()
    """How tokens, responses or pairs are summed and normalised."""
    kl: KL = KL()
    """Penalty for leaving the reference policy."""
    correction: Correction = Correction()
    """Importance weight for the gap between the sampler's and the learner's log-probabilities."""
    pairing: Pairing = Pairing()
    """How preference pairs are formed from a group's rewards."""
    entropy: Annotated[float, Field(ge=0.0)] = 0.0
    """Coefficient of the entropy bonus, aggregated like the term."""
    mask_truncated: bool = False
    """Give no weight to responses that were cut at the length limit."""

    @property
    def term(self) -> Term:
        """The choices as the objective takes them."""
        return Term(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Term)})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if mistake := mistake_of_term(self.term):
            raise ValueError(mistake)
        return self


class GroConfig(Section):
    """`[gro]`: the objective, a weighted sum of terms."""

    preset: str = ""
    """Name of the method or mixture that fills `terms` (`reasoner algorithms list`); empty to write the terms alone."""
    terms: dict[str, TermConfig] = Field(default_factory=dict)
    """Terms by name. Each key of a preset's terms can be overridden: `--set gro.terms.grpo.link.high=0.28`. Without any
    term nothing is trained."""

    def reads(self, source: Source) -> bool:
        """Whether some term reads that source."""
        return any(term.source == source for term in self.terms.values())

    @property
    def needs_critic(self) -> bool:
        """Whether some term's baseline is a critic."""
        return any(config.term.needs_critic for config in self.terms.values())

    @property
    def needs_reference(self) -> bool:
        """Whether some term compares with the reference policy."""
        return any(config.term.needs_reference for config in self.terms.values())

    @property
    def needs_teacher(self) -> bool:
        """Whether some term's credit is a teacher's."""
        return any(config.term.needs_teacher for config in self.terms.values())

    @property
    def teacher_sees(self) -> str:
        """What the teacher reads before a response (`credit.sees`), the same for all terms; empty: there is none."""
        credits = (config.credit for config in self.terms.values())
        return next((credit.sees for credit in credits if isinstance(credit, Teacher)), "")
