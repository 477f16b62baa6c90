"""A term of the objective as data: source, credit, evidence, anchor, link, aggregation.

    L = sum_k lambda_k(step) L_k        L_k = - (1/Z) sum_u link(credit_u, evidence_u - anchor_u)

These are choices and numbers only. What they mean is computed in `credit.py`, `evidence.py`, `links.py` and
`objective.py`; this module imports no torch, so that configurations are checked without it. Source: Generalized
REINFORCE Optimization, arXiv 2503.19523; `docs/gro.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["online", "pairs", "labelled", "demos"]
"""Online groups, or one of the data sets `[data.pairs]`, `[data.labelled]`, `[data.demos]`."""
SOURCES: tuple[Source, ...] = ("online", "pairs", "labelled", "demos")
EvidenceUnit = Literal["token", "response", "pair"]
Tokens = Literal["written", "observed"]
"""Of an online response: those that the policy wrote, or those that tools and the environment wrote between its
turns."""
GROUP_BASELINES = ("mean", "leave-one-out", "length-weighted")
"""baselines that compare a response with its group"""


@dataclass(frozen=True, slots=True)
class Advantage:
    """(R_i - baseline) / scale."""

    kind: Literal["advantage"] = "advantage"
    baseline: Literal["none", "mean", "leave-one-out", "length-weighted", "greedy", "critic"] = "mean"
    """`length-weighted`: the mean of the group's rewards weighted by the responses' tokens (2505.23585); `greedy`: the
    reward of a greedy response to the same problem; `critic`: generalised advantage estimation with the critic's
    values, per token"""
    scale: Literal["none", "group", "mean", "batch", "task"] = "none"
    """`group`: the unbiased standard deviation of the group's rewards + 1e-4; `mean`: the mean of the group's rewards,
    which must be above 0, else the credit is 0 (2602.02710); `batch`: minus the mean and over the standard deviation of
    the batch, both over tokens; `task`: of the batch's responses to problems of the same task of a mixture"""
    combine: Literal["sum-then-normalise", "normalise-then-sum"] = "sum-then-normalise"
    """several rewards: credit of their sum, or each reward's own credit, summed and then normalised over the batch, in
    a mixture over each task's part of it"""
    discount: float = 1.0
    """gamma of the critic's returns"""
    trace: float = 0.95
    """lambda of generalised advantage estimation (1506.02438)"""
    trace_scale: float | None = None
    """alpha: in place of `trace`, lambda = max(0, 1 - 1 / (alpha T)) for a response of T tokens, and the critic is
    trained on returns with lambda 1 (2504.05118); None: `trace` for both"""
    level: Literal["response", "turn"] = "response"
    """what R_i is of: `response`, the whole reward of the response; `turn`, for each turn of a response what is left of
    it when that turn begins, without the rewards that the environment gave after the turns before"""


@dataclass(frozen=True, slots=True)
class Best:
    """1 for the group's best response (the first of equals), 0 for the others; 0 for all when all rewards are equal."""

    kind: Literal["best"] = "best"


@dataclass(frozen=True, slots=True)
class Marginal:
    """What the response adds to the best reward of its group, max_j R_j - max_{j != i} R_j: the best response's lead
    over the second, 0 for the others. The policy gradient of the best of G (2503.19595)."""

    kind: Literal["marginal"] = "marginal"


@dataclass(frozen=True, slots=True)
class PassAtK:
    """The expected credit of a response in the subsets of k responses of its group, of which each is right when one of
    them has a reward of at least `at`, normalised over the subsets (2508.10751)."""

    kind: Literal["pass-at-k"] = "pass-at-k"
    k: int = 4
    at: float = 1.0
    """reward of a right response"""


@dataclass(frozen=True, slots=True)
class Threshold:
    """1 for responses with a reward of at least `at`, 0 for the others."""

    kind: Literal["threshold"] = "threshold"
    at: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """+1 for responses with a reward of at least `at` (labelled data: 1 for good, 0 for bad), -1 for the others."""

    kind: Literal["label"] = "label"
    at: float = 1.0


@dataclass(frozen=True, slots=True)
class One:
    """1 for every response and every pair."""

    kind: Literal["one"] = "one"


