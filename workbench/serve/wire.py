"""Answers in OpenAI's wire format, whole and streamed. Knows their shapes; judges and writes nothing."""

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.serve.answering import Exchange, Out
from workbench.serve.backend import ShownLogprob
from workbench.serve.faults import ApiError, log


@dataclass(eq=False, slots=True)
class _Choice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[ShownLogprob] = field(default_factory=list)
    finish: str | None = None


@dataclass(eq=False, slots=True)
class Form:
    """How one request's answer is written."""

    exchange: Exchange
    id: str
    model: str
    chat: bool
    with_logprobs: bool
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """The answer as one object: the same outlets as a stream, collected."""
        choices = [_Choice() for _ in range(self.exchange.choices)]
        async for out in self.exchange.outlets():
            own = choices[out.choice]
            if out.replaces:
                own.texts, own.logprobs = [out.text.lstrip("\n")], []
            else:
                own.texts.append(out.text)
                own.logprobs += out.logprobs
            own.finish = out.finish or own.finish
        return self._object([self._whole_choice(i, c) for i, c in enumerate(choices)], usage=self.usage())

    async def stream(self, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Server-sent events. What fails after the first becomes an error event, which clients raise."""
        extra = {"usage": None} if include_usage else {}
        if self.chat:
            for choice in range(self.exchange.choices):
                opening = {"role": "assistant", "content": ""}
                yield _event(self._object([self._delta(choice, opening)], streamed=True, **extra))
        offsets = [0] * self.exchange.choices
        try:
            async for out in self.exchange.outlets():
                yield _event(self._object([self._chunk(out, offsets)], streamed=True, **extra))
        except ApiError as error:
            yield _event(error.body)
            return
        except Exception:
            log.exception("request %s failed in its stream", self.exchange.subject.request)
            request = self.exchange.subject.request
            yield _event(ApiError(500, f"an unexpected fault of the server; its log names it {request}").body)
            return
        if include_usage:
            yield _event(self._object([], streamed=True, usage=self.usage()))
        yield b"data: [DONE]\n\n"

    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        prompt, new = self.exchange.prompt_tokens, self.exchange.new_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def _object(self, choices: Sequence[Mapping[str, Any]], *, streamed: bool = False, **more: Any) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            **more,
        }

    def _whole_choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.texts)
        logprobs = self._logprobs(choice.logprobs, 0)
        if self.chat:
            body: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            body = {"text": text}
        return {"index": index, **body, "logprobs": logprobs, "finish_reason": choice.finish}

    def _chunk(self, out: Out, offsets: list[int]) -> dict[str, Any]:
        logprobs = self._logprobs(out.logprobs, offsets[out.choice]) if out.logprobs else None
        offsets[out.choice] += len(out.text)
        if self.chat:
            delta = {"content": out.text} if out.text else {}
            return self._delta(out.choice, delta, logprobs=logprobs, finish=out.finish)
        return {"index": out.choice, "text": out.text, "logprobs": logprobs, "finish_reason": out.finish}

    @staticmethod
    def _delta(
        index: int, delta: Mapping[str, Any], *, logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, shown: Sequence[ShownLogprob], offset: int) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        if self.chat:
            return {"content": [_token(one.token, one.logprob, top=one.top) for one in shown], "refusal": None}
        offsets = []
        for one in shown:
            offsets.append(offset)
            offset += len(one.token)
        return {
            "tokens": [one.token for one in shown],
            "token_logprobs": [one.logprob for one in shown],
            "top_logprobs": [dict(one.top) for one in shown],
            "text_offset": offsets,
        }


def _token(text: str, logprob: float, *, top: Sequence[tuple[str, float]] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}
    return body if top is None else body | {"top_logprobs": [_token(t, value) for t, value in top]}


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
