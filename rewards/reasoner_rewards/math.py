"""The reward source `math`: 1.0 if the final answer of a response equals the reference answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from reasoner import Problem, Response, Score, reward
from reasoner_rewards.equality import compare, kind_of
from reasoner_rewards.extraction import ExtractionMode, final_answer, reference_answer


class MathOptions(BaseModel):
    """Options of `math`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extract: ExtractionMode = "strict"
    """`strict`: only `\\boxed{}` and `####`; `lenient`: also "the answer is", the last formula and the last number, to
    evaluate models that were never told a format"""
    tolerance: float = Field(default=0.0, ge=0.0, lt=1.0)
    """relative difference up to which a number equals the reference; 0: none, but a decimal with six significant digits
    or more may be the correct rounding of a fraction or root"""


def _prepare() -> None:
    """Import sympy and math-verify, and have their parsers built, once for all workers: seconds on a busy machine."""
    compare(r"\frac{x+1}{2}", r"\sqrt{3}")


def _reads(problem: Problem, options: MathOptions) -> tuple[str, str]:
    reference = _reference(problem)
    return kind_of(reference), reference


# A verification takes micro- to milliseconds.
@reward("math", timeout_s=5.0, prepare=_prepare, reads=_reads)
def math(problem: Problem, response: Response, *, options: MathOptions) -> Score:
    r"""1.0 if the final answer equals the reference answer, else 0.0.

    Only the final answer counts, extracted by the same means from the response and from the reference
    (`extraction.py`). `extract="strict"`, the default, takes an answer only from the last `\boxed{}` or a `#### n`
    line: what a policy is trained on must say which of its numbers is the answer, otherwise a rambling text is
    rewarded for the number that it happens to end with. `extract="lenient"` also takes "the answer is ...", the
    last formula and the last number, to evaluate models that were never told a format.

    Assumption: `response.text` is what the policy wrote, without the prompt.

    Raises:
        ValueError: the reference has no answer to compare with (the problem is broken, not the response).
    """
    reference = _reference(problem)
    result = final_answer(response.text, options.extract)
    parts = {
        "extracted": result.answer,
        "method": result.method,
        "reference": reference,
        "reads": kind_of(reference),
    }
    if result.answer is None:
        return Score(0.0, {**parts, "means": "none"}, result.problem)
    verdict = compare(result.answer, reference, options.tolerance)
    return Score(float(verdict.equal), {**parts, "means": verdict.means}, verdict.reason)


def _reference(problem: Problem) -> str:
    reference = reference_answer(problem.answer)
    if reference.answer is None:
        raise ValueError(
            f"problem {problem.id!r} has no reference answer: {reference.problem}; got {problem.answer[:80]!r}. "
            "Give the answer as it is, after '####', or in \\boxed{}."
        )
    return reference.answer
