"""Overview: may the newest checkpoint ship, and why not?"""

import streamlit as st

from dashboards import charts, data, show
from dashboards.show import Command
from workbench.progress import RunProgress
from workbench.publish import wording
from workbench.publish.signs import OUTCOMES
from workbench.publish.text import reveal_line
from workbench.records import Comparison, Decision

RUNS, LAST = 5, 8
QUESTION = "May the newest checkpoint ship?"


def page() -> None:
    """Draw the page."""
    newest = data.newest("decision")
    if newest is None:
        _undecided()
        return
    decision, comparison = data.decision(newest.id), data.comparison_of(newest.id)
    show.question(QUESTION, show.decision_answer(decision), OUTCOMES[decision.outcome])
    baseline = f" against {reveal_line(decision.baseline.name)}" if decision.baseline else ""
    st.text(f"Decided {show.moment(decision.created_at)}{baseline}, by {len(decision.rules)} rules.")
    _later(decision)
    _deciding(decision, comparison)
    _next(decision, comparison)
    _plots(decision, comparison)
    _checkpoints()
    _runs()
    _counts()


def _undecided() -> None:
    known = data.counts()
    report = data.newest("report")
    if report is None:
        show.question(QUESTION, "Nobody can say: nothing was evaluated in this project yet.")
        show.empty(
            "There are no reports yet.",
            Command(why="A whole loop on shipped data, about ten minutes on two cores:", line="workbench demo"),
            Command(
                why="Or your own model, against a baseline:",
                line="workbench eval MODEL --suite sample-domain --suite sample-general --baseline BASE",
            ),
        )
    else:
        name = reveal_line(report.name)
        show.question(QUESTION, f"Nobody has decided: {name} was evaluated and no gate was asked.")
        show.next_step(Command(why="Decide by the rules of its suites:", line=f"workbench gate {name}"))
    _runs()
    if any(known.values()):
        _counts()


def _later(decision: Decision) -> None:
    """What was evaluated after the decision and not decided."""
    report = data.newest("report", label="evaluation")
    if report is None or report.created_at <= decision.created_at:
        return
    decided = data.browse("decision", fingerprint=report.fingerprint, limit=1).total
    if not decided:
        st.info("Something newer was evaluated and nobody has decided about it.", icon=":material/info:")
        show.plain(f"{report.name}, {show.moment(report.created_at)}")
        st.code(f"workbench gate {reveal_line(report.name)}", language="bash")


def _deciding(decision: Decision, comparison: Comparison | None) -> None:
    """The rules that decided, in words; of a pass, how many there were and which were overridden."""
    open_rules = [rule for rule in decision.rules if rule.required and rule.outcome != "pass"]
    st.header("What decided", anchor=False)
    if not open_rules:
        required = sum(rule.required for rule in decision.rules)
        show.plain(f"{wording.sentence_end(decision.reason)}." if decision.reason else f"{required} rules pass.")
        return
    worst = sorted(open_rules, key=lambda rule: (rule.overridden is not None, rule.outcome != "fail"))
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    for rule in worst[:3]:
        show.rule(rule)
    if len(worst) > 3:
        st.text(f"{len(worst) - 3} more required rules do not pass.")
        with st.expander("All rules that do not pass"):
            rows = [charts.rule_row(rule, tasks.get(rule.task)) for rule in worst]
            show.table(rows, name="rules-not-passed", alt="Required rules that do not pass")


def _plots(decision: Decision, comparison: Comparison | None) -> None:
    gated = {rule.task for rule in decision.rules if rule.verdict is not None}
    tasks = [task for task in comparison.tasks if task.task in gated] if comparison else []
    if comparison and tasks:
        st.header("What it gained and lost", anchor=False)
        show.chart(charts.change_plot(comparison, tasks), name="gated-changes")
    for number, made in enumerate(charts.limit_plots(decision.rules)):
        if number == 0:
            st.header("Measured against limits", anchor=False)
        show.chart(made, name=f"limits-{number}")


def _next(decision: Decision, comparison: Comparison | None) -> None:
    name = reveal_line(decision.checkpoint.name)
    failed = [rule for rule in decision.rules if rule.required and rule.outcome == "fail" and not rule.overridden]
    match decision.outcome:
        case "pass":
            policy = "" if decision.evidence.get("policy") else " It was not held against a policy yet."
            show.next_step(
                Command(why=f"Serve it behind a policy.{policy}", line=f"workbench serve {name} --policy default")
            )
        case "hold":
            show.next_step(
                Command(why="See what evidence is missing:", line=f"workbench show {decision.id[:12]}"),
            )
        case "fail" if comparison and any(rule.verdict for rule in failed):
            base = reveal_line(decision.baseline.name) if decision.baseline else "BASE"
            show.next_step(
                Command(why="See the answers that it lost:", line=f"workbench compare {base} {name} --flips 8")
            )
            show.link("items", "Which answers changed", ":material/compare_arrows:", comparison=comparison.id[:16])
        case "fail":
            show.next_step(
                Command(why="See what it answered that it should not have:", line=f"workbench show {decision.id[:12]}")
            )
            report = data.newest("report", label="assessment", fingerprint=decision.checkpoint.fingerprint)
            if report is not None:
                show.link("responsible", "Wrong answers, by category", ":material/gpp_maybe:", report=report.id[:16])
    show.link("gate", "All rules of this decision", ":material/gavel:", decision=decision.id[:16])


def _checkpoints() -> None:
    """The last checkpoints, and what was decided about each."""
    found = data.browse_checkpoints()
    rows = [
        {
            "checkpoint": row.name,
            "last decision": show.word(row.outcome) if row.outcome else "none",
            "reports": row.reports,
            "seen": show.moment(row.seen_at),
        }
        for row in found.rows[:LAST]
    ]
    if rows:
        st.header("Last checkpoints", anchor=False)
        show.table(rows, name="last-checkpoints", alt=f"The last {len(rows)} of {found.total} checkpoints")


def _runs() -> None:
    st.header("Last runs", anchor=False)
    runs = data.runs(limit=RUNS)
    if not runs.rows:
        show.empty("No training runs yet.", Command(why="Recipes to start from:", line="workbench recipes"))
        return
    rows = [_run_row(run) for run in runs.rows]
    show.table(rows, name="last-runs", alt=f"The last {len(rows)} of {runs.total} training runs")


def _run_row(run: RunProgress) -> dict[str, object]:
    return {
        "run": run.name,
        "state": run.state,
        "step": f"{run.step:,} of {run.steps:,}" if run.steps else "–",
        "loss": None if run.loss is None else round(run.loss, 3),
        "from": run.start,
        "decision": show.word(run.outcome) if run.outcome else "–",
        "begun": show.moment(run.created_at),
    }


def _counts() -> None:
    told = [f"{number:,} {what if number != 1 else what.removesuffix('s')}" for what, number in data.counts().items()]
    st.caption(f"In this project: {', '.join(told)}.")


if __name__ == "__main__":
    page()
