"""Compare: what did each checkpoint gain and lose against its baseline?"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboards import charts, data, export, show
from dashboards.show import Command
from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, UNDECIDED
from workbench.publish.text import reveal_line
from workbench.records import Comparison, TaskComparison
from workbench.store.browse import Order, Summary

QUESTION = "What did each checkpoint gain and lose?"
POINTS = 5_000  # checkpoints in the scatter at most, the newest of them
CURVES = 6
ORDERS: Mapping[str, Order] = {"newest first": "newest", "largest gain first": "gain", "largest loss first": "loss"}


def page() -> None:
    """Draw the page."""
    total = data.browse("comparison", limit=1).total
    if not total:
        show.question(QUESTION, "Nothing was compared in this project yet.")
        show.empty(
            "A comparison needs a checkpoint and its baseline, asked the same questions.",
            Command(why="Evaluate both and compare:", line="workbench eval CHECKPOINT --baseline BASE --suite SUITE"),
        )
        return
    top = st.container()
    chosen = show.choose("Comparison", "comparison", param="comparison", describe=_describe)
    if chosen is None:
        return
    comparison = data.comparison(chosen)
    outcome = wording.comparison_outcome(comparison)
    with top:
        show.question(QUESTION, _answer(comparison), OUTCOMES[outcome])
    _tasks(comparison)
    with st.container(horizontal=True, vertical_alignment="center"):
        show.link("items", "Which answers changed", ":material/compare_arrows:", comparison=chosen[:16])
        export.page_button(comparison)
    _all(comparison, total)
    _steps(comparison)
    _recipes(comparison)


def _describe(row: Summary) -> str:
    return f"{row.name} against {row.baseline}: {row.words} ({show.moment(row.created_at)})"


def _answer(comparison: Comparison) -> str:
    name = reveal_line(comparison.candidate_checkpoint.name)
    base = reveal_line(comparison.baseline_checkpoint.name)
    improved = [task for task in comparison.tasks if task.verdict == "improved"]
    forgot = [task for task in comparison.tasks if task.verdict == "forgot"]
    open_tasks = [task for task in comparison.tasks if task.verdict in UNDECIDED]
    kept = sum(task.verdict == "kept" for task in comparison.tasks)
    parts = [
        f"forgot {_named(forgot)}" if forgot else "",
        f"improved on {_named(improved)}" if improved else "",
        f"kept {kept}" if kept else "",
    ]
    told = ", ".join(part for part in parts if part) or "nothing is certain"
    more = f"; {len(open_tasks)} cannot be decided with these items" if open_tasks else ""
    return f"Of the {len(comparison.tasks)} tasks of {base}, {name} {told}{more}."


def _named(tasks: Sequence[TaskComparison]) -> str:
    return f"{len(tasks)} ({wording.named([reveal_line(task.task) for task in tasks], ', ')})"


def _tasks(comparison: Comparison) -> None:
    st.header("Paired differences", anchor=False)
    half = "" if comparison.part == "all" else f" On the half of the items called {comparison.part}."
    st.text(f"{wording.interval_level(comparison)} intervals over the items that both answered.{half}")
    show.chart(charts.change_plot(comparison), name="differences")
    gaps = wording.gaps(comparison.tasks)
    if gaps:
        with st.expander(f"What cannot be told ({len(gaps)})"):
            show.table(
                [{"task": task.task, "why": why} for task, why in gaps], name="gaps", alt="Tasks without a verdict"
            )


def _all(comparison: Comparison, total: int) -> None:
    st.header("All checkpoints", anchor=False)
    same = st.toggle("Only against the same baseline", value=False, key="same", bind="query-params")
    asked = {"baseline": comparison.baseline_checkpoint.fingerprint} if same else {}
    points = data.browse("comparison", limit=POINTS, **asked)
    made = charts.trade_off(points.rows, chosen=comparison.id)
    if made.rows:
        st.caption(
            "Up is a gain in the domain, left a loss elsewhere: the upper right is best. "
            "The large mark is the one chosen above."
        )
        st.vega_lite_chart(dict(made.spec), alt=made.alt, width="stretch")
    else:
        st.text("No comparison has both a task of the domain and one to be retained, so there is no trade-off to show.")
    order = ORDERS[st.selectbox("Order", list(ORDERS), key="order", bind="query-params")]
    search = st.text_input("Search names", key="q", bind="query-params") if total > 10 else ""
    asked |= {"order": order, "search": search}
    found = data.browse("comparison", limit=1, **asked).total
    offset = show.pages_of(found, param="page")
    rows = [_row(row) for row in data.browse("comparison", offset=offset, **asked).rows]
    st.caption(f"{found:,} comparisons; gains and losses are in margins")
    show.table(
        rows,
        name="comparisons",
        alt=f"{len(rows)} of {found} comparisons, {order}",
        every=lambda: [_row(row) for row in data.browse("comparison", limit=None, **asked).rows],
    )


def _row(row: Summary) -> dict[str, Any]:
    return {
        "checkpoint": row.name,
        "baseline": row.baseline,
        "required tasks": show.word(row.label),
        "gain in domain": None if row.gain is None else round(row.gain, 2),
        "worst retained": None if row.loss is None else round(row.loss, 2),
        "tasks": row.words,
        "compared": show.moment(row.created_at),
        "comparison": row.id[:12],
    }


def _steps(comparison: Comparison) -> None:
    run = comparison.candidate_checkpoint.run
    along = data.trajectory(run, comparison.baseline_checkpoint.fingerprint) if run else ()
    if len(along) < 2:
        return
    st.header("Over the steps of its run", anchor=False)
    last = {task.task: task for _, one in along for task in one.tasks if task.difference is not None and task.margin}
    size = {name: abs(one.difference.value / one.margin) for name, one in last.items() if one.difference}
    names = sorted(size, key=lambda name: -size[name])
    described = {name: reveal_line(name) for name in names}
    chosen = st.multiselect("Tasks", names, default=names[:CURVES], format_func=described.__getitem__, key="curves")
    if chosen:
        show.chart(charts.trajectory(along, chosen), name="steps")


def _recipes(comparison: Comparison) -> None:
    st.header("What differs in how they were made", anchor=False)
    sides = [(one.name, _made(one.run)) for one in (comparison.baseline_checkpoint, comparison.candidate_checkpoint)]
    reports = [data.report(one).settings for one in (comparison.baseline, comparison.candidate)]
    rows = differences(_flat(sides[0][1]), _flat(sides[1][1]), "recipe")
    rows += differences(_flat(reports[0]), _flat(reports[1]), "evaluation")
    if not rows:
        known = (
            "Neither was trained in this project"
            if not any(made for _, made in sides)
            else "Their recipes are the same"
        )
        st.text(f"{known}, and both were asked in the same way.")
        return
    show.table(rows, name="recipe-diff", alt=f"{len(rows)} settings that differ between the two")


def _made(run: str | None) -> Mapping[str, Any]:
    entry = data.run_entry(run) if run else None
    return dict(entry.document.get("recipe") or {}) if entry else {}


def differences(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """A row for each key that differs; `–` where one side does not have it."""
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    return [
        {"of": what, "key": key, "baseline": _told(before, key), "candidate": _told(after, key)} for key in sorted(keys)
    ]


def _told(side: Mapping[str, Any], key: str) -> str:
    return str(side[key]) if side.get(key) is not None else "–"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """`a.b[0].c` -> value."""
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), member) for key, member in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{path}[{number}]", member) for number, member in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, member in pairs for key, leaf in _flat(member, name).items()}


if __name__ == "__main__":
    page()
