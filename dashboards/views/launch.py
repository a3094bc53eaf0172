"""Launch: start a run, follow it, decide, serve, and go on from the result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from dashboards import data, show
from dashboards.access import person
from dashboards.jobs import Job, find_job, list_jobs, read_output, start_job, stop_job
from dashboards.launching import (
    Choice,
    build_recipe,
    find_data,
    find_recipes,
    general_share,
    write_recipe,
)
from workbench.config import read_yaml
from workbench.errors import WorkbenchError
from workbench.progress import RunProgress
from workbench.publish.text import reveal_line

QUESTION = "What shall be made next?"
FOLLOW = "2s"
CODES = {0: "● done, pass", 1: "■ fail", 2: "■ refused: see its output", 3: "▲ hold", 4: "■ failed", 130: "▲ stopped"}
OTHER = "another …"
SAMPLES = ("sample-domain", "sample-general")


def page() -> None:
    """Draw the page."""
    who = person()
    root = data.project_folder()
    jobs = list_jobs(root)
    running = [job for job in jobs if job.state == "running"]
    done = {run.id: run for run in data.runs().rows if run.state == "done" and _last_checkpoint(root, run)}
    told = "Nothing was started from here yet."
    if jobs:
        told = f"{len(running)} of {len(jobs)} jobs of this project {'runs' if len(running) == 1 else 'run'} now."
    more = "Choose a recipe and a start" + (", or go on from a result." if done else ".")
    show.question(QUESTION, f"{told} {more}")
    if not who.may({"ml"}):
        st.info("You may look; starting needs the role ml.", icon=":material/lock:")
        st.code("workbench train RECIPE.yaml", language="bash")
    else:
        _form(root)
        if done:
            _results(root, done)
    _jobs(root, jobs, may_act=who.may({"ml"}))


def _form(root: Path) -> None:
    st.header("A new run", anchor=False)
    recipes = find_recipes(root)
    left, right = st.columns(2)
    chosen = left.selectbox("Recipe", list(recipes), key="recipe", bind="query-params")
    template = recipes[chosen]
    recipe = read_yaml(template)
    with left.expander("What this recipe is for"):
        st.code(template.read_text(encoding="utf-8"), language="yaml", wrap_lines=True)
    choice = _choice(root, recipe, left, right, key=chosen)
    try:
        made = build_recipe(template, choice, root)
    except WorkbenchError as error:
        show.plain(str(error))
        return
    with st.expander("The recipe as it will be carried out"):
        st.code(yaml.safe_dump(made, sort_keys=False, allow_unicode=True), language="yaml", wrap_lines=True)
    with st.container(horizontal=True):
        check = st.button("Check it", icon=":material/fact_check:", help="A dry run: nothing is trained")
        launch = st.button("Launch", type="primary", icon=":material/play_arrow:")
    if check or launch:
        try:
            path = write_recipe(made, root)
        except WorkbenchError as error:
            show.plain(str(error))
            return
        words = ["train", str(path), *(["--dry-run"] if check else []), "--project", str(root)]
        _begin(root, words)


def _choice(root: Path, recipe: Mapping[str, Any], left: Any, right: Any, *, key: str) -> Choice:
    known = [row.name for row in data.browse_checkpoints().rows]
    own = str(recipe.get("start", ""))
    linked = st.query_params.get("start", "")
    starts = list(dict.fromkeys([*([linked] if linked else []), own, *known, OTHER]))
    start = right.selectbox("Start from", starts, format_func=reveal_line, key=f"start-{key}-{linked}")
    if start == OTHER:
        start = right.text_input("Checkpoint", key="other", placeholder="hub id, folder, or run/NAME") or own
    name = right.text_input("Name of the run", value=_new_name(root, recipe), key=f"name-{key}")
    share = general_share(recipe)
    dial = None
    if share is not None:
        percent = st.slider(
            "General data against forgetting, % of the tokens", 0, 95, round(100 * share), key=f"dial-{key}",
            help="The rest is your own data. A quarter of general text undid nearly all forgetting at little cost "
            "(Ibrahim et al. 2024).",
        )  # fmt: skip
        dial = percent / 100
    one, two = st.columns(2)
    tokens = one.number_input(
        "Tokens to learn from", 1, value=int(recipe.get("tokens", 1)), step=1_000, key=f"tokens-{key}",
        help="Those that the loss is taken of: answers, not the questions before them.",
    )  # fmt: skip
    schedule = recipe.get("schedule") or {}
    rate = two.number_input(
        "Highest learning rate", 0.0, value=float(schedule.get("learning_rate", 2e-4)), step=1e-5, format="%.2e",
        key=f"rate-{key}",
    )  # fmt: skip
    files = find_data(root)
    data_of = {}
    for source in recipe.get("mix") or []:
        label = f"Data of the source {reveal_line(str(source['name']))}"
        options = list(dict.fromkeys([str(source["data"]), *files]))
        data_of[str(source["name"])] = st.selectbox(label, options, key=f"data-{key}-{source['name']}")
    asked = list((recipe.get("evaluation") or {}).get("suites") or ())
    picked = st.multiselect(
        "Evaluated by the suites", list(dict.fromkeys([*asked, *_known_suites()])), default=asked, key=f"suites-{key}",
        help="The result is compared with the start on these, and a decision is made.",
    )  # fmt: skip
    return Choice(
        name=name, start=start, general_share=dial, tokens=int(tokens), learning_rate=rate, data=data_of, suites=picked
    )


def _new_name(root: Path, recipe: Mapping[str, Any]) -> str:
    """The recipe's own name, or with a number behind it where a run has that already."""
    own = str(recipe.get("recipe", ""))
    names = (own if number == 1 else f"{own}-{number}" for number in range(1, 1_000))
    return next((name for name in names if not (root / "runs" / name).exists()), own)


