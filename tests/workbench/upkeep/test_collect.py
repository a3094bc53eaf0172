"""Garbage collection lets go of what nothing needs, and the record stays."""

import json
import shutil

import pytest

from tests.workbench.store.samples import make_items, make_report
from tests.workbench.upkeep.making import plain, project_in
from workbench.cli import main
from workbench.errors import CheckpointError
from workbench.pipeline import resolve_checkpoint
from workbench.store import Project, checkpoints
from workbench.upkeep.check import check_project
from workbench.upkeep.collect import weigh


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs `tune` (2, 4: 4 passed) and `more` (1 to 5, begun from more's own 2), all of one size."""
    root = tmp_path_factory.mktemp("gc") / "project"
    with project_in(root) as project:
        store, first = project.store, project.store.checkpoint("tune/checkpoint-4")
        home = root / "runs" / "more"
        run = store.add_run({"recipe": {"recipe": "more"}}, folder=str(home), start=first.fingerprint)
        found = []
        for step in range(1, 6):
            folder = shutil.copytree(first.source, home / f"checkpoint-{step}")
            weights = bytearray((folder / "model.safetensors").read_bytes())
            weights[-1] = step
            (folder / "model.safetensors").write_bytes(weights)
            one = checkpoints.resolve(folder)
            found.append(type(one)(**{**plain(one), "parent": first.fingerprint, "run": run}))
            store.add_checkpoint(found[-1])
        average = checkpoints.resolve(shutil.copytree(found[0].source, root / "merges" / "average"))
        store.add_checkpoint(type(average)(**{**plain(average), "parent": first.fingerprint, "run": run}))
        store.set_run_status(run, "done")
        store.add_run({"recipe": {"recipe": "child"}}, folder=str(root / "runs/child"), start=found[1].fingerprint)
        report, items = make_report(found[2], make_items(3, shift=9.0))
        store.add_report(report, items)
    return root


@pytest.fixture
def project(made, tmp_path):
    """The project, put back afterwards."""
    shutil.copytree(made, tmp_path / "kept")
    with Project.find(made) as found:
        yield found
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def reasons(project: Project, **options) -> dict[str, str]:
    return {one.checkpoint.name: one.reason for one in weigh(project, **options).weighed}


EXPECTED = {
    "start": "has children",
    "tune/checkpoint-2": "too old",
    "tune/checkpoint-4": "passed",
    "more/checkpoint-1": "too old",
    "more/checkpoint-2": "has children",
    "more/checkpoint-3": "too old",
    "more/checkpoint-4": "too old",
    "more/checkpoint-5": "last of its run",
    "average": "not of a run",
}


def test_what_passed_what_has_children_and_the_last_of_a_run_stay(project):
    assert reasons(project) == EXPECTED
    assert reasons(project, keep_last=2) == EXPECTED | {"more/checkpoint-4": "last of its run",
                                                        "tune/checkpoint-2": "last of its run"}  # fmt: skip


def test_a_baseline_and_runs_that_are_not_over_stay(project):
    file = project.root / "workbench.yaml"
    file.write_text(file.read_text() + "baseline: more/checkpoint-3\n")
    run = project.store.checkpoint("tune/checkpoint-2").run
    project.store.set_run_status(run, "running")
    with Project.find(project.root) as again:
        found = reasons(again)
    assert found["more/checkpoint-3"] == "baseline"
    assert found["tune/checkpoint-2"] == "run is not over"


def gc(capsys, project: Project, *more: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        main(["gc", "--json", "--project", str(project.root), *more])
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


def test_nothing_is_touched_until_apply_and_then_only_weights(project, capsys):
    going = [name for name, reason in EXPECTED.items() if reason == "too old"]
    folders = {name: project.root / "runs" / name for name in going}
    told = gc(capsys, project)
    assert not told["applied"] and all(folder.is_dir() for folder in folders.values())
    sizes = [file.stat().st_size for folder in folders.values() for file in folder.iterdir()]
    assert told["freed_bytes"] == sum(sizes) > 1_000_000
    assert gc(capsys, project, "--apply")["freed_bytes"] == sum(sizes)
    assert not any(folder.exists() for folder in folders.values())
    assert {one.name for one in project.store.checkpoints()} == set(EXPECTED)
    assert project.store.report("more/checkpoint-3").checkpoint.name == "more/checkpoint-3"
    assert project.store.lineage("more/checkpoint-3").parents[0].label == "tune/checkpoint-4"
    found = check_project(project)
    assert found.faults == ()
    assert sum("were let go" in one.what for one in found.findings) == len(going)
    with pytest.raises(CheckpointError, match=r"weights were let go on \d{4}-.*reports stay"):
        resolve_checkpoint("more/checkpoint-3", project)
    assert gc(capsys, project, "--apply")["freed_bytes"] == 0


def test_a_collection_that_was_killed_in_between_goes_on(project, capsys):
    from workbench.store.let_go import record_let_go

    checkpoint = project.store.checkpoint("more/checkpoint-1")
    record_let_go(project.store.database, [checkpoint], actor="test", why="gc")  # and no further
    assert check_project(project).faults == ()
    gc(capsys, project, "--apply")
    assert not (project.root / "runs/more/checkpoint-1").exists()
