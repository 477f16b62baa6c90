"""What the pipeline asks of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from reasoner.records import Group, Prompt, Receipt, SamplingParams

Progress = Callable[[int, int], None]
"""`(responses done, responses in all)`"""


class Sampler(Protocol):
    """Draws groups of responses and holds one version of the policy's weights.

    A sampler is a context manager: leaving it ends every process that it started.
    """

    name: str
    """`vllm`, `hf` or `servers`, as printed at the start"""
    description: str
    """what was chosen, for the log: versions, device, number format"""

    @property
    def version(self) -> int:
        """The version of the weights that it holds; -1: those of nobody, `load` comes first."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> Iterator[Group]:
        """Yield the group of each prompt as soon as its n responses are complete, in the order of completion.

        The log-probabilities are those of the sampled distribution, temperature included.
        """
        ...

    def score(self, groups: Sequence[Group]) -> dict[str, list[list[float]]]:
        """(R)(T) log-probability of every response token at temperature 1, by each engine that samples.

        An engine is named as messages name it: by the address of a server, else by its rank, or by nothing where there
        is one.
        """
        ...

    def load(self, folder: Path, version: int) -> Receipt:
        """Take the weights in `folder` (`reasoner.models.tensor_files`) and forget everything computed with the old
        ones."""
        ...

    def sleep(self) -> None:
        """Give back what memory it can until the next `wake` (a no-op on a CPU)."""
        ...

    def wake(self) -> None:
        """Be ready to load weights and sample."""
        ...

    def close(self) -> None:
        """End every process and free all memory; safe to call twice."""
        ...

    def __enter__(self) -> Sampler: ...

    def __exit__(self, *exc: object) -> None: ...


def counted(groups: Iterable[Group], total: int, progress: Progress, done: int = 0) -> Iterator[Group]:
    """The groups as they pass, with `progress` told how many of `total` responses there are so far, `done` before."""
    progress(done, total)
    for group in groups:
        done += len(group.responses)
        progress(done, total)
        yield group
