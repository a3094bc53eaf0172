"""Write down what the guard decided, before the answer that it decided about has left. Knows the store; no HTTP.

One thread writes; what waits for it goes into one transaction, so many clients cost few commits.
"""

import asyncio
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safety.entities import find_entities
from safety.guard import Check, content_sha
from safety.policy import ResolvedPolicy
from workbench.errors import WorkbenchError
from workbench.records import CategoryOutcome, Surface
from workbench.serve.faults import ApiError, log
from workbench.store import Store
from workbench.store.audit import AuditEvent, append_within
from workbench.store.reviews import ReviewEntry, add_reviews

_SEVERE = ("critical", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Whose text it is."""

    request: str
    tenant: str
    community: str
    model: str
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the gateway says of the caller: the tenant's attributes."""


@dataclass(eq=False, slots=True)
class _Batch:
    events: list[AuditEvent] = field(default_factory=list)
    reviews: list[ReviewEntry] = field(default_factory=list)
    waiting: "list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]" = field(default_factory=list)


class Recorder:
    """Appends audit rows and review items. `record` returns when they are on disk."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._condition = threading.Condition()
        self._next = _Batch()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    async def record(self, events: Sequence[AuditEvent], reviews: Sequence[ReviewEntry] = ()) -> None:
        """Write and wait. Raises ApiError where the store cannot be written: nothing is served without its row."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._condition:
            if self._closing:
                raise ApiError(503, "the server is shutting down", code="shutting_down")
            self._next.events += events
            self._next.reviews += reviews
            self._next.waiting.append((loop, future))
            self._condition.notify()
        await future

    def close(self) -> None:
        """Write what waits, and end."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._next.waiting and not self._closing:
                    self._condition.wait()
                batch, self._next = self._next, _Batch()
            if not batch.waiting:
                return
            error = self._write(batch)
            for loop, future in batch.waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_settle, future, error)

    def _write(self, batch: _Batch) -> ApiError | None:
        try:
            with self.store.database.write(counts=False) as connection:
                if batch.events:
                    append_within(connection, batch.events)
                add_reviews(connection, batch.reviews)
        except WorkbenchError as error:  # a full disk, a database that is gone: one line, no fault of ours
            log.error("the audit could not be written: %s", error)
        except Exception:
            log.exception("the audit could not be written")
        else:
            return None
        return ApiError(503, "the decision about this text could not be recorded; ask again", code="not_recorded")


def _settle(future: "asyncio.Future[None]", error: ApiError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def audit_event(
    check: Check, policy: ResolvedPolicy, subject: Subject, *, text: str, surface: Surface, **facts: Any
) -> AuditEvent:
    """The row of one decision: what, which category, how sure, by which policy, how fast. Text as the policy says."""
    decision = check.decision
    first = next((o for o in decision.outcomes if o.category == decision.category), None)
    document: dict[str, Any] = {
        "request": subject.request,
        "community": subject.community,
        "model": subject.model,
        "surface": surface,
        "action": decision.action,
        "category": decision.category,
        "value": first.value if first else "allowed",
        "probability": first.probability if first else None,
        "judge": first.judge if first else None,
        "reason": decision.reason,
        "policy": policy.name,
        "policy_hash": decision.policy_hash,
        "latency_ms": round(check.latency_ms, 3),
        "characters": len(text),
        # what `workbench policy replay` decides again: what was cleared counts too where a probability says how clearly
        "outcomes": {
            o.category: [o.value, o.action, None if o.probability is None else round(o.probability, 4), o.judge]
            for o in decision.outcomes
            if o.value != "allowed" or o.probability is not None
        },
        **facts,
        **_content(policy, text),
    }
    if context := _asked_for(policy, subject, text):
        document["context"] = context
    if check.failed:
        document["failed"] = True
    return AuditEvent(kind="guard", actor=subject.tenant, document=document)


def _asked_for(policy: ResolvedPolicy, subject: Subject, text: str) -> dict[str, Any]:
    """What the policy's conditions may ask for, and no more: declared attributes, and the lists that the text names."""
    context = {name: subject.context[name] for name in policy.attributes if name in subject.context}
    entities = find_entities(policy, text)
    return context | {"entities": list(entities)} if entities else context


def review_entries(
    check: Check, policy: ResolvedPolicy, subject: Subject, *, text: str, prompt: str, surface: Surface
) -> list[ReviewEntry]:
    """What people should look at: what the policy sends them, doubts, severe violations, and the policy's sample."""
    keep = _logging(policy).get("content") == "full"
    base: Mapping[str, Any] = {
        "tenant": subject.tenant,
        "queue": policy.review.get("queue") or "default",
        "need": policy.review.get("need"),
        "community": subject.community,
        "surface": surface,
        "policy_hash": policy.hash,
        "model": subject.model,
        "content_sha": content_sha(text),
        "text": text if keep else None,
        "prompt": prompt if keep and prompt else None,
    }
    uncertainty = {j.category: j.uncertainty for j in check.judgements}
    entries = []
    for outcome in check.decision.outcomes:
        source = _source(outcome, policy)
        if source:
            entries.append(
                ReviewEntry(
                    source=source,
                    category=outcome.category,
                    severity=policy.categories[outcome.category].severity,
                    action=outcome.action,
                    probability=outcome.probability,
                    uncertainty=uncertainty.get(outcome.category),
                    **base,
                )
            )
    share = float(_logging(policy).get("sample_to_review") or 0.0)
    if not entries and share and secrets.randbelow(1_000_000) < share * 1_000_000:
        entries.append(ReviewEntry(source="sample", category="", severity="low", action=check.decision.action, **base))
    return entries


def _source(outcome: CategoryOutcome, policy: ResolvedPolicy) -> str | None:
    if outcome.action in ("review", "hold"):
        return "uncertain" if outcome.value == "uncertain" else "action"
    if outcome.action == "allow":
        return None
    if outcome.value == "uncertain":
        return "uncertain"
    severe = policy.categories[outcome.category].severity in _SEVERE
    return "severe" if outcome.value == "violates" and severe else None


def _logging(policy: ResolvedPolicy) -> Mapping[str, Any]:
    return policy.runtime.get("log") or {}


def _content(policy: ResolvedPolicy, text: str) -> dict[str, str]:
    match _logging(policy).get("content", "hash_only"):
        case "full":
            return {"content": text, "content_sha": content_sha(text)}
        case "none":
            return {}
        case _:
            return {"content_sha": content_sha(text)}
