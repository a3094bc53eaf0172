"""How long the pages of the dashboard take on a large project: first paint, and what follows a click, in Chromium.

    python -m studies.dashboard_speed [--checkpoints 1000] [--tasks 200] [--items 100000] [--folder DIR]

The project is built by the store itself: a baseline and CHECKPOINTS checkpoints with a report of TASKS tasks each, a
comparison and a decision of every one, and two reports of ITEMS items whose answers differ in a tenth of them. Values
are drawn with a fixed seed: this measures pages, not models. Two times are told of a page: until its question and its
answer stand there, and until all that is in sight is drawn and nothing is stale. Each page is opened anew in a browser
that has the files of Streamlit already.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from workbench.cli.dashboard import _free_port, server_command
from workbench.records import (
    Checkpoint,
    Comparison,
    Decision,
    Estimate,
    ItemScore,
    Report,
    RuleResult,
    TaskComparison,
    TaskResult,
)
from workbench.store import Project, canonical_json, report_id, to_plain

TAKES = "half an hour, most of it to build the project"
ROLES = ("domain", "general")


def checkpoint(number: int, run: str | None = None) -> Checkpoint:
    return Checkpoint(
        name="base" if number == 0 else f"run-{(number - 1) // 20}/checkpoint-{100 * (1 + (number - 1) % 20)}",
        source=f"/models/{number}",
        kind="folder",
        fingerprint=f"{number:064x}",
        tokenizer="e" * 64,
        run=run,
    )


def result(task: int, rng: np.random.Generator) -> TaskResult:
    value = float(rng.uniform(0.3, 0.8))
    estimate = Estimate(metric="acc", value=value, low=value - 0.03, high=value + 0.03, n=500, method="wilson")
    return TaskResult(
        task=f"task_{task:03d}", role=ROLES[task % 2], margin=0.02, required=True, metric="acc",
        estimates=(estimate,), n=500, num_fewshot=5, chance=0.25,
    )  # fmt: skip


def compared(task: TaskResult, rng: np.random.Generator) -> TaskComparison:
    change = float(rng.normal(0.0, 0.02))
    verdict = "forgot" if change < -0.045 else "kept" if change > -0.005 else "inconclusive"
    difference = Estimate(
        metric="acc", value=change, low=change - 0.02, high=change + 0.02, n=500, method="paired", level=0.9
    )
    return TaskComparison(
        task=task.task, role=task.role, required=True, metric="acc", direction="higher", margin=0.02, verdict=verdict,
        reason="the interval says so", difference=difference, baseline=0.5, candidate=0.5 + change, n=500, gained=20,
        lost=20,
    )  # fmt: skip


def build(root: Path, checkpoints: int, tasks: int, items: int) -> Project:
    """The project; everything through the store's own functions but the reports without items, written as rows."""
    from workbench.store.schema import reports

    project = Project.init(root)
    store, rng = project.store, np.random.default_rng(0)
    base = checkpoint(0)
    results = tuple(result(task, rng) for task in range(tasks))
    rows = []
    runs = [
        store.add_run({"recipe": {"recipe": f"run-{number}"}}, folder=str(root / "runs" / f"run-{number}"))
        for number in range(-(-checkpoints // 20))
    ]
    made: list[tuple[Checkpoint, str]] = []
    for number in range(checkpoints + 1):
        one = checkpoint(number, runs[(number - 1) // 20] if number else None)
        own = tuple(result(task, rng) for task in range(tasks)) if number else results
        report = Report(
            id="", checkpoint=one, suites=("large",), results=own, settings={"seed": 0, "number": number},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"), environment={},
        )  # fmt: skip
        report = replace(report, id=report_id(report, []))
        made.append((one, report.id))
        time_ = datetime.now(UTC).isoformat(timespec="microseconds")
        rows.append(
            {
                "id": report.id, "fingerprint": one.fingerprint, "document": canonical_json(report), "items": 0,
                "created_at": report.created_at, "added_at": time_,
            }
        )  # fmt: skip
        store.add_checkpoint(one)
    with store.database.write() as connection:
        connection.execute(reports.insert(), rows)
    for one, report_of in made[1:]:
        told = tuple(compared(task, rng) for task in results)
        comparison = Comparison(
            id="",
            baseline=made[0][1],
            candidate=report_of,
            baseline_checkpoint=base,
            candidate_checkpoint=one,
            tasks=told,
        )
        decide(store, comparison, one, base, report_of)
    large(project, items)
    return project


def decide(store: Any, comparison: Comparison, one: Checkpoint, base: Checkpoint, report_of: str) -> None:
    identity = store.add_comparison(to_plain(comparison), kind="paired", reports=[comparison.baseline, report_of])
    rules = tuple(
        RuleResult(
            rule=f"{task.task}: kept", outcome="pass" if task.verdict == "kept" else "hold", required=True,
            reason=task.reason, task=task.task, verdict=task.verdict, estimate=task.difference, limit=task.margin,
        )
        for task in comparison.tasks
    )  # fmt: skip
    decision = Decision(
        id="", outcome="hold", reason=f"{one.name} holds.", checkpoint=one, baseline=base, rules=rules, evidence={}
    )
    store.add_decision(to_plain(decision), verdict="hold", made_from=[identity])


def large(project: Project, count: int) -> None:
    """Two reports of many items, compared by the pipeline."""
    from workbench.comparing import compare

    rng = np.random.default_rng(1)
    right = rng.random(count) < 0.6
    moved = rng.random(count) < 0.1
    ids = []
    for side in range(2):
        values = right ^ (moved & bool(side))
        items = [
            ItemScore(
                task=f"large_{i % 20:02d}", item=f"{i:064x}", doc_id=i, group=f"{i:064x}",
                metrics={"acc": float(values[i])}, logprobs=(-1.0 - i % 7, -2.0, -3.0, -4.0),
                answer="the first" if values[i] else "the second", target="the first",
                prompt=f"Question {i}: which of these is right, {'and why ' * 40}?",
                extra={"choices": ["the first", "the second", "the third", "the fourth"]},
            )
            for i in range(count)
        ]  # fmt: skip
        results = []
        for task in range(20):
            own = values[task::20]
            estimate = Estimate(metric="acc", value=float(own.mean()), low=0.5, high=0.7, n=len(own), method="wilson")
            results.append(
                TaskResult(
                    task=f"large_{task:02d}", role=ROLES[task % 2], margin=0.02, required=True, metric="acc",
                    estimates=(estimate,), n=len(own), num_fewshot=0,
                )
            )  # fmt: skip
        report = Report(
            id="", checkpoint=replace(checkpoint(900_000 + side), name=f"large-{side}"), suites=("large",),
            results=tuple(results), settings={"seed": 0},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"), environment={},
        )  # fmt: skip
        report = replace(report, id=report_id(report, items))
        project.store.add_report(report, items)
        ids.append(report.id)
    compare(ids[0], [ids[1]], project=project)


def measure(root: Path, *, repeats: int) -> dict[str, Any]:
    """Seconds of every page of ours, and of what follows a press."""
    from playwright.sync_api import sync_playwright

    from dashboards.pages import existing_pages

    port = _free_port("127.0.0.1")
    words = server_command(root, host="127.0.0.1", port=port, read_only=False)
    process = subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/_stcore/health")
        with sync_playwright() as playwright:
            browser = launch(playwright)
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.set_default_timeout(120_000)
            found: dict[str, Any] = {}
            for row in existing_pages():
                address = f"{url}/{'' if row.name == 'overview' else row.name}"
                times = [paint(page, address) for _ in range(repeats + 1)]
                found[row.name] = summary(times)
                print(row.name, found[row.name], flush=True)
            found["press: next page of flips"] = flips_times(page, url, repeats)
            found["press: another page of the navigation"] = navigation_times(page, url, repeats)
            browser.close()
        return found
    finally:
        process.terminate()
        process.wait(30)


def launch(playwright: Any) -> Any:
    """Debian's Chromium, without a graphics card."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])


def summary(times: "list[tuple[float, float]]") -> dict[str, Any]:
    """The first opening, and the median of the others: until the answer stands there, and until all is drawn."""
    again = times[1:]
    return {
        "first": [round(one, 2) for one in times[0]],
        "answer": round(statistics.median(one for one, _ in again), 2),
        "complete": round(statistics.median(one for _, one in again), 2),
        "n": len(again),
    }


ANSWERED = "document.querySelector('h1') && document.querySelectorAll('[data-testid=stText]').length > 0"
COMPLETE = (
    "document.querySelector('h1') && !document.querySelector('[data-testid=stStatusWidget], [data-stale=true]')"
    " && ![...document.querySelectorAll('[data-testid=stSkeleton], [data-testid=stAppSkeleton]')]"
    ".some(one => { const box = one.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; })"
)


def paint(page: Any, address: str) -> "tuple[float, float]":
    """Seconds from the address to the answer, and to a page that is complete as far as it is in sight."""
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(ANSWERED)
    answered = time.perf_counter() - started
    page.wait_for_function(COMPLETE)
    return answered, time.perf_counter() - started


def flips_times(page: Any, url: str, repeats: int) -> dict[str, Any]:
    """Seconds from a press on the next page of a list of flips to its rows."""
    paint(page, f"{url}/items")
    times = []
    for _ in range(repeats):
        before = page.locator("[data-testid=stMain]").inner_text()
        started = time.perf_counter()
        page.get_by_test_id("stPagination").get_by_role("button").last.click()
        page.wait_for_function("t => document.querySelector('[data-testid=stMain]').innerText !== t", arg=before)
        page.wait_for_function(COMPLETE)
        times.append(time.perf_counter() - started)
    return {"median": round(statistics.median(times), 2), "n": repeats}


def navigation_times(page: Any, url: str, repeats: int) -> dict[str, Any]:
    """Seconds from a press on Gate or Overview to its question."""
    paint(page, url)
    times = []
    for number in range(repeats):
        before = page.locator("h1").inner_text()
        started = time.perf_counter()
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=("Gate", "Overview")[number % 2]).click()
        page.wait_for_function("t => document.querySelector('h1')?.innerText !== t", arg=before)
        page.wait_for_function(COMPLETE)
        times.append(time.perf_counter() - started)
    return {"median": round(statistics.median(times), 2), "n": repeats}


def wait_for(address: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("build/dashboard-speed"))
    asked = parser.parse_args()
    root = asked.folder.resolve()
    if not (root / "workbench.yaml").is_file():
        started = time.perf_counter()
        build(root, asked.checkpoints, asked.tasks, asked.items).close()
        print(f"built in {time.perf_counter() - started:.0f} s: {asked.folder}")
    from workbench.store.browse import refresh

    with Project.find(root) as project:
        started = time.perf_counter()
        made = refresh(project.store.database)
        print(f"{made} summaries in {time.perf_counter() - started:.1f} s (once)")
    found = measure(root, repeats=asked.repeats)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
