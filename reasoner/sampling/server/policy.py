"""A frozen model that vLLM servers hold (`reasoner serve`): it gives log-probabilities of responses, and nothing else.

The servers must keep the weights that they have: should they be started again with others, or another run give them
some, the run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from anyio.from_thread import start_blocking_portal

from reasoner.distributed.ranks import ALONE, Ranks
from reasoner.errors import RunError, SamplerError
from reasoner.records import Group
from reasoner.sampling.server.client import Server, ServerError
from reasoner.sampling.server.compatibility import ServerRequirements, describe, summary


class ServedPolicy:
    """Log-probabilities of the model that servers hold, at temperature 1. The first rank asks, all have the answer.

    Args:
        urls: their addresses.
        wanted: what the servers must be.
        ranks: all of them call `logprobs`.

    Raises:
        UserError: a server cannot be used, or does not say which weights it has.
    """

    def __init__(self, urls: Sequence[str], wanted: ServerRequirements, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._servers = [Server(url.rstrip("/")) for url in urls]
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            for server in self._servers:
                stack.callback(self._portal.call, server.close)
            descriptions = self._portal.call(describe, self._servers, wanted)
            self._weights: Mapping[str, str] = self._portal.call(self._versions)
            self._stack = stack.pop_all()
        self._limit = asyncio.Semaphore(sum(description.max_sequences for description in descriptions))
        self.description = summary(urls, descriptions)

    def logprobs(self, groups: Sequence[Group], temperature: float) -> Sequence[Sequence[float]]:
        """(R)(T) log-probability of every response token.

        Raises:
            SamplerError: no server gave those of a response, or one gave those of other weights.
        """
        if temperature != 1.0:
            raise ValueError(f"servers give log-probabilities at temperature 1; got {temperature}")
        answer: list[list[float]] | RunError | None = None
        if self._ranks.first:
            try:
                answer = self._portal.call(self._all, groups)
            except RunError as error:  # the other ranks wait for word of it
                answer = error
        answer = self._ranks.broadcast(answer)
        if not isinstance(answer, list):
            raise answer or SamplerError("the first rank did not say what the servers scored")
        return answer

    async def _versions(self) -> dict[str, str]:
        try:
            return {server.url: await server.version() for server in self._servers}
        except ServerError as error:
            raise SamplerError(f"a server of the teacher: it {error}") from error

    async def _all(self, groups: Sequence[Group]) -> list[list[float]]:
        rows = [(group.prompt_ids, response.token_ids) for group in groups for response in group.responses]
        return await asyncio.gather(*(self._one(row, *parts) for row, parts in enumerate(rows)))

    async def _one(self, row: int, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Of one response: by its server, or where that one fails by the next."""
        first, reasons = row % len(self._servers), {}
        for server in (*self._servers[first:], *self._servers[:first]):
            try:
                async with self._limit:
                    logprobs, names = await server.score(prompt, response)
            except ServerError as error:
                reasons[server.url] = str(error)
                continue
            if names != {self._weights[server.url]}:
                raise SamplerError(
                    f"the server {server.url} of the teacher has other weights than at the start of the run: "
                    f"{sorted(names)}, not {self._weights[server.url]!r}"
                )
            return logprobs
        raise SamplerError(
            "no server of the teacher gives log-probabilities:\n"
            + "\n".join(f"  {url} {why}" for url, why in reasons.items())
        )

    def close(self) -> None:
        """End the connections."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
