"""The loop: labels of a queue train a checkpoint, and held-out labels say whether it is better."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from safety.policy import load_policy
from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from tests.tiny import save_tiny_checkpoint, tiny_tokenizer
from workbench.cli import main
from workbench.errors import ConfigError
from workbench.improving import ImproveRequest, improve
from workbench.store import Project
from workbench.store.reviews import ReviewEntry

POLICY = """
schema: policy/v1
id: fruit
version: 1
title: A forum without apples
judges: {model: {kind: model, replaceable: true, timeout_ms: 2000}}
defaults:
  severity: low
  risk: {fixed: {low: 0.3, high: 0.7}}
  actions: {user_input: review, model_output: block, content: review}
  uncertain: {user_input: log, model_output: review, content: review}
  on_error: {user_input: log, model_output: block, content: review}
  judges: [model]
dimensions:
  safety: [fruit]
categories:
  fruit:
    title: Apples
    definition: Any word of apples.
"""
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
OPERATOR = Operator(name="test")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A queue of 160 labelled texts: every second one speaks of apples, three of four are the exploration stream."""
    home = tmp_path_factory.mktemp("improve")
    save_tiny_checkpoint(home / "tiny", scale=0.02)
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(home / "tiny")
    (home / "policies").mkdir()
    (home / "policies" / "fruit.yaml").write_text(POLICY)
    found = Project.init(home)
    policy = load_policy(home / "policies" / "fruit.yaml")
    queue = ReviewQueue.open(found)
    queue.put_guideline(OPERATOR, policy)
    settings: dict[str, Any] = {"double_share": 0.0, "double_severities": (), "hint_share": 0.0}
    queue.configure(OPERATOR, "default", **settings, break_after_severe=10_000, daily_budget=1e9)
    queue.add(OPERATOR, [_entry(n, policy.hash) for n in range(160)])
    ann = queue.add_member(OPERATOR, "ann", [Grant(role="reviewer")]).member
    while isinstance(got := queue.claim(ann, "default"), Claim):
        violates = "apple" in str(got.view.text)
        answer = Answer(decision="violates" if violates else "allowed", policy_hash=got.view.policy_hash)
        queue.submit(ann, got.token, answer)
    return found


def _entry(n: int, policy_hash: str) -> ReviewEntry:
    text = f"{'apples' if n % 2 else 'the market'} {n}"
    return ReviewEntry(
        tenant="default",
        source="sample",
        surface="content",
        category="fruit",
        severity="low",
        action="review",
        policy_hash=policy_hash,
        model="tiny",
        content_sha=hashlib.sha256(text.encode()).hexdigest(),
        probability=0.5,
        text=text,
        stratum="exploration" if n % 4 else "priority",
        pi=0.5,
    )


def request(project: Project, **more: Any) -> ImproveRequest:
    rate = "schedule.learning_rate=5e-3"
    fields: dict[str, Any] = {"policy": "fruit", "start": str(project.root / "tiny"), "suites": ("smoke",)}
    return ImproveRequest(**fields | {"overrides": (rate, "dtype=float32"), "twins": False} | more)


def test_labels_make_a_checkpoint_that_is_tested_on_labels_it_never_saw(project: Project) -> None:
    found = improve(request(project), project=project)
    assert found.test is not None and found.run is not None
    trained = {json.loads(line)["item"] for line in (found.folder / "labels.jsonl").read_text().splitlines()}
    held = {
        json.loads(line)["id"]
        for split in ("calibration", "test")
        for line in (found.folder / f"{split}.jsonl").read_text().splitlines()
    }
    assert len(held) == found.test.n > 30
    assert not trained & held
    assert len(trained | held) == 160
    assert found.run.made.steps > 5
    # two letters tell the classes apart: a network of two layers learns that, and the test must see it
    assert found.test.after > found.test.before
    again = improve(request(project), project=project)
    assert again.run is not None and again.test == found.test
    assert again.run.checkpoints[-1].fingerprint == found.run.checkpoints[-1].fingerprint


def test_too_few_labels_are_refused_with_the_number(project: Project, tmp_path: Path) -> None:
    policy = tmp_path / "other.yaml"
    policy.write_text(POLICY.replace("fruit", "other"))
    with pytest.raises(
        ConfigError, match=r"0 decided items to train on, and 50 are the fewest \(left out: 160 no rule"
    ):
        improve(request(project, policy=policy), project=project)


def test_the_command_says_in_one_line_what_is_missing(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Project.init(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["improve", "--policy", "moderation", "--queue", "none", "--project", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "0 decided items" in told
    assert "Traceback" not in told
