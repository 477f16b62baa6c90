"""What is sampled, by how many, and ahead of what."""

from __future__ import annotations

from reasoner.config.sections import Sections
from reasoner.gro.spec.terms import PassAtK


def check_groups(config: Sections) -> None:
    """Groups have as many responses as the terms compare."""
    size = config.sampling.group_size
    for name, term in config.gro.terms.items():
        if term.source == "online" and term.term.compares and size < 2:
            raise ValueError(
                f"sampling.group_size = {size} with gro.terms.{name}: it compares the responses of a group, which "
                "needs at least 2; raise sampling.group_size, or take a method that does not, such as "
                "reinforce or remax"
            )
        if isinstance(term.credit, PassAtK) and term.source == "online" and term.credit.k >= size:
            raise ValueError(
                f"gro.terms.{name}.credit.k = {term.credit.k} compares the subsets of k responses of a group, and "
                f"sampling.group_size = {size} has one at most: raise sampling.group_size, or lower k"
            )
        if term.source == "labelled" and term.anchor.kind == "kl" and config.per_step("labelled") < 2:
            raise ValueError(
                f"gro.terms.{name}.anchor.kind = 'kl' estimates the KL from responses put to each other's prompts and "
                "needs at least 2 rows per step; raise data.labelled.per_step"
            )


def check_refills(config: Sections) -> None:
    """Dynamic sampling keeps groups with differences: every term must be one that needs them."""
    for name, term in config.gro.terms.items():
        if config.sampling.refills and term.source == "online" and not term.term.compares:
            raise ValueError(
                f"sampling.refills = {config.sampling.refills} drops groups whose rewards are all equal, and "
                f"gro.terms.{name} learns from such groups too: set sampling.refills = 0, or take a method that "
                "compares the responses of a group (grpo, rloo, dapo)"
            )


def check_staleness(config: Sections) -> None:
    """Responses of older weights are corrected for that where they have to be."""
    most, over = config.sampling.max_staleness, config.sampling.over_sample
    if over and config.gro.terms and not config.online:
        raise ValueError(f"sampling.over_sample = {over:g} begins more online groups, and no term reads any")
    if over and not most:
        raise ValueError(
            f"sampling.over_sample = {over:g} continues responses in the next step, whose weights are newer than those "
            "that began them, and sampling.max_staleness = 0 allows no such response: set sampling.max_staleness = 1, "
            "or sampling.over_sample = 0"
        )
    if not most:
        return
    if config.gro.terms and not config.online:
        raise ValueError(
            f"sampling.max_staleness = {most} samples online groups during the update, and no term reads any"
        )
    for name, term in config.gro.terms.items():
        if term.term.is_corrected_when_stale and term.correction.kind == "none":
            steps = "one step older" if most == 1 else f"up to {most} steps older"
            raise ValueError(
                f"gro.terms.{name}.correction.kind = 'none' with sampling.max_staleness = {most}: its responses come "
                f"from weights {steps} than those that learn from them; use 'truncate' or 'mask', or "
                "sampling.max_staleness = 0"
            )


def check_tensor_parallel(config: Sections) -> None:
    """An engine of several GPUs is vLLM's, and its ranks divide those of the run."""
    gpus, ranks = config.sampling.tensor_parallel, config.run.ranks
    if gpus > 1 and config.sampling.engine == "hf":
        raise ValueError(f"sampling.tensor_parallel = {gpus} needs vLLM, and sampling.engine is 'hf'; leave one out")
    if gpus > 1 and config.sampling.servers:
        raise ValueError(
            f"sampling.tensor_parallel = {gpus} has no effect with sampling.servers: spread the model where it is "
            f"served, `reasoner serve TASK --tensor-parallel {gpus}`"
        )
    if ranks > 1 and ranks % gpus:
        fitting = [str(count) for count in range(1, ranks + 1) if ranks % count == 0]
        raise ValueError(
            f"sampling.tensor_parallel = {gpus} does not divide the {ranks} ranks into groups that share an engine; "
            f"set it to {', '.join(fitting[:-1])} or {fitting[-1]}"
        )


def check_routing_replay(config: Sections) -> None:
    """The sampler can say which experts it chose."""
    if not config.learning.routing_replay:
        return
    if not config.online:
        raise ValueError(
            "learning.routing_replay has no effect without online groups: nothing is sampled to learn from; leave it "
            "out"
        )
    if config.sampling.servers:
        raise ValueError(
            "learning.routing_replay needs a sampler that says which experts it chose, and sampling.servers are not "
            "asked for them; leave one of them out"
        )
