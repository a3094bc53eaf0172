"""The review queue over HTTP: a token is a member, a route is an act. Knows HTTP and the queue; decides nothing.

Every right is checked by the queue, in the transaction of the act. A POST that writes something once needs the header
`Idempotency-Key`: the same call again gives the same answer. Leases are named in bodies, never in paths, which end up
in the logs of proxies.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from safety.review.queue import Answer, Claim, Grant, Member, Rescore, ReviewQueue, queue_id
from safety.review.views import Decision, Kind
from workbench import __version__
from workbench.errors import ReviewError, UserError
from workbench.serve.backend import Load
from workbench.serve.faults import ApiError, install_handlers
from workbench.serve.limits import Border
from workbench.serve.metrics import Metrics
from workbench.store.reviews import ReviewEntry

_STATUS = {
    "unauthorised": 401,
    "forbidden": 403,
    "unknown": 404,
    "lease_lost": 409,
    "key_reused": 409,
    "rule_changed": 409,
    "too_late": 409,
    "too_many": 409,
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, what in {
        400: "the body or the act is not valid",
        401: "no token, or one that is none",
        403: "no right to this",
        404: "not here",
        409: "the lease is lost, the key was used for something else, or it is too late",
        413: "the body is too large",
    }.items()
}
Text = Annotated[str, Field(max_length=4_000)]
Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Body(BaseModel):
    """What is sent: no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ClaimBody(Body):
    """Which slot is wanted."""

    kind: Kind = "opinion"
    session: Annotated[str, Field(max_length=200)] = ""
    """Tells two windows of one person apart."""


class LeaseBody(Body):
    """A lease."""

    token: Annotated[str, Field(max_length=64)]


class ReasonBody(LeaseBody):
    """A lease that is ended, and why, if somebody wants to say."""

    reason: Text = ""


class LabelBody(LeaseBody):
    """A label for a leased slot."""

    decision: Decision
    policy_hash: Annotated[str, Field(max_length=128)]
    """As the item had it: what was read."""
    categories: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=64)] = []
    severity: Literal["low", "medium", "high", "critical"] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    spans: Annotated[list[Annotated[list[int], Field(min_length=2, max_length=2)]], Field(max_length=200)] = []
    note: Text = ""
    ms_spent: Annotated[int, Field(ge=0, lt=2**53)] | None = None


class WhyBody(Body):
    """Why an act is asked for, if somebody wants to say."""

    reason: Text = ""


class OptOutBody(Body):
    """Categories that a person does not look at."""

    categories: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=200)]


class EntryBody(Body):
    """A text for people."""

    text: Annotated[str, Field(max_length=200_000)]
    category: Annotated[str, Field(max_length=200)] = ""
    severity: Literal["low", "medium", "high", "critical"] = "low"
    policy_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    surface: Literal["user_input", "model_output", "content"] = "content"
    source: Annotated[str, Field(max_length=200)] = "report"
    action: Annotated[str, Field(max_length=20)] = ""
    model: Annotated[str, Field(max_length=200)] = ""
    community: Annotated[str, Field(max_length=200)] = ""
    prompt: Annotated[str, Field(max_length=200_000)] | None = None
    context: dict[str, Any] = {}
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    uncertainty: float | None = None
    priority: Annotated[float, Field(gt=-1e300, lt=1e300)] | None = None
    cluster: Annotated[str, Field(max_length=200)] = ""
    scores: dict[str, Any] | None = None


class EntriesBody(Body):
    """Texts for people."""

    items: Annotated[list[EntryBody], Field(min_length=1, max_length=1_000)]


class PriorityBody(Body):
    """What a ranker says of an item."""

    item: Annotated[str, Field(max_length=64)]
    priority: Annotated[float, Field(gt=-1e300, lt=1e300)]
    pi: Annotated[float, Field(gt=0, le=1)] | None = None
    stratum: Literal["priority", "diversity", "exploration", "must_review", "report", "drift"] | None = None
    draw_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    score_version: Annotated[str, Field(max_length=200, pattern=r"^[\x20-\x7e]*$")] | None = None
    expected_severity: float | None = None


class PrioritiesBody(Body):
    """What a ranker says of items."""

    items: Annotated[list[PriorityBody], Field(min_length=1, max_length=10_000)]


