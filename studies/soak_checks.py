"""After the storm: is anything lost, is anything wrong? Looks at what a user finds, and at what clients were told."""

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from studies.soak_actors import Actor, Job, Worker, python
from studies.soak_people import read_notes

ROOT = Path(__file__).resolve().parents[1]
TRACE = "Traceback (most recent call last)"


def examine(project: Path, folder: Path, actors: Sequence[Actor]) -> dict[str, Any]:
    """Everything that is asked after a soak; `wrong` is empty where nothing is."""
    wrong: list[str] = []
    jobs = [job for actor in actors if isinstance(actor, Worker) for job in actor.jobs]
    begun_again = finish(actors, wrong)
    print("what was under way is done", flush=True)
    doctor = look_deep(project, wrong)
    labels = compare_labels(project, folder, wrong)
    answers = compare_answers(project, folder, wrong)
    pages = look_at_pages(folder, wrong)
    calm = folder / "calm"
    done = [job for job in jobs if job.is_done]
    for job in done:
        if not job.is_repeated:
            next(actor for actor in actors if isinstance(actor, Worker) and job in actor.jobs).repeat(job)
        if not job.is_repeated:
            wrong.append(f"{job.name}: the calm run did not come to its end")
    same = compare_with_calm(project, calm, done, wrong)
    traces = find_traces(folder / "logs", wrong)
    return {
        "jobs": dict(Counter(job.kind for job in done)),
        "attempts": {
            kind: sum(job.attempts for job in jobs if job.kind == kind) for kind in {job.kind for job in jobs}
        },
        "finished_after": begun_again,
        "doctor": doctor,
        "labels": labels,
        "answers": answers,
        "pages": pages,
        "same_as_calm": same,
        "tracebacks": traces,
        "wrong": wrong,
    }


def finish(actors: Sequence[Actor], wrong: list[str]) -> int:
    """What was under way comes to its end by the same command; how many there were."""
    count = 0
    for actor in actors:
        for job in actor.jobs if isinstance(actor, Worker) else ():
            if job.is_done:
                continue
            count += 1
            for _ in range(2):
                actor.run_once(job)  # type: ignore[union-attr]
                if job.is_done:
                    break
            if job.is_done:
                actor.repeat(job)  # type: ignore[union-attr]
            else:
                wrong.append(f"{job.name}: does not come to its end in calm weather: exit codes {job.codes[-3:]}")
    return count


def look_deep(project: Path, wrong: list[str]) -> dict[str, Any]:
    """What `workbench doctor --deep` says, as a user would run it."""
    words = python("-m", "workbench.cli", "doctor", "--deep", "--repair", "--json", "--project", str(project))
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode not in (0, 1):
        wrong.append(f"doctor --deep ended with {ended.returncode}: {ended.stderr[-300:]}")
        return {}
    told = json.loads(ended.stdout)
    kinds = Counter(one["kind"] for one in told["findings"])
    wrong += [f"doctor: {one['area']}: {one['what']}" for one in told["findings"] if one["kind"] == "fault"]
    left = Counter(one["area"] for one in told["findings"] if one["kind"] == "left")
    return {"looked_at": told["looked_at"], "findings": dict(kinds), "left_over": dict(left)}


def compare_labels(project: Path, folder: Path, wrong: list[str]) -> dict[str, int]:
    """Every label whose client was told so is in the store, once, and says what was said."""
    from workbench.store import Project
    from workbench.store.review_schema import review_labels

    with Project.find(project) as home, home.store.database.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(review_labels))}
    counts: Counter[str] = Counter(stored=len(rows))
    told: set[str] = set()
    sent: set[str] = set()
    for file in sorted((folder / "people").glob("person-*.jsonl")):
        for line in read_notes(file):
            counts["server errors"] += line.get("refused", 0) >= 500
            counts["refused"] += 400 <= line.get("refused", 0) < 500
            if "sent" in line:
                sent.add(line["sent"])
            if "done" not in line:
                continue
            counts["acknowledged"] += line["label"] not in told
            counts["acknowledged again"] += bool(line["replayed"])
            told.add(line["label"])
            row = rows.get(line["label"])
            if row is None:
                wrong.append(f"label {line['label']} of {file.stem} was acknowledged and is lost")
            elif (row.item_id, row.decision, row.retracted_at) != (line["item"], line["decision"], None):
                wrong.append(f"label {line['label']} of {file.stem} is not what was acknowledged")
    counts["sent"] = len(sent)
    unknown = [row.key for row in rows.values() if row.key not in sent]
    if unknown:
        wrong.append(f"{len(unknown)} labels that nobody sent, such as {unknown[0]}")
    return dict(counts)


