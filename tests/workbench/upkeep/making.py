"""A project with something of everything, for the tests of what keeps it whole."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from tests.safety.review.people import entry
from tests.tiny import save_tiny_checkpoint
from tests.workbench.store.samples import make_items, make_report
from workbench.store import LedgerEntry, Project, checkpoints, ledger_key

OPERATOR = Operator(name="op")
LONG_AGO = datetime.now(UTC) - timedelta(days=1)


def fill(project: Project) -> None:
    """A start, a run with two checkpoints, reports, a comparison, a decision, the ledger, and a queue with labels."""
    store, root = project.store, project.root
    start = checkpoints.resolve(save_tiny_checkpoint(root / "models" / "start"), name="start")
    store.add_checkpoint(start)
    home = root / "runs" / "tune"
    run = store.add_run({"recipe": {"recipe": "tune"}, "data": {}}, folder=str(home), start=start.fingerprint)
    made = []
    for step in (2, 4):
        folder = save_tiny_checkpoint(home / f"checkpoint-{step}", seed=step)
        (folder / "mixer.json").write_text("{}")
        found = checkpoints.resolve(folder)
        made.append(type(found)(**{**plain(found), "parent": start.fingerprint, "run": run}))
        store.add_checkpoint(made[-1])
    (home / "log.jsonl").write_text(json.dumps({"step": 4, "steps": 4, "loss": 1.0}) + "\n")
    store.set_run_status(run, "done")
    reports = []
    for number, checkpoint in enumerate((start, made[-1])):
        report, items = make_report(checkpoint, make_items(7, shift=number))
        store.add_report(report, items)
        reports.append(report.id)
    compared = store.add_comparison({"verdict": "kept"}, kind="paired", reports=reports)
    document = {"checkpoint": {"fingerprint": made[-1].fingerprint, "run": run}, "outcome": "pass"}
    store.add_decision(document, verdict="pass", made_from=[compared, reports[1]])
    keys = [ledger_key(start.fingerprint, "t", "s", "score", ((n,), (1,))) for n in range(5)]
    store.ledger.put_many({key: LedgerEntry(logprob=-1.5, is_greedy=True, tokens=1) for key in keys})
    queue = ReviewQueue.open(project)
    queue.add(OPERATOR, [entry(n) for n in range(4)])
    ana = queue.add_member(OPERATOR, "ana", [Grant(role="reviewer")]).member
    got = queue.claim(ana)
    assert isinstance(got, Claim)
    queue.submit(ana, got.token, Answer(decision="violates"))
    assert isinstance(queue.claim(ana, now=LONG_AGO), Claim)  # a lease that has ended long ago


def plain(record: object) -> dict[str, object]:
    """The fields of a record with slots."""
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]


def project_in(folder: Path, url: str | None = None) -> Project:
    """A filled project."""
    project = Project.init(folder, store_url=url)
    fill(project)
    return project
