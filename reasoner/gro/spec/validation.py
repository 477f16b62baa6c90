"""Which choices of a term fit each other. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reasoner.gro.spec.terms import (
    GROUP_BASELINES,
    Advantage,
    Chosen,
    Clip,
    Divergence,
    Evidence,
    EvidenceUnit,
    Gamma,
    LogSigmoid,
    One,
    Pairing,
    PassAtK,
    Ratio,
    Sigmoid,
    SoftClip,
    Teacher,
    Term,
    Truncate,
)

AGGREGATIONS: dict[EvidenceUnit, tuple[str, ...]] = {
    "token": ("token-mean", "response-mean", "response-sum", "constant"),
    "response": ("responses", "token-mean", "response-mean", "response-sum", "constant"),
    "pair": ("pairs",),
}


_OF_RATIOS = Clip | Ratio | SoftClip | Divergence | Truncate | Gamma
"""links of the ratio to the policy that is the anchor"""


def mistake_of_term(term: Term) -> str:
    """The first thing that is wrong with a term, with its keys; empty: nothing."""
    return next(_mistakes(term), "")


def _mistakes(term: Term) -> Iterator[str]:
    yield from _number_mistakes(term)
    yield from _unit_mistakes(term)
    yield from _source_mistakes(term)
    yield from _observed_mistakes(term)
    yield from _credit_mistakes(term)
    if term.kl.in_loss and term.kl.estimator == "k1":
        yield "kl.estimator = 'k1' belongs into the reward: in the loss its expected gradient is zero; use k2 or k3"


def _link_mistakes(link: object) -> Iterator[str]:
    match link:
        case Clip():
            if not 0.0 <= link.low <= 1.0 or link.high < 0.0:
                yield f"link.low must be in [0, 1] and link.high >= 0, got {link.low}, {link.high}"
            if link.dual is not None and link.dual <= 1.0:
                yield f"link.dual must be above 1, got {link.dual}"
        case SoftClip():
            if min(link.positive, link.negative) <= 0.0:
                yield f"link.positive and link.negative must be above 0, got {link.positive}, {link.negative}"
        case Divergence():
            if link.limit <= 0.0:
                yield f"link.limit must be above 0, got {link.limit}"
        case Truncate():
            if link.cap <= 0.0:
                yield f"link.cap must be above 0, got {link.cap}"
        case Gamma():
            four = (link.positive_power, link.positive_rate, link.negative_power, link.negative_rate)
            if min(four) < 0.0:
                yield f"the link's powers and rates must be at least 0, got {', '.join(map(str, four))}"
        case LogSigmoid():
            if not 0.0 <= link.smoothing < 0.5:
                yield f"link.smoothing must be in [0, 0.5), got {link.smoothing}: it is the share of flipped labels"
        case Sigmoid():
            if min(link.desirable, link.undesirable) < 0.0:
                numbers = f"{link.desirable}, {link.undesirable}"
                yield f"link.desirable and link.undesirable must be at least 0, got {numbers}"


def _number_mistakes(term: Term) -> Iterator[str]:
    evidence, correction = term.evidence, term.correction
    yield from _link_mistakes(term.link)
    if isinstance(term.credit, PassAtK) and term.credit.k < 1:
        yield f"credit.k must be at least 1, got {term.credit.k}"
    if isinstance(term.credit, Teacher) and not 0.0 <= term.credit.discount <= 1.0:
        yield f"credit.discount must be in [0, 1], got {term.credit.discount}"
    if evidence.bound is not None and evidence.bound <= 0.0:
        yield f"evidence.bound must be above 0, got {evidence.bound}"
    if not 0.0 < evidence.entropy_share <= 1.0:
        yield f"evidence.entropy_share must be in (0, 1], got {evidence.entropy_share}"
    if term.anchor.margin != 0.0 and term.anchor.kind != "margin":
        yield f"anchor.margin = {term.anchor.margin} needs anchor.kind = 'margin', got {term.anchor.kind!r}"
    if evidence.beta <= 0.0:
        yield f"evidence.beta must be above 0, got {evidence.beta}"
    if not 0.0 < evidence.discount <= 1.0:
        yield f"evidence.discount must be in (0, 1], got {evidence.discount}"
    if evidence.bias < 0.0:
        yield f"evidence.bias must be at least 0, got {evidence.bias}"
    if term.kl.coefficient < 0.0:
        yield f"kl.coefficient must be >= 0, got {term.kl.coefficient}"
    if term.aggregation.length is not None and term.aggregation.kind != "constant":
        yield f"aggregation.length needs aggregation.kind = 'constant', got {term.aggregation.kind!r}"
    if term.aggregation.length is not None and term.aggregation.length < 1:
        yield f"aggregation.length must be at least 1 token, got {term.aggregation.length}"
    if correction.kind == "mask" and not 0.0 <= correction.low < correction.high:
        yield f"correction.low must be below correction.high, got {correction.low}, {correction.high}"
    if correction.high <= 0.0:
        yield f"correction.high must be above 0, got {correction.high}"
    if term.pairing.most < 1 or term.pairing.margin < 0.0:
        yield (
            f"pairing.most must be at least 1 and pairing.margin at least 0, got {term.pairing.most}, "
            f"{term.pairing.margin}"
        )
    if isinstance(term.credit, Advantage) and not (
        0.0 < term.credit.discount <= 1.0 and 0.0 <= term.credit.trace <= 1.0
    ):
        yield (
            f"credit.discount must be in (0, 1] and credit.trace in [0, 1], got {term.credit.discount}, "
            f"{term.credit.trace}"
        )


def _unit_mistakes(term: Term) -> Iterator[str]:
    unit, evidence = term.evidence.unit, term.evidence
    known = AGGREGATIONS[unit]
    if term.aggregation.kind not in known:
        yield (
            f"aggregation.kind = {term.aggregation.kind!r} does not fit evidence.unit = {unit!r}; "
            f"it takes {', '.join(known)}"
        )
    if unit == "token" and replace(evidence, bias=1.0, entropy_share=1.0, tokens="written") != Evidence():
        yield (
            "evidence.unit = 'token' is the log-probability itself: reduce, reference, beta and discount do not apply "
            "to it"
        )
    if evidence.discount != 1.0 and evidence.reduce != "sum":
        yield f"evidence.discount = {evidence.discount} needs evidence.reduce = 'sum', got {evidence.reduce!r}"
    if evidence.reduce == "log-odds" and evidence.reference:
        yield "evidence.reduce = 'log-odds' is a function of a probability; it takes no reference"
    if evidence.bias != 1.0 and unit != "pair":
        yield f"evidence.bias = {evidence.bias} is the weight of a pair's rejected response; evidence.unit is {unit!r}"
    of_policy = term.anchor.kind in ("old", "sampler")
    if isinstance(term.link, _OF_RATIOS) and not of_policy:
        yield f"link.kind = {term.link.kind!r} needs anchor.kind = 'old' or 'sampler': it is of the ratio to a policy"
    if isinstance(term.link, Divergence) and unit != "token":
        yield f"link.kind = 'divergence' compares the probabilities of a token; evidence.unit is {unit!r}"
    if evidence.bound is not None and not (
        of_policy and unit == "response" and evidence.reduce != "log-odds" and not evidence.reference
    ):
        yield (
            f"evidence.bound = {evidence.bound} bounds a response's distance from a policy token by token: it needs "
            "evidence.unit = 'response', reduce 'sum' or 'mean', no reference, and anchor.kind = 'old' or 'sampler'"
        )
    if evidence.entropy_share != 1.0 and unit != "token":
        share = evidence.entropy_share
        yield f"evidence.entropy_share = {share} chooses tokens: it needs evidence.unit = 'token', got {unit!r}"
    if unit == "response" and evidence.reduce == "log-odds" and term.aggregation.kind != "responses":
        yield (
            "aggregation.kind must be 'responses' with evidence.reduce = 'log-odds', which is not a sum over "
            "tokens; got "
            f"{term.aggregation.kind!r}"
        )
    if term.anchor.kind == "sampler" and term.correction.kind != "none":
        yield "anchor.kind = 'sampler' leaves no gap to correct: set correction.kind = 'none', or anchor.kind = 'old'"
    if term.anchor.kind == "kl" and not (unit == "response" and evidence.reference):
        yield "anchor.kind = 'kl' needs evidence.unit = 'response' and evidence.reference = true"
    if unit == "pair":
        if term.anchor.kind not in ("none", "margin"):
            yield f"anchor.kind = {term.anchor.kind!r} does not fit evidence.unit = 'pair'; it takes none, margin"
        if not isinstance(term.credit, One):
            yield "credit.kind must be 'one' with evidence.unit = 'pair': what a pair prefers is its credit"
        if term.entropy or term.kl.coefficient or term.correction.kind != "none":
            yield "entropy, kl and correction do not apply to evidence.unit = 'pair'; put them into a term of tokens"
    if unit == "response" and term.correction.kind != "none" and term.correction.level == "token":
        yield "correction.level = 'token' does not fit evidence.unit = 'response'; use 'sequence' or 'geometric'"


def _source_mistakes(term: Term) -> Iterator[str]:
    source = term.source
    if source != "online":
        why = f"needs source = 'online', got {source!r}: nobody here sampled it"
        if term.anchor.kind in ("old", "sampler"):
            yield f"anchor.kind = {term.anchor.kind!r} {why}"
        if term.correction.kind != "none":
            yield f"correction.kind = {term.correction.kind!r} {why}"
        if isinstance(term.credit, Advantage) and term.credit.baseline in ("greedy", "critic"):
            yield f"credit.baseline = {term.credit.baseline!r} needs source = 'online', got {source!r}"
        if isinstance(term.credit, Teacher):
            yield f"credit.kind = 'teacher' {why}"
        if term.kl.in_reward:
            yield f"kl.place = 'reward' needs source = 'online', got {source!r}"
        if isinstance(term.credit, Advantage) and term.credit.level == "turn":
            yield f"credit.level = 'turn' needs source = 'online', got {source!r}: a response is one turn there"
        if isinstance(term.credit, Advantage) and term.credit.combine == "normalise-then-sum":
            yield f"credit.combine = 'normalise-then-sum' needs source = 'online', got {source!r}: one reward is there"
        if term.mask_truncated:
            yield f"mask_truncated needs source = 'online', got {source!r}: nothing there was cut at a length limit"
        if term.pairing != Pairing():
            yield f"pairing needs source = 'online', got {source!r}: its pairs are given"
        if term.aggregation.kind == "constant" and term.aggregation.length is None:
            yield f"aggregation.length is needed for aggregation.kind = 'constant' with source = {source!r}"
    if source in ("labelled", "demos") and term.compares:
        yield f"source = {source!r} has one response per prompt, and this term compares the responses of a group"
    if source == "pairs" and term.anchor.kind == "kl":
        yield "anchor.kind = 'kl' needs source = 'labelled' or 'online', got 'pairs'"


def _observed_mistakes(term: Term) -> Iterator[str]:
    """Nobody sampled what the environment wrote: its likelihood is all that a term can be about."""
    if term.evidence.tokens == "written":
        return
    plain = Term(
        credit=One(),
        evidence=Evidence(tokens="observed"),
        aggregation=term.aggregation,
        mask_truncated=term.mask_truncated,
    )
    if term != plain:
        yield (
            "evidence.tokens = 'observed' is the likelihood of what the environment wrote: it needs preset = 'sft' "
            "with source = 'online' (credit.kind = 'one', evidence.unit = 'token', link.kind = 'linear'), and "
            "takes no anchor, correction, kl, pairing, entropy or entropy_share"
        )


def _credit_mistakes(term: Term) -> Iterator[str]:
    credit = term.credit
    if term.pairing != Pairing() and not term.reads_pairs:
        yield f"pairing needs pairs: evidence.unit = 'pair', got {term.evidence.unit!r}"
    if isinstance(credit, Chosen) and term.source not in ("online", "pairs"):
        yield f"credit.kind = 'chosen' needs pairs: source = 'pairs' or 'online', got {term.source!r}"
    if isinstance(credit, Teacher) and term.evidence.unit != "token":
        yield f"credit.kind = 'teacher' is per token and needs evidence.unit = 'token', got {term.evidence.unit!r}"
    if not isinstance(credit, Advantage):
        if term.kl.in_reward:
            yield f"kl.place = 'reward' needs credit.kind = 'advantage', got {getattr(credit, 'kind', 'a function')!r}"
        return
    if credit.baseline != "critic" and (credit.discount, credit.trace, credit.trace_scale) != (1.0, 0.95, None):
        yield (
            "credit.discount, credit.trace and credit.trace_scale belong to credit.baseline = 'critic', got "
            f"{credit.baseline!r}"
        )
    if credit.trace_scale is not None and credit.trace_scale <= 0.0:
        yield f"credit.trace_scale must be above 0, got {credit.trace_scale}"
    if credit.baseline == "critic" and (credit.scale in ("group", "mean") or term.evidence.unit != "token"):
        yield (
            "credit.baseline = 'critic' gives credit per token: scale must be none, batch or task, and evidence.unit "
            "'token'"
        )
    if credit.level == "turn" and not (
        credit.baseline in ("none", *GROUP_BASELINES)
        and credit.combine == "sum-then-normalise"
        and term.evidence.unit == "token"
    ):
        yield (
            "credit.level = 'turn' gives each turn of a response its own credit: it needs evidence.unit = 'token', "
            f"combine = 'sum-then-normalise' and a baseline of {', '.join(('none', *GROUP_BASELINES))}; got "
            f"{term.evidence.unit!r}, {credit.combine!r}, {credit.baseline!r}"
        )
    if credit.combine == "normalise-then-sum":
        if credit.baseline in ("critic", "greedy") or credit.scale in ("batch", "task"):
            yield (
                "credit.combine = 'normalise-then-sum' takes each reward's credit in its group and then normalises "
                f"the sum over the batch: not with baseline = {credit.baseline!r}, scale = {credit.scale!r}"
            )
        if term.kl.in_reward:
            yield "credit.combine = 'normalise-then-sum' and kl.place = 'reward' exclude each other; use place = 'loss'"
    if (
        term.kl.in_reward
        and term.evidence.unit != "token"
        and (credit.baseline == "none" and credit.scale not in ("group", "mean"))
    ):
        yield "kl.place = 'reward' without a baseline gives credit per token and needs evidence.unit = 'token'"
