"""The named methods: one row each, choices and numbers and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from reasoner.gro.spec.schedules import Constant, Schedule, Switch
from reasoner.gro.spec.terms import (
    KL,
    Advantage,
    Aggregation,
    Anchor,
    Best,
    Chosen,
    Clip,
    Divergence,
    Evidence,
    Gamma,
    Hinge,
    Label,
    Linear,
    LogSigmoid,
    Marginal,
    One,
    PassAtK,
    Ratio,
    Sigmoid,
    SoftClip,
    Square,
    Teacher,
    Term,
    Threshold,
    Truncate,
)


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term with its lambda: weight * factor(schedule, step)."""

    term: Term
    weight: float = 1.0
    schedule: Schedule = field(default_factory=Constant)


@dataclass(frozen=True, slots=True)
class Preset:
    """A published method, or a mixture: named terms with their weights."""

    terms: Mapping[str, Weighted]
    paper: str
    """arXiv id or citation; of a mixture what it is for"""
    note: str = ""
    """what of the paper is a setting beside the method, in sentences"""
    equals: str = ""
    """the identity or limit that ties a newer method to an older one, in a few words"""

    @property
    def term(self) -> Term:
        """The only term of a method that has one."""
        (weighted,) = self.terms.values()
        return weighted.term


_OLD, _SAMPLER = Anchor("old"), Anchor("sampler")
_RAW = Advantage(baseline="none")
_OVER_STD = Advantage(baseline="mean", scale="group")
_GROUP_THEN_BATCH = Advantage(baseline="mean", scale="batch")
_WHITENED = Advantage(baseline="none", scale="batch")
_SEQUENCE, _WHOLE = Evidence("response", "mean"), Evidence("response", "sum")
_K1, _K2, _K3 = KL(0.01, "k1", "reward"), KL(0.01, "k2"), KL(0.0, "k3")
_TOKENS, _PER_RESPONSE, _SUM = Aggregation("token-mean"), Aggregation("response-mean"), Aggregation("response-sum")
_CREDITED = Aggregation("token-mean", credited=True)
_PAIRS, _RESPONSES = Aggregation("pairs"), Aggregation("responses")


def _pairs(evidence: Evidence, link: LogSigmoid | Square | Hinge, margin: float = 0.0) -> Term:
    return Term("pairs", One(), evidence, Anchor("margin", margin) if margin else Anchor(), link, _PAIRS)


def _chosen(aggregation: Aggregation) -> Term:
    """Likelihood of the preferred responses."""
    return Term("pairs", Chosen(), aggregation=aggregation)


# fmt: off
_METHODS: Mapping[str, tuple[Term, str]] = {
    # source, credit, evidence, anchor, link, aggregation, KL; paper
    "reinforce":   (Term("online", _RAW, Evidence(), _OLD, Linear(), _SUM), "Williams 1992"),
    "rloo":        (Term("online", Advantage(baseline="leave-one-out"), Evidence(), _OLD, Linear(), _SUM),
                    "2402.14740"),
    "remax":       (Term("online", Advantage(baseline="greedy"), Evidence(), _OLD, Linear(), _SUM), "2310.10505"),
    "reinforce++": (Term("online", _WHITENED, Evidence(), _OLD, Clip(), _TOKENS, _K1), "2501.03262"),
    "reinforce++-baseline":
                   (Term("online", _GROUP_THEN_BATCH, Evidence(), _OLD, Clip(), _TOKENS, _K2), "2501.03262"),
    "ppo":         (Term("online", Advantage(baseline="critic", scale="batch"), Evidence(), _OLD, Clip(), _TOKENS,
                         KL(0.0, "k1", "reward")), "1707.06347"),
    "grpo":        (Term("online", _OVER_STD, Evidence(), _OLD, Clip(), _PER_RESPONSE, _K3), "2402.03300"),
    "dr-grpo":     (Term("online", Advantage(baseline="mean"), Evidence(), _OLD, Clip(), Aggregation("constant")),
                    "2503.20783"),
    "dapo":        (Term("online", _OVER_STD, Evidence(), _OLD, Clip(high=0.28), _TOKENS), "2503.14476"),
    "gspo":        (Term("online", _OVER_STD, _SEQUENCE, _OLD, Clip(low=3e-4, high=4e-4), _RESPONSES), "2507.18071"),
    "cispo":       (Term("online", _OVER_STD, Evidence(), _OLD, Truncate(cap=5.0), _TOKENS), "2506.13585"),
    "maxrl":       (Term("online", Advantage(baseline="mean", scale="mean"), Evidence(), _OLD, Clip(), _TOKENS),
                    "2602.02710"),
    "opo":         (Term("online", Advantage(baseline="length-weighted"), Evidence(), _OLD, Linear(), _SUM),
                    "2505.23585"),
    "pass-at-k":   (Term("online", PassAtK(), Evidence(), _OLD, Clip(), _TOKENS), "2508.10751"),
    "best-of-n":   (Term("online", Marginal(), Evidence(), _OLD, Linear(), _SUM), "2503.19595"),
    "sapo":        (Term("online", _OVER_STD, Evidence(), _OLD, SoftClip(), _PER_RESPONSE), "2511.20347"),
    "gmpo":        (Term("online", _OVER_STD, Evidence("response", "mean", bound=0.4), _OLD, Ratio(), _RESPONSES),
                    "2507.20673"),
    "top-entropy": (Term("online", _OVER_STD, Evidence(entropy_share=0.2), _OLD, Clip(high=0.28), _TOKENS),
                    "2506.01939"),
    "luspo":       (Term("online", _OVER_STD, _SEQUENCE, _OLD, Clip(low=2e-3, high=2.5e-3), _SUM), "2602.05261"),
    "vespo":       (Term("online", _OVER_STD, _WHOLE, _OLD, Gamma(), _TOKENS), "2602.10693"),
    "dppo-tv":     (Term("online", _OVER_STD, Evidence(), _SAMPLER, Divergence(), _TOKENS), "2602.04879"),
    "dppo-kl":     (Term("online", _OVER_STD, Evidence(), _SAMPLER, Divergence("divergence", "kl", 0.05), _TOKENS),
                    "2602.04879"),
    "topr":        (Term("online", Label(), _WHOLE, _OLD, Truncate(cap=1.0, only_negative=True), _RESPONSES),
                    "2503.14286"),
    "opd":         (Term("online", Teacher(), Evidence(), _OLD, Clip(), _TOKENS), "2306.13649"),
    "opsd":        (Term("online", Teacher(sees="solution"), Evidence(), _OLD, Clip(), _TOKENS), "2601.18734"),
    "raft":        (Term("online", Best(), aggregation=_CREDITED), "2304.06767"),
    "sft":         (Term("demos", One(), aggregation=_CREDITED), "maximum likelihood"),
    "dpo":         (_pairs(Evidence("pair", "sum", True, 0.1), LogSigmoid()), "2305.18290"),
    "ipo":         (_pairs(Evidence("pair", "mean", True), Square(), margin=5.0), "2310.12036"),
    "simpo":       (_pairs(Evidence("pair", "mean", False, 2.0), LogSigmoid(), margin=1.0), "2405.14734"),
    "cpl":         (_pairs(Evidence("pair", "sum", False, 0.1, bias=0.5), LogSigmoid()), "2310.13639"),
    "slic":        (_pairs(Evidence("pair", "sum"), Hinge(), margin=1.0), "2305.10425"),
    "kto":         (Term("labelled", Label(), Evidence("response", "sum", True, 0.1), Anchor("kl"), Sigmoid(),
                         _RESPONSES), "2402.01306"),
}