@dataclass(frozen=True, slots=True)
class Chosen:
    """1 for responses that a pair prefers, 0 for the others."""

    kind: Literal["chosen"] = "chosen"


@dataclass(frozen=True, slots=True)
class Teacher:
    """log pi_T - log pi of every token, pi_T the teacher (`[teacher]`) and pi the policy when the batch arrived: the
    policy gradient of the reverse KL to the teacher on the policy's own responses (2306.13649). No reward is in it."""

    kind: Literal["teacher"] = "teacher"
    sees: Literal["prompt", "solution"] = "prompt"
    """what the teacher reads before the response: the policy's own prompt, or one with the reference answer in it
    (2601.18734)"""
    discount: float = 0.0
    """gamma of what the tokens after it add to a token's credit: 0, the KL of the next token wherever the policy gets;
    1, the KL of whole responses"""


@dataclass(frozen=True, slots=True)
class CustomCredit:
    """A credit of a plugin (`register_algorithms`)."""

    name: str
    kind: Literal["custom"] = "custom"
    options: Mapping[str, Any] = field(default_factory=dict)
    """arguments of the plugin's function"""


CreditFunction = Callable[..., Any]
"""`(rewards_NG, valid_NG) -> credit_NG`: what a plugin registers, its options bound"""
Credit = Advantage | Best | Marginal | PassAtK | Threshold | Label | One | Chosen | Teacher | CustomCredit


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the policy says of a unit: h, from the log-probabilities l of its tokens.

    token:     l
    response:  beta f(l)            f(l) = sum_t gamma^t l_t | mean_t l_t | log(p / (1 - p)) with p = exp(mean_t l_t)
    pair:      beta (f(l_chosen) - bias f(l_rejected))
    With `reference`, l - l_ref takes the place of l.
    """

    unit: EvidenceUnit = "token"
    reduce: Literal["sum", "mean", "log-odds"] = "sum"
    """f; for responses and pairs"""
    reference: bool = False
    """minus the reference policy's log-probability"""
    beta: float = 1.0
    """scale (a temperature)"""
    discount: float = 1.0
    """gamma of `sum`, per token from the first"""
    bias: float = 1.0
    """weight of the rejected response (2310.13639)"""
    bound: float | None = None
    """of a response with a policy as anchor: a token's distance from it counts no further than this to the side that
    the credit pushes it to (2507.20673); None: all of it"""
    entropy_share: float = 1.0
    """of a term of tokens: only this share of each response's tokens gets weight, those where the policy's distribution
    has the highest entropy (2506.01939); 1: all of them"""
    tokens: Tokens = "written"
    """which tokens of a response the term reads: `written` by the policy, or `observed` by it between its turns
    (results of tools, messages of the environment), for a term of their likelihood"""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The constant that separates pushing up from pushing down; it never carries gradient.

    none: 0; margin: `margin`; old: the same evidence under the policy when the batch arrived; sampler: under the policy
    that sampled, as the sampler reported it, so that no gap is left to correct (2602.04879); kl: beta times an estimate
    of KL(theta || reference) over the batch, at least 0 (2402.01306).
    """

    kind: Literal["none", "margin", "old", "sampler", "kl"] = "none"
    margin: float = 0.0

    @property
    def constant(self) -> float:
        """The anchor where it is a number: the margin, or 0."""
        return self.margin if self.kind == "margin" else 0.0


@dataclass(frozen=True, slots=True)
class Linear:
    """c u: plain REINFORCE, weight c under any policy."""

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


@dataclass(frozen=True, slots=True)
class Ratio:
    """e^u c: the importance-weighted credit, without a bound of its own."""

    kind: Literal["ratio"] = "ratio"


@dataclass(frozen=True, slots=True)
class SoftClip:
    """(4 / tau) s(tau (e^u - 1)) c (SAPO, 2511.20347): like the ratio near u = 0, and flatter the farther it is."""

    kind: Literal["soft-clip"] = "soft-clip"
    positive: float = 1.0
    """tau where c > 0"""
    negative: float = 1.05
    """tau where c < 0"""


@dataclass(frozen=True, slots=True)
class Divergence:
    """e^u c while the policy is within `limit` of the old one at the token, or is pushed back to it; else 0 (DPPO,
    2602.04879). With p and q the probability of the token now and before: `tv` |p - q|, `kl`
    q log(q / p) + (1 - q) log((1 - q) / (1 - p))."""

    kind: Literal["divergence"] = "divergence"
    measure: Literal["tv", "kl"] = "tv"
    limit: float = 0.2


@dataclass(frozen=True, slots=True)
class Gamma:
    """W^k e^(rate (1 - W)) c u, W = e^u, with no gradient through the first factors (VESPO, 2602.10693): 1 at W = 1,
    less on both sides of its top at W = k / rate."""

    kind: Literal["gamma"] = "gamma"
    positive_power: float = 2.0
    """k where c > 0"""
    positive_rate: float = 3.0
    negative_power: float = 3.0
    """k where c < 0"""
    negative_rate: float = 2.0


@dataclass(frozen=True, slots=True)
class Truncate:
    """min(e^u, cap) c u with no gradient through the first factor (CISPO, 2506.13585)."""

    kind: Literal["truncate"] = "truncate"
    cap: float = 5.0
    only_negative: bool = False
    """where c > 0 the first factor is 1 (TOPR, 2503.14286)"""


@dataclass(frozen=True, slots=True)
class LogSigmoid:
    """c ((1 - smoothing) log s(u) + smoothing log s(-u)) (2305.18290; smoothing > 0: conservative DPO)."""

    kind: Literal["logsigmoid"] = "logsigmoid"
    smoothing: float = 0.0
    """probability that a label is flipped"""


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """lambda_y s(y u) with y = sign(c) (2402.01306)."""

    kind: Literal["sigmoid"] = "sigmoid"
    desirable: float = 1.0
    """lambda of y = +1"""
    undesirable: float = 1.0
    """lambda of y = -1"""


@dataclass(frozen=True, slots=True)
class Square:
    """-c u^2 (2310.12036)."""

    kind: Literal["square"] = "square"


@dataclass(frozen=True, slots=True)
class Hinge:
    """c min(u, 0) (2305.10425)."""

    kind: Literal["hinge"] = "hinge"


@dataclass(frozen=True, slots=True)
class CustomLink:
    """A link of a plugin (`register_algorithms`)."""

    name: str
    kind: Literal["custom"] = "custom"
    options: Mapping[str, Any] = field(default_factory=dict)
    """arguments of the plugin's function"""


