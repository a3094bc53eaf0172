"""Queue health: does the review keep up, and can its labels be trusted?"""

import streamlit as st

from dashboards import data, queue_health, show
from dashboards.access import person
from dashboards.sending import actor_of
from dashboards.show import Command
from safety.review.people import Actor
from safety.review.quality import Quality, quality
from safety.review.queue import ReviewQueue
from workbench.errors import ReviewError

QUESTION = "Does the review keep up, and do people agree?"
WORDS = {
    "open": "wait for a verdict",
    "conflict": "opinions differ",
    "escalated": "sent to a senior",
    "opinion open": "first opinions, not given yet",
    "opinion claimed": "first opinions, somebody is at it",
    "opinion done": "first opinions, given",
    "adjudication open": "to be settled by a senior",
    "adjudication claimed": "a senior is at it",
    "adjudication done": "settled by a senior",
    "priority": "it matters most: doubtful and severe",
    "diversity": "unlike the others",
    "random": "drawn by chance, so that rates can be estimated",
}
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
    _quality(_measured(str(data.project_folder()), data.version(), name, person().name, _asked=(queue, asker)))
    _exposure(queue_health.exposure(database))
    show.link("review", "Label what waits", ":material/rate_review:")


def _open(items: object, slots: object, strata: object, expired: int) -> None:
    st.header("What waits", anchor=False)
    rows = [
        {"what": what, "which": WORDS.get(str(which), str(which)), "how many": count}
        for what, found in (("texts", items), ("verdicts asked of people", slots), ("why a text waits", strata))
        for which, count in dict(found).items()  # type: ignore[call-overload]
    ]
    rows.append({"what": "texts that somebody took and let lie", "which": "free again", "how many": expired})
    show.table(rows, name="waiting", alt="Texts by state, verdicts asked by kind and state, and why open texts wait")


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


@st.cache_data(show_spinner="Measuring agreement", max_entries=16)
def _measured(root: str, version: int, name: str, who: str, _asked: tuple[ReviewQueue, Actor]) -> Quality:
    """By the store's version, which grows with each label; `who`, because names are shown to some people alone."""
    del root, version, who
    return quality(*_asked, name)


def _quality(found: Quality) -> None:
    """Agreement beyond chance, answers that are known, and what the model's view does to labels."""
    rows = [
        {
            "category": one.category or "none",
            "policy": one.policy_hash[:12],
            "coefficient": coefficient.metric.replace("_", " "),
            "value": _told(coefficient.value, coefficient.low, coefficient.high),
            "items": coefficient.items,
            "why not": coefficient.reason,
        }
        for one in found.categories
        for coefficient in (one.alpha, one.ac1)
    ]
    if rows:
        st.caption("Beyond chance: 1 is full agreement, 0 is what chance alone would give. With 95% intervals.")
        show.table(rows, name="coefficients", alt="Krippendorff's alpha and Gwet's AC1 by category")
    st.header("Known answers and hints", anchor=False)
    shares = [("known answers met", found.gold), ("labels as the model, its view shown before", found.bias.with_hint)]
    shares.append(("labels as the model, its view hidden", found.bias.without))
    rows = [{"what": what, "share": _told(one.value, one.low, one.high), "n": one.n} for what, one in shares if one.n]
    rows += [
        {"what": f"known answers met by {name}", "share": _told(one.value, one.low, one.high), "n": one.n}
        for name, one in found.gold_by_member.items()
    ]
    if rows:
        show.table(rows, name="quality", alt="Known answers met, and labels with and without the model's view")
    else:
        st.text("No item with a known answer, or with the model's view, was labelled yet.")


def _told(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _exposure(rows: list[dict[str, object]]) -> None:
    st.header("What people were shown today", anchor=False)
    if rows:
        show.table(rows, name="exposure", alt="Items that each person was shown today, by severity, and their cost")
    else:
        st.text("Nothing was shown to anybody today.")


if __name__ == "__main__":
    page()
