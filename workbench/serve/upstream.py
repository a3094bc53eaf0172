"""Another OpenAI-compatible endpoint as the backend: vLLM's own server, or a vendor's. Knows its wire format; no guard.

Prompts go to the host that was allowed and to no other. Answers are always asked for as a stream, so that the guard
can stop one that it would not let through.
"""

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import Any

import httpx

from workbench.engines._endpoint import check_url
from workbench.engines.outgoing import CheckedAsyncTransport, is_direct
from workbench.errors import EngineError
from workbench.records import Checkpoint
from workbench.serve.backend import DEFAULT_TOKENS, Load, Piece, Prepared, Prompt, Sampling, ShownLogprob
from workbench.serve.faults import ApiError

_ROLE_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<[|｜][^<>]{1,40}[|｜]>|\[/?SYSTEM_PROMPT\]"
)


class UpstreamBackend:
    """Sends prompts on and reads the streamed answers."""

    engine = "openai"

    def __init__(self, client: httpx.AsyncClient, url: str, *, upstream_model: str, model: str) -> None:
        self.client, self.url = client, url
        self.upstream_model, self.model = upstream_model, model
        self._running = 0

    def prepare(self, prompt: Prompt, sampling: Sampling) -> Prepared:
        """As in Backend; whether it fits is the upstream's to say."""
        if prompt.ids:
            raise ApiError(
                400, "prompt: token ids cannot be judged before an upstream model; send text", param="prompt"
            )
        return Prepared(prompt=prompt, tokens=0, max_tokens=sampling.max_tokens or DEFAULT_TOKENS)

    def read(self, ids: Sequence[int]) -> str:
        """As in Backend."""
        raise ApiError(400, "prompt: token ids cannot be judged before an upstream model; send text", param="prompt")

    async def write(self, prepared: Prepared, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """As in Backend."""
        path, body = self._body(prepared, sampling)
        self._running += 1
        try:
            async with self.client.stream("POST", self.url + path, json=body) as response:
                await _refuse_failure(response)
                async for piece in _pieces(response):
                    yield piece
                    if piece.finish:
                        return
        except httpx.TimeoutException:
            raise ApiError(504, "the model behind this endpoint did not answer in time", code="timeout") from None
        except httpx.HTTPError as error:
            reason = type(error).__name__
            raise ApiError(502, f"the model behind this endpoint failed ({reason})", code="upstream_failed") from None
        finally:
            self._running -= 1
        raise ApiError(502, "the model behind this endpoint ended before its answer did", code="upstream_failed")

    def load(self) -> Load:
        """As in Backend."""
        return Load(running=self._running)

    async def close(self, grace_s: float) -> None:
        """As in Backend."""
        await self.client.aclose()

    def _sampling_body(self, prepared: Prepared, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.upstream_model,
            "max_tokens": prepared.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        for name in ("presence_penalty", "frequency_penalty", "top_k"):
            if getattr(sampling, name):
                body[name] = getattr(sampling, name)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return body

    def _body(self, prepared: Prepared, sampling: Sampling) -> tuple[str, dict[str, Any]]:
        body = self._sampling_body(prepared, sampling)
        if not prepared.prompt.turns:
            logprobs = {} if sampling.logprobs is None else {"logprobs": sampling.logprobs}
            return "/completions", body | {"prompt": prepared.prompt.text} | logprobs
        logprobs = {} if sampling.logprobs is None else {"logprobs": True, "top_logprobs": sampling.logprobs}
        messages = [{"role": turn.role, "content": break_role_tokens(turn.text)} for turn in prepared.prompt.turns]
        return "/chat/completions", body | {"messages": messages} | logprobs


def break_role_tokens(text: str) -> str:
    """Marks that open turns in common chat formats, parted by an invisible character: the upstream may parse them.

    >>> break_role_tokens("a <|im_start|>system") == "a <\\u200b|im_start|>system"
    True
    """
    return _ROLE_TOKEN.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


async def _refuse_failure(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        error = response.json().get("error") or {}
        reason = str(error.get("message", "") if isinstance(error, dict) else error)[:200]
    except (ValueError, AttributeError):
        reason = ""
    if response.status_code in (400, 413, 422):
        raise ApiError(400, f"the model behind this endpoint refuses it: {reason}", code="upstream_refused")
    headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
    status = 503 if response.status_code in (429, 503, 529) else 502
    message = f"the model behind this endpoint answered with status {response.status_code}"
    raise ApiError(status, message, code="upstream_failed", headers=headers)


async def _pieces(response: httpx.Response) -> AsyncIterator[Piece]:
    """Server-sent events as pieces. A line that is no event ends the answer as a failed one."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            event = json.loads(data)
            if event.get("error"):
                raise ApiError(502, "the model behind this endpoint failed in its answer", code="upstream_failed")
            for choice in event.get("choices") or ():
                yield _piece(choice)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise ApiError(502, "the model behind this endpoint wrote no event", code="upstream_failed") from None


def _piece(choice: dict[str, Any]) -> Piece:
    text = choice.get("text")
    if text is None:
        text = (choice.get("delta") or {}).get("content") or ""
    finish = choice.get("finish_reason")
    # one event is one token with every server that streams tokens; it only places the guard's windows
    return Piece(text=str(text), tokens=1 if text else 0, logprobs=_logprobs(choice.get("logprobs")), finish=finish)


def _logprobs(given: Any) -> tuple[ShownLogprob, ...]:
    if not isinstance(given, dict):
        return ()
    if isinstance(given.get("content"), list):
        return tuple(
            ShownLogprob(
                token=str(one["token"]),
                logprob=float(one["logprob"]),
                top=tuple((str(t["token"]), float(t["logprob"])) for t in one.get("top_logprobs") or ()),
            )
            for one in given["content"]
        )
    tokens, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        ShownLogprob(token=str(t), logprob=float(v), top=tuple((str(k), float(p)) for k, p in (top or {}).items()))
        for t, v, top in zip(tokens, values, tops, strict=False)
        if v is not None
    )


def open_upstream(
    checkpoint: Checkpoint,
    *,
    model: str,
    allowed: Collection[str] = (),
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 64,
    timeout_s: float = 120.0,
) -> UpstreamBackend:
    """A backend that asks `URL#model`.

    Raises:
        EngineError: no endpoint, a host that is not allowed, or a key that would travel unprotected.
    """
    if checkpoint.kind != "endpoint":
        raise EngineError(f"--engine openai: cannot serve {checkpoint.name}, a {checkpoint.kind}; name URL#model")
    url, _, upstream_model = checkpoint.source.partition("#")
    local = check_url(url.rstrip("/"), allowed)
    key = os.environ.get(api_key_env, "")
    if key and not local and url.startswith("http:"):
        raise EngineError(f"{url}: plain http would show {api_key_env} to the network; use https or unset it")
    limits = httpx.Limits(max_connections=concurrency)
    client = httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=timeout_s,
        limits=limits,
        transport=CheckedAsyncTransport(limits=limits) if is_direct(local=local) else None,
        follow_redirects=False,
        trust_env=not local,
    )
    return UpstreamBackend(client, url.rstrip("/"), upstream_model=upstream_model, model=model)
