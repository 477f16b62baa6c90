"""The named methods: one row each, choices and numbers and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from reasoner.gro.terms import KL, Advantage, Aggregation, Best, Clip, Linear, Term


@dataclass(frozen=True, slots=True)
class Preset:
    """A published method as a term."""

    term: Term
    paper: str
    """arXiv id or citation"""


_RAW = Advantage(baseline="none")
_OVER_STD = Advantage(baseline="mean", scale="group")
_OTHERS = Advantage(baseline="leave-one-out")

# fmt: off
PRESETS: Mapping[str, Preset] = MappingProxyType({
    # credit, anchor, link, aggregation, KL; source
    "reinforce": Preset(Term(_RAW, "old", Linear(), Aggregation("response-sum")), "Williams 1992"),
    "rloo":      Preset(Term(_OTHERS, "old", Linear(), Aggregation("response-sum")), "2402.14740"),
    "grpo":      Preset(Term(_OVER_STD, "old", Clip(), Aggregation("response-mean"), KL(0.0, "k3")), "2402.03300"),
    "dr-grpo":   Preset(Term(Advantage(baseline="mean"), "old", Clip(), Aggregation("constant")), "2503.20783"),
    "dapo":      Preset(Term(_OVER_STD, "old", Clip(high=.28), Aggregation("token-mean")), "2503.14476"),
    "raft":      Preset(Term(Best(), "none", Linear(), Aggregation("credited-token-mean")), "2304.06767"),
})
# fmt: on
