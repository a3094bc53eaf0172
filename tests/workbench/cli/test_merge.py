"""`workbench merge`: one average, and the frontier chosen on one half and judged on the other."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from tests.tiny import save_tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.workbench.publish.samples import CANDIDATE, comparison, task
from workbench.cli import main
from workbench.frontier import Point, choose
from workbench.records import Report
from workbench.store import Project

REPORT = Report(id="r", checkpoint=CANDIDATE, suites=(), results=(), settings={}, created_at="", environment={})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start, and a model some way from it."""
    folder = tmp_path_factory.mktemp("merge")
    save_tiny_checkpoint(folder / "start")
    tuned, other = tiny_model(), tiny_model(seed=5)
    with torch.no_grad():
        for mine, theirs in zip(tuned.parameters(), other.parameters(), strict=True):
            mine += 0.5 * theirs
    tuned.save_pretrained(folder / "tuned")
    tiny_tokenizer().save_pretrained(folder / "tuned")
    return folder


def call(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["merge", str(home / "start"), str(home / "tuned"), *words, "--project", str(home / "p")])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_one_average_is_recorded_with_what_it_was_made_of(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(home, capsys, "--weight", "0.5", "--json")
    made = json.loads(out)["checkpoint"]
    store = Project.find(home / "p").store
    (parent,) = store.lineage(made["fingerprint"]).parents
    parts = json.loads((Path(made["source"]) / "merge.json").read_text())["merged"]
    assert code == 0
    assert [(part["name"], part["weight"]) for part in parts] == [("start", 0.5), ("tuned", 0.5)]
    assert parts[1]["weights"] == parent.id == made["parent"]


def test_a_sweep_chooses_on_one_half_and_judges_on_the_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sweep", "--weights", "0.3,0.7", "--tasks", "sample_anatomy_cloze,sample_general_cloze"]
    code, out, err = call(home, capsys, *words, "--html", str(home / "frontier.html"), "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert [point["weight"] for point in found["points"]] == [0.3, 0.7, 1.0]
    assert {one["part"] for one in found["selected"]} == {"select"}
    assert found["certified_comparison"]["part"] == "certify"
    assert found["certified_comparison"]["candidate"] == found["best"]
    halves = [sum(task["n"] for task in one["tasks"]) for one in (found["selected"][0], found["certified_comparison"])]
    store = Project.find(home / "p").store
    assert sum(halves) == len(store.items(found["best"]))
    # the weights of points that were not chosen are gone, their reports stay
    kept = [folder for folder in (home / "p" / "merges").glob("*tuned*") if "-50" not in folder.name]
    assert len(kept) <= 1
    assert all(store.report(point["report"]).id == point["report"] for point in found["points"])
    page = (home / "frontier.html").read_text()
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert len(svg.findall(".//path")) == 3
    assert page.count('<th scope="row"><bdi>30%') == 1


def test_a_sweep_without_a_domain_task_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(home, capsys, "--sweep", "--weights", "0.5", "--tasks", "sample_general_cloze", "--limit", "8")
    assert code == 2 and "none of the tasks is the domain's" in err
    code, _, err = call(home, capsys, "--sweep")
    assert code == 2 and "name --suite or --tasks" in err
    code, _, err = call(home, capsys, "--sweep", "--tasks", "x", "--weights", "60")
    assert code == 2 and "above 0 and at most 1" in err


def point(weight: float, domain: float, verdict: Any, *, worst: float = 0.0) -> Point:
    tasks = (
        task("d", "improved", (domain, domain - 0.01, domain + 0.01), role="domain"),
        task("g", verdict, (worst, worst - 0.01, worst + 0.01), role="general"),
    )
    selected = comparison(*tasks)
    return Point(weight=weight, averaged=1, checkpoint=selected.candidate_checkpoint, report=REPORT, selected=selected)


def test_a_point_that_keeps_all_goes_before_one_that_learned_more() -> None:
    points = [
        point(0.4, 0.02, "kept"), point(0.6, 0.04, "kept"), point(0.8, 0.09, "inconclusive"), point(1, 0.2, "forgot"),
    ]  # fmt: skip
    assert choose(points).weight == 0.6
    assert choose(points[2:]).weight == 0.8
    assert choose([point(0.5, 0.05, "inconclusive"), point(0.8, 0.09, "inconclusive", worst=-0.03)]).weight == 0.5
    assert choose([point(0.6, 0.04, "kept"), point(0.4, 0.04, "kept")]).weight == 0.4
