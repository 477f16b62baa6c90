#!/usr/bin/env python3
"""What this process does for every token of a step, beside the model: nanoseconds of processor time a token, and bytes.

    scripts/bench_tokens [512x2048 512x8192 ...] [--write]

A batch of responses (responses x tokens, eight to a prompt of 200) goes through every place that touches each token:
inputs and masks of micro-batches, the gap to the sampler, the scoring protocol, pickles between ranks, metrics,
rollouts written and read. The sum is for one step and one pass over the model. `--write` writes
docs/validation/tokens.md.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasoner.distributed.ranks import ALONE
from reasoner.distributed.sharding import rows_by_group, same_batch
from reasoner.io.parquet import read_parquet, write_parquet
from reasoner.learning.batching.inputs import flat_inputs, policy_mask
from reasoner.learning.batching.packing import pack
from reasoner.monitoring.step_metrics import rollout_metrics
from reasoner.records import Group, Message, Problem, Response, Rollout, ScoredGroup
from reasoner.runs.rollouts import index_groups, to_rollouts
from reasoner.scoring.workers.protocol import dump_response
from reasoner.training.objective_inputs import padded
from reasoner.training.weight_sync import gap_of
from scripts.harness import parser_of, write_page

PAGE = "tokens.md"
GROUP, PROMPT = 8, 200
"""responses to a prompt, and its tokens"""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Material:
    """A step's responses in the forms that it passes through."""

    groups: list[Group]
    scored: list[ScoredGroup]
    rollouts: list[Rollout]
    file: Path

    @property
    def tokens(self) -> int:
        """Of all responses."""
        return sum(len(response.token_ids) for group in self.groups for response in group.responses)

    @property
    def responses(self) -> list[Response]:
        """In group order."""
        return [response for group in self.groups for response in group.responses]


def make(responses: int, tokens: int, folder: Path) -> Material:
    """Random responses of these numbers, each a tenth shorter or longer."""
    rng = random.Random(0)
    groups = []
    for number in range(responses // GROUP):
        problem = Problem(f"p{number}", (Message("user", "What is 1 + 1?"),), "2")
        made = tuple(_response(rng, rng.randint(tokens * 9 // 10, tokens)) for _ in range(GROUP))
        groups.append(Group(problem, tuple(rng.randrange(150_000) for _ in range(PROMPT)), made))
    rewards = tuple(float(place % 2) for place in range(GROUP))
    scored = [ScoredGroup(group, ((),) * GROUP, rewards) for group in groups]
    weights = [(0.5,) * len(response.token_ids) for group in groups for response in group.responses]
    rollouts = to_rollouts(1, scored, [0.5] * len(weights), weights)
    return Material(groups, scored, rollouts, folder / "rollouts.parquet")


def _response(rng: random.Random, length: int) -> Response:
    ids = tuple(rng.randrange(150_000) for _ in range(length))
    return Response("text", ids, (True,) * length, tuple(-rng.random() for _ in range(length)), "stop", 0)


def places(material: Material) -> Mapping[str, Callable[[], Any]]:
    """What is done to every token, by where."""
    batches = pack(rows_by_group(material.groups), 32768, "auto")
    logprobs = [response.sampler_logprobs for response in material.responses]
    pickled = pickle.dumps(material.groups, pickle.HIGHEST_PROTOCOL)
    flats = [flat_inputs(batch, CPU) for batch in batches]
    flat_S = [torch.zeros(len(flat.targets_S)) for flat in flats]
    return {
        "inputs of micro-batches (`flat_inputs`)": lambda: [flat_inputs(batch, CPU) for batch in batches],
        "policy masks (`policy_mask`)": lambda: [policy_mask(batch, material.responses, CPU) for batch in batches],
        "packing (`pack`)": lambda: pack(rows_by_group(material.groups), 32768, "auto"),
        "log-probabilities by response (`by_row`)": lambda: [
            flat.by_row(batch, values_S) for batch, flat, values_S in zip(batches, flats, flat_S, strict=True)
        ],
        "log-probabilities and masks for the objective (`padded`)": lambda: (
            padded([response.sampler_logprobs for response in material.responses], torch.float32),
            padded([response.policy_mask for response in material.responses], torch.bool),
        ),
        "fingerprint of a batch (`same_batch`)": lambda: same_batch(rows_by_group(material.groups), ALONE),
        "gap to the sampler (`gap_of`)": lambda: gap_of(logprobs, material.groups),
        "metrics of a step (`rollout_metrics`)": lambda: rollout_metrics(material.scored),
        "scoring protocol (`dump_response`)": lambda: [dump_response(response) for response in material.responses],
        "pickle, for other ranks": lambda: pickle.dumps(material.groups, pickle.HIGHEST_PROTOCOL),
        "unpickle, from one rank": lambda: pickle.loads(pickled),
        "rollouts written (`write_parquet`)": lambda: write_parquet(material.file, material.rollouts),
        "rollouts read (`read_parquet`)": lambda: read_parquet(material.file, Rollout),
        "rollouts looked at, for a report (`index_groups`)": lambda: index_groups(material.file),
    }


def measure(responses: int, tokens: int, folder: Path) -> dict[str, float]:
    """Nanoseconds a token by place, and bytes a token of the responses."""
    tracemalloc.start()
    material = make(responses, tokens, folder)
    held = tracemalloc.get_traced_memory()[0] / material.tokens
    tracemalloc.stop()
    nanoseconds = {}
    for name, do in places(material).items():
        gc.collect()
        started = time.process_time()
        do()
        nanoseconds[name] = (time.process_time() - started) * 1e9 / material.tokens
        print(f"{responses} x {tokens}: {nanoseconds[name]:8.0f} ns  {name}", flush=True)
    return nanoseconds | {"bytes of a token, in responses and rollouts": held}


def table(sizes: Sequence[str], results: Sequence[Mapping[str, float]]) -> str:
    """Markdown: a row per place, a column per size."""
    lines = ["| nanoseconds a token | " + " | ".join(size.replace("x", " x ") for size in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    lines += [f"| {name} | " + " | ".join(f"{item[name]:.0f}" for item in results) + " |" for name in results[0]]
    times = [sum(value for name, value in item.items() if not name.startswith("bytes")) for item in results]
    lines.append("| sum | " + " | ".join(f"{total:.0f}" for total in times) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the sizes that are named."""
    parser = parser_of(__doc__, PAGE)
    parser.add_argument("sizes", nargs="*", metavar="RESPONSESxTOKENS", default=["512x2048", "512x8192"])
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-tokens-") as folder:
        for do in places(make(GROUP, 16, Path(folder))).values():
            do()  # what only the first call does
        for size in options.sizes:
            responses, tokens = map(int, size.split("x"))
            results.append(measure(responses, tokens, Path(folder)))
    text = table(options.sizes, results)
    print(text)
    if options.write:
        intro = f"# What is done for every token of a step\n\n`scripts/bench_tokens` on {os.cpu_count()} cores.\n\n"
        write_page(PAGE, "bench_tokens.py", intro + text)


if __name__ == "__main__":
    main()
