"""Items: which answers changed, and how?"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboards import data, show
from dashboards.access import person
from dashboards.items import FlipIndex, flip_index, flips_at, rows_with, word_diff
from dashboards.show import Command
from workbench.errors import WorkbenchError
from workbench.publish.text import reveal, reveal_line, split_start
from workbench.records import Comparison, Flip
from workbench.store.browse import Summary

QUESTION = "Which answers changed?"
LIST = 20
KINDS = {"lost and gained": "", "■ lost": "lost", "★ gained": "gained"}
SHAPES = {"lost": "■ lost", "gained": "★ gained"}
_PROMPT, _CELL, _ALL, _SHORT = 2_000, 140, 2_000, 12
_WIDTHS = {"change": 80, "question": 340, "before": 140, "after": 140, "expected": 140}


def page() -> None:
    """Draw the page."""
    if not data.browse("comparison", limit=1).total:
        show.question(QUESTION, "Nothing was compared in this project yet.")
        show.empty(
            "Answers are compared where two checkpoints were asked the same questions.",
            Command(why="Evaluate both and compare:", line="workbench eval CHECKPOINT --baseline BASE --suite SUITE"),
        )
        return
    top = st.container()
    chosen = show.choose("Comparison", "comparison", param="comparison", describe=_describe)
    if chosen is None:
        return
    comparison = data.comparison(chosen)
    index = flip_index(comparison)
    with top:
        show.question(QUESTION, _answer(comparison, index))
    if not len(index.task):
        st.text("Every item has the same value in both reports, so there is nothing to look at.")
        return
    places = _filtered(comparison, index)
    if not places:
        st.text("No answer that changed fits this choice.")
        return
    _one(comparison, index, _list(comparison, index, places))


def _describe(row: Summary) -> str:
    return f"{row.name} against {row.baseline} ({show.moment(row.created_at)})"


def _answer(comparison: Comparison, index: FlipIndex) -> str:
    lost, pairs = int(index.lost.sum()), sum(task.n for task in comparison.tasks if task.gained is not None)
    name, base = (reveal_line(one.name) for one in (comparison.candidate_checkpoint, comparison.baseline_checkpoint))
    return (
        f"{len(index.task):,} of {pairs:,} paired answers: {lost:,} that {base} had right and {name} has not, "
        f"{len(index.task) - lost:,} the other way round."
    )


def _filtered(comparison: Comparison, index: FlipIndex) -> list[int]:
    names = [one.task.task for one in index.moved if len(one.after)]
    described = {name: reveal_line(name) for name in names}
    left, middle, right = st.columns([2, 2, 3])
    task = left.selectbox(
        "Task", ["", *names], format_func=lambda name: described.get(name, "all tasks"), key="task", bind="query-params"
    )
    kind = middle.selectbox("Change", list(KINDS), key="kind", bind="query-params")
    text = right.text_input("Text in prompt or answer", key="text", bind="query-params")
    hits = rows_with(comparison, text) if text else None
    return index.chosen(task=task, kind=KINDS[kind], rows_with=hits).tolist()


def _list(comparison: Comparison, index: FlipIndex, places: Sequence[int]) -> int:
    """The list, a page at a time; returns the flip that is open."""
    linked = index.find(st.query_params.get("item", ""))
    open_place = linked if linked in set(places) else None
    offset = show.pages_of(len(places), param="page", size=LIST)
    shown = list(places[offset : offset + LIST])
    flips = flips_at(comparison, index, shown)
    st.caption(f"{len(places):,} answers; choose a row to open it")
    state = st.dataframe(
        [{key: show.cell(value) for key, value in _row(flip).items()} for flip in flips],
        hide_index=True,
        alt=f"{len(flips)} of {len(places)} answers that changed",
        on_select=_forget,
        selection_mode="single-row",
        key=f"flips-{comparison.id[:12]}-{offset}",
        column_config={name: st.column_config.TextColumn(width=width) for name, width in _WIDTHS.items()},
    )
    rows = state.selection.rows
    if rows and rows[0] < len(shown):
        st.query_params["item"] = index.items[shown[rows[0]]][:16]
        open_place = shown[rows[0]]
    show.download(
        lambda: [_row(flip) for flip in flips_at(comparison, index, list(places[:_ALL]))],
        name="flips",
        label=f"Download CSV (at most {_ALL:,})" if len(places) > _ALL else "Download CSV",
    )
    return open_place if open_place is not None else shown[0]


def _forget() -> None:
    st.query_params.pop("item", None)


def _row(flip: Flip) -> dict[str, Any]:
    return {
        "change": SHAPES[flip.kind],
        "question": _question(flip.prompt),
        "before": flip.baseline_answer,
        "after": flip.candidate_answer,
        "expected": flip.target,
        "task": flip.task,
        "item": flip.item[:16],
    }


def _question(prompt: str) -> str:
    """The end of a prompt: its last paragraph, or so much of that as a cell takes, begun with a word."""
    cut, end = split_start(prompt.rstrip(), _CELL)
    last = end.rpartition("\n\n")[2]
    if len(last) >= _SHORT:
        return last
    return f"… {end.partition(' ')[2]}" if cut and not cut.endswith("\n") else end


def _one(comparison: Comparison, index: FlipIndex, place: int) -> None:
    (flip,) = flips_at(comparison, index, [place])
    st.header("The item", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        show.badge(show.flip_sign(flip.kind))
        show.plain(f"{flip.task}, {flip.metric} {_value(flip.baseline_value)} → {_value(flip.candidate_value)}")
    cut, end = split_start(flip.prompt, _PROMPT)
    with st.container(border=True):
        st.caption(f"Prompt, its last {len(end):,} characters" if cut else "Prompt")
        show.plain(end)
    if cut:
        with st.expander(f"What stands before ({len(cut):,} characters)"):
            show.plain(cut)
    _answers(comparison, flip)
    if flip.target:
        with st.container(border=True):
            st.caption("Expected")
            show.plain(flip.target)
    if flip.baseline_answer and flip.candidate_answer and flip.baseline_answer != flip.candidate_answer:
        st.caption("Word by word: − went, + came")
        st.code(
            word_diff(reveal(flip.baseline_answer), reveal(flip.candidate_answer)), language="diff", wrap_lines=True
        )
    _logprobs(flip)
    for note in flip.notes:
        show.plain(note)
    _send(comparison, flip)
    st.caption(f"Item {flip.item[:16]}")


def _send(comparison: Comparison, flip: Flip) -> None:
    who = person()
    if not flip.candidate_answer or not who.may({"ml"}):
        return
    sent = st.button("Send to review", icon=":material/rate_review:", key=f"send-{flip.item[:16]}")
    if not sent:
        return
    from dashboards.sending import send_flip  # the queue's modules, for those who press the button

    try:
        is_new = send_flip(comparison, flip, who)
    except WorkbenchError as error:
        show.plain(str(error))
        return
    st.toast("It waits for a reviewer." if is_new else "It was in the queue already.", icon=":material/rate_review:")


def _answers(comparison: Comparison, flip: Flip) -> None:
    sides = (
        (comparison.baseline_checkpoint.name, flip.baseline_answer),
        (comparison.candidate_checkpoint.name, flip.candidate_answer),
    )
    for column, who, (name, answer) in zip(st.columns(2), ("Before", "After"), sides, strict=True):
        with column.container(border=True):
            st.caption(who)
            show.plain(f"{name}:")
            if answer:
                show.plain(answer)
            else:
                st.caption("No answer is recorded.")


def _logprobs(flip: Flip) -> None:
    count = max(len(flip.baseline_logprobs), len(flip.candidate_logprobs))
    if not count:
        return
    st.header("Log-probabilities of the choices", anchor=False)
    rows = []
    for number in range(count):
        before, after = (
            side[number] if number < len(side) else None for side in (flip.baseline_logprobs, flip.candidate_logprobs)
        )
        rows.append(
            {
                "choice": flip.choices[number] if number < len(flip.choices) else f"{number + 1}",
                "before, nats": None if before is None else round(before, 3),
                "after, nats": None if after is None else round(after, 3),
                "change": None if before is None or after is None else round(after - before, 3),
            }
        )
    show.table(rows, name="logprobs", alt="Log-probability of each choice before and after")


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    page()