class GrantBody(Body):
    """A role somewhere."""

    role: Literal["viewer", "reviewer", "senior", "policy_editor", "policy_approver", "ml", "admin", "auditor"]
    tenant: Annotated[str, Field(max_length=64)]
    queue: Annotated[str, Field(max_length=64)] = "*"


class MemberBody(Body):
    """A member with roles."""

    name: Annotated[str, Field(max_length=64)]
    grants: Annotated[list[GrantBody], Field(min_length=1, max_length=100)]
    identity: Annotated[str, Field(max_length=320)] | None = None


def create_review_app(queue: ReviewQueue, *, max_bytes: int = 4_000_000) -> FastAPI:
    """The application. Everything but `/healthz` needs a member's token."""
    app = FastAPI(title="workbench review", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.queue = queue
    install_handlers(app)
    app.add_exception_handler(UserError, _on_user_error)
    metrics = Metrics(lambda: Load(running=0, waiting=0))
    app.add_middleware(Border, metrics=metrics, max_bytes=max_bytes)  # type: ignore[arg-type]  # ASGI's types
    for method, path, function in _ROUTES:
        app.add_api_route(f"/v1/review{path}", function, methods=[method], responses=_ERRORS, response_class=AsciiJson)
    app.add_api_route("/healthz", _health, methods=["GET"])
    return app


class AsciiJson(JSONResponse):
    """JSON in ASCII: a text under review may hold what UTF-8 cannot write."""

    def render(self, content: Any) -> bytes:
        """The bytes of an answer."""
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


async def _on_user_error(_: Request, error: Exception) -> JSONResponse:
    code = error.code if isinstance(error, ReviewError) else "invalid"
    headers = {"www-authenticate": "Bearer"} if code == "unauthorised" else None
    return ApiError(_STATUS.get(code, 400), str(error), code=code, headers=headers).response()


def _member(request: Request) -> Member:
    """Who asks."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ReviewError("no token; send it as Authorization: Bearer TOKEN", "unauthorised")
    return _queue(request).sign_in(token.strip())


def _queue(request: Request) -> ReviewQueue:
    return request.app.state.queue


def _key(idempotency_key: Annotated[str | None, Header(max_length=200)] = None) -> str:
    if not idempotency_key:
        raise ReviewError("the header Idempotency-Key is needed: any text that is new for each act")
    return idempotency_key


Who = Annotated[Member, Depends(_member)]
Queue = Annotated[ReviewQueue, Depends(_queue)]
Key = Annotated[str, Depends(_key)]


def _health() -> dict[str, str]:
    """That the server runs."""
    return {"status": "ok"}


def _me(who: Who, queue: Queue) -> AsciiJson:
    """Who a token is, and where it may do what."""
    return AsciiJson({"id": who.id, "name": who.name, "grants": [asdict(g) for g in who.grants],
                      "opt_out": list(who.opt_out), "queues": queue.queues(who)})  # fmt: skip


def _opt_out(body: OptOutBody, who: Who, queue: Queue) -> AsciiJson:
    """Replace the categories that a person is not shown."""
    return AsciiJson({"opt_out": list(queue.opt_out(who, body.categories).opt_out)})


def _add(tenant: Place, name: Place, body: EntriesBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Put texts into a queue. The same text again is the same item, so a repeated call adds nothing."""
    from safety.guard import content_sha

    entries = [
        ReviewEntry(tenant=tenant, queue=name, stratum="report", content_sha=content_sha(one.text), **one.model_dump())
        for one in body.items
    ]
    return AsciiJson({"added": queue.add(who, entries), "items": [entry.id for entry in entries]})


def _prioritise(body: PrioritiesBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Write priorities and inclusion probabilities of items."""
    return AsciiJson({"changed": queue.set_priorities(who, [Rescore(**one.model_dump()) for one in body.items])})


def _claim(tenant: Place, name: Place, body: ClaimBody, who: Who, queue: Queue) -> AsciiJson:
    """Lease the next slot; `claim` is null where there is none, and `idle` says why."""
    got = queue.claim(who, f"{tenant}/{name}", kind=body.kind, session=body.session)
    if isinstance(got, Claim):
        return AsciiJson({"claim": asdict(got), "idle": None})
    return AsciiJson({"claim": None, "idle": asdict(got)})


def _heartbeat(body: LeaseBody, who: Who, queue: Queue) -> AsciiJson:
    """Extend a lease."""
    return AsciiJson({"lease_until": queue.heartbeat(who, body.token)})


def _hand_back(body: LeaseBody, who: Who, queue: Queue) -> AsciiJson:
    """End a lease early."""
    return AsciiJson(asdict(queue.hand_back(who, body.token)))


def _skip(body: ReasonBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Give an item to others."""
    return AsciiJson(asdict(queue.skip(who, body.token, body.reason, key=key)))


def _escalate(body: ReasonBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Let a senior decide."""
    return AsciiJson(asdict(queue.escalate(who, body.token, body.reason, key=key)))


def _label(body: LabelBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Label a leased slot; a senior's label of an adjudication slot decides the item."""
    answer = Answer(
        decision=body.decision,
        categories=tuple(body.categories),
        severity=body.severity,
        confidence=body.confidence,
        spans=tuple((span[0], span[1]) for span in body.spans),
        note=body.note,
        ms_spent=body.ms_spent,
        policy_hash=body.policy_hash,
    )
    return AsciiJson(asdict(queue.submit(who, body.token, answer, key=key)))


def _undo(label: Place, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Take a label back; the slot is leased again."""
    return AsciiJson({"claim": asdict(queue.undo(who, label, key=key))})


def _appeal(item: Place, body: WhyBody, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Put a decision before a senior who had no part in it."""
    return AsciiJson(asdict(queue.appeal(who, item, body.reason, key=key)))


def _apply(item: Place, who: Who, queue: Queue, key: Key) -> AsciiJson:
    """Give an item's near-duplicates the same outcome."""
    return AsciiJson(asdict(queue.apply_to_cluster(who, item, key=key)))


def _item(item: Place, who: Who, queue: Queue) -> AsciiJson:
    """All that is known of an item, for auditors; whoever holds a lease has its view in the claim."""
    found = queue.item(who, item)
    return AsciiJson({**asdict(found), "opinions": [asdict(one) for one in queue.opinions(who, item)]})


def _stats(tenant: Place, name: Place, who: Who, queue: Queue) -> AsciiJson:
    """How many items are in which state."""
    return AsciiJson(asdict(queue.stats(who, queue_id(f"{tenant}/{name}"))))


def _progress(tenant: Place, name: Place, who: Who, queue: Queue) -> AsciiJson:
    """A person's day."""
    return AsciiJson(asdict(queue.progress(who, f"{tenant}/{name}")))


def _audit(
    who: Who,
    queue: Queue,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> AsciiJson:
    """Rows of the audit, the oldest first."""
    return AsciiJson({"rows": [asdict(row) for row in queue.audit(who, after=after, limit=limit)]})


def _members(who: Who, queue: Queue) -> AsciiJson:
    """All members."""
    return AsciiJson({"members": [asdict(one) for one in queue.members(who)]})


def _grant(body: MemberBody, who: Who, queue: Queue) -> AsciiJson:
    """Add a member or give one more roles; the token is shown this once, and an older one stops working."""
    grants = [Grant(**one.model_dump()) for one in body.grants]
    joined = queue.add_member(who, body.name, grants, identity=body.identity)
    return AsciiJson({"member": asdict(joined.member), "token": joined.token})


def _remove(name: Annotated[str, Field(max_length=64)], who: Who, queue: Queue) -> AsciiJson:
    """Remove a member, with all roles and the token."""
    queue.remove_member(who, name)
    return AsciiJson({"removed": name})


_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/me", _me),
    ("PUT", "/me/opt-out", _opt_out),
    ("POST", "/queues/{tenant}/{name}/items", _add),
    ("POST", "/queues/{tenant}/{name}/claim", _claim),
    ("GET", "/queues/{tenant}/{name}/stats", _stats),
    ("GET", "/queues/{tenant}/{name}/progress", _progress),
    ("POST", "/leases/heartbeat", _heartbeat),
    ("POST", "/leases/hand-back", _hand_back),
    ("POST", "/leases/skip", _skip),
    ("POST", "/leases/escalate", _escalate),
    ("POST", "/labels", _label),
    ("POST", "/labels/{label}/undo", _undo),
    ("GET", "/items/{item}", _item),
    ("POST", "/items/{item}/appeal", _appeal),
    ("POST", "/items/{item}/apply-to-cluster", _apply),
    ("POST", "/priorities", _prioritise),
    ("GET", "/audit", _audit),
    ("GET", "/members", _members),
    ("POST", "/members", _grant),
    ("DELETE", "/members/{name}", _remove),
)
