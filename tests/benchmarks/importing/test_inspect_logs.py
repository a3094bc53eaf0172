"""Inspect's logs, made by inspect_ai itself (tests/data/inspect/make_logs.py)."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import Side, compare_reports
from benchmarks.importing.inspect_files import read_inspect_file
from benchmarks.importing.reading import read_runs
from benchmarks.importing.run import ImportedRun
from workbench.errors import LogError
from workbench.records import Checkpoint, Report

LOGS = Path(__file__).parents[2] / "data" / "inspect"
Members = dict[str, Any]


def import_report(run: ImportedRun) -> Report:
    """The report of a run, its weights being nowhere."""
    checkpoint = Checkpoint(
        name="model", source="imported:model", kind="endpoint", fingerprint=run.digest, tokenizer=""
    )
    return Report(
        id=run.digest,
        checkpoint=checkpoint,
        suites=(),
        results=run.results,
        settings=run.settings,
        created_at=run.created_at,
        environment={},
    )


def rewrite(folder: Path, name: str, change: Callable[[Members], Any], *, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    """A copy of a log whose members were changed, packed as older versions of inspect_ai did."""
    log = read_inspect_file(LOGS / f"{name}.eval")
    members: Members = {"header.json": dict(log.header)}
    members |= {f"samples/{place}.json": dict(sample) for place, sample in enumerate(log.samples)}
    change(members)
    file = folder / f"{name}.eval"
    with zipfile.ZipFile(file, "w", packing) as archive:
        for member, content in members.items():
            archive.writestr(member, content if isinstance(content, str) else json.dumps(content))
    return file


def test_scores_are_what_inspect_wrote_into_the_header():
    for name in ("facts_before", "facts_after", "organs_twice"):
        (run,) = read_runs([LOGS / f"{name}.eval"])
        header = read_inspect_file(LOGS / f"{name}.eval").header
        (result,) = run.results
        for score in header["results"]["scores"]:
            logged = score["metrics"].get("accuracy") or score["metrics"]["mean"]
            (estimate,) = (e for e in result.estimates if e.metric == score["name"])
            assert estimate.value == pytest.approx(logged["value"], abs=1e-12)
        assert result.metric == header["results"]["headline"]["score"]


def test_letters_numbers_and_several_scorers():
    (run,) = read_runs([LOGS / "facts_before.eval"])
    assert [item.metrics["match"] for item in run.items] == [1.0, 0.0, 1.0, 0.0]
    assert [item.metrics["f1"] for item in run.items] == [0.4, 0.0, 1.0, 0.0]
    assert [item.answer for item in run.items] == ["A spider has 8 legs.", "Snow", "Mars", "wax"]
    assert [item.target for item in run.items] == ["8", "ice", "Mars", "honey"]
    assert run.model.label == "mockllm/model"
    assert run.importer.startswith("inspect_ai 0.3")


def test_epochs_of_a_question_are_averaged():
    (run,) = read_runs([LOGS / "organs_twice.eval"])
    assert [item.metrics["choice"] for item in run.items] == [1.0, 0.5, 1.0]
    assert run.items[1].extra["answers"] == ["ANSWER: A", "ANSWER: B"]
    assert run.results[0].n == 3
    assert run.results[0].chance == 0.5
    assert "A) the heart" in run.items[0].prompt


def test_two_logs_of_the_same_task_pair():
    before, after = read_runs([LOGS / "facts_before.eval", LOGS / "facts_after.eval"])
    assert [item.item for item in before.items] == [item.item for item in after.items]
    reports = [import_report(run) for run in (before, after)]
    (task,) = compare_reports(*(Side.of(r, run.items) for r, run in zip(reports, (before, after), strict=True))).tasks
    assert (task.n, task.missing, task.baseline, task.candidate) == (4, 0, 0.5, 0.75)
    assert task.verdict == "inconclusive"


def test_a_metric_that_lm_eval_pools_under_the_same_name_is_a_mean_of_items():
    runs = read_runs([LOGS / "facts_before.eval", LOGS / "facts_after.eval"])
    reports = [import_report(run) for run in runs]
    reports = [replace(r, results=tuple(replace(own, metric="f1") for own in r.results)) for r in reports]
    (task,) = compare_reports(*(Side.of(r, run.items) for r, run in zip(reports, runs, strict=True))).tasks
    assert (task.baseline, task.candidate) == (pytest.approx(0.35), 0.75)


def test_another_prompt_is_another_item(tmp_path: Path):
    def shorten(members: Members) -> None:
        members["samples/0.json"]["messages"][0]["content"] = "Legs of a spider?"

    (other,) = read_runs([rewrite(tmp_path, "facts_before", shorten)])
    (run,) = read_runs([LOGS / "facts_before.eval"])
    assert [a.extra["doc"] == b.extra["doc"] for a, b in zip(run.items, other.items, strict=True)] == [True] * 4
    assert [a.item == b.item for a, b in zip(run.items, other.items, strict=True)] == [False, True, True, True]


def test_json_logs_hold_the_same(tmp_path: Path):
    log = read_inspect_file(LOGS / "facts_before.eval")
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({**log.header, "samples": log.samples}, indent=2), encoding="utf-8")
    (whole,) = read_runs([tmp_path])
    (packed,) = read_runs([LOGS / "facts_before.eval"])
    assert (whole.results, whole.items, whole.settings) == (packed.results, packed.items, packed.settings)


def test_metadata_makes_clusters():
    (run,) = read_runs([LOGS / "facts_before.eval"], cluster="topic")
    assert [item.group for item in run.items] == ["topic 0", "topic 1", "topic 0", "topic 1"]
    assert run.results[0].headline.clusters == 2
    with pytest.raises(LogError, match="--cluster theme: no such metadata; the samples have topic"):
        read_runs([LOGS / "facts_before.eval"], cluster="theme")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_errors_and_unscored_samples_are_counted_and_not_scored(tmp_path: Path, packing: int):
    def fail(members: Members) -> None:
        members["samples/3.json"] |= {"scores": {}, "error": {"message": "RuntimeError('no answer today')"}}
        members["samples/1.json"]["scores"]["f1"]["value"] = float("nan")

    (run,) = read_runs([rewrite(tmp_path, "facts_before", fail, packing=packing)])
    (result,) = run.results
    assert result.headline.value == pytest.approx(2 / 3)
    assert {e.metric: e.n for e in result.estimates} == {"match": 3, "f1": 2}
    assert "1 of 4 samples ended in an error and are not scored" in result.notes
    assert "f1: 1 samples were left unscored" in result.notes
    # The log's own mean of match was over four samples.
    assert "match: the log says 0.5 (reducer mean)" in result.notes


def test_a_score_of_named_parts_makes_a_metric_of_each(tmp_path: Path):
    def split(members: Members) -> None:
        for name in members:
            if name.startswith("samples/"):
                members[name]["scores"]["match"]["value"] = {"style": "C", "facts": 0.5, "words": "yes"}

    (run,) = read_runs([rewrite(tmp_path, "facts_before", split)])
    assert run.items[0].metrics == {"match.style": 1.0, "match.facts": 0.5, "match.words": 1.0, "f1": 0.4}
    assert run.results[0].metric == "match.style"


def stop_early(members: Members) -> None:
    members["header.json"] |= {"status": "error", "error": {"message": "the disk is full"}}


def grow_version(members: Members) -> None:
    members["header.json"]["version"] = 9


def lose_samples(members: Members) -> None:
    for name in [name for name in members if name.startswith("samples/")]:
        del members[name]


def lose_one(members: Members) -> None:
    del members["samples/2.json"]


def lose_header(members: Members) -> None:
    del members["header.json"]
    members["_journal/start.json"] = {}


def break_member(members: Members) -> None:
    members["samples/1.json"] = '{"id": 1, '


def lose_scores(members: Members) -> None:
    for name in members:
        if name.startswith("samples/"):
            members[name]["scores"] = {}


def change_shape(members: Members) -> None:
    members["samples/1.json"]["messages"] = ["a newer layout"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (stop_early, r"ended with status 'error' \(the disk is full\); finish it with inspect eval-retry"),
        (grow_version, "written in version 9 of Inspect's log format"),
        (lose_samples, "holds no samples; run inspect eval with --log-samples"),
        (lose_one, "holds 3 of 4 samples"),
        (lose_header, "the run was not finished"),
        (break_member, r"samples/1.json in it is damaged"),
        (lose_scores, "no sample has a score that is a number"),
        (change_shape, "not built as the versions known here build it"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(tmp_path: Path, damage: Any, message: str):
    file = rewrite(tmp_path, "facts_before", damage)
    with pytest.raises(LogError, match=message) as caught:
        read_runs([file])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_log_that_was_cut_off_is_told_in_one_line(tmp_path: Path, kept: float):
    data = (LOGS / "facts_before.eval").read_bytes()
    file = tmp_path / "cut.eval"
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(LogError, match=r"cut\.eval: cut off, damaged or no \.eval file"):
        read_runs([file])


def test_a_flipped_byte_is_found_by_its_checksum(tmp_path: Path):
    data = bytearray((LOGS / "facts_before.eval").read_bytes())
    with zipfile.ZipFile(LOGS / "facts_before.eval") as archive:
        member = archive.getinfo("samples/2_epoch_1.json")
    data[member.header_offset + 120] ^= 0xFF
    file = tmp_path / "flipped.eval"
    file.write_bytes(data)
    with pytest.raises(LogError, match=r"samples/2_epoch_1.json in it is damaged"):
        read_runs([file])


@pytest.mark.parametrize(
    ("name", "content"),
    [("other.json", b'{"a": 1}'), ("list.json", b"[1, 2]"), ("notes.txt", b"hello"), ("bytes.json", b"\xff\xfe\x00")],
)
def test_files_of_something_else_are_refused(tmp_path: Path, name: str, content: bytes):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(LogError, match=name):
        read_runs([file])
