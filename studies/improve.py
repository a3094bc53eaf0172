"""Does the loop close? 300 labels of a review queue train the real model: is it better on texts that nobody labelled?

python -m studies.improve [--quick] [--project FOLDER] [--render]

Two rules in plain language (spam; insults), texts of two public sets with their own labels in the place of moderators,
put through the real queue: claimed, labelled, settled. `workbench improve` does the rest. Beside its own held-out
labels, start and new checkpoint are asked about 300 further texts of both sets that were never in the queue.
Writes studies/results/improve.json and docs/studies/improve.md.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from studies.experiment import options, publish_page, read_found, read_rows, say, table, write_found
from workbench.store import Project

TAKES = "15 minutes on one core"
LABELS, FURTHER = 300, 300
EXPLORATION = 0.5
SHARE_VIOLATING = 0.4
START = "smollm2"
POLICY = """schema: policy/v1
id: two-rules
version: 1
title: Spam and insults
judges:
  model: {kind: model, replaceable: true, timeout_ms: 2000}
defaults:
  severity: low
  risk: {fixed: {low: 0.3, high: 0.7}}
  actions: {user_input: review, model_output: block, content: review}
  uncertain: {user_input: log, model_output: review, content: review}
  on_error: {user_input: log, model_output: block, content: review}
  judges: [model]
dimensions:
  safety: [spam, insult]
categories:
  spam:
    title: Spam
    definition: Advertising, prizes, paid numbers or links that nobody asked for.
  insult:
    title: Insults
    definition: Rude, hateful or degrading words against a person or a group.
"""
SETS = {"spam": ("sms_spam", "messages.jsonl"), "insult": ("surge_toxicity", "toxicity_en.jsonl")}
LONGEST = 240
"""Characters; longer texts are left out, to save time on two cores."""


def texts(count: int, *, skip: int) -> list[dict[str, Any]]:
    """`count` texts of both sets, 40% of them violations; `skip` of each kind are passed over."""
    found = []
    for category, path in SETS.items():
        rows = [row for row in read_rows(*path) if 10 < len(row["text"]) <= LONGEST]
        rows.sort(key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest())
        rows = list({row["text"]: row for row in rows}.values())
        for label, share in ((1, SHARE_VIOLATING), (0, 1 - SHARE_VIOLATING)):
            kind = [row for row in rows if bool(row["label"]) == bool(label)]
            first, size = round(skip * share / 2), round(count * share / 2)
            about = {"category": category, "violates": bool(label)}
            found += [{"text": row["text"], **about} for row in kind[first:][:size]]
    return found


def fill_and_label(project: Project, rows: list[dict[str, Any]]) -> None:
    """Through the real queue: added, claimed, labelled by the sets' own labels. Again: what is there stays."""
    from safety.policy import load_policy
    from safety.review.queue import Answer, Claim, Operator, ReviewQueue
    from workbench.store.reviews import ReviewEntry

    policy = load_policy(project.root / "policies" / "two-rules.yaml")
    queue, operator = ReviewQueue.open(project), Operator(name="study")
    queue.put_guideline(operator, policy)
    limits = {"daily_budget": 1e9, "break_after_severe": 100_000}
    queue.configure(operator, "default", double_share=0.0, double_severities=(), hint_share=0.0, **limits)
    known = {row["text"]: row["violates"] for row in rows}
    entries = []
    for row in rows:
        sha = hashlib.sha256(row["text"].encode()).hexdigest()
        explores = int(hashlib.sha256(f"draw {sha}".encode()).hexdigest()[:8], 16) / 2**32 < EXPLORATION
        entries.append(
            ReviewEntry(
                tenant="default",
                source="sample",
                surface="content",
                category=row["category"],
                severity="low",
                action="review",
                policy_hash=policy.hash,
                model=START,
                content_sha=sha,
                text=row["text"],
                stratum="exploration" if explores else "priority",
                pi=0.5,
            )
        )
    queue.add(operator, entries)
    person = queue.local_member("study")
    while isinstance(got := queue.claim(person, "default"), Claim):
        decision = "violates" if known[str(got.view.text)] else "allowed"
        queue.submit(person, got.token, Answer(decision=decision, policy_hash=got.view.policy_hash))


