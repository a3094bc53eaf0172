"""Lists of what exists come from the database a page at a time, on SQLite and on PostgreSQL."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.workbench.store.samples import make_checkpoint, make_report
from workbench.errors import StoreError
from workbench.store import Store, schema, to_plain
from workbench.store.browse import (
    browse,
    browse_checkpoints,
    browse_run_entries,
    children_of,
    counts,
    parents_of,
    read_document,
    refresh,
)
from workbench.store.summaries import domain_gain, worst_retained


def task(name: str, role: str, change: float, verdict: str = "kept", **more: Any) -> dict[str, Any]:
    return {
        "task": name, "role": role, "required": True, "margin": 0.02, "verdict": verdict,
        "difference": {"value": change}, **more,
    }  # fmt: skip


@pytest.fixture
def store(store_url: str, tmp_path: Path):
    with Store.open(store_url, folder=tmp_path) as opened:
        base = make_checkpoint("base", "b")
        first, items = make_report(base)
        opened.add_report(first, items)
        run = opened.add_run({"recipe": {"recipe": "shop"}}, folder="/somewhere/runs/shop", start=base.fingerprint)
        for number in range(5):
            made = make_checkpoint(f"shop/checkpoint-{number}", str(number), run=run)
            report, items = make_report(made)
            opened.add_report(report, items)
            document = {
                "baseline_checkpoint": to_plain(base),
                "candidate_checkpoint": to_plain(made),
                "tasks": [task("own", "domain", 0.02 * number), task("old", "general", -0.01 * number)],
            }
            comparison = opened.add_comparison(document, kind="paired", reports=[first.id, report.id])
            decision = {
                "checkpoint": to_plain(made),
                "baseline": to_plain(base),
                "reason": f"why {number}",
                "rules": [],
            }
            opened.add_decision(decision, verdict="pass" if number else "hold", made_from=[comparison])
        assert refresh(opened.database) == 6 + 5 + 5
        yield opened


def test_rows_are_made_once(store: Store) -> None:
    before = store.version()
    assert refresh(store.database) == 0
    assert store.version() == before


def test_a_page_holds_what_was_asked_for_and_says_how_many_there_are(store: Store) -> None:
    page = browse(store.database, "comparison", limit=2, offset=1)
    assert [row.name for row in page.rows] == ["shop/checkpoint-3", "shop/checkpoint-2"]
    assert page.total == 5
    assert page.rows[0].gain == pytest.approx(3.0) and page.rows[0].loss == pytest.approx(-1.5)
    assert page.rows[0].baseline == "base"


def test_a_search_finds_parts_of_names_and_takes_signs_of_like_as_they_are(store: Store) -> None:
    assert [row.name for row in browse(store.database, "report", search="POINT-3").rows] == ["shop/checkpoint-3"]
    assert browse(store.database, "report", search="%").total == 0
    assert browse(store.database, "report", search="shop_checkpoint").total == 0
    some = browse(store.database, "decision", limit=1).rows[0]
    assert [row.id for row in browse(store.database, "decision", search=some.id[:10]).rows] == [some.id]


def test_orders_are_the_databases(store: Store) -> None:
    best = browse(store.database, "comparison", order="gain", limit=1).rows[0]
    worst = browse(store.database, "comparison", order="loss", limit=1).rows[0]
    assert best.name == worst.name == "shop/checkpoint-4"


def test_checkpoints_and_runs_come_with_the_newest_outcome(store: Store) -> None:
    page = browse_checkpoints(store.database, search="checkpoint-", limit=10)
    assert page.total == 5
    outcomes = {row.name: row.outcome for row in page.rows}
    assert outcomes["shop/checkpoint-0"] == "hold" and outcomes["shop/checkpoint-4"] == "pass"
    assert all(row.reports == 1 for row in page.rows)
    runs = browse_run_entries(store.database, search="sho")
    assert [(entry.folder, outcome) for entry, outcome in runs.rows] == [("/somewhere/runs/shop", "pass")]
    assert browse_run_entries(store.database, search="nothing").total == 0


def test_links_lead_up_and_down(store: Store) -> None:
    decision = browse(store.database, "decision", limit=1).rows[0]
    ((kind, comparison),) = parents_of(store.database, decision.id)
    assert kind == "comparison"
    assert [kind for kind, _ in parents_of(store.database, comparison)] == ["report", "report"]
    assert children_of(store.database, comparison, "decision") == (decision.id,)


def test_a_document_bears_its_id_and_its_time(store: Store) -> None:
    decision = browse(store.database, "decision", limit=1).rows[0]
    document = read_document(store.database, "decision", decision.id)
    assert (document["id"], document["created_at"]) == (decision.id, decision.created_at)
    with pytest.raises(StoreError, match="not in this project"):
        read_document(store.database, "report", "0" * 64)


def test_everything_is_counted(store: Store) -> None:
    found = counts(store.database)
    assert (found["checkpoints"], found["reports"], found["comparisons"], found["decisions"]) == (6, 6, 5, 5)


def test_a_document_of_an_older_shape_has_a_row_too(store: Store) -> None:
    newest = browse(store.database, "report", limit=1).rows[0]
    store.add_comparison({"verdict": "inconclusive"}, kind="paired", reports=[newest.id])
    assert refresh(store.database) == 1
    assert browse(store.database, "comparison", limit=1).rows[0].label == "hold"


def test_changes_of_required_tasks_count_where_there_are_some() -> None:
    tasks = [task("a", "domain", 0.04), task("b", "domain", -0.2, required=False), task("c", "general", 0.0)]
    assert domain_gain(tasks) == pytest.approx(2.0)
    assert worst_retained(tasks) == 0.0
    assert domain_gain(tasks[2:]) is None and worst_retained(tasks[:1]) is None


def test_the_lists_are_read_by_an_index(store: Store) -> None:
    if not store.database.is_sqlite:
        pytest.skip("the plan of PostgreSQL depends on its statistics")
    query = "EXPLAIN QUERY PLAN SELECT id FROM summaries WHERE kind = 'decision' ORDER BY created_at DESC LIMIT 1"
    with store.database.read() as connection:
        plan = " ".join(str(row) for row in connection.execute(sa.text(query)))
    assert "summaries_by_time" in plan and "TEMP B-TREE" not in plan
    assert {index.name for index in schema.summaries.indexes} == {
        "summaries_by_time", "summaries_by_fingerprint", "summaries_by_run",
    }  # fmt: skip
