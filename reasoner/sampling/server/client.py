"""One vLLM server over HTTP: vLLM's own routes, every answer checked before it is used.

    POST /inference/v1/generate   token ids in; token ids, log-probabilities and versions of the weights out
    POST /pull_weights            ours (`auth.Guard`): pull these files from the run, where no folder is shared
    POST /collective_rpc          our worker extension (`vllm_worker`): what it is, take these weights, this seed
    POST /abort_requests          what runs is answered with what there is of it
    POST /pause, /resume          nothing is sampled while weights change
    GET  /weight_info             the name of the weights that it holds, which `/update_weight_version` sets
    GET  /metrics                 how many tokens it has made: whether it still works

The key comes from the environment variable VLLM_API_KEY and goes nowhere but into the header.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from typing_extensions import TypedDict

from reasoner.io.redaction import redact, redact_start
from reasoner.sampling.base import Finish, TokenRequest
from reasoner.sampling.responses import LONGEST_PATTERN
from reasoner.sampling.server.auth import KEY, PULL
from reasoner.sampling.server.pull import PULL_S, PullOrder

Answer = TypeVar("Answer", bound=BaseModel)

CONNECT_S = 5.0
"""seconds to connect"""
SHORT_S = 20.0
"""seconds for an answer that takes no work"""
LOAD_S = 900.0
"""seconds to load weights"""
ATTEMPTS = 3
"""for a question that can be asked again"""
_SHOWN = 300
"""characters of an answer that a message quotes"""
_WORK = re.compile(rb"^vllm:(prompt|generation)_tokens_total(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)


class ServerError(Exception):
    """A server did not do what it was asked for; the message says what it did, without its address."""


class WorkDone(NamedTuple):
    """Of a server, for whoever asked it."""

    read: int
    """tokens"""
    written: int
    """tokens"""


class UnreachableError(ServerError):
    """It did not answer at all."""


# Of an answer, what is used; other keys are vLLM's business.


class _Token(TypedDict):
    # no model of its own: there is one for every token that was sampled
    token_id: Annotated[int, Field(ge=0)]
    logprob: Annotated[float, Field(gt=-9999.0, le=1e-3, allow_inf_nan=False)]
    """vLLM says -9999 for one that it does not know"""


class _Logprobs(BaseModel):
    content: list[_Token]


class Span(BaseModel):
    """Tokens that weights of one name sampled."""

    version: str
    start: Annotated[int, Field(ge=0)]


class Choice(BaseModel):
    """One continuation as vLLM answers it."""

    index: int
    token_ids: list[int]
    finish_reason: Finish
    logprobs: _Logprobs
    weight_versions: list[Span]


class _PromptLogprob(BaseModel):
    logprob: Annotated[float, Field(gt=-9999.0, le=1e-3, allow_inf_nan=False)]


class _ScoredPrompt(BaseModel):
    """What a server says of a prompt that it has read."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    prompt_logprobs: list[dict[int, _PromptLogprob] | None]
    """of every token; None: of the first"""


class _Choices(BaseModel):
    choices: list[Choice]


class Description(BaseModel):
    """What an engine is (`WorkerExtension.describe`)."""

    vllm: str
    device: str
    """`cuda`: single requests can be seeded; vLLM's CPU build cannot"""
    shape: dict[str, Any]
    dtype: str
    max_model_len: int
    max_sequences: int
    logprobs_mode: str
    generation_config: str
    reads_folder: bool
    base: str = ""
    """checksum of the weights in the folder of its model; empty: it was not asked"""


class _Descriptions(BaseModel):
    results: Annotated[list[Description], Field(min_length=1)]


class _Receipts(BaseModel):
    results: Annotated[list[tuple[str, int]], Field(min_length=1)]


class _PulledFolder(BaseModel):
    folder: str
    """on the server's machine"""


class _Version(BaseModel):
    weight_version: str


class _Reset(BaseModel):
    success: Literal[True]


