"""How things look on every page: the question and its answer, tables with their download, charts with their table.

Text that others wrote (names, prompts, answers, reasons) goes through `plain` or into cells of a table: never through
Markdown or HTML, and with hidden characters made visible.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st
from streamlit.errors import StreamlitAPIException

from dashboards import data
from dashboards.charts import Chart
from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, VERDICTS, Sign, Tone
from workbench.publish.text import escape_markdown, reveal, reveal_line
from workbench.records import Decision, Outcome, RuleResult, Verdict
from workbench.store.browse import Summary
from workbench.store.summaries import Kind

_COLOURS: Mapping[Tone, Literal["green", "orange", "red", "gray"]] = {
    "good": "green",
    "warn": "orange",
    "bad": "red",
    "dim": "gray",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that a reader may type next."""

    why: str
    line: str


def question(asked: str, answer: str, sign: Sign | None = None) -> None:
    """The top of a page: what it answers, as its heading, and the answer in a sentence."""
    st.title(asked, anchor=False)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if sign is not None:
            badge(sign)
        with st.container():  # beside the sign, however long it is
            plain(answer)


def badge(sign: Sign) -> None:
    """An outcome by colour, word and shape."""
    st.badge(sign.label, color=_COLOURS[sign.tone], help=None)


def decision_answer(decision: Decision) -> str:
    """One sentence, short enough to be read at a glance; the rules' own words stand below."""
    name = reveal_line(decision.checkpoint.name)
    required = [rule for rule in decision.rules if rule.required and not rule.overridden]
    failed = sum(rule.outcome == "fail" for rule in required)
    held = sum(rule.outcome == "hold" for rule in required)
    match decision.outcome:
        case "pass":
            by_hand = sum(bool(rule.overridden) for rule in decision.rules if rule.required)
            told = f"; {by_hand} of them by a signed override" if by_hand else ""
            return f"Yes, {name} may ship: all {len(required) + by_hand} required rules pass{told}."
        case "hold":
            return f"Not yet: {held} of {len(required)} required rules for {name} cannot be decided as it stands."
        case "fail":
            more = f", and {held} more cannot be decided" if held else ""
            return f"No, {name} may not ship: it breaks {failed} of {len(required)} required rules{more}."


def flip_sign(kind: Literal["lost", "gained"]) -> Sign:
    """How an answer that changed is shown."""
    if kind == "lost":
        return Sign("■", "lost", "bad", "square", "right before and wrong now")
    return Sign("★", "gained", "good", "star", "wrong before and right now")


def outcome_sign(outcome: str) -> Sign | None:
    """The sign of a recorded outcome; None for an unknown word."""
    return OUTCOMES.get(outcome) or VERDICTS.get(outcome)  # type: ignore[call-overload]


def word(outcome: Outcome | Verdict | str) -> str:
    """`● pass`, for cells of a table."""
    sign = outcome_sign(outcome)
    return sign.label if sign else str(outcome)


def plain(text: str) -> None:
    """Text that others wrote, as text."""
    st.text(reveal(text))


def rule(found: RuleResult) -> None:
    """A rule and what became of it, in words; its own name in small letters below."""
    subject = rule_subject(found)
    with st.container(horizontal=True, vertical_alignment="top", gap="small"):
        badge(OUTCOMES[found.outcome])
        with st.container(gap=None):
            plain(f"{subject}: {wording.sentence_end(found.reason)}." if subject else _sentence(found.reason))
            st.caption(escape_markdown(found.rule))
            if found.overridden:
                plain(f"Overridden by {found.overridden}")


