"""Training: did the run go well, and on what mix?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboards import data, run_charts, show
from dashboards.show import Command
from workbench.progress import RunCurves, RunProgress, read_curves
from workbench.publish.text import escape_markdown, reveal_line

if TYPE_CHECKING:
    from training.rl.episodes import Episode

QUESTION = "Did the run go well, and on what mix?"
LIVE = "5s"
EVENTS = 200
SOURCES = 4
STATES = {
    "running": "is running",
    "done": "is done",
    "stopped": "was stopped",
    "failed": "failed",
    "silent": "is called running, but its process is gone; the same command goes on where it stopped",
}


def page() -> None:
    """Draw the page."""
    first = data.runs(limit=data.PAGE)
    if not first.total:
        show.question(QUESTION, "Nothing was trained in this project yet.")
        show.empty(
            "A run is made from a recipe: a start, a mix of data, a schedule.",
            Command(why="Recipes to start from:", line="workbench recipes"),
            Command(why="Then:", line="workbench train RECIPE.yaml --dry-run"),
        )
        return
    top = st.container()
    chosen = _choose(first.rows, first.total)
    if chosen is None:
        return
    with top:
        show.question(QUESTION, _answer(chosen, read_curves(chosen.folder)), show.outcome_sign(chosen.outcome))
    if chosen.state == "running":
        st.fragment(_live, run_every=LIVE)(chosen.id)
    else:
        _show(chosen)
    _recipe(chosen)


def _choose(rows: tuple[RunProgress, ...], total: int) -> RunProgress | None:
    search = st.text_input(f"Search {total:,} runs", key="q", bind="query-params") if total > data.PAGE else ""
    found = list(data.runs(search=search).rows if search else rows)
    linked = st.query_params.get("run", "")
    if linked and not any(run.id.startswith(linked) for run in found):
        found = [*data.runs(search=linked, limit=1).rows, *found]
    if not found:
        st.text("No run has this name.")
        return None
    named = {run.id: run for run in found}
    described = {run.id: reveal_line(f"{run.name}: {run.state}, begun {show.moment(run.created_at)}") for run in found}
    key = "choose-run"
    st.session_state[key] = next((one for one in named if linked and one.startswith(linked)), next(iter(named)))
    st.selectbox("Run", list(named), format_func=described.__getitem__, key=key, on_change=_remember, args=(key,))
    return named[st.session_state[key]]


def _remember(key: str) -> None:
    st.query_params["run"] = str(st.session_state[key])[:16]


def _live(identity: str) -> None:
    """As long as it runs, read again; when it ends, the whole page is drawn once more."""
    (run,) = data.runs(search=identity, limit=1).rows
    if run.state != "running":
        st.rerun()
    _show(run)


def _show(run: RunProgress) -> None:
    curves = read_curves(run.folder)
    if run.state == "running":
        st.badge("live", icon=":material/sensors:", color="blue")
        if run.steps:
            st.progress(min(1.0, run.step / run.steps), text=f"step {run.step:,} of {run.steps:,}, loss {run.loss:.3f}")
    _curves(run, curves)
    _sources(run, curves)
    _watched(curves)
    _rollouts(run)
    _checkpoints(curves)


def _answer(run: RunProgress, curves: RunCurves) -> str:
    losses = [float(line["loss"]) for line in curves.log if line.get("loss") is not None]
    steps = f" after {run.step:,} of {run.steps:,} steps" if run.steps else ""
    told = f"{reveal_line(run.name)} {STATES[run.state]}{steps}"
    if losses:
        told += f"; the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    given = _given(curves)
    if given and sum(given.values()):
        shares = sorted(given.items(), key=lambda pair: -pair[1])
        parts = [f"{100 * tokens / sum(given.values()):.0f}% {reveal_line(name)}" for name, tokens in shares[:SOURCES]]
        told += f" on {', '.join(parts)}{' and others' if len(shares) > SOURCES else ''}"
    if run.watched:
        told += f"; the look at retained tasks said {run.watched}"
    if run.outcome:
        told += f"; the decision about what it made is {run.outcome}"
    return f"{told}."


def _curves(run: RunProgress, curves: RunCurves) -> None:
    if not curves.log:
        st.text("Nothing was logged yet.")
        return
    recipe = _recipe_of(run)
    phases = run_charts.phases_of(recipe, run.steps or run.step)
    st.header("Loss", anchor=False)
    show.chart(run_charts.curve(curves.log, "loss", phases), name="loss")
    left, right = st.columns(2)
    with left:
        st.header("Learning rate", anchor=False)
        show.chart(run_charts.curve(curves.log, "learning_rate", phases), name="learning-rate")
    with right:
        st.header("Speed", anchor=False)
        show.chart(run_charts.curve(curves.log, "tokens_per_second"), name="speed")
    more = sorted(
        {key for line in curves.log for key, value in line.items() if isinstance(value, float | int)} - run_charts.KNOWN
    )
    if more:
        st.header("More curves", anchor=False)
        for key in more:
            show.chart(run_charts.curve(curves.log, key), name=f"curve-{key}")


def _sources(run: RunProgress, curves: RunCurves) -> None:
    st.header("Tokens of each source", anchor=False)
    given = _given(curves)
    rows = run_charts.source_rows(_recipe_of(run), given)
    if not given:
        st.text("No checkpoint was kept yet, so nothing says what was given.")
    show.chart(run_charts.source_plot(rows), name="sources")


def _given(curves: RunCurves) -> Mapping[str, int]:
    """Loss-bearing tokens of each source, as the newest checkpoint has them."""
    if not curves.checkpoints:
        return {}
    try:
        mark = json.loads((Path(curves.checkpoints[-1]) / "mixer.json").read_text(encoding="utf-8"))
        return {str(name): int(cursor["given"]) for name, cursor in mark["cursors"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _watched(curves: RunCurves) -> None:
    if not curves.events:
        return
    st.header("Watched during training", anchor=False)
    watched = curves.watched()
    if watched:
        show.chart(run_charts.watched_plot(watched), name="watched")
    rows = [_event_row(event) for event in reversed(curves.events[-EVENTS:])]
    st.caption(f"The last {len(rows)} of {len(curves.events)} events")
    show.table(
        rows, name="events", alt=f"{len(rows)} events of the run, the newest first",
        every=lambda: [_event_row(event) for event in reversed(curves.events)],
    )  # fmt: skip


def _event_row(event: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in event.items() if key not in ("step", "event", "verdict", "why", "tasks")}
    return {
        "step": event.get("step"),
        "event": str(event.get("event", "")),
        "verdict": str(event.get("verdict", "")),
        "why": str(event.get("why", "")),
        "more": json.dumps(rest, ensure_ascii=False) if rest else "",
    }


def _rollouts(run: RunProgress) -> None:
    """Answers that a run of reinforcement learning sampled, and what each of them scored."""
    found = sorted((run.folder / "rollouts").glob("generation-*.jsonl"), reverse=True)
    if not found:
        return
    from training.rl.episodes import read_episodes

    st.header("Answers that were sampled", anchor=False)
    numbers = [int(file.stem.rpartition("-")[2]) for file in found]
    number = st.selectbox("Generation", numbers, key="generation", help="The newest first.")
    recorded = read_episodes(run.folder, number)
    if recorded is None:
        st.text("It is being written.")
        return
    episodes = sorted(recorded[1], key=lambda one: (one.row, one.sample))
    rows = [_episode_row(one) for one in episodes]
    st.caption(
        f"{len(rows):,} answers; each prompt is asked several times, and its answers are held against each other"
    )
    show.table(rows, name="rollouts", alt=f"{len(rows)} sampled answers of generation {number} with their rewards")
    described = {at: f"{at + 1}: {row['reward']}, {row['answer'][:80]}" for at, row in enumerate(rows)}
    at = st.selectbox("Read one", list(described), format_func=lambda at: reveal_line(described[at]), key="rollout")
    for message in episodes[at].messages:
        with st.container(border=True):
            st.caption(escape_markdown(str(message.get("role", ""))))
            show.plain(str(message.get("content") or "–"))


def _episode_row(one: "Episode") -> dict[str, Any]:
    asked = [str(message.get("content") or "") for message in one.messages if message.get("role") == "user"]
    return {
        "prompt": asked[0] if asked else "",
        "answer": one.answer,
        "reward": None if one.reward is None else round(one.reward, 3),
        **{name: None if value is None else round(value, 3) for name, value in one.parts.items()},
        "tokens": one.drawn,
        "left out": one.dropped,
    }


def _checkpoints(curves: RunCurves) -> None:
    st.header("Checkpoints", anchor=False)
    rows = [{"checkpoint": Path(folder).name, "folder": folder} for folder in curves.checkpoints]
    if rows:
        show.table(rows, name="checkpoints", alt=f"{len(rows)} checkpoints that were kept")
    else:
        st.text("None was kept yet.")


def _recipe(run: RunProgress) -> None:
    st.header("Recipe", anchor=False)
    with st.expander("All of it, as it was carried out"):
        st.code(json.dumps(_recipe_of(run), indent=2, ensure_ascii=False), language="json")
    show.link("lineage", "Where it comes from", ":material/account_tree:", thing=run.id[:16])


def _recipe_of(run: RunProgress) -> Mapping[str, Any]:
    entry = data.run_entry(run.id)
    return dict(entry.document.get("recipe") or {}) if entry else {}


if __name__ == "__main__":
    page()
