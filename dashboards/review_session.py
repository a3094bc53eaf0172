"""One person's window on the review queue: what is held, hidden and just done. Knows the queue; draws nothing.

A press carries the token of the item it was made for. It counts if that item is still the one at hand, has stood there
for 0.4 s and is not hidden; so a second press of a key that was meant for the item before never labels the next one.
What the queue refuses becomes a notice in words, and the item that was held is told to be lost where it is.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from safety.compile import KEYS
from safety.review.queue import Answer, Claim, Done, Idle, Member, Progress, ReviewQueue, Submitted
from safety.review.views import Decision, ItemView, Kind, ModelView
from workbench.errors import ReviewError, WorkbenchError
from workbench.publish.text import reveal_line

T = TypeVar("T")
SETTLE_S = 0.4
"""A press within this time after an item came up was meant for the one before: nobody reads that fast."""
AWAY_S = 600.0
"""Without any press for so long the lease is left to run out: who has gone home must not keep an item from others."""
FIRST_LOOK = 280
"""Characters of a severe text that are shown first; often they tell enough."""
REMEMBERED = 10
KEY = {what: key for key, what in KEYS.items()}
"""What can be done -> the key that does it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to be told once."""

    tone: Literal["good", "info", "warn", "bad"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A label that was given in this window."""

    label: str
    item: str
    start: str
    """How the text begins; empty where it was hidden."""
    category: str
    decision: Decision
    categories: tuple[str, ...]
    state: str
    """What became of the item: `open` (another opinion is needed), `conflict`, `escalated`, `decided`."""
    model: ModelView | None
    """What the model said; None while others label the item blind."""
    similar: int
    """Near-duplicates that wait for the same answer."""
    kind: Kind
    titles: Mapping[str, str]
    """Category -> its title in the policy."""

    @property
    def agreement(self) -> Literal["agrees", "differs", "unknown"]:
        """Whether the model leans the same way."""
        return agreement(self.model, self.decision, self.categories, self.category)


