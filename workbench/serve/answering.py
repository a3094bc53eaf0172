"""One request from its prompt to what leaves: judged, written, judged again, recorded. Knows no HTTP.

There is one way out: streams and whole answers read the same outlets, which give only what their rails released.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from safety.guard import Check, Guard, Release, mask_spans
from workbench.serve.backend import Backend, Piece, Prepared, Prompt, Sampling, ShownLogprob, Turn
from workbench.serve.metrics import Metrics
from workbench.serve.recording import Recorder, Subject, audit_event, review_entries
from workbench.serve.tenants import Tenant

_BETWEEN = "\n"
_LONG = 4000
"""Characters from which a prompt is encoded in a thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Out:
    """What leaves of one choice."""

    choice: int
    text: str = ""
    logprobs: tuple[ShownLogprob, ...] = ()
    finish: str | None = None
    """`stop`, `length` or `content_filter`, with the last."""
    replaces: bool = False
    """The text stands for all of the answer: what left before belongs to a stream alone."""


Outs = AsyncGenerator[Out, None]
Pieces = AsyncGenerator[Piece, None]


@dataclass(eq=False)
class Exchange:
    """One request and its answer."""

    service: "Service"
    tenant: Tenant
    subject: Subject
    sampling: Sampling
    choices: int
    prepared: Prepared | None = None
    refusal: str | None = None
    """The prompt was withheld; this is said instead."""
    prompt_text: str = ""
    new_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.prepared.tokens if self.prepared else 0

    async def outlets(self) -> Outs:
        """All that leaves, of all choices as it comes. Closing the iterator stops the work."""
        if self.refusal is not None:
            for choice in range(self.choices):
                yield Out(choice=choice, text=self.refusal, finish="content_filter", replaces=True)
            return
        streams = [self._choice(choice) for choice in range(self.choices)]
        merged = streams[0] if len(streams) == 1 else _merge(streams)
        async with contextlib.aclosing(merged):
            async for out in merged:
                yield out

    async def _choice(self, choice: int) -> Outs:
        assert self.prepared is not None
        sampling = self.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + choice)
        pieces = self.service.backend.write(self.prepared, sampling)
        guard = self.service.guard_of(self.tenant)
        outs = self._plain(choice, pieces) if guard is None else self._guarded(choice, pieces, guard)
        async with contextlib.aclosing(pieces), contextlib.aclosing(outs):
            async for out in outs:
                yield out

    async def _plain(self, choice: int, pieces: Pieces) -> Outs:
        async for piece in pieces:
            self.new_tokens += piece.tokens
            if piece.text or piece.finish or piece.logprobs:
                yield Out(choice=choice, text=piece.text, logprobs=piece.logprobs, finish=piece.finish)

    async def _guarded(self, choice: int, pieces: Pieces, guard: Guard) -> Outs:
        rail = guard.rail(prompt=self.prompt_text, context=self.tenant.context)
        held: deque[tuple[ShownLogprob, ...]] = deque()
        written: list[str] = []
        recorded = False
        try:
            async for piece in pieces:
                self.new_tokens += piece.tokens
                written.append(piece.text)
                held.append(piece.logprobs)
                release = await rail.feed(piece.text, piece.tokens)
                finish = piece.finish
                if finish and not release.ended:
                    if release.text:
                        yield Out(choice=choice, text=release.text, logprobs=_take(held, release))
                    release = await rail.finish()
                if finish or release.ended:
                    recorded = True
                    await self._record_output(guard, rail.worst, "".join(written), len(rail.checks))
                if release.ended:
                    refusal = f"\n\n{release.refusal}" if rail.said else release.refusal
                    yield Out(choice=choice, text=refusal, finish="content_filter", replaces=True)
                    return
                if release.text or finish:
                    yield Out(choice=choice, text=release.text, logprobs=_take(held, release), finish=finish)
        finally:
            if not recorded and written:  # the client left, or the engine failed: what left of it was judged
                self.service.later(
                    self._record_output(guard, rail.worst, "".join(written), len(rail.checks), unfinished=True)
                )

    async def _record_output(self, guard: Guard, check: Check | None, text: str, checks: int, **facts: Any) -> None:
        if check is not None:
            await self.service.record(
                check,
                guard,
                self.subject,
                text=text,
                prompt=self.prompt_text,
                surface="model_output",
                checks=checks,
                **facts,
            )


