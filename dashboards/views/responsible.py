"""Responsible AI: where does it fail, and does it refuse too much?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from dashboards import data, policy_charts, show
from dashboards.show import Command
from workbench.errors import WorkbenchError
from workbench.publish.text import cut_start, reveal_line
from workbench.records import Estimate, ItemScore, Report
from workbench.store.browse import Summary

QUESTION = "Where does it fail, and does it refuse too much?"
POINTS, LIST = 40, 20
TURNS = {"looser": "▼ looser", "tighter": "▲ tighter", "other": "○ other"}


def page() -> None:
    """Draw the page."""
    if not data.browse("report", label="assessment", limit=1).total:
        show.question(QUESTION, "No checkpoint was assessed under a policy yet.")
        show.empty(
            "An assessment asks harmful and harmless questions and judges the answers under a policy.",
            Command(why="Assess a checkpoint:", line="workbench assess CHECKPOINT --policy default"),
            Command(why="Policies that can be named:", line="workbench policy ls"),
        )
        _policies("default", "security-testing")
        return
    top = st.container()
    chosen = show.choose("Assessment", "report", param="report", describe=_describe, only="assessment")
    if chosen is None:
        return
    report = data.report(chosen)
    with top:
        show.question(QUESTION, _answer(report))
    st.header("By category and probe", anchor=False)
    show.chart(policy_charts.heat_map(report), name="heat-map")
    st.header("Harm against over-refusal", anchor=False)
    recent = data.browse("report", label="assessment", limit=POINTS).rows
    others = [report] + [data.report(row.id) for row in recent if row.id != chosen]
    made = policy_charts.harm_trade_off(others, chosen=chosen)
    if made.rows:
        show.chart(made, name="harm-trade-off")
    else:
        st.text("No assessment asked both harmful and harmless questions, so there is no trade-off to show.")
    _answers(report)
    name = str(report.settings.get("policy", "default")).partition("@")[0]
    _policies(name, "security-testing" if name != "security-testing" else "default")


def _describe(row: Summary) -> str:
    return f"{row.name} under {row.words} ({show.moment(row.created_at)})"


def _answer(report: Report) -> str:
    found = {task.task: task.headline for task in report.results}
    name = reveal_line(report.checkpoint.name)
    parts = []
    if policy_charts.HARMFUL in found:
        harm = found[policy_charts.HARMFUL]
        parts.append(f"answered {_share(harm)} of {harm.n:,} harmful requests")
    if policy_charts.HARMLESS in found:
        refused = found[policy_charts.HARMLESS]
        parts.append(f"refused {_share(refused)} of {refused.n:,} harmless ones")
    leaves = [task for task in policy_charts.leaves_of(report) if task.headline.metric == "violation_rate"]
    worst = max(leaves, key=lambda task: task.headline.value, default=None)
    told = f"{name} {' and '.join(parts)}" if parts else f"{name} was asked no plain requests"
    if worst is not None and worst.headline.value > 0:
        category = worst.task.split("/")[2].replace("_", " ")
        told += f"; worst in {reveal_line(category)} ({_share(worst.headline)} of {worst.headline.n:,})"
    return f"Under {reveal_line(str(report.settings.get('policy', '')))}, {told}."


def _share(estimate: Estimate) -> str:
    """`88% [64%, 97%]`."""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.0f}%"
    return f"{100 * estimate.value:.0f}% [{100 * estimate.low:.0f}%, {100 * estimate.high:.0f}%]"


def _answers(report: Report) -> None:
    st.header("Wrong answers", anchor=False)
    names = [task.task for task in policy_charts.leaves_of(report) if task.headline.value > 0]
    if not names:
        st.text("No answer was wrong.")
        return
    task = st.selectbox("Category and probe", names, format_func=_short, key="leaf", bind="query-params")
    wrong = _wrong(report, task)
    offset = show.pages_of(len(wrong), param="page", size=LIST)
    reveal_it = st.toggle(
        "Show the texts", key="texts", help="They may be hard to read; they are hidden until asked for."
    )
    shown = wrong[offset : offset + LIST]
    rows = [_row(item, reveal_it) for item in shown]
    st.caption(f"{len(wrong):,} wrong answers")
    show.table(
        rows, name="wrong-answers", alt=f"{len(rows)} of {len(wrong)} wrong answers",
        every=lambda: [_row(item, reveal_it) for item in wrong],
    )  # fmt: skip
    if not reveal_it or not shown:
        return
    described = {
        item.item: f"{number + 1 + offset}: {reveal_line(cut_start(item.prompt, 90))}"
        for number, item in enumerate(shown)
    }
    which = st.selectbox("Read one", list(described), format_func=described.__getitem__, key="wrong-item")
    item = next(item for item in shown if item.item == which)
    for title, text in (("Asked", item.prompt), ("Answered", item.answer), ("Wanted", item.target)):
        with st.container(border=True):
            st.caption(title)
            show.plain(text or "–")


def _short(task: str) -> str:
    return reveal_line(task.removeprefix("policy/").replace("/", " · "))


def _wrong(report: Report, task: str) -> Sequence[ItemScore]:
    metric = next(one.metric for one in report.results if one.task == task)
    return [item for item in data.items_of(report.id, task) if item.metrics.get(metric)]


def _row(item: ItemScore, reveal_it: bool) -> dict[str, Any]:
    hidden = "hidden"
    return {
        "category": str(item.extra.get("category", "")),
        "attack": str(item.extra.get("attack", "none")),
        "judged": str(item.extra.get("value", "")),
        "why": str(item.extra.get("reason", "")),
        "asked": cut_start(item.prompt, 200) if reveal_it else hidden,
        "answered": item.answer[:400] if reveal_it else hidden,
        "item": item.item[:16],
    }


def _policies(before: str, after: str) -> None:
    st.header("What two policies differ in", anchor=False)
    from safety.policy import PolicyLibrary

    folder = data.project_folder() / "policies"
    library = PolicyLibrary([folder] if folder.is_dir() else [])
    known = sorted(library.known())
    left, right = st.columns(2)
    one = left.selectbox("Policy", known, index=_place(known, before), key="before", bind="query-params")
    other = right.selectbox("Other policy", known, index=_place(known, after), key="after", bind="query-params")
    try:
        rows, sentence = _changes(library, one, other)
    except WorkbenchError as error:
        show.plain(str(error))
        return
    st.text(sentence)
    if rows:
        show.table(rows, name="policy-diff", alt=sentence)


def _changes(library: Any, before: str, after: str) -> tuple[list[dict[str, Any]], str]:
    from safety.leaves import list_changes, stale_categories

    old, new = library.load(before), library.load(after)
    changes = list_changes(old, new, today=datetime.now(UTC).date())
    counts = {turn: sum(change.turn == turn for change in changes) for turn in TURNS}
    stale = stale_categories(old, new)
    told = f"{old.name} to {new.name}: {counts['looser']} looser, {counts['tighter']} tighter, {counts['other']} other."
    if stale:
        told += f" Labels of {len(stale)} categories would have to be confirmed."
    rows = [
        {
            "turn": TURNS[change.turn],
            "what": change.path,
            "before": change.before or "–",
            "after": change.after or "–",
            "set by": change.set_by,
        }
        for change in sorted(changes, key=lambda change: list(TURNS).index(change.turn))
    ]
    return rows, told


def _place(known: Sequence[str], name: str) -> int:
    return known.index(name) if name in known else 0


if __name__ == "__main__":
    page()
