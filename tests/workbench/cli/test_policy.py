"""`workbench policy`: what a trust team types before it merges a change."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.safety.policy_files import WAIVER, child, root, write
from workbench.cli import main


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["policy", *args])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def json_of(capsys: Any, *args: str) -> dict[str, Any]:
    assert run(*args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_ls_names_shipped_policies_and_those_of_the_folder(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "policies").mkdir()
    write(tmp_path / "policies", root(), child())
    rows = {row["id"]: row for row in json_of(capsys, "ls")["policies"]}
    assert rows["shop"]["extends"] == "org@1" and "default" in rows


def test_check_tells_every_fault_and_ends_with_2(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, root(), child(categories={"hate": {"actions": {"content": "log"}, "severity": "low"}}))
    assert run("check", str(path)) == 2
    out = capsys.readouterr()
    assert out.out.count("■ fault") == 2 and "error: 2 faults in 1 of 1 policies" in out.err


def test_check_misses_the_test_rows_of_a_category(tmp_path: Path, capsys: Any) -> None:
    assert run("check", str(write(tmp_path, root()))) == 2
    assert "no test rows" in capsys.readouterr().out


def test_check_passes_every_shipped_policy(capsys: Any) -> None:
    names = ["default", "security-testing", "media-own-characters", "child-directed", "communities", "askhistory"]
    assert json_of(capsys, "check", *names)["ok"] is True


def test_show_takes_the_context_of_a_request(capsys: Any) -> None:
    context = ["caller_role=pentester", "engagement.id=E", "target=a", "engagement.scope=[a]"]
    options = [part for one in context for part in ("--context", one)]
    assert run("show", "security-testing", *options) == 0
    line = next(li for li in capsys.readouterr().out.splitlines() if "exploit_dev" in li)
    assert line.split("\t")[2:5] == ["allow", "log", "allow"]
    assert run("show", "security-testing", "--context", "caller_rol=x") == 2
    assert 'did you mean "caller_role"' in capsys.readouterr().err


def test_show_as_json_is_what_the_hash_is_made_of(capsys: Any) -> None:
    found = json_of(capsys, "show", "default")
    assert found["categories"]["hate"]["actions"]["model_output"] == [[{"action": "block"}]]
    assert len(found["hash"]) == 64


def test_explain_names_file_and_line(capsys: Any) -> None:
    leaves = json_of(capsys, "explain", "child-directed", "hate.uncertain.model_output")["leaves"]
    assert leaves[0]["value"] == "block" and leaves[0]["set_by"].startswith("child-directed.yaml:")


def test_a_waiver_can_be_looked_at_after_its_end(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path, root(), child(categories={"cyber": {"actions": {"model_output": "log"}, "waiver": WAIVER}}))
    args = ("explain", "shop.yaml", "cyber.actions.model_output")
    assert json_of(capsys, *args, "--on", "2027-03-31")["leaves"][0]["value"] == "log"
    assert json_of(capsys, *args, "--on", "2027-04-01")["leaves"][0]["value"] == "block"
    assert run(*args, "--on", "soon") == 2


def test_diff_and_replay_write_markdown_for_a_pull_request(tmp_path: Path, capsys: Any) -> None:
    rows = [{"id": "<b>", "judgements": [{"category": "hate", "value": "uncertain", "judge": "harm"}]}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("diff", "default", "child-directed", "--markdown", "d.md") == 0
    assert "▼ tighter" in (tmp_path / "d.md").read_text()
    args = ["replay", "child-directed", "--against", "default", "--items", "items.jsonl"]
    assert run(*args, "--markdown", "r.md") == 0
    text = (tmp_path / "r.md").read_text()
    assert "1 of 1 items flip" in text and "<b>" not in text
    capsys.readouterr()
    assert json_of(capsys, *args)["by_category"] == [
        {"category": "hate", "before": "hold", "after": "block", "items": 1}
    ]
