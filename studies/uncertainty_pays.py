"""Does uncertainty pay: errors found early, labels saved, promises kept, honest numbers from a ranked queue?

    python -m studies.uncertainty_pays               # writes studies/results/uncertainty_pays.json and the page
    python -m studies.uncertainty_pays --page        # the page from numbers that are there

The scorer is TF-IDF with logistic regression, on public sets; every number is of rows that the scorer, its error model
and its calibration have not seen.
"""

# ruff: noqa: E501

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack

from safety.calibration import fit_curve, measure, reliability
from safety.resolved import Risk
from safety.review.estimate import Sample, Stream, estimate_quality
from safety.review.ranking import Pool, draw_batch
from safety.risk import calibrate
from safety.uncertainty import mutual_information
from workbench.config import data_folder

TAKES = "10 minutes on a shared core"
ASKS_NO_MODEL = False  # no language model, but public data that the repository does not hold
RESULTS = Path(__file__).parent / "results" / "uncertainty_pays.json"
SEEDS = 3
BUDGETS = (0.05, 0.10, 0.20, 0.30)
STEPS = (100, 200, 400, 700, 1000, 1400, 1900, 2500, 3200)
QUEUES = 1000
RESAMPLES = 200


def load(name: str, data: Path) -> tuple[list[str], np.ndarray]:
    """Texts, each once, and classes from 0; the last class is the rare one that matters."""
    files = {
        "davidson": "davidson_hate_offensive/tweets_sample.jsonl",
        "edos": "edos_sexism/posts_sample.jsonl",
        "sms_spam": "sms_spam/messages.jsonl",
    }
    seen: dict[str, int] = {}
    for line in (data / files[name]).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        seen.setdefault(row["text"], _class_of(name, row))
    return list(seen), np.array(list(seen.values()))


def _class_of(name: str, row: dict[str, Any]) -> int:
    if name == "davidson":
        return ("neither", "offensive_language", "hate_speech").index(row["class"])
    label = str(row.get("label_sexist") or row.get("label_binary") or row["label"])
    return int(label not in ("not sexist", "ham", "0", "False"))


def vectors(train: list[str], *others: list[str]) -> list[csr_matrix]:
    """Words and pairs of them, and runs of letters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kinds = [
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=12_000),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, sublinear_tf=True, max_features=12_000),
    ]
    parts = [[kind.fit_transform(train), *(kind.transform(texts) for texts in others)] for kind in kinds]
    return [csr_matrix(hstack([one[i] for one in parts])) for i in range(len(others) + 1)]


def fit(x: csr_matrix, y: np.ndarray, *, c: float = 4.0, balanced: bool = False) -> Callable[[csr_matrix], np.ndarray]:
    """Logistic regression; a function from vectors to probabilities of all classes."""
    from sklearn.linear_model import LogisticRegression

    weight = "balanced" if balanced else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = LogisticRegression(C=c, class_weight=weight, max_iter=40, tol=2e-3).fit(x, y)
    return made.predict_proba


# --- 1. errors within the first tenth ---------------------------------------------------------------------------------


def ensemble(x: csr_matrix, y: np.ndarray, seed: int) -> list[Callable[[csr_matrix], np.ndarray]]:
    """Other views of the same labels: resampled rows, another regularisation, naive Bayes."""
    from sklearn.naive_bayes import ComplementNB

    rng = np.random.default_rng([seed, 11])
    members = [fit(x, y, c=0.5, balanced=True), ComplementNB(alpha=0.3).fit(x, y).predict_proba]
    for _ in range(2):
        rows = rng.integers(0, len(y), len(y))
        members.append(fit(x[rows], y[rows]))
    return members


def features(p: np.ndarray, others: list[np.ndarray], texts: list[str]) -> np.ndarray:
    """What may tell of an error: the classifier's own numbers, and what the others say of its verdict."""
    said = p.argmax(axis=1)
    rows = np.arange(len(p))
    agree = [q[rows, said] for q in others]
    stack = np.stack([p, *others])
    mean = stack.mean(axis=0)
    spread = np.stack([mutual_information(stack[:, :, k]) for k in range(p.shape[1])]).sum(axis=0)
    top = np.sort(p, axis=1)
    length = np.log1p([len(text.split()) for text in texts])
    columns = [np.log(p.clip(1e-4)), np.log(mean.clip(1e-4)), np.eye(p.shape[1])[said]]
    return np.column_stack([*columns, top[:, -1] - top[:, -2], *agree, spread, length])


