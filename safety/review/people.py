"""Who may do what in the review queue. Knows members, roles and tokens; knows no item.

What is not granted is refused. A right is looked up in the database in the transaction that needs it, never taken from
what a caller holds, so a member that was removed a moment ago can do nothing more. Tokens are 256 random bits and kept
as SHA-256 only, so a slow password hash would add nothing.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.errors import ReviewError, did_you_mean
from workbench.store.audit import AuditEvent
from workbench.store.identity import canonical_json
from workbench.store.review_schema import review_grants, review_members, review_slots
from workbench.store.reviews import PLACE, is_storable

Role = Literal["viewer", "reviewer", "senior", "policy_editor", "policy_approver", "ml", "admin", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
Act = Literal[
    "add", "adjudicate", "appeal", "approve", "audit", "cluster", "configure", "export", "gold", "grant", "label",
    "prioritise", "propose", "read", "stats",
]  # fmt: skip
PERMITTED: Mapping[Act, tuple[Role, ...]] = {
    "label": ("reviewer", "senior"),
    "adjudicate": ("senior",),
    "cluster": ("reviewer", "senior"),
    "appeal": ("reviewer", "senior", "ml"),
    "gold": ("senior",),
    "read": ("auditor",),
    "stats": ROLES,
    "audit": ("auditor",),
    "export": ("ml",),
    "add": ("ml", "admin"),
    "prioritise": ("ml", "admin"),
    "configure": ("admin",),
    "grant": ("admin",),
    "propose": ("policy_editor",),
    "approve": ("policy_approver",),
}
"""Act -> the roles that may do it; any other role, and whoever has none, may not."""
OPERATOR_MAY: tuple[Act, ...] = ("add", "audit", "configure", "export", "grant", "prioritise", "propose", "stats")
"""What the person at the machine's command line may do: all that needs no judgement. Labels need a member."""
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}$")
_NEVER_SEVERE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A role in a queue; `*` stands for all tenants or queues."""

    role: Role
    tenant: str = "*"
    queue: str = "*"

    def covers(self, queue: str) -> bool:
        """Whether it holds in a queue (`tenant/name`)."""
        tenant, _, name = queue.partition("/")
        return self.tenant in ("*", tenant) and self.queue in ("*", name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A person or a service, as it was when it was looked up."""

    id: str
    name: str
    grants: tuple[Grant, ...]
    opt_out: tuple[str, ...] = ()
    """Categories that this person is not shown."""
    identity: str | None = None
    created_at: str = ""
    removed_at: str | None = None

    def roles_in(self, queue: str) -> set[Role]:
        """The roles held in a queue."""
        return {grant.role for grant in self.grants if grant.covers(queue)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """Whoever works at the command line of the machine that holds the database, and so could write it by hand."""

    name: str


Actor = Member | Operator | str
"""A member (only its id is believed), a member's id, or the operator."""


def actor_name(actor: Actor) -> str:
    """As the audit calls it."""
    if isinstance(actor, Operator):
        return f"operator:{actor.name}"
    return actor.id if isinstance(actor, Member) else actor


def require(connection: Connection, actor: Actor, act: Act, queue: str | None, *, lock: bool = False) -> Member | None:
    """The member, freshly read; None for the operator. `queue` None: a grant for any queue of any tenant is needed.

    `lock`: what else this member does with a lock waits until the transaction ends.

    Raises:
        ReviewError: `forbidden`. It says the same whether the queue is there or not.
    """
    if isinstance(actor, Operator):
        if act in OPERATOR_MAY:
            return None
        raise ReviewError(f"{act}: this needs a member with a role; the command line has none", "forbidden")
    member = load_member(connection, actor.id if isinstance(actor, Member) else actor, lock=lock)
    granted = [grant for grant in member.grants if grant.role in PERMITTED[act]]
    if any(grant.tenant == grant.queue == "*" if queue is None else grant.covers(queue) for grant in granted):
        return member
    where = f"in {queue}" if queue else "in all queues"
    wanted = " or ".join(PERMITTED[act]) if len(PERMITTED[act]) < len(ROLES) else "any role"
    raise ReviewError(f"{member.name} may not {act} {where}: it takes the role {wanted}; ask an admin", "forbidden")


def may(connection: Connection, actor: Actor, act: Act, queue: str) -> bool:
    """Whether `require` would let it pass."""
    try:
        require(connection, actor, act, queue)
    except ReviewError:
        return False
    return True


def load_member(connection: Connection, member: str, *, lock: bool = False) -> Member:
    """A member by id. `lock`: what else this member does waits until the transaction ends.

    Raises:
        ReviewError: `forbidden`: there is none, or it was removed.
    """
    query = sa.select(review_members).where(review_members.c.id == member)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None or row["removed_at"] is not None:
        raise ReviewError("no such member, or one that was removed; ask an admin", "forbidden")
    return _member(connection, row)


def find_member(connection: Connection, column: Literal["name", "token_sha", "identity"], value: str) -> Member | None:
    """A member that was not removed, by something unique."""
    if not is_storable(value):
        return None
    query = sa.select(review_members).where(review_members.c[column] == value, review_members.c.removed_at.is_(None))
    row = connection.execute(query).mappings().first()
    return None if row is None else _member(connection, row)


def members(connection: Connection) -> list[Member]:
    """All members, removed ones too, by name."""
    rows = connection.execute(sa.select(review_members).order_by(review_members.c.name)).mappings().all()
    return [_member(connection, row) for row in rows]


def add_member(
    connection: Connection, name: str, grants: Sequence[Grant], *, identity: str | None, now: str
) -> tuple[str, str, AuditEvent]:
    """Make a member or give one that is there more roles and a new token: its id, the token, and what to audit."""
    if not _NAME.match(name):
        raise ReviewError(f"name {name!r}: up to 64 letters, digits and . _ - @ + are expected")
    if identity is not None and not is_storable(identity, 320):
        raise ReviewError(f"{name}: the identity is no name of a person")
    _check_grants(name, grants)
    token = f"wbr-{secrets.token_urlsafe(32)}"
    values = {"token_sha": token_digest(token), "removed_at": None}
    if identity is not None:
        values["identity"] = identity
    table = review_members.c
    member = connection.scalar(sa.select(table.id).where(table.name == name))
    if member is None:
        member = f"m-{secrets.token_hex(8)}"
        fresh = {"id": member, "name": name, "opt_out": "[]", "created_at": now, "severe_run": 0}
        connection.execute(sa.insert(review_members), fresh | values | {"since_severe": _NEVER_SEVERE})
    else:
        connection.execute(sa.update(review_members).where(table.id == member).values(values))
    held = {(g.role, g.tenant, g.queue) for g in _grants(connection, member)}
    fresh_grants = {(grant.role, grant.tenant, grant.queue) for grant in grants} - held
    for role, tenant, queue in sorted(fresh_grants):
        row = {"member": member, "role": role, "tenant": tenant, "queue": queue}
        connection.execute(sa.insert(review_grants), row)
    document = {"member": member, "name": name, "granted": sorted(map("/".join, fresh_grants)), "token": "new"}
    return member, token, AuditEvent(kind="review.member", actor="", document=document)


def _check_grants(name: str, grants: Sequence[Grant]) -> None:
    if not grants:
        raise ReviewError(f"{name}: no role; give at least one of {', '.join(ROLES)}")
    for grant in grants:
        if grant.role not in ROLES:
            raise ReviewError(f"role {grant.role!r}: {did_you_mean(grant.role, ROLES)}")
        for place in (grant.tenant, grant.queue):
            if place != "*" and not PLACE.match(place):
                raise ReviewError(f"{place!r}: the name of a tenant or queue, or * for all, is expected")


def remove_member(connection: Connection, name: str, *, roles: Sequence[Role] = (), now: str) -> AuditEvent:
    """Take roles away; without any named, all of them and the token: what the member held is open again.

    Raises:
        ReviewError: `unknown`: there is no such member.
    """
    found = find_member(connection, "name", name)
    if found is None:
        known = [member.name for member in members(connection) if member.removed_at is None]
        raise ReviewError(f"member {name!r}: not here; {did_you_mean(name, known)}", "unknown")
    grants, table = review_grants.c, review_members.c
    gone = sa.delete(review_grants).where(grants.member == found.id)
    connection.execute(gone.where(grants.role.in_(roles)) if roles else gone)
    if not roles:
        values = {"removed_at": now, "token_sha": None, "identity": None}
        connection.execute(sa.update(review_members).where(table.id == found.id).values(values))
        slots = review_slots.c
        free = {"state": "open", "member": None, "token": None, "lease_until": None}
        held = sa.update(review_slots).where(slots.member == found.id, slots.state.in_(("leased", "open")))
        connection.execute(held.values(free))
    document = {"member": found.id, "name": name, "revoked": sorted(roles) or "all"}
    return AuditEvent(kind="review.member", actor="", document=document)


def set_opt_out(connection: Connection, member: str, categories: Sequence[str]) -> None:
    """Which categories a person is not to be shown. Nobody asks why, so the audit has no row of it."""
    values = {"opt_out": canonical_json(sorted(set(categories)))}
    connection.execute(sa.update(review_members).where(review_members.c.id == member).values(values))


def token_digest(token: str) -> str:
    """SHA-256 of a token, in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _member(connection: Connection, row: sa.RowMapping) -> Member:
    return Member(
        id=row["id"],
        name=row["name"],
        grants=tuple(_grants(connection, row["id"])),
        opt_out=tuple(json.loads(row["opt_out"])),
        identity=row["identity"],
        created_at=row["created_at"],
        removed_at=row["removed_at"],
    )


def _grants(connection: Connection, member: str) -> list[Grant]:
    query = sa.select(review_grants).where(review_grants.c.member == member)
    rows = connection.execute(query.order_by(review_grants.c.role, review_grants.c.tenant, review_grants.c.queue))
    return [Grant(role=row.role, tenant=row.tenant, queue=row.queue) for row in rows]
