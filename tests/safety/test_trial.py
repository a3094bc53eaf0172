"""A policy's own test rows put to its judges, read as the guard reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safety.judges.base import Passage, build_judge
from safety.policy import load_policy
from safety.resolved import Category
from safety.trial import try_policy
from tests.safety.policy_files import TODAY, load, root
from tests.workbench.cli.test_policy import run
from workbench.errors import ConfigError
from workbench.records import Judgement


class WordJudge:
    """Says violates where a word stands in the text, and does not know empty brackets."""

    def __init__(self, word: str) -> None:
        self.word = word

    def judge(self, passages: Sequence[Passage], categories: Sequence[Category]) -> list[list[Judgement]]:
        return [[self._one(passage.text, category.id) for category in categories] for passage in passages]

    def _one(self, text: str, category: str) -> Judgement:
        if text == "[]":
            return Judgement(category=category, value="unscorable", judge="m")
        found = self.word in text
        return Judgement(
            category=category, value="violates" if found else "allowed", judge="m", probability=float(found)
        )


def with_rows(folder: Path, **rows: str) -> dict[str, Any]:
    lines = [{"text": text, "expect": expect} for text, expect in rows.items()]
    (folder / "hate.jsonl").write_text("\n".join(map(json.dumps, lines)))
    policy = root()
    policy["categories"]["hate"]["tests"] = "hate.jsonl"
    return policy


def test_rows_are_counted_by_what_they_expect_and_how_they_were_read(tmp_path: Path) -> None:
    files = with_rows(tmp_path, bad1="violates", bad2="violates", missed="violates", good="allowed", badly="allowed")
    (tried,) = try_policy(load(tmp_path, files), {"m": WordJudge("bad")})
    assert (tried.category, tried.expected("violates"), tried.count("violates", "violates")) == ("hate", 3, 2)
    assert (tried.count("violates", "allowed"), tried.count("allowed", "violates")) == (1, 1)
    assert [row.row.text for row in tried.rows if not row.is_right] == ["missed", "badly"]


def test_what_cannot_be_scored_is_neither_caught_nor_cleared(tmp_path: Path) -> None:
    policy = load(tmp_path, with_rows(tmp_path, **{"[]": "violates"}))
    (tried,) = try_policy(policy, {"m": WordJudge("bad")})
    assert tried.count("violates", "unscorable") == 1


def test_a_category_without_a_judge_that_decides_is_left_out(tmp_path: Path) -> None:
    policy = load(tmp_path, with_rows(tmp_path, bad="violates"))
    assert try_policy(policy, {"k": WordJudge("bad")}) == []


def test_faulty_rows_are_told(tmp_path: Path) -> None:
    policy = load(tmp_path, with_rows(tmp_path, bad="perhaps"))
    with pytest.raises(ConfigError, match=r'hate\.jsonl:1: .*"violates" or "allowed"'):
        try_policy(policy, {"m": WordJudge("bad")})


def test_the_shipped_classifier_is_tried_on_every_category_that_it_knows() -> None:
    policy = load_policy("communities", today=TODAY)
    judge = build_judge("mod", "classifier", {})
    (tried,) = try_policy(policy, {"mod": judge}, categories=["harassment"])  # pyright: ignore[reportArgumentType]
    assert tried.count("allowed", "allowed") >= 9


def test_the_command_says_what_could_not_be_tried(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("test", "communities") == 0
    out = capsys.readouterr()
    assert "judge harm is a model, and none is named" in out.err and "harassment" in out.out
    assert run("test", "communities", "--judge", "harmm=classifier") == 2
    assert 'did you mean "harm"' in capsys.readouterr().err
    assert run("test", "communities", "--judge", "harm=oracle") == 2


def test_labels_become_calibration_rows_and_thresholds(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"You are all vermin, number {i}.", "labels": {"hate": 1}} for i in range(60)]
    rows += [{"text": f"Lovely weather on day {i}.", "labels": {"hate": 0, "other": 1}} for i in range(40)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["calibrate", "communities", "--judge", "mod", "--labels", "labels.jsonl", "--out", "cal.jsonl"]
    assert run(*words, "--json") == 0
    (hate,) = json.loads(capsys.readouterr().out)["categories"]
    assert (hate["violations"], hate["allowed"]) == (60, 40)
    assert "misses at most 5% of violations" in hate["promise"]
    lines = (tmp_path / "cal.jsonl").read_text().splitlines()
    assert len(lines) == 100 and set(json.loads(lines[0])) == {"category", "probability", "label", "category_hash"}
    assert run(*words[:2], "--judge", "nobody", *words[4:]) == 2
    (tmp_path / "labels.jsonl").write_text(json.dumps({"text": "x", "labels": {"hatte": 1}}))
    capsys.readouterr()
    assert run(*words) == 2 and 'did you mean "hate"' in capsys.readouterr().err