def compare_answers(project: Path, folder: Path, wrong: list[str]) -> dict[str, int]:
    """Every answer that left the served model has its rows in the audit."""
    from workbench.store import Project
    from workbench.store.audit import audit_rows

    with Project.find(project) as home:
        known = {row.document.get("request") for row in audit_rows(home.store.database, kind="guard")}
    counts: Counter[str] = Counter()
    for file in (folder / "people").glob("asker-*.jsonl"):
        for line in read_notes(file):
            counts["unreachable"] += "unreachable" in line
            counts["refused"] += "refused" in line
            if "answered" in line:
                counts["answered"] += 1
                if line["answered"] not in known:
                    wrong.append(f"request {line['answered']} was answered and has no row in the audit")
    return dict(counts)


def look_at_pages(folder: Path, wrong: list[str]) -> dict[str, int]:
    """What visitors of the dashboard saw; exceptions on a page are told, not what a stopped database must show."""
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for file in (folder / "people").glob("visitor-*.jsonl"):
        for line in read_notes(file):
            counts["unreachable"] += "unreachable" in line
            counts["opened"] += "elements" in line
            for error in line.get("errors", ()):
                errors[f"{line['page'] or 'overview'}: {error}"] += 1
    wrong += [f"dashboard page {error} ({count} times)" for error, count in errors.items()]
    return dict(counts)


def compare_with_calm(project: Path, calm: Path, jobs: Sequence[Job], wrong: list[str]) -> dict[str, int]:
    """Reports by their ids, checkpoints by their fingerprints, outputs by their bytes, decisions by their verdicts."""
    from workbench.store import Project

    found: dict[str, int] = {}
    with Project.find(project) as ours, Project.find(calm) as theirs:
        pairs = {
            "reports": ({one.id for one in ours.store.reports()}, {one.id for one in theirs.store.reports()}),
            "checkpoints": (
                {(one.name, one.fingerprint) for one in ours.store.checkpoints()},
                {(one.name, one.fingerprint) for one in theirs.store.checkpoints()},
            ),
            "decisions": (verdicts(ours), verdicts(theirs)),
        }
    for what, (mine, calms) in pairs.items():
        found[what] = len(mine & calms)
        lost, odd = sorted(map(str, calms - mine)), sorted(map(str, mine - calms))
        wrong += [f"{what}: the calm run has {one}, the soaked project has not" for one in lost[:5]]
        wrong += [f"{what}: the soaked project has {one}, no calm run gives it" for one in odd[:5]]
    for job in jobs:
        if job.kind != "moderate":
            continue
        mine, calms = (root / "moderated" / f"{job.name}.jsonl" for root in (project, calm))
        if not mine.exists() or not calms.exists() or mine.read_bytes() != calms.read_bytes():
            wrong.append(f"{job.name}: moderated posts differ from the calm run's")
        else:
            found["outputs"] = found.get("outputs", 0) + 1
    return found


def verdicts(project: Any) -> set[tuple[str, str]]:
    """(checkpoint, verdict) of every decision."""
    return {((one.document.get("checkpoint") or {}).get("fingerprint", ""), one.label)
            for one in project.store.decisions()}  # fmt: skip


def find_traces(logs: Path, wrong: list[str]) -> dict[str, int]:
    """Commands end with one line, never with a traceback, whatever befalls them."""
    ends: Counter[str] = Counter()
    for file in sorted(logs.glob("*.log")):
        text = file.read_text(errors="replace")
        for part in text.split(TRACE)[1:]:
            lines = [line for line in part.splitlines()[1:] if line and not line.startswith((" ", "\t"))]
            ends[f"{file.stem}: {(lines or ['?'])[0][:200]}"] += 1
    wrong += [f"traceback in {end} ({count} times)" for end, count in ends.items()]
    return dict(ends)