def further(project: Project, candidate: Any) -> dict[str, Any]:
    """Start and candidate on texts that were never in the queue."""
    from safety.policy import load_policy
    from safety.review.feedback import HeldOut, Settled
    from workbench.improving import check_held_out
    from workbench.pipeline import resolve_checkpoint

    policy = load_policy(project.root / "policies" / "two-rules.yaml")
    rows = [
        HeldOut(
            item=Settled(id=str(n), text=row["text"], category=row["category"], decision=""),
            category=row["category"],
            violates=row["violates"],
            split="test",
        )
        for n, row in enumerate(texts(FURTHER, skip=LABELS))
    ]
    found = {}
    for name in (*SETS, None):
        own = [row for row in rows if name in (None, row.category)]
        done = check_held_out(resolve_checkpoint(START, project), candidate, own, policy, project)
        assert done is not None
        found[name or "both"] = _plain(done)
    return found


def baseline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """TF-IDF with a logistic regression for each rule, from the same labels, on the same further texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline

    found = {}
    for category in SETS:
        own = [row for row in rows if row["category"] == category]
        test = [row for row in texts(FURTHER, skip=LABELS) if row["category"] == category]
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0))
        model.fit([row["text"] for row in own], [row["violates"] for row in own])
        scores = model.predict_proba([row["text"] for row in test])[:, 1]
        found[category] = float(average_precision_score([row["violates"] for row in test], scores))
    return found


def run(folder: Path, *, quick: bool) -> None:
    """All that computes; what is known is written as it comes."""
    from workbench.improving import ImproveRequest, improve

    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "two-rules.yaml").write_text(POLICY, encoding="utf-8")
    rows = texts(LABELS, skip=0)
    found = read_found(folder)
    fill_and_label(project, rows)
    say(f"{len(rows)} texts labelled")
    request = ImproveRequest(policy="two-rules", start=START, twins=False, overrides=("tokens=400",) if quick else ())

    def step(seen: Any) -> None:
        say(f"step {seen.step}/{seen.steps} loss {seen.loss}")

    done = improve(request, project=project, on_step=step)
    document = done.document()
    document["folder"] = ""
    if done.test is not None:
        document["test"] = _plain(done.test)
    assert done.run is not None
    found |= {"improve": document, "steps": done.run.made.steps}
    found |= {"further": further(project, done.run.checkpoints[-1]), "tfidf": baseline(rows), "labels": len(rows)}
    write_found(folder, found)


def _plain(test: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(test), default=float))


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    done = found["improve"]
    parts = [
        f"**{done['outcome']}**: {done['reason']}. {done['items']} of {found['labels']} labelled texts train as "
        f"{done['rows']} rows ({found['steps']} steps); gate: {done['gate']}.\n\n"
    ]
    rows = [_cells("held-out labels of the queue", done["test"], "")]
    for name, one in found["further"].items():
        known = found["tfidf"].get(name)
        title = f"further texts, {name}" if name != "both" else "further texts, both rules"
        rows.append(_cells(title, one, "" if known is None else f"{known:.3f}"))
    head = ["texts", "n", "violations", "start", "new", "gain in points [95%]", "TF-IDF + LR, same labels"]
    parts.append(table([*head, "balanced accuracy at 0.5", "unscorable in use"], rows))
    return "".join(parts)


def _cells(title: str, one: dict[str, Any], tfidf: str) -> list[str]:
    gain = one["gain"]
    told = f"{100 * gain['value']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    return [
        title,
        str(one["n"]),
        str(one["positives"]),
        f"{one['before']:.3f}",
        f"{one['after']:.3f}",
        told,
        tfidf,
        f"{one['accuracy_before']:.3f} → {one['accuracy_after']:.3f}",
        f"{one['unscorable_before']} → {one['unscorable_after']}",
    ]


def main() -> None:
    """Measure, print, write."""
    asked = options("improve", __doc__ or "")
    if not asked.render:
        run(asked.project, quick=asked.quick)
    if not asked.quick:
        publish_page("improve", asked.project, render)


if __name__ == "__main__":
    main()
