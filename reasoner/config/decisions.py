"""What a configuration leaves open, as it is decided for one machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SamplerEngine = Literal["vllm", "hf", "servers", ""]
"""`servers`: vLLM servers, whatever is installed here; empty: nothing is sampled"""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decided once, before anything is loaded, by `reasoner.planning.decide`; plan, run and messages read it here."""

    device: Literal["cpu", "cuda"]
    """of the learner, and of a sampler in the same process"""
    engine: SamplerEngine
    """which sampler draws responses"""
    learner: Literal["torch", "deepspeed", ""]
    """which engine trains; empty: an evaluation, where none does"""
    longest_context: int
    """tokens of a prompt and its response together, in training and evaluation"""
    merge_reason: str = ""
    """with `[lora]`, why the sampler gets all weights with the adapter in them; empty: it gets the adapter alone"""
    adapter_rank: int = 0
    """of the adapters that the sampler gets alone; 0: it gets whole weights"""
    returns_routes: bool = False
    """whether the sampler says which experts it chose (`learning.routing_replay`)"""

    @property
    def holds_adapter(self) -> bool:
        """Whether the sampler holds the adapter that it gets beside its weights; servers add it to theirs."""
        return bool(self.adapter_rank) and self.engine != "servers"