@dataclass
class Server:
    """A client of the server at `url`; usable in one event loop."""

    url: str
    seeds_requests: bool = False
    """whether `generate` passes a request's seed on; `describe` finds out"""
    _http: httpx.AsyncClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key = os.environ.get(KEY)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SHORT_S, connect=CONNECT_S),
            # as many connections as the server draws groups at once; idle ones end before the server ends them (5 s)
            limits=httpx.Limits(keepalive_expiry=2.0),
            # reading the certificates takes half a second
            verify=self.url.startswith("https:"),
            trust_env=False,
        )

    async def close(self) -> None:
        """End its connections."""
        await self._http.aclose()

    async def describe(self, folder: Path, *, with_base: bool = False) -> Description:
        """What it is.

        Args:
            folder: one that it is asked whether it can read.
            with_base: ask for the checksum of the weights in its model's folder too, all of which it reads for that.

        Raises:
            ServerError: it does not answer as `reasoner serve` does.
        """
        async for attempt in _attempts():
            with attempt:
                await self._check_route()
                described = await self._rpc("describe", [str(folder), False], SHORT_S, _Descriptions)
        if with_base:  # asked once: one that was not done in all that time would begin again
            described = await self._rpc("describe", [str(folder), True], LOAD_S, _Descriptions)
        self.seeds_requests = described.results[0].device == "cuda"
        return described.results[0]

    async def version(self) -> str:
        """The name of its weights.

        Raises:
            ServerError: it does not say.
        """
        async for attempt in _attempts():
            with attempt:
                loaded = _parse(await self._get("/weight_info"), _Version)
        return loaded.weight_version

    async def work_done(self) -> WorkDone:
        """What it has done since it started.

        Raises:
            ServerError: it does not say.
        """
        done = Counter[bytes]()
        for kind, tokens in _WORK.findall((await self._get("/metrics")).content):
            done[kind] += int(float(tokens))
        return WorkDone(done[b"prompt"], done[b"generation"])

    async def generate(self, request: TokenRequest, end: Collection[int], name: str) -> list[Choice]:
        """Continue token ids.

        Args:
            end: tokens that end a continuation.
            name: under which `abort` ends it.

        Raises:
            ServerError: what came is not as many continuations as were asked for, with their log-probabilities.
        """
        n, params = request.n, request.params
        wanted: dict[str, Any] = {
            "n": n,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            "stop": list(params.stop),
            "stop_token_ids": sorted(end),
            "detokenize": bool(params.stop),
            "logprobs": 0,
        }
        if self.seeds_requests:
            wanted["seed"] = params.seed
        if params.stop_repetition:
            wanted["repetition_detection"] = {"max_pattern_size": LONGEST_PATTERN, "min_count": params.stop_repetition}
        body = {"request_id": name, "token_ids": list(request.token_ids), "sampling_params": wanted}
        # the caller that waits checks that the server still works
        choices = _parse(await self._post("/inference/v1/generate", body, None), _Choices).choices
        _check_choices(choices, n, params.max_tokens)
        return sorted(choices, key=lambda choice: choice.index)

    async def abort(self, name: str) -> None:
        """End a request, if it runs: it is answered with what there is of it.

        Raises:
            ServerError: it did not.
        """
        # the route of vLLM that continues token ids puts its own name in front
        await self._post("/abort_requests", {"request_ids": [f"generate-tokens-{name}"]}, SHORT_S)

    async def pause(self) -> None:
        """Sample nothing until `resume`; what runs is kept.

        Raises:
            ServerError: it did not.
        """
        await self._post("/pause?mode=keep", {}, SHORT_S)

    async def resume(self) -> None:
        """Go on with what runs.

        Raises:
            ServerError: it did not.
        """
        await self._post("/resume", {}, SHORT_S)

    async def score(self, prompt: Sequence[int], response: Sequence[int]) -> tuple[list[float], set[str]]:
        """Log-probabilities of a response's tokens at temperature 1, and the names of the weights that gave them.

        Raises:
            ServerError: what came is not that.
        """
        wanted = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 1, "logprobs": 0, "detokenize": False}
        body = {"token_ids": [*prompt, *response], "sampling_params": wanted}
        answer = _parse(await self._post("/inference/v1/generate", body, LOAD_S), _ScoredPrompt)
        read = answer.prompt_logprobs[len(prompt) :]
        known = [at for at in read if at is not None]
        if len(known) != len(response) or not all(token in at for token, at in zip(response, known, strict=True)):
            raise ServerError("answers log-probabilities of other tokens than those that it was given")
        logprobs = [at[token].logprob for token, at in zip(response, known, strict=True)]
        return logprobs, {span.version for choice in answer.choices for span in choice.weight_versions}

    async def pull(self, order: PullOrder) -> Path:
        """Have it pull the files of an order; its engine hears nothing of it.

        Returns:
            the folder with them, on its machine, until it has taken them or pulls others.

        Raises:
            ServerError: it did not; the message says why.
        """
        answer = await self._send("POST", PULL, order.model_dump(mode="json"), PULL_S + SHORT_S)
        if answer.status_code == 409:
            raise ServerError(f"did not pull the weights: {redact_start(answer.text, _SHOWN)}")
        return Path(_parse(_require_success(answer), _PulledFolder).folder)

    async def take(self, folder: Path, name: str, seed: int, *, keep: bool = False, base: str = "") -> tuple[str, int]:
        """Load the weights in `folder`, call them `name`, and forget what the old ones computed.

        Its weights have another name from the first moment on: whatever goes wrong, they are never taken for those.

        Args:
            seed: of what is sampled from now on.
            keep: it is paused, and goes on with what runs when it is resumed; otherwise what runs is ended.
            base: in `folder` is an adapter, to be added to the weights with this checksum in the server's own folder.

        Returns:
            checksum and number of tensors of what it read.

        Raises:
            ServerError: it did not, or its workers read different things.
        """
        if not keep:
            await self._post("/pause?mode=abort", {}, LOAD_S)
        await self._post("/update_weight_version", {"new_version": f"{name}, loading"}, SHORT_S)
        method, arguments = ("merge_adapter", [str(folder), base]) if base else ("take_weights", [str(folder)])
        receipts = set((await self._rpc(method, arguments, LOAD_S, _Receipts)).results)
        if len(receipts) != 1:
            raise ServerError(f"its workers read different weights: {sorted(receipts)}")
        running = "?reset_running_requests=true" if keep else ""
        _parse(await self._post(f"/reset_prefix_cache{running}", {}, SHORT_S), _Reset)
        await self._post("/collective_rpc", {"method": "seed_sampling", "args": [seed]}, SHORT_S)
        await self._post("/update_weight_version", {"new_version": name}, SHORT_S)
        if not keep:
            await self.resume()
        return receipts.pop()

    async def _check_route(self) -> None:
        """Empty requests: refused for what they lack where there are such routes."""
        answer = await self._send("POST", "/inference/v1/generate", {}, SHORT_S)
        _refuse_wrong_key(answer)
        if answer.status_code not in (400, 422):
            raise ServerError(f"does not sample from token ids ({_quote(answer)})")
        if (await self._send("POST", "/abort_requests", {}, SHORT_S)).status_code == 404:
            raise ServerError("cannot end a request that runs (it has no /abort_requests), as a run has to")

    async def _rpc(self, method: str, args: Sequence[Any], timeout_s: float, kind: type[Answer]) -> Answer:
        body = {"method": method, "args": list(args), "timeout": timeout_s}
        return _parse(await self._post("/collective_rpc", body, timeout_s), kind)

    async def _get(self, path: str) -> httpx.Response:
        return _require_success(await self._send("GET", path, None, SHORT_S))

    async def _post(self, path: str, body: Mapping[str, Any], timeout_s: float | None) -> httpx.Response:
        return _require_success(await self._send("POST", path, body, timeout_s))

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float | None
    ) -> httpx.Response:
        try:
            return await self._http.request(
                method, path, json=body, timeout=httpx.Timeout(timeout_s, connect=CONNECT_S)
            )
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise UnreachableError(redact(f"could not be reached, or broke off ({reason})")) from error


