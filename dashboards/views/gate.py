"""Gate: what decided, and who overrode it?"""

from typing import Any

import streamlit as st

from dashboards import charts, data, export, show
from dashboards.show import Command
from workbench.errors import ConfigError
from workbench.overrides import find_signer
from workbench.publish import wording
from workbench.publish.signs import OUTCOMES
from workbench.publish.text import reveal_line
from workbench.records import Decision
from workbench.store.browse import Summary

QUESTION = "What decided, and who overrode it?"


def page() -> None:
    """Draw the page."""
    if not data.browse("decision", limit=1).total:
        show.question(QUESTION, "Nothing was decided in this project yet.")
        show.empty(
            "A gate holds a checkpoint's report against rules: those of its suites, or a file of your own.",
            Command(why="Decide about the newest report:", line="workbench gate latest --baseline BASE"),
        )
        return
    top = st.container()
    chosen = show.choose("Decision", "decision", param="decision", describe=_describe)
    if chosen is None:
        return
    decision, comparison = data.decision(chosen), data.comparison_of(chosen)
    overridden = [rule for rule in decision.rules if rule.overridden]
    told = f" {len(overridden)} rules are overridden by named people." if overridden else " Nobody overrode a rule."
    with top:
        show.question(QUESTION, f"{show.decision_answer(decision)}{told}", OUTCOMES[decision.outcome])
    st.header("Rules", anchor=False)
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    order = {"fail": 0, "hold": 1, "pass": 2}
    ordered = sorted(decision.rules, key=lambda rule: (not rule.required, order[rule.outcome]))
    rows = [charts.rule_row(rule, tasks.get(rule.task)) for rule in ordered]
    show.table(rows, name="rules", alt=f"{len(rows)} rules of this decision, what was measured and the limits")
    for number, made in enumerate(charts.limit_plots(decision.rules)):
        show.chart(made, name=f"limits-{number}")
    export.page_button(comparison, decision)
    _overrides(decision)
    _evidence(decision)
    _history()


def _describe(row: Summary) -> str:
    return f"{show.word(row.label)}: {row.name} ({show.moment(row.created_at)})"


def _overrides(decision: Decision) -> None:
    st.header("Signed overrides", anchor=False)
    rules = [rule for rule in decision.rules if rule.overridden]
    if not rules:
        st.text("None. A rule can be overridden by a person who signs for it:")
        st.code("workbench gate REPORT --override RULE --reason WHY --sign-key ~/.ssh/id_ed25519", language="bash")
        return
    for rule in rules:
        with st.container(border=True):
            show.badge(OUTCOMES[rule.outcome])
            show.plain(f"{rule.rule}: {wording.sentence_end(rule.reason)}.")
            show.plain(f"Overridden by {rule.overridden}")
            statement = decision.evidence.get(f"override of {rule.rule}")
            signature = decision.evidence.get(f"signature of {rule.rule}")
            if statement and signature:
                st.text(_checked(statement, signature))
                with st.expander("What was signed"):
                    st.code(statement, language=None, wrap_lines=True)
                    st.code(signature, language=None)


def _checked(statement: str, signature: str) -> str:
    project = data.project()
    if project.config.override_signers is None:
        return "The project lists no allowed signers, so the signature is recorded and not checked."
    try:
        signer = find_signer(statement, signature, project.root / project.config.override_signers)
    except ConfigError as error:
        return f"The signature does not hold: {error}"
    return f"The signature is good: {reveal_line(signer)}."


def _evidence(decision: Decision) -> None:
    with st.expander("What it rests on"):
        rows = [
            {"what": what, "is": value}
            for what, value in {"decision": decision.id, **decision.evidence}.items()
            if not what.startswith(("override of", "signature of"))
        ]
        show.table(rows, name="evidence", alt="Ids and digests that the decision rests on")
    show.link("lineage", "Where this comes from", ":material/account_tree:", thing=decision.id[:16])


def _history() -> None:
    st.header("History", anchor=False)
    outcome = st.selectbox(
        "Outcome", ["", *OUTCOMES], format_func=lambda one: show.word(one) if one else "all", key="outcome",
        bind="query-params",
    )  # fmt: skip
    search = st.text_input("Search names", key="q", bind="query-params")
    asked = {"label": outcome, "search": search}
    total = data.browse("decision", limit=1, **asked).total
    st.caption(f"{total:,} decisions")
    if not total:
        return
    rows = [_row(row) for row in data.browse("decision", offset=show.pages_of(total, param="page"), **asked).rows]
    show.table(
        rows,
        name="decisions",
        alt=f"{len(rows)} of {total} decisions, the newest first",
        every=lambda: [_row(row) for row in data.browse("decision", limit=None, **asked).rows],
    )
    signed = data.overrides()
    if signed:
        st.header("Overrides in the audit", anchor=False)
        told = [
            {
                "when": show.moment(row.at),
                "who": row.actor,
                "rule": str(row.document.get("rule", "")),
                "why": str(row.document.get("reason", "")),
                "decision": str(row.document.get("decision", ""))[:12],
                "row": row.seq,
            }
            for row in signed
        ]
        show.table(told, name="overrides", alt=f"{len(told)} signed overrides, the newest first")


def _row(row: Summary) -> dict[str, Any]:
    return {
        "outcome": show.word(row.label),
        "checkpoint": row.name,
        "baseline": row.baseline or "–",
        "why": row.words,
        "rules": row.tasks,
        "decided": show.moment(row.created_at),
        "decision": row.id[:12],
    }


if __name__ == "__main__":
    page()