def rule_subject(found: RuleResult) -> str:
    """What a rule is about: its task, or the category that it names; empty where it is about the whole report.

    >>> from workbench.records import RuleResult
    >>> rule_subject(RuleResult(rule="violation_rate[violent_crime]: at most 0.01", outcome="fail", reason=""))
    'violent crime'
    """
    if found.verdict is not None:
        return found.task or ""
    _, inside, rest = found.rule.partition("[")
    category = rest.partition("]")[0] if inside else ""
    return "" if category in ("", "report") else category.replace("_", " ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{wording.sentence_end(text[1:])}."


def cell(value: Any) -> Any:
    """A value fit for a table: text in one line with hidden characters visible."""
    return reveal_line(value) if isinstance(value, str) else value


def empty(what: str, *commands: Command) -> None:
    """What is missing, and the commands that fill it."""
    st.info(what, icon=":material/info:")
    for one in commands:
        st.caption(one.why)
        st.code(one.line, language="bash")


def next_step(command: Command) -> None:
    """The command that comes next."""
    st.header("Next", anchor=False)
    st.text(command.why)
    st.code(command.line, language="bash")


def chart(made: Chart, *, name: str) -> None:
    """A chart, said in words for those who do not see it, and its numbers as a table."""
    if not made.rows:
        return
    if made.reading:
        st.caption(made.reading)
    st.vega_lite_chart(dict(made.spec), alt=made.alt, width="stretch")
    with st.expander("The same as a table"):
        table(made.rows, name=name, alt=made.alt)


def table(
    rows: Sequence[Mapping[str, Any]],
    *,
    name: str,
    alt: str,
    columns: Mapping[str, Any] | None = None,
    every: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    height: int | Literal["auto"] = "auto",
) -> None:
    """Rows as a table with a download. `name` is unique on its page; `every`: all rows, where `rows` is a part."""
    shown = [{key: cell(value) for key, value in row.items()} for row in rows]
    st.dataframe(
        shown, hide_index=True, alt=alt, key=f"table-{name}", column_config=columns, height=height, placeholder="–"
    )
    download(every or (lambda: rows), name=name)


def download(rows: Callable[[], Sequence[Mapping[str, Any]]], *, name: str, label: str = "Download CSV") -> None:
    """A button that writes rows as CSV when it is pressed, not before."""
    st.download_button(
        label,
        data=lambda: to_csv(rows()),
        file_name=f"{name}.csv",
        mime="text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
    )


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated text; a cell that a spreadsheet would compute is text there too.

    >>> to_csv([{"answer": "=1+1"}]).splitlines()
    ['answer', "'=1+1"]
    """
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def choose(
    label: str,
    kind: Kind,
    *,
    param: str,
    describe: Callable[[Summary], str],
    only: str = "",
    **asked: Any,
) -> str | None:
    """Let a reader choose a report, comparison or decision; the choice stands in the address. None: there are none.

    The newest are offered; where there are more, a search in the store finds the others. `only`: those of one label.
    """
    asked |= {"label": only} if only else {}
    total = data.browse(kind, limit=1, **asked).total
    search = ""
    if total > data.PAGE:
        search = st.text_input(f"Search {total:,}", key=f"search-{param}", placeholder="part of a name, or an id")
    rows = list(data.browse(kind, search=search, **asked).rows)
    linked = st.query_params.get(param) or ""
    named = data.full_id(kind, linked) if linked else None
    if named is not None and named not in {row.id for row in rows}:
        rows = [*data.browse(kind, search=named, limit=1).rows, *rows]
    if not rows:
        if total:
            st.text("Nothing has this name.")
        return None
    described = {row.id: reveal_line(describe(row)) for row in rows}
    key = f"choose-{param}"
    ids = list(described)
    st.session_state[key] = named if named in described else ids[0]
    st.selectbox(label, ids, format_func=lambda one: described[one], key=key, on_change=_remember, args=(param, key))
    return str(st.session_state[key])


def pages_of(total: int, *, param: str, size: int = data.PAGE) -> int:
    """Where the page of a list begins that a reader chose; the choice stands in the address."""
    if total <= size:
        return 0
    number = st.pagination(-(-total // size), key=param, bind="query-params")
    return (number - 1) * size


def link(page: str, label: str, icon: str, **params: str) -> None:
    """A link to another page, with what is chosen there."""
    try:
        st.page_link(f"views/{page}.py", label=label, icon=icon, query_params=params)
    except StreamlitAPIException:
        return  # a page that this person may not open


def _remember(param: str, key: str) -> None:
    st.query_params[param] = str(st.session_state[key])[:16]


def moment(iso: str) -> str:
    """`2026-01-31 09:30 UTC`."""
    return f"{iso[:10]} {iso[11:16]} UTC" if len(iso) >= 16 else iso
