"""The chosen responses as plain JSON for the report's browser: what was asked, written, found and credited.

Numbers of tokens are packed: log-probabilities as hundredths of a nat, weights as one number where all are equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any

from reasoner.errors import DataError
from reasoner.io.bounded_files import LARGEST
from reasoner.io.parquet import read_parquet
from reasoner.records import Component, Failure, Problem, Response, Rollout, ToolCall, Turn
from reasoner.report.choose import ChosenGroup
from reasoner.report.pieces import Pieces

LONGEST_PROMPT = 20_000
"""characters of a message, and of a reference answer"""
LONGEST_NOTE = 2_000
"""characters of a note, a failure's message, a part of a score"""


class Browsable:
    """Collects groups of several runs; problems and reward sources are written once."""

    def __init__(self) -> None:
        self.problems: list[dict[str, Any]] = []
        self.sources: list[str] = []
        self.groups: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def add(self, run: int, chosen: Sequence[ChosenGroup], pieces: Pieces | None) -> None:
        """Read and add the chosen groups of a run; a file that cannot be read is noted."""
        for path, chosen_groups in groupby(chosen, key=lambda part: part.file.path):
            of_file = list(chosen_groups)
            rows = [part.group.first + n for part in of_file for n in range(part.group.responses)]
            try:
                rollouts = iter(read_parquet(path, Rollout, rows))
            except DataError as error:
                self.notes.append(f"{error}; its responses are left out.")
                continue
            for part in of_file:
                group = [next(rollouts) for _ in range(part.group.responses)]
                self.groups.append(self._group(run, part, group, pieces))

    @property
    def payload(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {"problems": self.problems, "sources": self.sources, "groups": self.groups}

    def _group(
        self, run: int, chosen: ChosenGroup, rollouts: Sequence[Rollout], pieces: Pieces | None
    ) -> dict[str, Any]:
        return {
            "run": run,
            "training": chosen.file.training,
            "step": chosen.file.step,
            "dropped": rollouts[0].dropped,
            "problem": self._problem(run, rollouts[0].problem),
            "responses": [self._response(rollout, pieces) for rollout in rollouts],
        }

    def _problem(self, run: int, problem: Problem) -> int:
        key = (run, problem.id, problem.messages, problem.answer)
        if key not in self._known:
            self._known[key] = len(self.problems)
            messages = [[message.role, _shorten(message.content, LONGEST_PROMPT)] for message in problem.messages]
            answer = _shorten(problem.answer, LONGEST_PROMPT)
            self.problems.append({"id": problem.id, "messages": messages, "answer": answer})
        return self._known[key]

    def _response(self, rollout: Rollout, pieces: Pieces | None) -> dict[str, Any]:
        response = rollout.response
        return {
            "sample": rollout.sample,
            "reward": _round(rollout.reward),
            "credit": _round(rollout.credit),
            "finish": response.finish_reason,
            "version": response.policy_version,
            "tokens": sum(response.policy_mask),
            "components": {self._source(component.source): _component(component) for component in rollout.components},
            **_text(response, pieces),
            "logprobs": [_hundredths(logprob) for logprob in response.sampler_logprobs],
            "weights": None if rollout.weights is None else _packed(rollout.weights),
        }

    def _source(self, name: str) -> int:
        if name not in self.sources:
            self.sources.append(name)
        return self.sources.index(name)


def _text(response: Response, pieces: Pieces | None) -> dict[str, Any]:
    """The text and where its tokens and turns end, in UTF-16 units as a browser counts; without a tokenizer the text of
    the turns alone."""
    turns = [turn for turn in response.turns if 0 <= turn.first < turn.end <= len(response.token_ids)]
    if pieces is None or not all(0 <= id_ < 2**32 for id_ in response.token_ids):
        texts = [turn.text for turn in turns] or [response.text]
        ends = [0, *accumulate(map(_units, texts))]
        places = pairwise(ends)
        return {"text": "".join(texts), "turns": [_turn(*turn) for turn in zip(turns, places, strict=False)]}
    parts = pieces(response.token_ids)
    special = [at for at, id_ in enumerate(response.token_ids) if id_ in pieces.special]
    foreign = [at for at, own in enumerate(response.policy_mask) if not own]
    lengths = [_units(part) for part in parts]
    ends = [0, *accumulate(lengths)]
    of_turns = [_turn(turn, (ends[turn.first], ends[turn.end])) for turn in turns]
    return {"text": "".join(parts), "lengths": lengths, "special": special, "foreign": foreign, "turns": of_turns}


def _units(text: str) -> int:
    """UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _turn(turn: Turn, text: tuple[int, int]) -> dict[str, Any]:
    """A turn; `text` is where it is in that of the response, in UTF-16 units."""
    calls = [
        {
            "name": _shorten(call.name, LONGEST_NOTE),
            "arguments": _shorten(_shown_arguments(call), LONGEST_NOTE),
            "error": _shorten(call.error, LONGEST_NOTE),
        }
        for call in turn.calls
    ]
    return {
        "role": turn.role,
        "first": turn.first,
        "end": turn.end,
        "text": text,
        "calls": calls,
        "tool": _shorten(turn.tool, LONGEST_NOTE),
        "error": _shorten(turn.error, LONGEST_NOTE),
        "seconds": _round(turn.seconds),
    }


def _shown_arguments(call: ToolCall) -> str:
    """`a = 1, b = "x"`"""
    return ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())


def _component(component: Component) -> dict[str, Any]:
    failure = component.failure
    return {
        "value": _round(component.value),
        "weight": _round(component.weight),
        "parts": _parts(component.parts),
        "note": _shorten(component.note, LONGEST_NOTE),
        "failure": None if failure is None else _failure(failure),
    }


def _failure(failure: Failure) -> dict[str, Any]:
    seconds = _round(failure.seconds)
    return {"kind": failure.kind, "message": _shorten(failure.message, LONGEST_NOTE), "seconds": seconds}


def _parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a score; long text is cut, and so are lists and objects, as text."""
    return {
        name: part if part is None or _is_number(part) else _shorten(str(part), LONGEST_NOTE)
        for name, part in parts.items()
    }


def _is_number(part: Any) -> bool:
    """Whether it is one that JSON and a browser have."""
    return isinstance(part, (bool, int, float)) and -LARGEST <= part <= LARGEST


def _packed(weights: Iterable[float]) -> float | list[float]:
    rounded = [_round(weight) or 0.0 for weight in weights]
    return rounded[0] if len(set(rounded)) == 1 else rounded


def _hundredths(logprob: float) -> int | None:
    return round(-100 * logprob) if abs(logprob) <= LARGEST else None


def _round(value: float | None) -> float | None:
    """Five significant digits; what is not finite has no JSON value."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} ... [{len(text) - longest:,} more characters]"
