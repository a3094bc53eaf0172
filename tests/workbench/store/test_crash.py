"""Real processes, really killed: what was said to be written is there, and nothing is half there."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.workbench.store.writer import report_of, tile_of
from workbench.records import Report
from workbench.store import Store, read_record

REPOSITORY = Path(__file__).parents[3]
KILLS = 5


def start(url: str, folder: Path, writer: int, rounds: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tests.workbench.store.writer", url, str(folder), str(writer), str(rounds)]
    return subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_writer_killed_at_any_moment_leaves_only_whole_things(store_url: str, tmp_path: Path) -> None:
    generator = random.Random(20260131)
    written: set[tuple[int, str, int]] = set()
    for writer in range(KILLS):
        child = start(store_url, tmp_path, writer, rounds=100_000)
        assert child.stdout is not None
        assert child.stderr is not None
        said = child.stdout.readline()
        while writer % 2 and "report" not in said:  # some are killed early, some when they are well under way
            said += child.stdout.readline()
        time.sleep(generator.uniform(0.01, 0.5))
        child.send_signal(signal.SIGKILL)
        rest, complaints = child.communicate(timeout=60)
        assert (child.returncode, complaints) == (-signal.SIGKILL, "")
        assert said.startswith("open\n")
        for line in (said + rest).removeprefix("open\n").splitlines(keepends=True):
            if line.endswith("\n"):
                kind, number = line.split()
                written.add((writer, kind, int(number)))
        assert_only_whole_things(store_url, tmp_path, written)
    assert {kind for _, kind, _ in written} == {"tile", "report"}


def assert_only_whole_things(url: str, folder: Path, written: set[tuple[int, str, int]]) -> None:
    with Store.open(url, folder=folder) as store:
        visible = {report.id for report in store.reports()}
        for writer, kind, number in written:
            if kind == "report":
                report, items = report_of(writer, number)
                assert store.report(report.id) == report
                assert store.items(report.id) == items
            else:
                tile = tile_of(f"writer-{writer}", number)
                assert store.ledger.get_many(tile) == tile
        for writer in range(KILLS):  # one more than was said may be written; it is written as a whole
            last = max((number for who, kind, number in written if (who, kind) == (writer, "tile")), default=-1)
            for owner, number in ((f"writer-{writer}", last + 1), ("shared", last), ("shared", last + 1)):
                tile = tile_of(owner, number)
                assert store.ledger.get_many(tile) in ({}, tile)
    on_disk = [path for path in (folder / "reports").iterdir() if not path.name.startswith(".")]
    assert visible <= {path.name for path in on_disk}
    for path in on_disk:
        assert read_record(Report, (path / "report.json").read_text()).id == path.name
        assert (path / "items.parquet").stat().st_size > 0


def test_four_writers_at_once_lose_nothing(store_url: str, tmp_path: Path) -> None:
    rounds = 12
    children = [start(store_url, tmp_path, writer, rounds) for writer in range(4)]
    complaints = [child.communicate(timeout=120)[1] for child in children]
    assert [(child.returncode, text) for child, text in zip(children, complaints, strict=True)] == [(0, "")] * 4
    with Store.open(store_url, folder=tmp_path) as store:
        expected = [report_of(writer, number) for writer in range(4) for number in range(0, rounds, 4)]
        assert {report.id for report in store.reports()} == {report.id for report, _ in expected}
        for report, items in expected:
            assert store.report(report.id) == report
            assert store.items(report.id) == items
        owners = ["shared", *(f"writer-{writer}" for writer in range(4))]
        for owner in owners:
            tiles = {key: entry for number in range(rounds) for key, entry in tile_of(owner, number).items()}
            assert store.ledger.get_many(tiles) == tiles
            assert store.ledger.counts([owner]) == {owner: len(tiles)}
        assert store.version() == len(expected)


def test_what_a_killed_writer_left_is_swept_away_later(tmp_path: Path) -> None:
    import os

    reports = tmp_path / "reports"
    for name, age_s in ((".tmp-old", 7200), (".tmp-young", 0)):
        (reports / name).mkdir(parents=True)
        (reports / name / "items.parquet").write_text("half")
        os.utime(reports / name, (time.time() - age_s,) * 2)
    with Store.open("sqlite:///a.sqlite", folder=tmp_path) as store:
        report, items = report_of(0, 0)
        folder = store.add_report(report, items)
    assert sorted(path.name for path in reports.iterdir()) == sorted([".tmp-young", folder.name])
    assert json.loads((folder / "report.json").read_text())["id"] == report.id
