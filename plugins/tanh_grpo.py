"""`tanh-grpo`: GRPO with credit by rank, and a link that levels off on both sides of the old policy.

reasoner run math-gsm8k --plugin plugins/tanh_grpo.py --set gro.preset=tanh-grpo
"""

from dataclasses import replace
from typing import Any

from reasoner import PRESETS, Algorithms, CustomCredit, CustomLink, Preset, Weighted, hookimpl


def rank(rewards_NG: Any, valid_NG: Any) -> Any:
    """(responses that it beats - responses that beat it) / the others of its group."""
    duels_NGG = (rewards_NG[:, :, None] - rewards_NG[:, None, :]).sign() * valid_NG[:, None, :]
    return duels_NGG.sum(dim=2) / (valid_NG.sum(dim=1, keepdim=True) - 1).clamp(min=1)


def tanh(u: Any, c: Any, width: float = 0.2) -> Any:
    """c width tanh(u / width): slope c at u = 0, 0.42 c at u = width, hardly any beyond 3 width."""
    return c * width * (u / width).tanh()


@hookimpl
def register_algorithms() -> Algorithms:
    """The method, its credit and its link."""
    term = replace(PRESETS["grpo"].term, credit=CustomCredit("rank"), link=CustomLink("tanh", options={"width": 0.2}))
    return Algorithms({"tanh-grpo": Preset({"tanh": Weighted(term)}, "an example")}, {"rank": rank}, {"tanh": tanh})