LinkFunction = Callable[..., Any]
"""`(u, c) -> value`, elementwise and differentiable in u: what a plugin registers, its options bound"""
Link = (
    Linear
    | Ratio
    | Clip
    | SoftClip
    | Divergence
    | Truncate
    | Gamma
    | LogSigmoid
    | Sigmoid
    | Square
    | Hinge
    | CustomLink
)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How the units of a term are summed and normalised; Z is fixed over the global mini-batch before any forward."""

    kind: Literal["token-mean", "response-mean", "response-sum", "constant", "responses", "pairs"] = "token-mean"
    """what a token counts: `token-mean`, `response-mean`, `response-sum` or `constant` (sum / (length x responses)); a
    response with the evidence `mean` or `sum` counts what its tokens do. `responses`, `pairs`: their mean"""
    credited: bool = False
    """Z counts only responses with credit"""
    length: int | None = None
    """tokens; the K of `constant`; None: the longest response allowed"""


@dataclass(frozen=True, slots=True)
class KL:
    """coefficient * KL(theta || reference), u = l - l_ref."""

    coefficient: float = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k2"
    """k1 = u (in the reward only), k2 = u^2 / 2 (the reverse KL's gradient), k3 = e^-u - 1 + u (GRPO's; the forward
    KL's gradient)"""
    place: Literal["loss", "reward"] = "loss"
    """`loss`: a penalty aggregated as the term; `reward`: taken off the reward, token by token, with l_old for l"""

    @property
    def in_loss(self) -> bool:
        """Whether there is a penalty in the loss."""
        return self.place == "loss" and self.coefficient > 0.0

    @property
    def in_reward(self) -> bool:
        """Whether there is a penalty in the reward."""
        return self.place == "reward" and self.coefficient > 0.0


@dataclass(frozen=True, slots=True)
class Correction:
    """Importance weight of online responses for the gap between sampler and learner, rho = exp(l_old - l_sampler)."""

    kind: Literal["none", "truncate", "mask"] = "none"
    """`truncate`: min(rho, high) (TIS); `mask`: rho inside [low, high], 0 outside (IcePop)"""
    level: Literal["token", "sequence", "geometric"] = "token"
    """per token; per response, exp of the sum or of the mean over its tokens"""
    low: float = 0.5
    high: float = 2.0


@dataclass(frozen=True, slots=True)
class Pairing:
    """How the pairs of a pair term are found in a group: chosen must beat rejected by more than `margin`."""

    rule: Literal["best-worst", "correct-incorrect"] = "best-worst"
    """the group's best against its worst, or every response of at least `correct` against every one below"""
    most: int = 8
    """pairs per group"""
    margin: float = 0.0
    """least difference of their rewards, exclusive"""
    correct: float = 1.0
    """reward of a correct response"""


@dataclass(frozen=True, slots=True)
class Term:
    """One sum of weighted log-likelihoods."""

    source: Source = "online"
    """The responses that the term reads."""
    credit: Credit | CreditFunction = field(default_factory=Advantage)
    """How good a response, or each of its tokens, was."""
    evidence: Evidence = field(default_factory=Evidence)
    """What the term reads of the policy's log-probabilities."""
    anchor: Anchor = field(default_factory=Anchor)
    """The value of the evidence that separates pushing up from pushing down."""
    link: Link | LinkFunction = field(default_factory=Linear)
    """How the distance from the anchor becomes weight."""
    aggregation: Aggregation = field(default_factory=Aggregation)
    """How the units are summed and normalised."""
    kl: KL = field(default_factory=KL)
    """The penalty on the distance from the reference policy."""
    correction: Correction = field(default_factory=Correction)
    """The importance weight for the gap between sampler and learner."""
    pairing: Pairing = field(default_factory=Pairing)
    """The rule that forms pairs of a group's responses."""
    entropy: float = 0.0
    """The coefficient of the entropy bonus, which is aggregated like the term."""
    mask_truncated: bool = False
    """Whether responses cut at the length limit get no weight and do not count in Z (their rewards stay in the
    baseline)."""

    @property
    def reads_pairs(self) -> bool:
        """Whether pairs are looked for."""
        return self.evidence.unit == "pair" or isinstance(self.credit, Chosen)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference policy's log-probabilities are needed."""
        return self.evidence.reference or self.anchor.kind == "kl" or self.kl.coefficient > 0.0

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy of every position is needed, for a bonus or to choose tokens."""
        return self.entropy != 0.0 or self.evidence.entropy_share < 1.0

    @property
    def needs_critic(self) -> bool:
        """Whether a critic's values are needed."""
        return isinstance(self.credit, Advantage) and self.credit.baseline == "critic"

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher's log-probabilities are needed."""
        return isinstance(self.credit, Teacher)

    @property
    def needs_reward(self) -> bool:
        """Whether a response without a reward (its verifier failed) is left out."""
        return not self.needs_teacher

    @property
    def needs_greedy(self) -> bool:
        """Whether a greedy response per problem is needed."""
        return isinstance(self.credit, Advantage) and self.credit.baseline == "greedy"

    @property
    def needs_old(self) -> bool:
        """Whether the old policy's log-probabilities are needed before the first forward."""
        return self.kl.in_reward or self.needs_teacher

    @property
    def is_corrected_when_stale(self) -> bool:
        """Whether responses of older weights need a correction: online ones do, except in pairs, whose loss is defined
        for responses of any policy, and in what nobody sampled."""
        sampled = self.source == "online" and self.evidence.tokens == "written"
        return sampled and self.evidence.unit != "pair" and self.anchor.kind != "sampler"

    @property
    def compares(self) -> bool:
        """Whether a group of one response can give no credit."""
        if isinstance(self.credit, Advantage):
            return self.credit.baseline in GROUP_BASELINES or self.credit.scale in ("group", "mean")
        return (
            isinstance(self.credit, Best | Marginal | PassAtK | Chosen | CustomCredit) or self.evidence.unit == "pair"
        )