_MIXTURES: Mapping[str, Preset] = {
    "orpo": Preset({"odds": Weighted(_pairs(Evidence("pair", "log-odds"), LogSigmoid()), 0.1),
                    "sft": Weighted(_chosen(Aggregation("response-mean", credited=True)))}, "2403.07691"),
    "vapo": Preset({"ppo": Weighted(Term("online", Advantage(baseline="critic", scale="batch", trace_scale=0.05),
                                         Evidence(), _OLD, Clip(high=0.28), _TOKENS)),
                    "likelihood": Weighted(Term("online", Threshold(), aggregation=_CREDITED), 0.1)}, "2504.05118"),
    "cpo":  Preset({"prefer": Weighted(_pairs(Evidence("pair", "sum", False, 0.1), LogSigmoid())),
                    "sft": Weighted(_chosen(_CREDITED))}, "2401.08417"),
    "grpo+dpo":   Preset({"grpo": Weighted(_METHODS["grpo"][0]),
                          "dpo": Weighted(replace(_METHODS["dpo"][0], source="online"), 0.1)},
                         "DPO on best-versus-worst pairs of the same groups"),
    "grpo+opd":   Preset({"grpo": Weighted(_METHODS["grpo"][0]), "opd": Weighted(_METHODS["opd"][0], 0.1)},
                         "a teacher's credit per token beside the reward"),
    "grpo+sft":   Preset({"grpo": Weighted(_METHODS["grpo"][0]), "sft": Weighted(_METHODS["sft"][0], 0.1)},
                         "demonstrations as an anchor"),
    "raft->grpo": Preset({"raft": Weighted(_METHODS["raft"][0], 1.0, Switch(at=0.25, before=1.0, after=0.0)),
                          "grpo": Weighted(_METHODS["grpo"][0], 1.0, Switch(at=0.25, before=0.0, after=1.0))},
                         "imitate the best first, then compare"),
    "rloo+kto":   Preset({"rloo": Weighted(_METHODS["rloo"][0]),
                          "kto": Weighted(replace(_METHODS["kto"][0], source="online"), 0.1)},
                         "a bounded push on every response"),
}
# fmt: on

_NOTES = {
    "dapo": "Dynamic sampling, the paper's replacement of groups whose rewards are all equal, is a setting: "
    "sampling.refills = N, times per step; 0, the default, is off. Its overlong penalty is the reward source 'length' "
    "(`reasoner rewards show length`).",
}

_EQUALS = {
    "maxrl": "with rewards 0 and 1, times the pass rate: R - mean",
    "opo": "with equal lengths: R - mean",
    "pass-at-k": "with k = 1: R - mean over the deviation; with any k: every subset counted",
    "best-of-n": "with one winner among zeros: the credit of raft",
    "sapo": "near the old policy: the linear link; far from it less than the ratio",
    "gmpo": "with a distant bound: gspo without its clip",
    "top-entropy": "with entropy_share = 1: dapo; what is kept weighs as in dapo",
    "luspo": "over the length: gspo",
    "vespo": "near the old policy: the linear link",
    "dppo-tv": "without a limit: importance sampling",
    "dppo-kl": "without a limit: importance sampling",
    "topr": "on online responses: reinforce with labels 1 and -1",
    "opd": "with the reference as teacher: the KL penalty k2 with coefficient 1",
    "opsd": "without the solution: no credit before the first update",
    "vapo": "with a large trace_scale: ppo with a trace of 1, plus sft on right responses",
}
"""a test holds every line"""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        name: replace(preset, note=_NOTES.get(name, ""), equals=_EQUALS.get(name, ""))
        for name, preset in {
            **{name: Preset({name: Weighted(term)}, paper) for name, (term, paper) in _METHODS.items()},
            **_MIXTURES,
        }.items()
    }
)
