"""`workbench demo` at toy size: the embedded model's place holds a tiny one."""

import json

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.store import Project


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *args])
    return int(ended.value.code or 0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder, and a cache in which `smollm2` is a tiny random model."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["workbench", "demo"])
    save_tiny_checkpoint(tmp_path / "cache" / "models" / "smollm2")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_demo_shows_two_checkpoints_and_the_command_that_did_it(home, capsys):
    assert run() == 0
    out, err = capsys.readouterr()
    head = out.splitlines()[0].split("\t")
    assert head == ["task", "metric", "n", "smollm2", "smollm2-4bit", "change"]
    assert len(out.splitlines()) == 7
    assert "$ workbench eval smollm2 demo/" in err
    assert err.splitlines()[-1].endswith("--project demo")


def test_the_twin_has_the_model_as_its_parent(home, capsys):
    assert run("--json") == 0
    reports = json.loads(capsys.readouterr().out)["reports"]
    model, twin = (report["checkpoint"] for report in reports)
    store = Project.find(home / "demo").store
    assert store.checkpoint(twin["fingerprint"]).parent == model["fingerprint"]
    assert twin["fingerprint"] != model["fingerprint"]


def test_the_second_demo_pays_for_nothing(home, capsys):
    run("--json")
    first = json.loads(capsys.readouterr().out)["reports"]
    run("--json")
    second = json.loads(capsys.readouterr().out)["reports"]
    assert all(report["timing"]["requests_computed"] > 0 for report in first)
    assert all(report["timing"]["requests_computed"] == 0 for report in second)
    assert [report["id"] for report in first] == [report["id"] for report in second]