def _begin(root: Path, words: list[str]) -> None:
    """Start a job as the person who is here, who must have the right at this very moment, and open it."""
    who = person()
    if not who.may({"ml"}):
        st.error("Starting needs the role ml.", icon=":material/lock:")
        return
    job = start_job(root, words, who=who.name)
    st.query_params["job"] = job.id
    st.rerun()


def _jobs(root: Path, jobs: list[Job], *, may_act: bool) -> None:
    st.header("Jobs", anchor=False)
    if not jobs:
        st.text("What is started here goes on when this page is closed, and is listed by:")
        st.code("workbench runs", language="bash")
        return
    described = {job.id: reveal_line(f"{_told(job)}: {job.line}") for job in jobs}
    linked = st.query_params.get("job", "")
    key = "choose-job"
    st.session_state[key] = linked if linked in described else jobs[0].id
    st.selectbox("Job", list(described), format_func=described.__getitem__, key=key, on_change=_remember, args=(key,))
    chosen = str(st.session_state[key])
    job = find_job(root, chosen)
    if job is None:
        return
    if job.state == "running":
        st.fragment(_follow, run_every=FOLLOW)(root, chosen, may_act)
    else:
        _one(root, job)
        if may_act:
            _again(root, job)


def _remember(key: str) -> None:
    st.query_params["job"] = str(st.session_state[key])


def _follow(root: Path, identity: str, may_act: bool) -> None:
    """As long as it runs, read again; when it ends, the whole page is drawn once more."""
    job = find_job(root, identity)
    if job is None or job.state != "running":
        st.rerun()
        return
    _one(root, job)
    if may_act and st.button(
        "Stop", icon=":material/stop:", key=f"stop-{identity}", help="As Ctrl-C: what is done is kept"
    ):
        stop_job(root, identity)


def _one(root: Path, job: Job) -> None:
    with st.container(border=True):
        show.plain(f"{_told(job)}; begun {show.moment(job.begun_at)} by {job.who}")
        st.code(job.line, language="bash", wrap_lines=True)
        output = read_output(root, job.id)
        st.caption("The last lines of its output")
        st.code(output or "nothing yet", language=None, wrap_lines=True, height=280 if output else "content")
    if job.kind == "serve" and job.state == "running":
        url = next((line for line in output.splitlines() if line.startswith("http://")), "")
        if url:
            st.text(f"It answers at {url}/v1 as OpenAI's endpoint does.")


def _told(job: Job) -> str:
    match job.state:
        case "running":
            return "○ running"
        case "gone":
            return "▲ gone: its process ended without a word; the same command goes on where it stopped"
        case "ended":
            if job.kind == "serve" and job.code in (0, 130):
                return "● stopped"
            return CODES.get(job.code or 0, f"■ exit code {job.code}")


