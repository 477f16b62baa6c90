"""A term's choices in words and formulas: for the start of a run, `reasoner algorithms` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

from reasoner.gro.spec.schedules import Constant, MetricSwitch, Ramp, Schedule, Switch
from reasoner.gro.spec.terms import (
    Advantage,
    Aggregation,
    Anchor,
    Best,
    Chosen,
    Clip,
    CustomCredit,
    CustomLink,
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

_BASELINES = {
    "none": "R",
    "mean": "R - mean",
    "leave-one-out": "R - others' mean",
    "length-weighted": "R - mean by length",
    "greedy": "R - greedy R",
}
_REDUCED = {"sum": "sum({})", "mean": "mean({})", "log-odds": "log-odds({})"}


def choices_of(term: Term) -> dict[str, str]:
    """The five choices, and the additions that are on."""
    choices = {
        "source": str(term.source),
        "credit": credit(term.credit),
        "evidence": evidence(term.evidence),
        "anchor": anchor(term.anchor, term.evidence),
        "link": link(term.link),
        "aggregation": aggregation(term.aggregation),
    }
    if term.kl.coefficient:
        choices["KL"] = f"{term.kl.coefficient:g} {term.kl.estimator} in the {term.kl.place}"
    if term.correction.kind != "none":
        low = f"{term.correction.low:g}, " if term.correction.kind == "mask" else ""
        choices["correction"] = f"{term.correction.kind}({low}{term.correction.high:g}) per {term.correction.level}"
    if term.entropy:
        choices["entropy bonus"] = f"{term.entropy:g}"
    if term.mask_truncated:
        choices["truncated responses"] = "masked"
    if term.reads_pairs and term.source == "online":
        several = term.pairing.rule == "correct-incorrect"
        choices["pairs"] = term.pairing.rule + (f", at most {term.pairing.most} per group" if several else "")
    return choices


def credit(spec: object) -> str:
    """`(R - mean) / std`."""
    match spec:
        case Advantage():
            return _advantage(spec)
        case Best():
            return "1 if best"
        case Marginal():
            return "lead over the second"
        case PassAtK():
            return f"pass@{spec.k}" + ("" if spec.at == 1.0 else f" of R >= {spec.at:g}")
        case Threshold():
            return f"1 if R >= {spec.at:g}"
        case Label():
            return f"1 if R >= {spec.at:g}, else -1"
        case One():
            return "1"
        case Chosen():
            return "1 if chosen"
        case Teacher():
            return _teacher(spec)
        case CustomCredit():
            return _custom(spec.name, spec.options)
    return "a function"


def _teacher(spec: Teacher) -> str:
    sees = "" if spec.sees == "prompt" else f", who sees the {spec.sees}"
    return f"teacher - l{sees}" + (f", discount {spec.discount:g}" if spec.discount else "")


def _advantage(spec: Advantage) -> str:
    trace = f"{spec.trace:g}" if spec.trace_scale is None else f"1 - 1 / {spec.trace_scale:g} T"
    text = _BASELINES.get(spec.baseline) or f"GAE({spec.discount:g}, {trace})"
    if spec.scale in ("group", "mean"):
        text = f"({text}) / {'std' if spec.scale == 'group' else 'mean'}"
    if spec.combine == "normalise-then-sum":
        return f"sum of {text} per reward, whitened"
    if spec.level == "turn":
        text = f"{text} from each turn on"
    whitened = {"batch": ", whitened", "task": ", whitened within each task"}
    return text + whitened.get(spec.scale, "")


def evidence(spec: Evidence) -> str:
    """`0.1 sum(l-ref) diff`; `diff`: of a pair, chosen minus (bias times) rejected."""
    if spec.unit == "token":
        if spec.tokens == "observed":
            return "l of observed tokens"
        return "l" if spec.entropy_share == 1.0 else f"l of the {100 * spec.entropy_share:g}% with most entropy"
    beta = "" if spec.beta == 1.0 else f"{spec.beta:g} "
    inner = "l-ref" if spec.reference else "l"
    if spec.discount != 1.0:
        inner = f"{spec.discount:g}^t ({inner})"
    text = beta + _REDUCED[spec.reduce].format(inner)
    if spec.unit == "response":
        return text if spec.bound is None else f"{text} within {spec.bound:g}"
    return f"{text} diff" if spec.bias == 1.0 else f"{text} diff, bias {spec.bias:g}"


def anchor(spec: Anchor, of: Evidence) -> str:
    """`old`, `sampler`, `0`, a margin, or the batch's KL."""
    match spec.kind:
        case "none":
            return "0"
        case "margin":
            return f"{spec.margin:g}"
        case "kl":
            return f"{of.beta:g} KL"
        case "old" | "sampler":
            return spec.kind