@dataclass(slots=True)
class Desk:
    """What one window holds. `clock` counts seconds, `now` tells the time."""

    queue: ReviewQueue
    member: Member
    place: str
    kind: Kind
    session: str
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    hide_all: bool = False
    """Hide every text until asked for, not the severe ones alone."""
    held: Claim | None = None
    idle: Idle | None = None
    offer: Labelled | None = None
    """A label with near-duplicates that could have it too: nothing is claimed until that is answered."""
    lost: str = ""
    """Why an item that was held is gone."""
    refused: str = ""
    """Why nothing can be claimed, where the queue gives no item and no reason to rest."""
    looks: int = 0
    """How often the text at hand was asked for."""
    shown_at: float | None = None
    """When the item at hand was drawn whole; None: not yet."""
    touched_at: float = 0.0
    last: Labelled | None = None
    labelled: deque[Labelled] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    notices: list[Notice] = field(default_factory=list)
    panels: set[str] = field(default_factory=set)
    """What is unfolded: `help`, `rules`."""
    note: str = ""
    """Goes with the label of the item at hand, or is the reason of a skip or an escalation."""
    asking: str = ""
    """What is being typed or chosen: `note`, `several`, or the id of the label to appeal. No key labels meanwhile:
    letters of a note must never become verdicts."""

    def take(self) -> None:
        """Claim what comes next; after a reload, what this window held."""
        self.touched_at = self.clock()
        self.lost = self.refused = ""
        self.idle = self.offer = None
        before = self.held.token if self.held else None
        try:
            got = self.queue.claim(self.member.id, self.place, self.now(), kind=self.kind, session=self.session)
        except ReviewError as error:
            self.held, self.refused = None, str(error)
            return
        if isinstance(got, Idle):
            self.held, self.idle = None, got
            return
        self.held = got
        if got.token != before:
            self._fresh()

    def remember(self) -> None:
        """What this person labelled last, also in another window or before the page was loaded again."""
        try:
            given = self.queue.own_labels(self.member.id, self.place, REMEMBERED)
        except ReviewError:
            return
        for one in reversed(given):
            start = "" if self.hide_all or one.severe else reveal_line(one.text or "")[:80]
            self.labelled.appendleft(
                Labelled(
                    label=one.label,
                    item=one.item,
                    start=start,
                    category=one.category,
                    decision=one.decision,
                    categories=one.categories,
                    state=one.state,
                    model=None,
                    similar=0,
                    kind=one.kind,
                    titles=one.titles,
                )
            )

    def displayed(self) -> None:
        """The item at hand was drawn."""
        if self.held is not None and self.shown_at is None:
            self.shown_at = self.clock()

    # The text at hand -------------------------------------------------------------------------------------------------

    @property
    def view(self) -> ItemView | None:
        """The item at hand."""
        return self.held.view if self.held else None

    @property
    def guarded(self) -> bool:
        """Whether the text at hand is shown by and by."""
        return self.view is not None and (self.hide_all or self.view.severe)

    @property
    def hidden(self) -> bool:
        """Whether the text at hand waits to be asked for."""
        return self.guarded and self.looks == 0 and bool(self.view and self.view.text is not None)

    def visible(self) -> tuple[str, int]:
        """What may be seen of the text at hand, and how many characters are left out after it."""
        text = (self.view.text if self.view else None) or ""
        if self.hidden:
            return "", len(text)
        if not self.guarded or self.looks > 1 or len(text) <= FIRST_LOOK * 3 // 2:
            return text, 0
        cut = text.rfind(" ", FIRST_LOOK // 2, FIRST_LOOK)
        cut = FIRST_LOOK if cut < 0 else cut
        return text[:cut], len(text) - cut

    def look(self, token: str) -> None:
        """Show the text, or more of it."""
        if self._is_current(token):
            self.looks += 1

    # What a person does -----------------------------------------------------------------------------------------------

    def judge(self, token: str, decision: Decision, categories: Sequence[str] = ()) -> None:
        """Label the item at hand and go on to the next one."""
        held = self.held
        if held is None or not self._counts(token):
            return
        view = held.view
        if self.hidden:
            self.notices.append(Notice("warn", f"Not labelled: the text is hidden. Press {KEY['reveal']} to see it."))
            return
        if decision == "violates" and not categories and not view.category:
            self.notices.append(Notice("warn", "Which rule? None is in question here; press the number of one."))
            return
        answer = Answer(
            decision=decision,
            categories=tuple(categories),
            note=self.note,
            ms_spent=round((self.clock() - (self.shown_at or self.clock())) * 1000),
            policy_hash=view.policy_hash,
        )
        done = self._try(lambda: self.queue.submit(self.member.id, token, answer, self.now()))
        if done is None:
            return
        self.last = self._remember(view, answer, done)
        if done.similar:  # asked before anything else is claimed: the next text would be one of them
            self.held, self.idle, self.offer = None, None, self.last
            return
        self.take()

    def skip(self, token: str) -> None:
        """Give the item to others for good."""
        if self._counts(token):
            self._leave(
                lambda: self.queue.skip(self.member.id, token, self.note, self.now()), "Skipped: others get it."
            )

    def escalate(self, token: str) -> None:
        """Let a senior decide the item."""
        if self._counts(token):
            self._leave(
                lambda: self.queue.escalate(self.member.id, token, self.note, self.now()), "A senior decides it."
            )

    def stop(self) -> None:
        """End the work: what is held goes back. Nobody is asked why."""
        held, self.held = self.held, None
        self.idle, self.offer, self.last, self.lost = None, None, None, ""
        if held is not None:
            self._try(lambda: self.queue.hand_back(self.member.id, held.token))
            self.lost = ""

    def undo(self, label: str | None = None) -> None:
        """Take a label back (default: the last one); its item is at hand again, and what was at hand comes after."""
        self.touched_at = self.clock()
        claim = self._try(lambda: self.queue.undo(self.member.id, label, self.now()))
        if claim is None:
            return
        gone = next((one for one in self.labelled if one.item == claim.view.id and label in (None, one.label)), None)
        if gone is not None:
            self.labelled.remove(gone)
        self.held, self.idle, self.offer, self.last, self.lost, self.refused = claim, None, None, None, "", ""
        self._fresh()
        self.looks = 1  # it was read before
        self.notices.append(Notice("info", "Taken back: this is the item you labelled. Give it a verdict again."))

    def apply_to_similar(self) -> None:
        """Give the near-duplicates of the label just given its outcome, and go on."""
        offer = self.offer
        if offer is None:
            return
        key = f"cluster:{offer.label}"
        done = self._try(lambda: self.queue.apply_to_cluster(self.member.id, offer.item, self.now(), key=key))
        if done is not None:
            self.notices.append(Notice("good", f"Applied to {len(done.facts['items'])} more."))
        self.take()

    def appeal(self, item: str, reason: str = "") -> None:
        """Put a decision before a senior who had no part in it."""
        self.touched_at, self.asking = self.clock(), ""
        done = self._try(lambda: self.queue.appeal(self.member.id, item, reason.strip(), self.now()))
        if done is not None:
            self.notices.append(Notice("good", "Appealed: a senior who had no part in it will look at it."))

    def ask(self, what: str) -> None:
        """Begin to type or to choose something."""
        self.touched_at, self.asking = self.clock(), what

    def noted(self, note: str) -> None:
        """The note as it was typed."""
        self.touched_at, self.note, self.asking = self.clock(), note.strip(), ""

    def toggle(self, panel: str) -> None:
        """Fold or unfold a panel."""
        self.panels ^= {panel}

    # The lease --------------------------------------------------------------------------------------------------------

    @property
    def is_away(self) -> bool:
        """Whether nobody has pressed anything for long."""
        return self.clock() - self.touched_at > AWAY_S

    def left_s(self) -> float:
        """Seconds until the lease ends; negative once it has."""
        return self.until_s(self.held.lease_until) if self.held else 0.0

    def until_s(self, iso: str | None) -> float:
        """Seconds until a time; 0 where none is given."""
        return (datetime.fromisoformat(iso) - self.now()).total_seconds() if iso else 0.0

    def keep(self, token: str) -> None:
        """Somebody is there after all: extend the lease."""
        if self._is_current(token):
            self.touched_at = self.clock()
            self.renew()

    def renew(self) -> bool:
        """Extend the lease while somebody is there; False: the item is lost, and the page must be drawn anew."""
        held = self.held
        if held is None or self.is_away:
            return True
        until = self._try(lambda: self.queue.heartbeat(self.member.id, held.token, self.now()))
        if until is not None:
            self.held = replace(held, lease_until=until)
        return self.held is not None

    def progress(self) -> Progress:
        """This person's day in this queue."""
        return self.queue.progress(self.member.id, self.place, self.now())

    # Inside -----------------------------------------------------------------------------------------------------------

    def _fresh(self) -> None:
        self.looks, self.shown_at, self.note, self.asking = 0, None, "", ""

    def _is_current(self, token: str) -> bool:
        return self.held is not None and self.held.token == token

    def _counts(self, token: str) -> bool:
        if not self._is_current(token):
            return False
        self.touched_at = self.clock()
        if self.shown_at is None or self.clock() - self.shown_at < SETTLE_S:
            self.notices.append(Notice("warn", "Ignored: this item had only just come up. Read it, then press again."))
            return False
        return True

    def _leave(self, act: Callable[[], Done], told: str) -> None:
        if self._try(act) is not None:
            self.last = None
            self.notices.append(Notice("info", told))
            self.take()

    def _remember(self, view: ItemView, answer: Answer, done: Submitted) -> Labelled:
        """The newest comes first."""
        start = "" if self.guarded else reveal_line(view.text or "")[:80]
        one = Labelled(
            label=done.label,
            item=done.item,
            start=start,
            category=view.category,
            decision=answer.decision,
            categories=answer.categories,
            state=done.state,
            model=done.reveal,
            similar=done.similar,
            kind=view.kind,
            titles={rule.category: rule.title for rule in view.rules},
        )
        self.labelled.appendleft(one)
        return one

    def _try(self, act: Callable[[], T]) -> T | None:
        """Do it, or say in words why it was not done. What was lost is dropped; what was changed is read again."""
        try:
            return act()
        except ReviewError as error:
            if error.code == "lease_lost":
                self.held, self.idle, self.lost, self.asking = None, None, str(error), ""
            elif error.code in ("rule_changed", "key_reused"):
                self.notices.append(Notice("warn", str(error)))
                self.take()
                self.shown_at = None
            else:
                self.notices.append(Notice("bad", str(error)))
        except WorkbenchError as error:  # a full disk, a database that is away: nothing was written, the item is kept
            self.notices.append(Notice("bad", f"Not written: {error} Press again."))
        return None


def agreement(
    model: ModelView | None, decision: Decision, categories: Sequence[str], category: str
) -> Literal["agrees", "differs", "unknown"]:
    """Whether the model leans the way a person decided: above or below one half for the category in question.

    >>> view = ModelView(probability=0.9, uncertainty=None, action="log", model="m", source="s", scores=None)
    >>> agreement(view, "violates", (), "hate"), agreement(view, "allowed", (), "hate")
    ('agrees', 'differs')
    >>> agreement(view, "violates", ("spam",), "hate"), agreement(view, "unsure", (), "hate")
    ('differs', 'unknown')
    """
    if model is None or model.probability is None or decision not in ("violates", "allowed"):
        return "unknown"
    says = decision == "violates" and (not categories or category in categories)
    return "agrees" if (model.probability >= 0.5) == says else "differs"
