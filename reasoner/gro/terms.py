"""A term of the objective as data: source, credit, evidence, anchor, link, aggregation.

    L = sum_k lambda_k L_k        L_k = - (1/Z) sum_u link(credit_u, evidence_u - anchor_u)

These are choices and numbers only. What they mean is computed in `credit.py`, `links.py` and `objective.py`; this
module imports no torch, so that configurations are checked without it. Source: Generalized REINFORCE Optimization,
arXiv 2503.19523; `docs/gro.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Advantage:
    """(R_i - baseline) / scale over the group (`none`: 0 and 1)."""

    kind: Literal["advantage"] = "advantage"
    baseline: Literal["none", "mean", "leave-one-out"] = "mean"
    scale: Literal["none", "group"] = "none"
    """`group`: the unbiased standard deviation of the group's rewards + 1e-4"""


@dataclass(frozen=True, slots=True)
class Best:
    """1 for the group's best response (the first of equals), 0 for the others; 0 for all when all rewards are equal."""

    kind: Literal["best"] = "best"


@dataclass(frozen=True, slots=True)
class Threshold:
    """1 for responses with a reward of at least `at`, 0 for the others."""

    kind: Literal["threshold"] = "threshold"
    at: float = 1.0


Credit = Advantage | Best | Threshold


@dataclass(frozen=True, slots=True)
class Linear:
    """c u: plain REINFORCE, weight c whatever the policy."""

    kind: Literal["linear"] = "linear"


@dataclass(frozen=True, slots=True)
class Clip:
    """min(e^u c, clamp(e^u, 1 - low, 1 + high) c): PPO's clipped surrogate (1707.06347), u the log-ratio to the old
    policy."""

    kind: Literal["clip"] = "clip"
    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """with c < 0 also max(., dual c) (dual clip, 1912.09729); None: off"""


Link = Linear | Clip


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How the units of a term are summed and normalised; Z is fixed over the global mini-batch before any forward."""

    kind: Literal["token-mean", "credited-token-mean", "response-mean", "response-sum", "constant"] = "token-mean"
    length: int | None = None
    """tokens; the K of `constant` (sum over tokens / (K x responses)); None: the longest response allowed"""


@dataclass(frozen=True, slots=True)
class KL:
    """coefficient * KL(theta || reference) in the loss, aggregated as the term, u = l - l_ref."""

    coefficient: float = 0.0
    estimator: Literal["k2", "k3"] = "k2"
    """k2 = u^2 / 2 (the reverse KL's gradient), k3 = e^-u - 1 + u (GRPO's; the forward KL's gradient)"""


@dataclass(frozen=True, slots=True)
class Term:
    """One sum of weighted log-likelihoods."""

    credit: Credit = field(default_factory=Advantage)
    anchor: Literal["old", "none"] = "old"
    link: Link = field(default_factory=Linear)
    aggregation: Aggregation = field(default_factory=Aggregation)
    kl: KL = field(default_factory=KL)
    source: Literal["online"] = "online"
    evidence: Literal["token"] = "token"
