"""How an act on the queue is done, and who the members are. Knows transactions, keys and tokens; knows no item.

An act is one transaction: what it changes, then its rows of the audit; after it the chain's head goes to the anchors.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.review import claiming, people
from safety.review.labelling import Done, checked_key
from safety.review.people import Actor, Grant, Member, Operator, Role, actor_name, require
from workbench.errors import ReviewError, RunError
from workbench.store.anchors import Anchors
from workbench.store.audit import AuditEvent, Head, append_within
from workbench.store.database import Database
from workbench.store.identity import canonical_json
from workbench.store.review_schema import review_keys, review_members

T = TypeVar("T")
_TRIES = 4
_ANCHORED = ("review.adjudicate", "review.member", "review.export", "review.policy", "review.settings")
"""Kinds of event after which the chain's head goes to the anchor file at once; after others now and then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A member with its token, which is shown this once."""

    member: Member
    token: str


class Membership:
    """Acts on a store, and the members who do them."""

    def __init__(self, database: Database, anchors: Anchors) -> None:
        self.database = database
        self.anchors = anchors
        # SQLite lets one writer in and makes the others try again at random, so some starve: threads take turns here.
        self._turn = threading.Lock() if database.is_sqlite else contextlib.nullcontext()

    def sign_in(self, token: str) -> Member:
        """Who a token belongs to.

        Raises:
            ReviewError: `unauthorised`.
        """
        return self._found("token_sha", people.token_digest(token), "no member has this token")

    def sign_in_as(self, identity: str) -> Member:
        """Who an identity provider's name belongs to. The caller vouches that the provider was asked.

        Raises:
            ReviewError: `unauthorised`.
        """
        return self._found("identity", identity, "no member is known by this identity")

    def local_member(self, name: str, *, now: datetime | None = None) -> Member:
        """Who works at this machine under a name, without a token: for pages that only this machine reaches.

        Where there is no member at all, the name becomes the first one, as reviewer and senior of every queue: a
        person who tries the workbench alone. Later names must have been added.

        Raises:
            ReviewError: `unauthorised`.
        """
        with self.database.read() as connection:
            found = people.find_member(connection, "name", name)
            nobody = connection.scalar(sa.select(review_members.c.id).limit(1)) is None
        if found is not None:
            return found
        if not nobody:
            raise ReviewError(f"{name}: no such member; add one: workbench review members add {name}", "unauthorised")
        grants = [Grant(role="reviewer"), Grant(role="senior")]
        return self.add_member(Operator(name=f"local-{name}"), name, grants, now=now).member

    def member(self, member: str) -> Member:
        """A member by id, as it is now."""
        with self.database.read() as connection:
            return people.load_member(connection, member)

    def members(self, actor: Actor) -> list[Member]:
        """All members, removed ones too. For admins and the operator."""
        with self.database.read() as connection:
            require(connection, actor, "grant", None)
            return people.members(connection)

    def add_member(
        self,
        actor: Actor,
        name: str,
        grants: Sequence[Grant],
        *,
        identity: str | None = None,
        now: datetime | None = None,
    ) -> Joined:
        """Make a member, or give one more roles; the token is a new one, and an old one stops working."""

        def act(connection: Connection, events: list[AuditEvent]) -> Joined:
            _may_grant(connection, actor, grants)
            member, token, event = people.add_member(connection, name, grants, identity=identity, now=iso_of(now))
            events.append(event)
            return Joined(member=people.load_member(connection, member), token=token)

        return self.act(actor, act)

    def remove_member(
        self, actor: Actor, name: str, *, roles: Sequence[Role] = (), now: datetime | None = None
    ) -> None:
        """Take roles from a member; none named: all, and the token. What it held is open again."""

        def act(connection: Connection, events: list[AuditEvent]) -> None:
            require(connection, actor, "grant", None)
            events.append(people.remove_member(connection, name, roles=roles, now=iso_of(now)))

        self.act(actor, act)

    def opt_out(self, member: Actor, categories: Sequence[str]) -> Member:
        """Which categories this person is not to be shown; replaces what was said before."""
        who = actor_name(member)

        def act(connection: Connection, _: list[AuditEvent]) -> Member:
            people.load_member(connection, who, lock=True)
            people.set_opt_out(connection, who, categories)
            return people.load_member(connection, who)

        return self.act(member, act)

    def once(
        self,
        actor: Actor,
        key: str | None,
        request: object,
        act: Callable[[Connection, list[AuditEvent]], Done],
    ) -> Done:
        """Do it under an idempotency key: the same call again gives the same answer."""
        if key is None:
            return self.act(actor, act)
        checked_key(key)
        who, digest = actor_name(actor), hashlib.sha256(canonical_json(request).encode()).hexdigest()
        table = review_keys.c

        def guarded(connection: Connection, events: list[AuditEvent]) -> Done:
            found = (
                connection.execute(sa.select(review_keys).where(table.member == who, table.key == key))
                .mappings()
                .first()
            )
            if found is not None:
                if found["request_sha"] != digest:
                    raise ReviewError("this key was used for another act; use a new one", "key_reused")
                return Done(**json.loads(found["response"]))
            done = act(connection, events)
            row = {"member": who, "key": key, "request_sha": digest, "response": canonical_json(asdict(done))}
            connection.execute(sa.insert(review_keys), row | {"at": iso_of(None)})
            return done

        return self.act(actor, guarded)

    def act(self, actor: Actor, act: Callable[[Connection, list[AuditEvent]], T], *, durable: bool = True) -> T:
        """One transaction: the act, then its audit rows, then (outside) the anchor. Tried again after a deadlock."""
        for left in reversed(range(_TRIES)):
            events: list[AuditEvent] = []
            head: Head | None = None
            try:
                with self._turn, self.database.write(counts=False, durable=durable) as connection:
                    done = act(connection, events)
                    if events:  # last, because on PostgreSQL it lets one writer through at a time
                        named = [replace(event, actor=actor_name(actor)) for event in events]
                        head = append_within(connection, named)
            except RunError as error:
                if left and _is_collision(error):
                    continue
                raise
            if head is not None:
                at_once = any(event.kind in _ANCHORED for event in events)
                (self.anchors.add if at_once else self.anchors.offer)(head)
            return done
        raise AssertionError("unreachable")

    def _found(self, column: Any, value: str, refusal: str) -> Member:
        with self.database.read() as connection:
            found = people.find_member(connection, column, value)
        if found is None:
            raise ReviewError(refusal, "unauthorised")
        return found


def _is_collision(error: RunError) -> bool:
    """Two acts stood in each other's way: a deadlock, or a row that the other was faster to write."""
    origin = getattr(error.__cause__, "orig", None)
    return getattr(origin, "sqlstate", None) in ("40P01", "40001", "23505")


def _may_grant(connection: Connection, actor: Actor, grants: Sequence[Grant]) -> None:
    """An admin of one tenant gives roles in that tenant alone."""
    for tenant, queue in sorted({(grant.tenant, grant.queue) for grant in grants}):
        require(connection, actor, "grant", None if tenant == queue == "*" else f"{tenant}/{queue}")


def moment_of(now: datetime | None) -> datetime:
    """A time in UTC; None is the present."""
    return datetime.now(UTC) if now is None else now.astimezone(UTC)


def iso_of(now: datetime | None) -> str:
    """The same as the store writes it."""
    return claiming.iso(moment_of(now))
