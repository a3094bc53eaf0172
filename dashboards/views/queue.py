"""Queue health: does the review keep up, and can its labels be trusted?"""

import streamlit as st

from dashboards import data, queue_health, show
from dashboards.access import person
from dashboards.sending import actor_of
from dashboards.show import Command
from safety.review.queue import ReviewQueue
from workbench.errors import ReviewError

QUESTION = "Does the review keep up, and do people agree?"
EMPTY = (
    Command(why="Doubts of a served checkpoint wait here:", line="workbench serve CHECKPOINT --policy default"),
    Command(
        why="Or send answers here that changed, from the page Items, of:",
        line="workbench eval CHECKPOINT --baseline BASE",
    ),
)


def page() -> None:
    """Draw the page."""
    queue = ReviewQueue.open(data.project())
    try:
        asker = actor_of(person())
        names = queue.queues(asker)
    except ReviewError as error:
        show.question(QUESTION, "Only members of the review queue see how it is doing.")
        show.plain(str(error))
        return
    if not names:
        show.question(QUESTION, "Nothing has come into the review queue yet.")
        show.empty("Texts come here where a policy wants a person to look, or where somebody sends them.", *EMPTY)
        return
    top = st.container()
    name = st.selectbox("Queue", names, key="queue", bind="query-params") if len(names) > 1 else names[0]
    stats = queue.stats(asker, name)
    database = data.project().store.database
    agreed = queue_health.agreement(database, name)
    waiting = sum(count for state, count in stats.items.items() if state != "decided")
    oldest = f", the oldest since {show.moment(stats.oldest_open)}" if stats.oldest_open else ""
    both = agreed[0]
    told = (
        f"two people agreed on {queue_health.tell(both.share)} of {both.items:,} items that both labelled"
        if both.share
        else "no item was labelled by two people yet, so nothing says how far they agree"
    )
    waits = f"{waiting:,} {'item waits' if waiting == 1 else 'items wait'}{oldest}"
    with top:
        show.question(QUESTION, f"{waits}; {stats.labels_last_day:,} labels were given in the last day; {told}.")
    _open(stats.items, stats.slots, stats.strata, stats.expired)
    _pace(queue_health.pace(database, name))
    _agreement(agreed)
    hints = queue_health.hints(database, name)
    if hints:
        st.header("What the model's view does to labels", anchor=False)
        show.table(hints, name="hints", alt="Labels with and without the model's view beforehand")
    _exposure(queue_health.exposure(database))
    show.link("review", "Review", ":material/rate_review:")


def _open(items: object, slots: object, strata: object, expired: int) -> None:
    st.header("What waits", anchor=False)
    rows = [
        {"what": what, "which": str(which), "how many": count}
        for what, found in (("items", items), ("opinions asked", slots), ("open, by how they came in", strata))
        for which, count in dict(found).items()  # type: ignore[call-overload]
    ]
    rows.append({"what": "leases", "which": "ended and not taken again", "how many": expired})
    show.table(rows, name="waiting", alt="Items by state, opinions by kind and state, open items by stratum")


def _pace(rows: list[dict[str, object]]) -> None:
    st.header("Pace", anchor=False)
    if rows:
        show.table(rows, name="pace", alt="Labels of each day and the mean seconds that one took")
    else:
        st.text(f"No label was given in the last {queue_health.DAYS} days.")


def _agreement(agreed: list[queue_health.Agreement]) -> None:
    st.header("Agreement", anchor=False)
    if not agreed[0].items:
        st.text("Some items and all critical ones are labelled by two people, blind; none of these is done yet.")
        return
    rows = [{"category": one.category, "n": one.items, "agreed": queue_health.tell(one.share)} for one in agreed]
    st.caption("Share of blind double labels that are the same, with its 95% interval; not corrected for chance.")
    show.table(rows, name="agreement", alt="How often two people gave the same label, by category")


def _exposure(rows: list[dict[str, object]]) -> None:
    st.header("What people were shown today", anchor=False)
    if rows:
        show.table(rows, name="exposure", alt="Items that each person was shown today, by severity, and their cost")
    else:
        st.text("Nothing was shown to anybody today.")


if __name__ == "__main__":
    page()