@dataclass(eq=False)
class Service:
    """The parts of a running server."""

    backend: Backend
    guards: Mapping[str, Guard]
    """By a tenant's policy; empty serves without a guard, which only benchmarks do."""
    recorder: Recorder | None
    metrics: Metrics
    _background: set["asyncio.Task[None]"] = field(default_factory=set)

    def guard_of(self, tenant: Tenant) -> Guard | None:
        """The guard of a tenant's policy; None only where the server was started without any."""
        return self.guards[tenant.policy] if self.guards else None

    async def open(
        self, tenant: Tenant, subject: Subject, prompt: Prompt, sampling: Sampling, choices: int
    ) -> Exchange:
        """Check that a prompt fits, judge it, record what was decided. Raises ApiError for what cannot be answered."""
        prepared = await self._prepare(prompt, sampling)
        exchange = Exchange(self, tenant, subject, sampling, choices, prepared=prepared)
        texts = self._texts(tenant, prompt)
        exchange.prompt_text = _BETWEEN.join(texts)
        guard = self.guard_of(tenant)
        if guard is not None:
            # each turn alone, all as lines, and all as one word after the other: a word may be spread over turns
            parts = [*texts, "".join(texts)] if len(texts) > 1 else ()
            check = await guard.check(exchange.prompt_text, "user_input", context=tenant.context, parts=parts)
            await self.record(check, guard, subject, text=exchange.prompt_text, prompt="", surface="user_input")
            if check.text is None:
                exchange.refusal = check.refusal
            elif check.spans:
                exchange.prepared = await self._prepare(_masked(prompt, texts, check.spans), sampling)
                exchange.prompt_text = check.text
        self.metrics.tokens.labels("prompt").inc(exchange.prompt_tokens)
        return exchange

    async def record(
        self, check: Check, guard: Guard, subject: Subject, *, text: str, prompt: str, surface: Any, **facts: Any
    ) -> None:
        """Count and write one decision; returns when it is on disk."""
        decision = check.decision
        category = decision.category or ""
        self.metrics.decisions.labels(surface, decision.action, category, guard.policy.name).inc()
        self.metrics.judging.labels(surface).observe(check.latency_ms / 1000)
        for judgement in check.judgements:
            if judgement.value == "unscorable":
                self.metrics.unscorable.labels(judgement.judge).inc()
        if self.recorder is None:
            return
        event = audit_event(check, guard.policy, subject, text=text, surface=surface, **facts)
        reviews = review_entries(check, guard.policy, subject, text=text, prompt=prompt, surface=surface)
        await self.recorder.record([event], reviews)
        for review in reviews:
            self.metrics.reviews.labels(review.source).inc()

    def later(self, work: Any) -> None:
        """Run to its end though whoever asked has gone."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self, grace_s: float) -> None:
        """Let answers finish, write the last rows."""
        await self.backend.close(grace_s)
        if self._background:
            await asyncio.wait(self._background, timeout=5)
        for guard in set(self.guards.values()):
            guard.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)

    async def _prepare(self, prompt: Prompt, sampling: Sampling) -> Prepared:
        size = len(prompt.text) + sum(len(turn.text) for turn in prompt.turns)
        if size > _LONG:
            return await asyncio.to_thread(self.backend.prepare, prompt, sampling)
        return self.backend.prepare(prompt, sampling)

    def _texts(self, tenant: Tenant, prompt: Prompt) -> list[str]:
        """What the client wrote, turn by turn; the operator's own system message is not judged."""
        if prompt.turns:
            own = prompt.turns[1:] if tenant.system is not None else prompt.turns
            return [turn.text for turn in own]
        return [self.backend.read(prompt.ids) if prompt.ids else prompt.text]


def _take(held: deque[tuple[ShownLogprob, ...]], release: Release) -> tuple[ShownLogprob, ...]:
    """Log-probabilities of pieces that left; none where something was masked, which they would tell."""
    taken = tuple(one for _ in range(release.pieces) for one in held.popleft())
    return () if release.changed else taken


def _masked(prompt: Prompt, texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Prompt:
    """The prompt with the spans of its joined texts masked."""
    masked, start = [], 0
    for text in texts:
        own = [(max(0, low - start), min(len(text), high - start)) for low, high in spans]
        masked.append(mask_spans(text, [(low, high) for low, high in own if low < high]))
        start += len(text) + len(_BETWEEN)
    if not prompt.turns:
        return Prompt(text=masked[0])
    kept = prompt.turns[: len(prompt.turns) - len(texts)]
    changed = prompt.turns[len(kept) :]
    turns = [Turn(role=turn.role, text=text) for turn, text in zip(changed, masked, strict=True)]
    return Prompt(turns=(*kept, *turns))


async def _merge(streams: Sequence[Outs]) -> Outs:
    """Several streams as one, in the order things come; an error in one ends all."""
    queue: asyncio.Queue[Out | BaseException | None] = asyncio.Queue()

    async def pump(stream: Outs) -> None:
        try:
            async for out in stream:
                queue.put_nowait(out)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