def link(spec: object) -> str:
    """`clip(0.2, 0.28)`."""
    match spec:
        case Linear():
            return "c u"
        case Clip():
            dual = "" if spec.dual is None else f", dual {spec.dual:g}"
            return f"clip({spec.low:g}, {spec.high:g}{dual})"
        case Ratio():
            return "e^u c"
        case SoftClip():
            return f"soft-clip({spec.positive:g}, {spec.negative:g})"
        case Divergence():
            return f"{spec.measure} <= {spec.limit:g}"
        case Gamma():
            positive, negative = (spec.positive_power, spec.positive_rate), (spec.negative_power, spec.negative_rate)
            return "gamma({:g}, {:g}; {:g}, {:g})".format(*positive, *negative)
        case Truncate():
            return f"truncate({spec.cap:g}{', c < 0' if spec.only_negative else ''})"
        case LogSigmoid():
            return f"log s(u), smoothing {spec.smoothing:g}" if spec.smoothing else "log s(u)"
        case Sigmoid():
            equal = spec.desirable == spec.undesirable == 1.0
            return "s(y u)" if equal else f"s(y u), {spec.desirable:g} / {spec.undesirable:g}"
        case Square():
            return "-u^2"
        case Hinge():
            return "min(u, 0)"
        case CustomLink():
            return _custom(spec.name, spec.options)
    return "a function"


def aggregation(spec: Aggregation) -> str:
    """`token-mean, credited`."""
    length = "" if spec.kind != "constant" else f"({spec.length or 'longest'})"
    return f"{spec.kind}{length}{', credited' if spec.credited else ''}"


def schedule(spec: Schedule) -> str:
    """`1 until step 0.25, then 0`; empty for a constant."""
    match spec:
        case Constant():
            return ""
        case Ramp():
            return f"{spec.kind} from {spec.before:g} at {_step(spec.first)} to {spec.after:g} at {_step(spec.last)}"
        case Switch():
            return f"{spec.before:g} until {_step(spec.at)}, then {spec.after:g}"
        case MetricSwitch():
            side, bound = ("above", spec.above) if spec.above is not None else ("below", spec.below)
            return f"{spec.before:g} until {spec.metric} is {side} {bound:g}, then {spec.after:g}"


def _step(number: float) -> str:
    return f"step {number:g}" if number >= 1 else f"{100 * number:g}% of the steps"


def _custom(name: str, options: Mapping[str, object]) -> str:
    inner = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name}({inner})" if inner else name


LINK_FORMULAS: Mapping[str, str] = {
    "linear": "c u",
    "clip": "min(e^u c, clamp(e^u, 1 - low, 1 + high) c)",
    "ratio": "e^u c",
    "soft-clip": "(4 / tau) s(tau (e^u - 1)) c, tau by the sign of c",
    "divergence": "e^u c, 0 beyond the limit",
    "truncate": "sg(min(e^u, cap)) c u",
    "gamma": "sg(e^(k u + rate (1 - e^u))) c u, k and rate by the sign of c",
    "logsigmoid": "c ((1 - smoothing) log s(u) + smoothing log s(-u))",
    "sigmoid": "lambda_y s(y u), y = sign(c)",
    "square": "-c u^2",
    "hinge": "c min(u, 0)",
    "custom": "a plugin's function of u and c",
}
UNIT_SUMS: Mapping[str, str] = {
    "token": "sum_i z_i sum_t",
    "response": "sum_i z_i",
    "pair": "1/P sum_pairs",
}