def _attempts() -> AsyncRetrying:
    return AsyncRetrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=4.0),
        retry=retry_if_exception_type(UnreachableError),
        reraise=True,
    )


def _require_success(answer: httpx.Response) -> httpx.Response:
    _refuse_wrong_key(answer)
    if answer.status_code == 404:
        raise ServerError(f"has no {answer.request.url.path}")
    if answer.status_code != 200:
        raise ServerError(_quote(answer))
    return answer


def _refuse_wrong_key(answer: httpx.Response) -> None:
    if answer.status_code == 401:
        raise ServerError(f"refuses the key: set {KEY} to that of the server ({_quote(answer)})")


def _parse(answer: httpx.Response, kind: type[Answer]) -> Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise ServerError(f"answers what cannot be used: {place}: {first['msg']}, in {_quote(answer)}") from None


def _quote(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    shown = redact_start(text, _SHOWN)
    return f"status {answer.status_code}: {shown}{'...' if len(text) > _SHOWN else ''}"


def _check_choices(choices: Sequence[Choice], n: int, max_tokens: int) -> None:
    if sorted(choice.index for choice in choices) != list(range(n)):
        raise ServerError(f"answers {len(choices)} responses where {n} were asked for")
    for choice in choices:
        if choice.token_ids != [token["token_id"] for token in choice.logprobs.content]:
            raise ServerError("answers log-probabilities of other tokens than those of the response")
        count, reason = len(choice.token_ids), choice.finish_reason
        if count > max_tokens or (reason == "length" and count < max_tokens) or (not count and reason != "abort"):
            raise ServerError(f"answers {count} tokens and finish reason {reason!r} where max_tokens is {max_tokens}")
        starts = [span.start for span in choice.weight_versions]
        if starts[:1] != [0][:count] or starts != sorted(set(starts)) or any(start >= count for start in starts):
            raise ServerError(f"does not say which weights sampled which of {count} tokens: they begin at {starts}")
