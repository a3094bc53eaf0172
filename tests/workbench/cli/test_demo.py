"""`workbench demo` at toy size: the embedded model's place holds a tiny one."""

import json
from typing import Any

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


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of one command after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def test_the_demo_shows_the_model_and_two_copies_and_the_commands_that_did_it(home, capsys):
    assert run() == 0
    out, err = capsys.readouterr()
    head = out.splitlines()[0].split("\t")
    assert head[:6] == ["task", "metric", "n", "smollm2", "smollm2-float16", "smollm2-3bit"]
    commands = [line.removeprefix("$ workbench ").split()[0] for line in err.splitlines() if line.startswith("$ ")]
    assert commands == ["eval", "gate", "gate", "compare"]
    assert err.count("exit code ") == 2
    assert (home / "demo" / "decision.html").is_file()


def test_the_demo_ends_in_a_decision_for_each_copy(home, capsys):
    assert run("--json") == 0
    evaluated, harmless, damaged, compared = objects(capsys.readouterr().out)
    names = [gate["decision"]["checkpoint"]["name"] for gate in (harmless, damaged)]
    assert names == ["smollm2-float16", "smollm2-3bit"]
    assert {gate["decision"]["outcome"] for gate in (harmless, damaged)} <= {"pass", "fail", "hold"}
    assert len(evaluated["comparisons"]) == 2
    (comparison,) = compared["comparisons"]
    assert all(task["noise"] is not None for task in comparison["tasks"] if task["metric"] != "bits_per_byte")


def test_the_copies_have_the_model_as_their_parent(home, capsys):
    assert run("--json") == 0
    model, *twins = (report["checkpoint"] for report in objects(capsys.readouterr().out)[0]["reports"])
    store = Project.find(home / "demo").store
    for twin in twins:
        assert store.checkpoint(twin["fingerprint"]).parent == model["fingerprint"]
    assert len({one["fingerprint"] for one in (model, *twins)}) == 3


def test_the_second_demo_pays_for_nothing(home, capsys):
    run("--json")
    first = objects(capsys.readouterr().out)[0]["reports"]
    run("--json")
    second = objects(capsys.readouterr().out)[0]["reports"]
    assert all(report["timing"]["requests_computed"] > 0 for report in first)
    assert all(report["timing"]["requests_computed"] == 0 for report in second)
    assert [report["id"] for report in first] == [report["id"] for report in second]
