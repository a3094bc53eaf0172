"""The review queue: give people the texts that need a person, one opinion at a time, and keep what they say.

    queue = ReviewQueue.open(project)
    me = queue.sign_in(token)                       # or sign_in_as(identity) after OIDC, or local_member(name)
    got = queue.claim(me, "default")                # Claim | Idle
    if isinstance(got, Claim):
        show(got.view)                              # text, context, rule; hint only if view.hint is there
        queue.heartbeat(me, got.token)              # every minute while the page is open
        done = queue.submit(me, got.token, Answer(decision="violates", policy_hash=got.view.policy_hash))
        show(done.reveal)                           # the model's view, now that the label is in
        if done.similar: ...                        # offer apply_to_cluster(me, done.item)
    queue.undo(me)                                  # the last label, again as a Claim

What a page must know:

- Each act takes the member, whose rights are looked up again in the act's own transaction.
- `claim` again while something is held gives the same item (a page that was loaded again); pass a `session` of your own
  to keep two windows of one person apart.
- `Idle` says why there is nothing: `empty`, `break` (until when), `budget` (of severity, for today), `opted_out`.
- A label after its lease has ended is taken as long as nobody else has the slot; else `ReviewError` with the code
  `lease_lost`, and nothing of the other person's is touched.
- The token is the idempotency key of `submit`: pressing twice writes one label. Another label for the same slot is
  refused (`key_reused`) until the first is undone.
- `progress` is what stands at the side: labelled today, exposure, when the next break is due.

Queues are named `tenant/name`; `"default"` alone is `default/default`. Roles are in `safety.review.people`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.resolved import ResolvedPolicy
from safety.review import claiming, labelling, overview, people, settling, views
from safety.review.acts import Joined, Membership, iso_of, moment_of
from safety.review.claiming import Claim, Idle
from safety.review.labelling import Answer, Done, Submitted
from safety.review.overview import Listed, OwnLabel, Progress, Rescore, Stats
from safety.review.people import Actor, Grant, Member, Operator, actor_name, require
from safety.review.views import Kind, Opinion
from workbench.errors import ReviewError
from workbench.store import Project
from workbench.store.anchors import FILE_NAME, Anchors
from workbench.store.audit import AuditEvent, AuditRow, audit_rows
from workbench.store.database import Database
from workbench.store.identity import canonical_json
from workbench.store.review_schema import review_guidelines, review_queues
from workbench.store.reviews import PLACE, QueueSettings, ReviewEntry, ReviewItem, add_reviews, queue_settings

__all__ = [
    "Answer",
    "Claim",
    "Done",
    "Grant",
    "Idle",
    "Joined",
    "Member",
    "Operator",
    "OwnLabel",
    "Progress",
    "Rescore",
    "ReviewQueue",
    "Submitted",
    "queue_id",
]


def queue_id(name: str) -> str:
    """`tenant/name` of a queue; without a tenant it is that of `default`.

    Raises:
        ReviewError: `invalid`: no name of a queue.
    """
    tenant, slash, place = name.rpartition("/")
    tenant = tenant if slash else "default"
    if not PLACE.match(tenant) or not PLACE.match(place):
        raise ReviewError("a queue is named NAME or TENANT/NAME: letters, digits and . _ - in each")
    return f"{tenant}/{place}"


class ReviewQueue(Membership):
    """The queue on a store. Threads may share it; each act is one transaction. Sign-in and members: `Membership`."""

    @classmethod
    def open(cls, project: Project) -> "ReviewQueue":
        """The queue of a project; the audit's anchors are in its folder."""
        return cls(project.store.database, Anchors(project.root / FILE_NAME))

    @classmethod
    def over(cls, database: Database, folder: Path) -> "ReviewQueue":
        """The queue on a database, with the anchors in a folder."""
        return cls(database, Anchors(folder / FILE_NAME))

    # What goes in -----------------------------------------------------------------------------------------------------

    def add(self, actor: Actor, entries: Sequence[ReviewEntry]) -> int:
        """Put texts into their queues; how many are new. In one transaction: all or nothing."""

        def act(connection: Connection, _: list[AuditEvent]) -> int:
            for queue in sorted({entry.queue_id for entry in entries}):
                require(connection, actor, "add", queue)
            for queue in sorted({entry.queue_id for entry in entries if entry.gold is not None}):
                if not isinstance(actor, Operator):
                    require(connection, actor, "gold", queue)
            return add_reviews(connection, entries)

        return self.act(actor, act)

    def set_priorities(self, actor: Actor, rows: Sequence[Rescore]) -> int:
        """Write what a ranker says of items that are open; how many there were. Leased ones keep their place."""

        def act(connection: Connection, _: list[AuditEvent]) -> int:
            for queue in overview.queues_of(connection, [row.item for row in rows]):
                require(connection, actor, "prioritise", queue)
            return overview.rescore(connection, rows)

        return self.act(actor, act, durable=False)

    def put_guideline(self, actor: Actor, policy: ResolvedPolicy, *, now: datetime | None = None) -> str:
        """Keep a policy's rule texts, which reviewers of its items read; its hash."""

        def act(connection: Connection, events: list[AuditEvent]) -> str:
            if not isinstance(actor, Operator):
                _any_queue(connection, actor, "propose")
            proposer = None if isinstance(actor, Operator) else actor_name(actor)
            if views.put_guideline(connection, policy, now=iso_of(now), proposed_by=proposer):
                document = {"policy": policy.name, "policy_hash": policy.hash, "act": "guideline"}
                events.append(AuditEvent(kind="review.policy", actor="", document=document))
            return policy.hash

        return self.act(actor, act)

    def follow_policy(self, actor: Actor, queue: str, policy: ResolvedPolicy) -> None:
        """Take what a policy's `review` says of opinions into a queue in which nobody has set it: `need`, and the share
        that two people label (`double_label`). The first policy decides; items that are there keep theirs."""
        place = queue_id(queue)

        def act(connection: Connection, events: list[AuditEvent]) -> None:
            require(connection, actor, "add", place)
            queue_settings(connection, place)  # made, if it is not there
            row = review_queues.c.id == place
            given = json.loads(connection.scalar(sa.select(review_queues.c.settings).where(row)) or "{}")
            said = {"need": policy.review.get("need"), "double_share": policy.review.get("double_label")}
            changes = {name: value for name, value in said.items() if value is not None and name not in given}
            if not changes:
                return
            connection.execute(sa.update(review_queues).where(row).values(settings=canonical_json(given | changes)))
            document = {"queue": place, "changed": changes, "policy": policy.name}
            events.append(AuditEvent(kind="review.settings", actor="", document=document))

        self.act(actor, act)

    def swap_policy(self, actor: Actor, queue: str, *, old: str, new: str, now: datetime | None = None) -> int:
        """Put the items of a queue that nobody has labelled yet under another policy; how many.

        Takes an approver who is not the one who put the new rule texts in. Labels that were given stay under the
        policy that was shown for them.
        """
        place = queue_id(queue)

        def act(connection: Connection, events: list[AuditEvent]) -> int:
            approver = require(connection, actor, "approve", place)
            table = review_guidelines.c
            row = connection.execute(sa.select(review_guidelines).where(table.hash == new)).mappings().first()
            if row is None:
                raise ReviewError(f"policy {new[:12]}: its rule texts are not here; put them in first", "unknown")
            if approver is not None and row["proposed_by"] == approver.id:
                raise ReviewError("a policy is approved by somebody else than who proposed it", "forbidden")
            count = overview.swap_policy(connection, place, old, new)
            connection.execute(sa.update(review_queues).where(review_queues.c.id == place).values(policy_hash=new))
            document = {"act": "swap", "queue": place, "old": old, "new": new, "items": count}
            events.append(AuditEvent(kind="review.policy", actor="", document=document))
            return count

        return self.act(actor, act)

    def configure(self, actor: Actor, queue: str, **changes: Any) -> QueueSettings:
        """Change settings of a queue (fields of `QueueSettings`); it is made if it is not there. Items keep theirs."""
        place = queue_id(queue)

        def act(connection: Connection, events: list[AuditEvent]) -> QueueSettings:
            require(connection, actor, "configure", place)
            unknown = set(changes) - set(QueueSettings.__dataclass_fields__)
            if unknown:
                raise ReviewError(f"{', '.join(sorted(unknown))}: no setting of a queue")
            settings = replace(queue_settings(connection, place), **changes)
            values = {"settings": canonical_json(settings)}
            connection.execute(sa.update(review_queues).where(review_queues.c.id == place).values(values))
            document = {"queue": place, "changed": changes}
            events.append(AuditEvent(kind="review.settings", actor="", document=document))
            return settings

        return self.act(actor, act)

    # A person's work --------------------------------------------------------------------------------------------------

    def claim(
        self,
        member: Actor,
        queue: str = "default",
        now: datetime | None = None,
        *,
        kind: Kind = "opinion",
        session: str = "",
    ) -> Claim | Idle:
        """Lease the next slot for this person, for ten minutes; or say why there is none.

        `kind` "adjudication" gives a senior the items that others disagree about, escalated or appealed.

        Raises:
            ReviewError: `forbidden`; `too_many`: this person holds too many items in other sessions.
        """
        who, place, moment = actor_name(member), queue_id(queue), moment_of(now)
        session = hashlib.sha256(canonical_json(session).encode()).hexdigest()[:16] if session else ""
        return self.act(member, lambda c, _: claiming.claim(c, who, place, kind, session, moment), durable=False)

    def heartbeat(self, member: Actor, token: str, now: datetime | None = None) -> str:
        """Extend a lease; its new end. Raises `lease_lost` once somebody else has the slot."""
        who, moment = actor_name(member), moment_of(now)
        return self.act(member, lambda c, _: claiming.heartbeat(c, who, token, moment), durable=False)

    def submit(
        self,
        member: Actor,
        token: str,
        answer: Answer,
        now: datetime | None = None,
        *,
        key: str | None = None,
    ) -> Submitted:
        """Write the label of a claimed slot. Again with the same key (default: the token): the same, nothing twice.

        A senior's label of an adjudication slot decides the item.

        Raises:
            ReviewError: `lease_lost`, `key_reused`, `rule_changed`, `forbidden`, or `invalid`.
        """
        who, moment = actor_name(member), moment_of(now)
        return self.act(member, lambda c, e: labelling.submit(c, who, token, answer, key, moment, e))

    def skip(
        self, member: Actor, token: str, reason: str = "", now: datetime | None = None, *, key: str | None = None
    ) -> Done:
        """Give an item to others, and never be shown it again. No reason has to be given."""
        who, moment = actor_name(member), moment_of(now)
        return self.once(
            member, key, ("skip", token, reason), lambda c, e: labelling.skip(c, who, token, reason, moment, e)
        )

    def hand_back(self, member: Actor, token: str) -> Done:
        """End a lease early, as at the end of a shift; the item may come again."""
        who = actor_name(member)
        return self.act(member, lambda c, _: labelling.hand_back(c, who, token), durable=False)

    def escalate(
        self, member: Actor, token: str, reason: str = "", now: datetime | None = None, *, key: str | None = None
    ) -> Done:
        """Let a senior decide the item instead; no more first opinions are asked for."""
        who, moment = actor_name(member), moment_of(now)
        return self.once(
            member, key, ("escalate", token, reason), lambda c, e: labelling.send_up(c, who, token, reason, moment, e)
        )

    def undo(
        self, member: Actor, label: str | None = None, now: datetime | None = None, *, key: str | None = None
    ) -> Claim:
        """Take one of one's last ten labels back (default: the last one); its slot is leased to this person again.

        Raises:
            ReviewError: `too_late`: a senior has the item, or more than ten labels came after it.
        """
        who, moment = actor_name(member), moment_of(now)
        if key is None:
            return self.act(member, lambda c, e: labelling.undo(c, who, label, moment, e))

        def act(connection: Connection, events: list[AuditEvent]) -> Done:
            claim = labelling.undo(connection, who, label, moment, events)
            return Done(item=claim.view.id, state="open", facts={"token": claim.token})

        done = self.once(member, key, ("undo", label), act)
        return self._held(who, str(done.facts["token"]))

    def apply_to_cluster(
        self, member: Actor, item: str, now: datetime | None = None, *, key: str | None = None
    ) -> Done:
        """Give an item's near-duplicates that nobody has looked at the same outcome. `facts["items"]`: which.

        Items of the exploration stream and gold are left to people: estimates rest on them.
        """
        moment = moment_of(now)

        def act(connection: Connection, events: list[AuditEvent]) -> Done:
            found = self._item(connection, member, "cluster", item)
            applied = settling.apply_to_cluster(connection, found, moment)
            events.append(settling.event("cluster", found, applied=applied))
            return Done(item=item, state="decided", facts={"items": applied})

        return self.once(member, key, ("cluster", item), act)

    def appeal(
        self, actor: Actor, item: str, reason: str = "", now: datetime | None = None, *, key: str | None = None
    ) -> Done:
        """Put a decision before a senior who had no part in it. `facts["appeal"]`: the new item's id."""
        moment = moment_of(now)

        def act(connection: Connection, events: list[AuditEvent]) -> Done:
            found = self._item(connection, actor, "appeal", item)
            fresh = settling.appeal(connection, found, reason, moment)
            events.append(settling.event("appeal", found, appeal=fresh, given=bool(reason)))
            return Done(item=item, state=found.state, facts={"appeal": fresh})

        return self.once(actor, key, ("appeal", item, reason), act)

    # Looking ----------------------------------------------------------------------------------------------------------

    def item(self, actor: Actor, item: str) -> ReviewItem:
        """All that is known of an item. For auditors; whoever holds a lease has the view."""
        with self.database.read() as connection:
            return self._item(connection, actor, "read", item)

    def opinions(self, actor: Actor, item: str) -> list[Opinion]:
        """What was said of an item, without names. For auditors."""
        with self.database.read() as connection:
            return views.opinions(connection, self._item(connection, actor, "read", item))

    def progress(self, member: Actor, queue: str = "default", now: datetime | None = None) -> Progress:
        """What a page shows at its side."""
        place = queue_id(queue)
        with self.database.read() as connection:
            person = require(connection, member, "stats", place)
            assert person is not None
            return overview.progress(connection, person, place, moment_of(now))

    def stats(self, actor: Actor, queue: str = "default", now: datetime | None = None) -> Stats:
        """How many items are in which state, how old the oldest is. Counts rows: not for every click."""
        place = queue_id(queue)
        with self.database.read() as connection:
            require(connection, actor, "stats", place)
            return overview.stats(connection, place, moment_of(now))

    def listed(
        self, actor: Actor, queue: str = "default", *, state: str | None = None, limit: int = 100
    ) -> list[Listed]:
        """Items by priority, without their texts; `state` None: all that are not decided. Reads the whole queue."""
        place = queue_id(queue)
        with self.database.read() as connection:
            require(connection, actor, "stats", place)
            return overview.listed(connection, place, state, limit)

    def audit(self, actor: Actor, *, after: int = 0, limit: int = 100) -> list[AuditRow]:
        """Rows of the audit behind number `after`. For auditors of everything and the operator."""
        with self.database.read() as connection:
            require(connection, actor, "audit", None)
        return audit_rows(self.database, after=after, limit=min(limit, 1_000))

    def queues(self, actor: Actor) -> list[str]:
        """The queues in which somebody has a role."""
        with self.database.read() as connection:
            found = connection.scalars(sa.select(review_queues.c.id).order_by(review_queues.c.id))
            return [queue for queue in found if people.may(connection, actor, "stats", queue)]

    def own_labels(self, member: Actor, queue: str = "default", limit: int = 10) -> list[OwnLabel]:
        """A person's last labels that stand, the newest first: what `undo` may take back."""
        place = queue_id(queue)
        with self.database.read() as connection:
            person = require(connection, member, "label", place)
            assert person is not None
            return overview.own_labels(connection, person, place, limit)

    def categories(self, actor: Actor, queue: str = "default") -> list[str]:
        """The categories of a queue's texts: what somebody may want not to be shown."""
        place = queue_id(queue)
        with self.database.read() as connection:
            require(connection, actor, "stats", place)
            return overview.categories(connection, place)

    # How an act is done -----------------------------------------------------------------------------------------------

    def _item(self, connection: Connection, actor: Actor, act: people.Act, item: str) -> ReviewItem:
        """The item, if the actor has the right in its queue; else the same refusal as for one that is not there."""
        try:
            found = views.load_item(connection, item, lock=act in ("cluster", "appeal"))
            require(connection, actor, act, found.entry.queue_id)
        except ReviewError as error:
            if error.code == "unknown" and people.may(connection, actor, act, "*/*"):
                raise
            raise ReviewError(f"item {item[:12]}: no such item, or no right to it", "forbidden") from None
        return found

    def _held(self, member: str, token: str) -> Claim:
        with self.database.read() as connection:
            slot = claiming.slot_of(connection, member, token)
            settings = claiming.load_settings(connection, slot["queue"])
            item = views.load_item(connection, slot["item_id"])
            view = views.item_view(connection, item, slot["n"], slot["kind"], settings, waiting=0)
        return Claim(token=token, view=view, lease_until=slot["lease_until"], resumed=True)


def _any_queue(connection: Connection, actor: Actor, act: people.Act) -> None:
    member = people.load_member(connection, actor_name(actor))
    if not any(grant.role in people.PERMITTED[act] for grant in member.grants):
        require(connection, actor, act, None)
