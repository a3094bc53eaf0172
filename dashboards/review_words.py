"""What the review page says: verdicts, the day so far, why there is nothing. Pure text; knows no Streamlit.

What others wrote comes out of here as plain text with hidden characters visible, or escaped where Markdown is read.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dashboards.review_session import Labelled
from safety.review.queue import Idle, Progress
from safety.review.views import ItemView, ModelView, Opinion
from workbench.publish.text import reveal, reveal_line

DECISIONS: Mapping[str, str] = {
    "allowed": "allowed",
    "violates": "violates",
    "unsure": "unsure",
    "cannot_judge": "cannot be judged",
}
STATES: Mapping[str, str] = {
    "open": "It still needs somebody else's opinion.",
    "conflict": "Opinions differ, so a senior will settle it.",
    "escalated": "A senior is to decide it.",
    "decided": "It is decided.",
}
FIRST = ("appeal", "title", "parent", "author")
Tone = Literal["green", "orange", "gray"]


def plural(count: float, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(iso: str, zone: str | None = None) -> str:
    """A time of day where the reader is, and in UTC where that differs.

    >>> clock("2027-03-01T09:30:00+00:00"), clock("2027-03-01T09:30:00+00:00", "Europe/Berlin")
    ('09:30 UTC', '10:30 (09:30 UTC)')
    """
    moment = datetime.fromisoformat(iso)
    utc = moment.astimezone(UTC)
    try:
        here = moment.astimezone(ZoneInfo(zone)) if zone else utc
    except (ZoneInfoNotFoundError, ValueError):
        here = utc
    if here.utcoffset() == utc.utcoffset():
        return f"{utc:%H:%M} UTC"
    return f"{here:%H:%M} ({utc:%H:%M} UTC)"


def span(seconds: float) -> str:
    """`9 min`, `40 s`.

    >>> span(545), span(40), span(3 * 3600 + 120)
    ('10 min', '40 s', '3 h 2 min')
    """
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes = -int(-seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def day(progress: Progress) -> str:
    """How the day stands, in a sentence."""
    waiting = f"{progress.waiting:,}" + (" or more" if progress.waiting >= progress.waiting_at_most else "")
    wait = "Nothing more waits" if not progress.waiting else f"{waiting} wait{'s' if progress.waiting == 1 else ''}"
    told = f"You have labelled {progress.labelled_today:,} today. {wait}."
    if progress.break_until is None:
        told += f" A break is due after {plural(max(progress.severe_until_break, 0), 'more severe item')}."
    return told


def exposure(progress: Progress) -> str:
    """What was shown today, and how much of the day's budget of hard material that took."""
    seen = ", ".join(f"{count:,} {severity}" for severity, count in progress.seen_today.items()) or "nothing yet"
    return f"Shown to you today: {seen}. Hard material: {progress.spent:g} of {progress.budget:g} for today."


def where(view: ItemView) -> str:
    """Where the text stands, in one line."""
    parts = [f"in {view.community}" if view.community else "", view.surface.replace("_", " ")]
    parts += [f"severity {view.severity}", f"opinion {view.n}" if view.blind and view.kind == "opinion" else ""]
    parts += ["to settle" if view.kind == "adjudication" else ""]
    return reveal_line(" · ".join(part for part in parts if part))


def in_question(view: ItemView) -> str:
    """The rule that the text may break."""
    return reveal_line(view.rule.title if view.rule else view.category)


def context_rows(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What came along with a text, by name; what tells most comes first."""
    names = [name for name in FIRST if name in context] + sorted(set(context) - set(FIRST))
    return [(name.replace("_", " "), _value(context[name])) for name in names if context[name] not in (None, "", {})]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return reveal(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_value(inner)}" for name, inner in value.items())
    return reveal(json.dumps(value, ensure_ascii=False))


def verdict(decision: str, categories: tuple[str, ...], category: str, titles: Mapping[str, str]) -> str:
    """`violates: Hate`."""
    told = DECISIONS.get(decision, decision)
    if decision != "violates":
        return told
    named = categories or ((category,) if category else ())
    return f"{told}: {', '.join(reveal_line(titles.get(name, name)) for name in named)}" if named else told


def opinion(one: Opinion, number: int, titles: Mapping[str, str]) -> str:
    """What somebody said before, without a name."""
    seen = ", having seen the model's view" if one.hint_shown else ""
    return f"Opinion {number}: {verdict(one.decision, one.categories, '', titles)}{seen}"


def model_says(model: ModelView, title: str) -> str:
    """The model's view in words."""
    if model.probability is None:
        return "The model gave no probability."
    lean = "violates" if model.probability >= 0.5 else "allowed"
    told = f"The model leans to {lean}: {model.probability:.0%} for {title or 'a violation'}"
    return f"{told}, uncertainty {model.uncertainty:.2f}." if model.uncertainty is not None else f"{told}."


def agreement_sign(one: Labelled) -> tuple[str, Tone]:
    """Agrees or differs: a shape, a word and a colour."""
    match one.agreement:
        case "agrees":
            return "● agrees with the model", "green"
        case "differs":
            return "▲ differs from the model", "orange"
        case _:
            return "○ not compared", "gray"


def idle(got: Idle) -> tuple[str, str]:
    """Why there is nothing now, and what to do, kindly."""
    match got.reason:
        case "break":
            return (
                "Time for a break.",
                "You have looked at hard material for a while. Get up, look out of the window, talk to somebody. "
                "What waits is shared with others, and nothing here depends on you alone. If something stays with "
                "you, tell your lead; you can also stop seeing a category, below, and nobody will ask why.",
            )
        case "budget":
            return (
                "That is enough hard material for today.",
                "What is left is harder than the rest of today's budget allows. It will be there tomorrow, or others "
                "take it. Thank you for what you have done.",
            )
        case "opted_out":
            return (
                "What is left is in categories that you do not look at.",
                "That is fine: others will take it. You can change the categories on the start page.",
            )
        case _:
            return ("Nothing is left for you here.", "Thank you. This page looks by itself whether something comes in.")