def _again(root: Path, job: Job) -> None:
    """What was not carried to its end goes on by the same command."""
    is_cut = job.state == "gone" or job.code == 130
    if job.kind not in ("train", "eval", "gate", "assess") or "--dry-run" in job.words or not is_cut:
        return
    st.text("It was not carried to its end; the same command goes on where it stopped.")
    if st.button("Go on", icon=":material/resume:", key="again"):
        _begin(root, list(job.words))


def _results(root: Path, runs: Mapping[str, RunProgress]) -> None:
    """What may come after a run, whoever began it: the same pipeline as the command line's."""
    st.header("Go on from a result", anchor=False)
    described = {one: reveal_line(f"{run.name}: {_decided(run)}") for one, run in runs.items()}
    linked = st.query_params.get("run", "")
    named = next((one for one in runs if linked and one.startswith(linked)), next(iter(runs)))
    st.session_state["choose-result"] = named
    chosen = st.selectbox(
        "Run", list(described), format_func=described.__getitem__, key="choose-result", on_change=_remember_result
    )
    run, last = runs[chosen], _last_checkpoint(root, runs[chosen])
    if last is None:
        return
    folder = str(last)
    project = ["--project", str(root)]
    suites = _suites_of(root, run.id)
    left, right = st.columns(2)
    asked = left.multiselect("Suites to evaluate by", suites[0], default=suites[1], key=f"by-{chosen}")
    policies = _policies(root)
    policy = right.selectbox("Policy to serve behind", policies, index=policies.index("default"), key="serve-policy")
    start = _start(run)
    with st.container(horizontal=True):
        if st.button("Evaluate", icon=":material/quiz:", key="evaluate", disabled=not asked):
            words = [word for suite in asked for word in ("--suite", suite)]
            _begin(root, ["eval", folder, *words, *(["--baseline", start] if start else []), *project])
        if st.button("Decide", icon=":material/gavel:", key="decide", help="By the rules of its newest report"):
            _begin(root, ["gate", f"{run.name}/{last.name}", *(["--baseline", start] if start else []), *project])
        if st.button("Serve", icon=":material/dns:", key="serve", help="Behind the policy, to this machine alone"):
            _begin(root, ["serve", folder, "--policy", policy, "--port", "0", *project])
        if st.button("Train on from it", icon=":material/forward:", key="continue"):
            st.query_params["start"] = f"run/{run.name}"
            st.rerun()
    with st.container(horizontal=True):
        show.link("training", "Its curves", ":material/show_chart:", run=run.id[:16])
        show.link("lineage", "Where it comes from", ":material/account_tree:", thing=run.id[:16])


def _remember_result() -> None:
    st.query_params["run"] = str(st.session_state["choose-result"])[:16]


def _decided(run: RunProgress) -> str:
    return f"the last decision about it is {show.word(run.outcome)}" if run.outcome else "nobody has decided about it"


def _suites_of(root: Path, run_id: str) -> tuple[list[str], list[str]]:
    """Suites to choose from, and those that the run's recipe names (or the samples)."""
    entry = data.run_entry(run_id)
    recipe = entry.document.get("recipe") if entry else None
    own: list[str] = list(((recipe or {}).get("evaluation") or {}).get("suites") or SAMPLES)
    return list(dict.fromkeys([*own, *_known_suites()])), own


def _known_suites() -> list[str]:
    from benchmarks.suite import list_suites
    from workbench.pipeline import include_folders

    return list(list_suites(include_folders(data.project())))


def _policies(root: Path) -> list[str]:
    from safety.policy import PolicyLibrary

    folder = root / "policies"
    return sorted(PolicyLibrary([folder] if folder.is_dir() else []).known())


def _last_checkpoint(root: Path, run: RunProgress) -> Path | None:
    """The folder of the last checkpoint of a run, in this very project: also where that was moved or copied since."""
    homes = (run.folder, root / "runs" / run.folder.name)
    runs = (root / "runs").resolve()
    folder = next((one for one in homes if one.is_dir() and one.resolve().is_relative_to(runs)), None)
    if folder is None:
        return None
    found = {
        int(path.name.rpartition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if (path / "mixer.json").is_file()
    }
    return found[max(found)] if found else None


def _start(run: RunProgress) -> str:
    """What a run started from, as its recipe names it; empty where nothing says so."""
    path = run.folder / "recipe.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("start", "")) if path.is_file() else ""


if __name__ == "__main__":
    page()
