"""`workbench compare` and `workbench gate`, as a shell script sees them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.recorded import lose, project_in, record_report, right
from workbench.cli import main
from workbench.store import Project
from workbench.store.audit import audit_rows

BEFORE = {"arc": right(400, 300), "piqa": right(400, 280)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = project_in(tmp_path / "p")
    record_report(made, "base", BEFORE)
    record_report(made, "same", BEFORE | {"piqa": lose(BEFORE["piqa"], 1, 1)})
    record_report(made, "damaged", BEFORE | {"arc": lose(BEFORE["arc"], 80)})
    record_report(made, "unsure", BEFORE | {"piqa": lose(BEFORE["piqa"], 12, 8)})
    return made


@pytest.fixture
def run(project: Project, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*words, "--project", str(project.root)])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.mark.parametrize(
    ("candidate", "code", "word"), [("same", 0, "pass"), ("damaged", 1, "fail"), ("unsure", 3, "hold")]
)
def test_the_exit_code_of_a_gate_says_whether_to_ship(run: Any, candidate: str, code: int, word: str) -> None:
    ended = run("gate", candidate, "--baseline", "base")
    assert ended[0] == code
    assert f" {word}: " in ended[1].splitlines()[0]
    assert "recorded" in ended[2]


def test_a_gate_without_a_baseline_holds(run: Any) -> None:
    code, out, _ = run("gate", "same")
    assert code == 3 and "no baseline" in out


def test_the_projects_baseline_is_used(run: Any, project: Project) -> None:
    (project.root / "workbench.yaml").write_text("baseline: base\n")
    assert run("gate", "same")[0] == 0


def test_json_holds_decision_and_comparison_and_the_store_keeps_both(run: Any, project: Project) -> None:
    code, out, _ = run("gate", "damaged", "--baseline", "base", "--json")
    found = json.loads(out)
    assert (code, found["schema_version"], found["decision"]["outcome"]) == (1, 1, "fail")
    (decision,) = project.store.decisions()
    assert (decision.label, decision.id) == ("fail", found["decision"]["id"])
    assert decision.parents == (found["comparison"]["id"],)
    evidence = found["decision"]["evidence"]
    assert {"report", "weights", "items", "baseline weights", "baseline items"} <= evidence.keys()
    lineage = project.store.lineage(decision.id)
    assert lineage.kind == "decision"


def test_the_same_gate_twice_is_one_decision(run: Any, project: Project) -> None:
    for _ in range(2):
        run("gate", "same", "--baseline", "base")
    assert len(project.store.decisions()) == 1


def test_a_rules_file_decides_and_a_misspelt_one_is_one_line(run: Any, tmp_path: Path) -> None:
    rules = tmp_path / "release.yaml"
    rules.write_text(
        "gate: release\nbaseline: base\nrules:\n  - {task: arc}\n  - {task: piqa, required: false}\n"
        "  - {task: arc, at_least: 0.6}\n"
    )
    assert run("gate", "same", "--rules", str(rules))[0] == 0
    code, out, _ = run("gate", "damaged", "--rules", str(rules))
    assert code == 1 and "arc: at least 0.6" in out
    rules.write_text("gate: release\nrules:\n  - {task: acr}\n")
    code, out, err = run("gate", "same", "--rules", str(rules))
    assert (code, out) == (2, "")
    assert 'did you mean "arc' in err and err.count("\n") == 1


def test_a_drafted_gate_is_accepted(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("gate", "base", "--init")
    assert code == 0
    (tmp_path / "release.yaml").write_text(out)
    assert run("gate", "same", "--rules", str(tmp_path / "release.yaml"))[0] == 0
    assert run("gate", "damaged", "--rules", str(tmp_path / "release.yaml"))[0] == 1


def test_documents_are_written_for_people_and_for_machines(run: Any, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("gate.md", "gate.html", "gate.xml")]
    options = [
        word
        for flag, file in zip(("--markdown", "--html", "--junit"), files, strict=True)
        for word in (flag, str(file))
    ]
    assert run("gate", "damaged", "--baseline", "base", *options)[0] == 1
    markdown, html, junit = (file.read_text() for file in files)
    assert "fail" in markdown.splitlines()[0] and "arc" in markdown
    assert html.startswith("<!DOCTYPE html>") or html.startswith("<!doctype html>")
    assert "Question" in html  # flips are shown
    suite = ElementTree.fromstring(junit)
    assert len(list(suite.iter("failure"))) == 2  # the rule, and the decision


def test_a_document_that_cannot_be_written_is_one_line(run: Any, tmp_path: Path) -> None:
    code, _, err = run("gate", "same", "--baseline", "base", "--html", str(tmp_path / "no" / "gate.html"))
    assert code == 2 and "cannot be written" in err


def test_compare_shows_verdicts_and_flips(run: Any) -> None:
    code, out, _ = run("compare", "base", "damaged", "--flips", "3")
    assert code == 0
    assert "■ forgot" in out and "● kept" in out
    assert out.count("■ lost") == 3


def test_compare_takes_tasks_and_a_margin(run: Any) -> None:
    code, out, _ = run("compare", "base", "unsure", "--tasks", "piqa", "--margin", "10pt", "--json")
    (comparison,) = json.loads(out)["comparisons"]
    assert code == 0
    assert [(t["task"], t["margin"], t["verdict"]) for t in comparison["tasks"]] == [("piqa", 0.1, "kept")]
    assert run("compare", "base", "unsure", "--tasks", "paqi")[0] == 2
    assert run("compare", "base", "unsure", "--margin", "2")[0] == 2


def test_several_candidates_make_a_trajectory_in_their_order(run: Any) -> None:
    _, out, _ = run("compare", "base", "same", "unsure", "damaged")
    head, arc = (line.split("\t") for line in out.splitlines()[:2])
    assert head == ["task", "same", "unsure", "damaged"]
    assert [cell.split()[0] for cell in arc[1:]] == ["●", "●", "■"]


def test_the_best_is_selected_on_one_half_and_judged_on_the_other(run: Any, project: Project) -> None:
    better = BEFORE | {"arc": lose(BEFORE["arc"], 0, 60)}
    record_report(project, "better", better)
    _, out, _ = run("compare", "base", "damaged", "better", "same", "--best", "--json")
    *selected, judged = json.loads(out)["comparisons"]
    assert [one["part"] for one in selected] == ["select"] * 3
    assert (judged["part"], judged["candidate_checkpoint"]["name"]) == ("certify", "better")
    numbers = [{task["task"]: task["n"] for task in one["tasks"]} for one in (selected[0], judged)]
    assert numbers[0]["arc"] + numbers[1]["arc"] == 400


def test_a_second_report_of_the_same_weights_is_the_noise_floor(run: Any, project: Project) -> None:
    record_report(project, "base", BEFORE | {"arc": lose(BEFORE["arc"], 6, 6)}, scorer="transformers/1 other tiles")
    base = next(r for r in project.store.reports(checkpoint="base") if r.settings["scorer"] == "transformers/1")
    _, out, _ = run("compare", base.id, "same", "--json")
    noise = {task["task"]: task["noise"] for task in json.loads(out)["comparisons"][0]["tasks"]}
    assert noise["arc"] == pytest.approx(1.645 * 12**0.5 / 400, rel=1e-3)
    assert noise["piqa"] == 0


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH's client is not installed")
def test_an_override_is_signed_verified_and_kept(run: Any, project: Project, tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("ada", "mallory")]
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key.name, "-f", str(key)], check=True)
    words = ("gate", "damaged", "--baseline", "base", "--override", "arc: kept", "--reason", "the set is mislabelled")
    code, out, err = run(*words)
    assert code == 2 and "signed" in err
    code, out, _ = run(*words, "--sign-key", str(keys[0]))
    assert code == 0 and "override" in out and "ada (SHA256:" in out
    (project.root / "signers").write_text(f"ada@example.org {keys[0].with_suffix('.pub').read_text()}")
    (project.root / "workbench.yaml").write_text("override_signers: signers\n")
    code, out, _ = run(*words, "--sign-key", str(keys[0]), "--json")
    decision = json.loads(out)["decision"]
    assert code == 0 and decision["rules"][0]["overridden"] == "ada@example.org: the set is mislabelled"
    assert decision["rules"][0]["outcome"] == "fail"
    _verify(decision["evidence"], project.root / "signers", tmp_path)
    kept = audit_rows(project.store.database, kind="override")[-1]
    assert (kept.actor, kept.document["decision"]) == ("ada@example.org", decision["id"])
    code, _, err = run(*words, "--sign-key", str(keys[1]))
    assert code == 2 and "not in it" in err


def _verify(evidence: dict[str, str], signers: Path, folder: Path) -> None:
    """With OpenSSH alone: what was signed is this rule, this report and these weights."""
    statement = evidence["override of arc: kept"]
    (folder / "signature").write_text(evidence["signature of arc: kept"])
    words = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "ada@example.org", "-n", "workbench-override"]
    subprocess.run([*words, "-s", str(folder / "signature")], input=statement, text=True, check=True)
    assert json.loads(statement)["weights"] == evidence["weights"]
    assert json.loads(statement)["report"] == evidence["report"]


def test_a_suite_may_bring_rules_of_its_own(run: Any, project: Project) -> None:
    suite = project.root / "suites" / "own.yaml"
    suite.write_text("suite: made-up\ntitle: Own\ntasks: [arc_easy]\nrules:\n  - {task: arc, at_least: 0.9}\n")
    code, out, _ = run("gate", "same", "--baseline", "base")
    assert code == 1 and "arc: at least 0.9" in out
    suite.write_text(suite.read_text().replace("0.9", "0.5"))
    assert run("gate", "same", "--baseline", "base")[0] == 0