def error_study(name: str, data: Path) -> dict[str, Any]:
    """Out-of-fold verdicts of the classifier, and in which order its errors are found."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    texts, y = load(name, data)
    n, k = len(y), int(y.max()) + 1
    p, scores = np.zeros((n, k)), {m: np.zeros(n) for m in ("margin", "mutual_information", "ensemble", "error_model")}
    for fold, (train, test) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(np.zeros(n), y)):
        inner_x, inner_y, inner_p = [], [], []
        for part, (a, b) in enumerate(
            StratifiedKFold(2, shuffle=True, random_state=1).split(np.zeros(len(train)), y[train])
        ):
            xa, xb = vectors([texts[i] for i in train[a]], [texts[i] for i in train[b]])
            own = fit(xa, y[train[a]])(xb)
            others = [member(xb) for member in ensemble(xa, y[train[a]], 10 * fold + part)]
            inner_x.append(features(own, others, [texts[i] for i in train[b]]))
            inner_y.append(own.argmax(axis=1) != y[train[b]])
            inner_p.append(own)
        tells = GradientBoostingClassifier(
            n_estimators=80, max_depth=3, learning_rate=0.08, subsample=0.7, random_state=0
        )
        tells.fit(np.vstack(inner_x), np.concatenate(inner_y))
        xa, xb = vectors([texts[i] for i in train], [texts[i] for i in test])
        own = fit(xa, y[train])(xb)
        others = [member(xb) for member in ensemble(xa, y[train], fold)]
        said = own.argmax(axis=1)
        stack = np.stack([own, *others])
        top = np.sort(own, axis=1)
        p[test] = own
        scores["margin"][test] = 1 - (top[:, -1] - top[:, -2])
        scores["mutual_information"][test] = np.stack([mutual_information(stack[:, :, c]) for c in range(k)]).sum(
            axis=0
        )
        scores["ensemble"][test] = 1 - stack.mean(axis=0)[np.arange(len(test)), said]
        found = features(own, others, [texts[i] for i in test])
        scores["error_model"][test] = tells.predict_proba(found)[:, 1]
        print(f"{name}: fold {fold}", flush=True)
    wrong = p.argmax(axis=1) != y
    rng = np.random.default_rng(0)
    scores["random"] = rng.random(n)
    return {
        "n": n,
        "errors": int(wrong.sum()),
        "accuracy": float(1 - wrong.mean()),
        "found": {m: {str(b): _share(wrong, s, b, scores["margin"], rng) for b in BUDGETS} for m, s in scores.items()},
        "curve": {m: _curve(wrong, s) for m, s in scores.items()},
        "risk_coverage": {m: _risk_coverage(wrong, s) for m, s in scores.items()},
        "rare": _rare_found(y, p, scores),
        "p": np.round(p[:, -1], 6).tolist(),
        "y": (y == k - 1).astype(int).tolist(),
    }


def _found(wrong: np.ndarray, score: np.ndarray, budget: float) -> float:
    order = np.argsort(-score, kind="stable")[: round(budget * len(wrong))]
    return float(wrong[order].sum() / max(wrong.sum(), 1))


def _share(wrong: np.ndarray, score: np.ndarray, budget: float, base: np.ndarray, rng: Any) -> dict[str, float]:
    """Share of errors found, its interval, and that of the difference to the margin, over resampled rows."""
    draws, gaps = [], []
    for _ in range(300):
        rows = rng.integers(0, len(wrong), len(wrong))
        draws.append(_found(wrong[rows], score[rows], budget))
        gaps.append(draws[-1] - _found(wrong[rows], base[rows], budget))
    low, high = np.quantile(draws, [0.025, 0.975])
    gap_low, gap_high = np.quantile(gaps, [0.025, 0.975])
    value = _found(wrong, score, budget)
    gap = value - _found(wrong, base, budget)
    return {k: float(v) for k, v in zip(("value", "low", "high", "gap", "gap_low", "gap_high"), (value, low, high, gap, gap_low, gap_high), strict=True)}  # fmt: skip


def _curve(wrong: np.ndarray, score: np.ndarray) -> list[list[float]]:
    return [[b, _found(wrong, score, b)] for b in np.linspace(0, 1, 51).round(2).tolist()]


def _risk_coverage(wrong: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Errors among the surest c of the texts; the area under it, and that of the best possible order."""
    order = np.argsort(score, kind="stable")
    risk = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
    best = np.cumsum(np.sort(wrong)) / np.arange(1, len(wrong) + 1)
    places = np.linspace(len(wrong) // 50, len(wrong), 50).astype(int) - 1
    curve = [[float((i + 1) / len(wrong)), float(risk[i])] for i in places]
    return {"aurc": float(risk.mean()), "excess": float(risk.mean() - best.mean()), "curve": curve}


def _rare_found(y: np.ndarray, p: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of the rare class that the classifier missed, the share that people see, by ranker and by expected loss."""
    rare = int(y.max())
    missed = (y == rare) & (p.argmax(axis=1) != rare)
    held = p.argmax(axis=1) == rare
    pool = Pool(probability=p[:, rare], severity=np.full(len(y), 2, np.int8), withheld=held)
    from safety.review.ranking import expected_loss

    all_scores = scores | {"expected_loss": expected_loss(pool)}
    return {
        "n": int(missed.sum()),
        "found": {m: {str(b): _found(missed, s, b) for b in BUDGETS} for m, s in all_scores.items()},
    }


# --- 2. labels to the full-label score --------------------------------------------------------------------------------


def label_study(name: str, data: Path) -> dict[str, Any]:
    """Macro-F1 on held-out texts by number of labels, for rankers that choose which texts are labelled."""
    from sklearn.metrics import f1_score
    from sklearn.model_selection import train_test_split

    texts, y = load(name, data)
    rankers = ("random", "margin", "margin_diverse")
    curves: dict[str, list[list[float]]] = {ranker: [] for ranker in rankers}
    full: list[float] = []
    for seed in range(SEEDS):
        train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=seed)
        xa, xb = vectors([texts[i] for i in train], [texts[i] for i in test])
        full.append(float(f1_score(y[test], fit(xa, y[train], balanced=True)(xb).argmax(axis=1), average="macro")))
        for ranker in rankers:
            curves[ranker].append(_learn(xa, y[train], xb, y[test], ranker, seed))
        print(f"{name}: labels, seed {seed}", flush=True)
    steps = [s for s in STEPS if s < 0.7 * len(y)]
    target = float(np.mean(full)) - 0.01
    return {
        "n": len(y),
        "full": full,
        "steps": steps,
        "curves": curves,
        "target": target,
        "needed": {ranker: [_needed(steps, curve, f - 0.01) for curve, f in zip(curves[ranker], full, strict=True)] for ranker in rankers},
        "needed_mean": {ranker: _needed(steps, np.mean(curves[ranker], axis=0).tolist(), target) for ranker in rankers},
    }  # fmt: skip


def _learn(xa: csr_matrix, ya: np.ndarray, xb: csr_matrix, yb: np.ndarray, ranker: str, seed: int) -> list[float]:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng([seed, 3])
    order = rng.permutation(len(ya))
    labelled = order[: STEPS[0]].tolist()
    found: list[float] = []
    for place, step in enumerate(s for s in STEPS if s < len(ya) + 1):
        if place:
            labelled += _choose(xa, ya, labelled, step - len(labelled), ranker, order)
        model = fit(xa[labelled], ya[labelled], balanced=True)
        said = np.unique(ya[labelled])[model(xb).argmax(axis=1)]
        found.append(float(f1_score(yb, said, average="macro")))
    return found


def _choose(x: csr_matrix, y: np.ndarray, labelled: list[int], count: int, ranker: str, order: np.ndarray) -> list[int]:
    known = np.zeros(len(y), bool)
    known[labelled] = True
    rest = order[~known[order]]
    if ranker == "random":
        return rest[:count].tolist()
    p = fit(x[labelled], y[labelled], balanced=True)(x[rest])
    top = np.sort(p, axis=1)
    score = 1 - (top[:, -1] - top[:, -2]) if ranker != "entropy" else -(p * np.log(p.clip(1e-9))).sum(axis=1)
    best = np.argsort(-score, kind="stable")
    if ranker != "margin_diverse":
        return rest[best[:count]].tolist()
    # of the most doubtful, one that is unlike those already taken: at most 0.5 of cosine to any of them
    taken: list[int] = []
    candidates = best[: 4 * count]
    near = np.zeros(len(candidates))
    vec = x[rest[candidates]]
    norm = np.sqrt(np.asarray(vec.multiply(vec).sum(axis=1)).ravel()) + 1e-9
    alike = np.asarray((vec @ vec.T).todense()) / norm[:, None] / norm[None, :]
    for i in range(len(candidates)):
        if len(taken) < count and near[i] <= 0.5:
            taken.append(i)
            near = np.maximum(near, alike[i])
    taken += [i for i in range(len(candidates)) if i not in set(taken)][: count - len(taken)]
    return rest[candidates[taken]].tolist()


def _needed(steps: list[int], curve: list[float], target: float) -> float | None:
    """Labels at which the curve first reaches the target, on a straight line between steps; None: it does not."""
    for i, value in enumerate(curve[: len(steps)]):
        if value >= target:
            if i == 0:
                return float(steps[0])
            before = curve[i - 1]
            return float(steps[i - 1] + (steps[i] - steps[i - 1]) * (target - before) / (value - before))
    return None


# --- 3. promises, 4. calibration, 5. honest numbers -------------------------------------------------------------------


def guarantee_study(p: np.ndarray, y: np.ndarray, *, miss: float) -> dict[str, Any]:
    """How often a threshold misses more than it promised, over resamples; beside the plain quantile."""
    positives = np.sort(p[y == 1])
    found: dict[str, Any] = {"population": len(positives), "miss": miss, "rows": []}
    for n in (59, 100, 143, 200):
        rng = np.random.default_rng([n, 9])
        broken, plain, cleared, ranked = 0, 0, [], 0
        for _ in range(RESAMPLES):
            drawn = np.sort(rng.choice(positives, n))
            low = calibrate(Risk(miss=miss), violating=drawn.tolist(), allowed=[]).low
            broken += _missed(positives, low) > miss
            plain += _missed(positives, float(np.quantile(drawn, miss, method="lower"))) > miss
            # the same number of labels, but those that a ranked queue finds: likelier where p is high
            weights = positives / positives.sum()
            worst = np.sort(rng.choice(positives, n, p=weights))
            low_ranked = calibrate(Risk(miss=miss), violating=worst.tolist(), allowed=[]).low
            ranked += _missed(positives, low_ranked) > miss
            cleared.append(float((p < low).mean()))
        found["rows"].append(
            {
                "n": n,
                "broken": broken,
                "plain_quantile": plain,
                "ranked_labels": ranked,
                "cleared": float(np.mean(cleared)),
            }
        )
    return found


def _missed(positives: np.ndarray, low: float) -> float:
    return float(np.searchsorted(positives, low, side="left") / len(positives))


def calibration_study(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Fitted on a random half, measured on the other."""
    rng = np.random.default_rng(4)
    order = rng.permutation(len(y))
    half, rest = order[: len(y) // 2], order[len(y) // 2 :]
    curve = fit_curve(p[half], y[half].astype(float))
    after = curve.apply(p[rest])
    truth = y[rest].astype(float)
    return {
        "how": curve.how,
        "labels": len(half),
        "before": {
            k: [e.value, e.low, e.high, e.n] for k, e in measure(p[rest], truth, rng=rng, resamples=300).items()
        },
        "after": {k: [e.value, e.low, e.high, e.n] for k, e in measure(after, truth, rng=rng, resamples=300).items()},
        "reliability_before": reliability(p[rest], truth, bins=10),
        "reliability_after": reliability(after, truth, bins=10),
    }


def synthetic(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A stream of 20,000 texts: 4% violate, 15% of those look like any other."""
    n = 20_000
    y = rng.random(n) < 0.04
    blind = y & (rng.random(n) < 0.15)
    score = np.where(y & ~blind, rng.normal(2.4, 1.2, n), rng.normal(-2.2, 1.0, n))
    return 1 / (1 + np.exp(-(1.1 * score - 0.8))), y.astype(float)


def coverage_study(draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]], cut: float) -> dict[str, Any]:
    """How often intervals from a ranked sample of 1,000 hold the truth of the stream, and how far estimates are off."""
    names = ("precision", "recall", "missed", "violations")
    methods = ("model_assisted", "hajek")
    held = {m: dict.fromkeys(names, 0) for m in methods}
    errors: dict[str, dict[str, list[float]]] = {m: {k: [] for k in names} for m in methods}
    naive: dict[str, list[float]] = {"precision": [], "recall": []}
    for seed in range(QUEUES):
        p, y = draw(np.random.default_rng([seed, 21]))
        flagged = p >= cut
        pool = Pool(probability=p, severity=np.ones(len(p), np.int8), withheld=flagged)
        batch = draw_batch(pool, size=1000, seed=seed)
        at = batch.items
        sample = Sample(violates=y[at], probability=p[at], flagged=flagged[at], inclusion=batch.inclusion)
        truth = {"precision": y[flagged].mean(), "recall": (y * flagged).sum() / y.sum(), "missed": (y * ~flagged).sum(), "violations": y.sum()}  # fmt: skip
        top = np.argsort(-p)[:1000]
        naive["precision"].append(float(y[at][flagged[at]].mean() - truth["precision"]))
        naive["recall"].append(float(flagged[top][y[top] == 1].mean() - truth["recall"]))
        for method in methods:
            found = estimate_quality(sample, Stream(probability=p, flagged=flagged), method=method)
            for name in names:
                one = getattr(found, name)
                held[method][name] += int(one.low <= truth[name] <= one.high)
                errors[method][name].append(float(one.value - truth[name]))
    return {
        "queues": QUEUES,
        "held": held,
        "bias": {m: {k: [float(np.mean(e)), float(np.std(e) / np.sqrt(QUEUES)), float(np.std(e))] for k, e in errors[m].items()} for m in methods},
        "naive": {k: [float(np.mean(e)), float(np.std(e))] for k, e in naive.items()},
    }  # fmt: skip


def run(data: Path) -> dict[str, Any]:
    """All parts; each is kept when it is done, so a run that was stopped goes on."""
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def part(name: str, work: Callable[[], Any]) -> Any:
        if name not in done:
            start = time.process_time()
            done[name] = work()
            done.setdefault("cpu_seconds", {})[name] = round(time.process_time() - start, 1)
            RESULTS.write_text(json.dumps(done) + "\n", encoding="utf-8")
            print(f"{name}: {done['cpu_seconds'][name]} s", flush=True)
        return done[name]

    def about(name: str) -> None:
        part(f"errors/{name}", lambda: error_study(name, data))
        p, y = np.array(done[f"errors/{name}"]["p"]), np.array(done[f"errors/{name}"]["y"])
        part(f"guarantee/{name}", lambda: [guarantee_study(p, y, miss=miss) for miss in (0.05, 0.10)])
        part(f"calibration/{name}", lambda: calibration_study(p, y))

    about("davidson")
    part("coverage/synthetic", lambda: coverage_study(synthetic, 0.5))
    part("labels/davidson", lambda: label_study("davidson", data))
    part("labels/sms_spam", lambda: label_study("sms_spam", data))
    about("edos")
    part("coverage/davidson", lambda: coverage_study(_resampled(done["errors/davidson"]), 0.35))
    return done


def _resampled(found: dict[str, Any]) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """A stream of 20,000 drawn from a set's own out-of-fold probabilities, calibrated by Platt on all of them."""
    p, y = np.array(found["p"]), np.array(found["y"], float)
    curve = fit_curve(p, y)
    p = curve.apply(p)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(0, len(y), 20_000)
        return p[rows], y[rows]

    return draw


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="only write the page from the numbers that are there")
    options = parser.parse_args()
    if not options.page:
        run(Path(str(data_folder())))
    from studies.uncertainty_page import write_page

    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
