"""The store's record of checkpoints, reports, comparisons, decisions and runs, on both databases."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workbench.store.samples import make_checkpoint, make_items, make_report
from workbench.errors import StoreError
from workbench.records import ItemScore, Report
from workbench.store import Store, read_record, report_id


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    with Store.open(store_url, folder=tmp_path) as opened:
        yield opened


def test_a_report_and_its_items_read_back_equal(store: Store) -> None:
    report, items = make_report()
    folder = store.add_report(report, items)
    assert store.report() == report
    assert store.items("latest") == items
    assert read_record(Report, (folder / "report.json").read_bytes()) == report
    assert sorted(file.name for file in folder.iterdir()) == ["items.parquet", "report.json"]


def test_a_second_process_reads_what_the_first_wrote(store: Store, store_url: str, tmp_path: Path) -> None:
    report, items = make_report()
    store.add_report(report, items)
    with Store.open(store_url, folder=tmp_path) as other:
        assert other.report(report.id) == report
        assert other.items(report.id) == items


def test_the_same_report_twice_is_one_report_and_becomes_the_latest(store: Store) -> None:
    first, items = make_report()
    second, other_items = make_report(make_checkpoint("base", "b"))
    store.add_report(first, items)
    store.add_report(second, other_items)
    assert store.report("latest") == second
    store.add_report(first, items)
    assert store.report("latest") == first
    assert len(store.reports()) == 2


def test_a_report_whose_item_file_was_lost_is_written_again(store: Store) -> None:
    report, items = make_report()
    folder = store.add_report(report, items)
    (folder / "items.parquet").unlink()
    store.add_report(report, items)
    assert store.items(report.id) == items


def test_a_lost_item_file_is_said_so(store: Store) -> None:
    report, items = make_report()
    (store.add_report(report, items) / "items.parquet").unlink()
    with pytest.raises(StoreError, match=r"items\.parquet: the item file is missing; restore"):
        store.items(report.id)


def test_a_report_with_another_id_than_its_content_is_refused(store: Store) -> None:
    report, items = make_report()
    with pytest.raises(StoreError, match="its content hash is"):
        store.add_report(report, make_items(shift=0.5))
    assert store.reports() == []
    assert items


@pytest.mark.parametrize("reference", ["latest", "shop-sft", "/models/shop-sft", "aaaaaaaa"])
def test_a_report_is_found_by_what_a_person_would_type(store: Store, reference: str) -> None:
    report, items = make_report()
    store.add_report(report, items)
    assert store.report(reference) == report
    assert store.report(report.id[:8]) == report
    assert store.report(report.id[:8].upper()) == report


def test_an_unknown_report_is_answered_with_near_names(store: Store) -> None:
    with pytest.raises(StoreError, match="this project has no reports yet; run workbench eval"):
        store.report("latest")
    report, items = make_report()
    store.add_report(report, items)
    store.add_checkpoint(make_checkpoint("unmeasured", "c"))
    with pytest.raises(StoreError, match=r"report 'shop-stf': not in this project; did you mean \"shop-sft\"\?"):
        store.report("shop-stf")
    with pytest.raises(StoreError, match="this checkpoint has no reports yet; run workbench eval unmeasured"):
        store.report("unmeasured")


def test_the_beginning_of_several_ids_is_answered_with_those_ids(store: Store) -> None:
    by_start: dict[str, tuple[Report, list[ItemScore]]] = {}
    for shift in range(2000):
        report, items = make_report(items=make_items(1, shift=float(shift)))
        start = report.id[:4]
        if start in by_start:
            break
        by_start[start] = (report, items)
    else:
        pytest.fail("2,000 hashes without a common beginning")
    other, other_items = by_start[start]
    store.add_report(report, items)
    assert store.report(start) == report
    store.add_report(other, other_items)
    with pytest.raises(StoreError, match=rf"report '{start}': 2 begin with this .*; write more characters"):
        store.report(start)
    assert store.report(other.id[:12]) == other


def test_reports_are_filtered_by_checkpoint_and_suite(store: Store) -> None:
    mine, items = make_report()
    other, other_items = make_report(make_checkpoint("base", "b"), suites=("general",))
    store.add_report(mine, items)
    store.add_report(other, other_items)
    assert store.reports(checkpoint="base") == [other]
    assert store.reports(suite="shop") == [mine]
    assert store.reports(limit=1) == [other]


def test_a_report_id_ignores_place_time_and_machine_but_no_answer() -> None:
    report, items = make_report()
    moved = replace(report, checkpoint=replace(report.checkpoint, name="alias", source="/elsewhere"))
    later = replace(moved, created_at="2027-01-01T00:00:00+00:00", environment={"torch": "3"}, timing={})
    assert report_id(later, items) == report.id
    assert report_id(report, list(reversed(items))) == report.id
    changed = [replace(items[0], answer="a paper bag"), *items[1:]]
    assert report_id(report, changed) != report.id
    assert report_id(replace(report, settings={"seed": 1}), items) != report.id
    assert report_id(replace(report, checkpoint=make_checkpoint(digit="b")), items) != report.id


def test_a_checkpoint_keeps_the_facts_once_known(store: Store) -> None:
    store.add_checkpoint(make_checkpoint(stage="posttrain", parent="b" * 64))
    store.add_checkpoint(make_checkpoint())
    found = store.checkpoint("shop-sft")
    assert (found.stage, found.parent) == ("posttrain", "b" * 64)
    assert len(store.checkpoints()) == 1


def test_a_name_means_the_weights_last_seen_under_it(store: Store) -> None:
    store.add_checkpoint(make_checkpoint(digit="a"))
    store.add_checkpoint(make_checkpoint(digit="b"))
    assert store.checkpoint("shop-sft").fingerprint == "b" * 64
    assert store.checkpoint("aaaa").fingerprint == "a" * 64


def test_an_unknown_or_ambiguous_checkpoint_is_one_clear_line(store: Store) -> None:
    store.add_checkpoint(make_checkpoint("one", fingerprint="abcd1" + "0" * 59))
    store.add_checkpoint(make_checkpoint("two", fingerprint="abcd2" + "0" * 59))
    with pytest.raises(StoreError, match=r"did you mean \"one\"\?"):
        store.checkpoint("onne")
    with pytest.raises(StoreError, match=r"2 begin with this \(abcd1.*, abcd2.*\); write more characters"):
        store.checkpoint("abcd")
    assert store.checkpoint("abcd1").name == "one"


def test_lineage_leads_from_a_decision_to_the_first_weights(store: Store) -> None:
    run = store.add_run({"recipe": "sft", "seed": 1}, folder="runs/sft", start="b" * 64)
    base = make_checkpoint("base", "b")
    trained = make_checkpoint("trained", "c", parent="b" * 64, run=run)
    reports = [make_report(checkpoint) for checkpoint in (base, trained)]
    for report, items in reports:
        store.add_report(report, items)
    ids = [report.id for report, _ in reports]
    comparison = store.add_comparison({"difference": 0.1}, kind="paired", reports=ids)
    decision = store.add_decision({"reason": "too few items"}, verdict="hold", made_from=[comparison, ids[1]])

    tree = store.lineage(decision)
    assert (tree.kind, tree.label) == ("decision", "hold")
    assert [(node.kind, node.id) for node in tree.parents] == [("comparison", comparison), ("report", ids[1])]
    assert [node.id for node in tree.parents[0].parents] == ids
    checkpoint = tree.parents[1].parents[0]
    assert (checkpoint.kind, checkpoint.label) == ("checkpoint", "trained")
    assert [(node.kind, node.label) for node in checkpoint.parents] == [("checkpoint", "base"), ("run", "running")]
    assert checkpoint.parents[1].parents[0].label == "base"
    assert store.lineage(decision[:10]) == tree
    assert store.lineage("trained") == checkpoint


def test_lineage_ends_where_a_record_names_itself(store: Store) -> None:
    store.add_checkpoint(make_checkpoint("loop", "d", parent="d" * 64))
    tree = store.lineage("loop")
    assert [node.id for node in tree.parents] == ["d" * 64]
    assert tree.parents[0].parents == ()


def test_lineage_of_something_unknown_is_one_clear_line(store: Store) -> None:
    store.add_checkpoint(make_checkpoint("base", "b"))
    with pytest.raises(StoreError, match=r"'bsae': not in this project; did you mean \"base\"\?"):
        store.lineage("bsae")


def test_comparisons_and_decisions_read_back_and_know_their_parents(store: Store) -> None:
    report, items = make_report()
    store.add_report(report, items)
    document = {"tasks": [{"task": "shop_mc", "difference": 1 / 3}], "note": "NUL \x00 and \ud83d stay"}
    comparison = store.add_comparison(document, kind="paired", reports=[report.id])
    assert store.add_comparison(document, kind="paired", reports=[report.id]) == comparison
    (found,) = store.comparisons(of=report.id)
    assert (found.id, found.label, found.document, found.parents) == (comparison, "paired", document, (report.id,))
    store.add_decision({}, verdict="pass", made_from=[comparison])
    assert [entry.label for entry in store.decisions(of=comparison)] == ["pass"]
    assert store.decisions(of=report.id) == []
    with pytest.raises(StoreError, match=r"comparison: made from 'nowhere', which is not in this project"):
        store.add_comparison({}, kind="paired", reports=["nowhere"])


def test_a_run_goes_on_as_the_same_run(store: Store) -> None:
    run = store.add_run({"seed": 1}, folder="runs/a")
    store.set_run_status(run, "failed")
    assert store.add_run({"seed": 1}, folder="runs/a") == run
    assert [(entry.id, entry.status, entry.document) for entry in store.runs()] == [(run, "running", {"seed": 1})]
    store.set_run_status(run, "done")
    assert store.runs()[0].status == "done"
    with pytest.raises(StoreError, match="not in this project"):
        store.set_run_status("f" * 64, "done")


def test_the_version_grows_with_each_write_and_with_no_read(store: Store) -> None:
    report, items = make_report()
    versions = [store.version()]
    for write in (
        lambda: store.add_checkpoint(make_checkpoint()),
        lambda: store.add_report(report, items),
        lambda: store.add_comparison({}, kind="paired", reports=[report.id]),
        lambda: store.add_decision({}, verdict="pass", made_from=[report.id]),
        lambda: store.add_run({}, folder="runs/a"),
    ):
        write()
        versions.append(store.version())
    assert versions == sorted(set(versions))
    store.reports()
    store.items(report.id)
    assert store.version() == versions[-1]


def test_a_perplexity_of_infinity_is_kept(store: Store) -> None:
    report, items = make_report()
    estimate = replace(report.results[0].estimates[0], metric="acc", value=float("inf"), high=None)
    report = replace(report, results=(replace(report.results[0], estimates=(estimate,)),))
    report = replace(report, id=report_id(report, items))
    folder = store.add_report(report, items)
    assert store.report() == report
    json.loads((folder / "report.json").read_text(), parse_constant=lambda text: pytest.fail(f"no JSON: {text}"))
