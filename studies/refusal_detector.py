"""How well does the refusal detector tell refusals, on questions and models it has not seen? And make what is shipped.

    python -m studies.refusal_detector          # writes docs/studies/refusal-detector.md and the shipped artefact

Trained on XSTest's labelled completions (the developers' part) and `safety/data/refusals.jsonl`. Every figure is of
rows whose question no training row shares.
"""

# ruff: noqa: E501 (sentences of the page)

import json
import time
from pathlib import Path

import numpy as np

from safety.judges.agreement import macro_f1, measure_agreement
from safety.judges.card import agreement_table, show_interval, write_card
from safety.judges.linear import sigmoid
from safety.judges.refusal import (
    ARTEFACT,
    KINDS,
    _fit,
    build_counts,
    build_targets,
    fit_detector,
    out_of_fold_logits,
    raw_logits,
    read_kind,
    save_detector,
)
from workbench.config import data_folder
from workbench.statistics import bootstrap_interval, wilson_interval

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "studies" / "refusal-detector.md"
COMMAND = "python -m studies.refusal_detector"


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    started = time.perf_counter()
    data = data_folder()
    assert data is not None, "set WORKBENCH_DATA"
    xstest = read_rows(data / "xstest" / "completions_labelled.jsonl")
    own = read_rows(ROOT / "safety" / "data" / "refusals.jsonl")
    answers = [(row["prompt"], row["completion"]) for row in xstest + own]
    kinds = [read_kind(row["final_label"]) for row in xstest] + [read_kind(row["label"]) for row in own]
    source = np.array([row["model"] for row in xstest] + ["own"] * len(own))
    prompts = np.array([prompt for prompt, _ in answers])
    signs, lexical = build_counts(answers)
    targets = build_targets(kinds)
    y = targets[:, 0].astype(int)
    on_xstest = source != "own"

    lines, by_seed = [], []
    for seed in range(3):
        z = out_of_fold_logits(signs, lexical, targets, prompts.tolist(), seed=seed)
        by_seed.append(z)
        print(f"seed {seed}: {macro_f1(y[on_xstest], (z[:, 0] > 0)[on_xstest]):.4f}", flush=True)
    z = by_seed[0]
    detector = fit_detector(answers, kinds, groups=prompts.tolist())
    slope, shift = detector.calibration[0]
    p = sigmoid(z[:, 0] * slope + shift)
    seen = (p >= 0.5).astype(int)
    rows = {
        "full or partial refusal": on_xstest,
        "full refusal, partial ones left out": on_xstest & (np.array(kinds) != "partial_refusal"),
    }
    measured = [
        measure_agreement(name, y[k], seen[k].tolist(), p[k].tolist(), groups=prompts[k].tolist())
        for name, k in rows.items()
    ]
    three = np.where(seen == 0, "compliance", np.where(z[:, 1] > 0, "full_refusal", "partial_refusal"))
    table = {
        kind: [int(np.sum((np.array(kinds) == kind) & (three == other) & on_xstest)) for other in KINDS]
        for kind in KINDS
    }

    fold = dict(zip(sorted(set(prompts)), np.random.default_rng(0).permutation(len(set(prompts))) % 5, strict=True))
    folds = np.array([fold[one] for one in prompts])
    held = []
    for name in ("gpt4", "llama2orig", "mistralguard"):
        out = np.zeros(len(y))
        for k in range(5):
            train, test = (
                np.flatnonzero((source != name) & (folds != k)),
                np.flatnonzero((source == name) & (folds == k)),
            )
            made = _fit(signs[train], lexical[train], targets[train], None)
            out[test] = raw_logits(made.signs, made.lexical, signs[test], lexical[test])[:, 0]
        mine = np.flatnonzero(source == name)
        pairs = list(zip(y[mine].tolist(), (out[mine] > 0).astype(int).tolist(), strict=True))
        f1 = bootstrap_interval(
            pairs, lambda r: macro_f1(*np.array(r, float).T), rng=np.random.default_rng(0), resamples=500, bca=False
        )
        held.append((name, len(mine), f1))
        print(name, show_interval(f1), flush=True)

    outside = false_refusals(detector, data)
    annotators = [
        (int(read_kind(r["annotation_1"]) != "compliance"), int(read_kind(r["annotation_2"]) != "compliance"))
        for r in xstest
    ]
    people = macro_f1(*np.array(annotators, float).T)
    seeds = ", ".join(f"{macro_f1(y[on_xstest], (one[:, 0] > 0)[on_xstest]):.3f}" for one in by_seed)
    card = {"XSTest completions, 10-fold by question": measured}
    digest = save_detector(
        detector, ARTEFACT, trained_on=["XSTest completions (CC BY 4.0)", "safety/data/refusals.jsonl"]
    )
    intro = [
        "Tells refusals (full or partial) from compliance. Trained on 905 labelled completions of XSTest (Röttger et al.,",
        "CC BY 4.0; three models) and 168 answers written for this project. The artefact holds weights of hashed features,",
        "no text. It reads English. What counts as a partial refusal is XSTest's annotators' view; full and partial",
        "together against compliance is what it is for. Answers that deny a question's premise are its commonest error.",
    ]
    write_card(ARTEFACT, title="Refusal detector", intro=intro, measured=card, command=COMMAND)
    lines = [
        "# Refusal detector",
        "",
        f"Does it tell refusals on questions it has not seen? **Macro-F1 {show_interval(measured[0].macro_f1)}** on XSTest's",
        f"labelled completions, 10-fold by question (three shuffles: {seeds}); the two annotators reach {people:.3f} with",
        "each other.",
        "",
        *agreement_table(measured),
        "",
        "Intervals at 95%, questions drawn again. ECE after calibration on the same folds' logits.",
        "",
        "By class (rows: people; columns: detector):",
        "",
        "| | " + " | ".join(kind.replace("_", " ") for kind in KINDS) + " |",
        "|---|---:|---:|---:|",
        *(f"| {kind.replace('_', ' ')} | " + " | ".join(str(n) for n in table[kind]) + " |" for kind in KINDS),
        "",
        "Partial refusals are told from full ones badly: 63 rows are too few, and the annotators differ on many.",
        "",
        "Whole models held out (trained on the other two and the project's own rows, other questions):",
        "",
        "| model | n | macro-F1 |",
        "|---|---:|---|",
        *(f"| {name} | {n} | {show_interval(f1)} |" for name, n, f1 in held),
        "",
        "Answers outside XSTest, nearly all of them compliant: how often are they taken for refusals?",
        "",
        "| set | n | called refusals |",
        "|---|---:|---|",
        *(f"| {name} | {n} | {show_interval(share)} |" for name, n, share in outside),
        "",
        "Of the replies of OASST that it calls refusals, most are (\"I'm not connected to the Internet, so I can't answer\").",
        "",
        f"Command: `{COMMAND}`; {time.perf_counter() - started:.0f} s on two busy CPU cores; weights {digest[:12]}.",
        "",
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


def false_refusals(detector, data: Path) -> list:
    dolly = [(row["prompt"], row["response"]) for row in read_rows(data / "dolly_small" / "train_small.jsonl")]
    oasst = [pair for row in read_rows(data / "oasst_trees" / "en_100_trees.jsonl") for pair in replies(row["tree"])]
    found = []
    for name, pairs in (("Dolly, written by people", dolly), ("OASST replies", oasst)):
        hits = sum(one.probability >= 0.5 for one in detector.detect(pairs))
        found.append((name, len(pairs), wilson_interval(hits, len(pairs))))
        print(name, hits, len(pairs), flush=True)
    return found


def replies(node: dict):
    for reply in node.get("replies", []):
        if reply["role"] != "prompter":
            yield node["text"], reply["text"]
        yield from replies(reply)


if __name__ == "__main__":
    main()
