"""How often the forgetting check errs, and the rules of others beside it, where the truth is known.

python -m studies.error_rates [--quick]

Right-or-wrong items that are independent: the chances of all possible tables are added up, so these rates are exact.
Everything else is drawn, and each rate comes with its Monte Carlo error. Every verdict is that of the product's own
`judge`; it is only asked where it could be `kept` at all. Writes studies/results/error_rates.json and the measured part
of docs/statistics.md; with --quick a tenth of the draws, and nothing is written.
"""

import argparse
import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from studies.error_rates_page import write_page
from workbench import paired
from workbench.forgetting import judge, judge_statistic

TAKES = "4 to 14 minutes on one core"
ASKS_NO_MODEL = True
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results" / "error_rates.json"
PAGE = ROOT / "docs" / "statistics.md"
SEED = 20261122
BASELINE_ACCURACY = 0.6  # only the unpaired rule looks at it
Z95, Z90 = 1.959963984540054, 1.6448536269514722

PUBLISHED = [
    ("boundary: want at most 5%", 200, 0.10, -0.02, 0.02),
    ("bad: want 0", 200, 0.12, -0.04, 0.02),
    ("boundary", 200, 0.03, -0.02, 0.02),
    ("boundary", 100, 0.012, -0.01, 0.01),
    ("good: want high", 1500, 0.10, 0.0, 0.02),
]
BOUNDARY = [(n, p, m) for n in (100, 200, 300, 1500) for m in (0.01, 0.02, 0.03, 0.05) for p in (m, 0.05, 0.1, 0.2)]
CLUSTERS = [
    (count, p, margin)
    for count in (12, 40, 100)
    for p, margin in ((0.05, 0.05), (0.1, 0.05), (0.2, 0.05), (0.2, 0.1), (0.4, 0.1))
]
PLANS = [(0.0, 0.01), (0.02, 0.01), (0.05, 0.01)] + [(p, m) for m in (0.02, 0.05) for p in (0.02, 0.05, 0.1)]


def all_tables(n: int, discordance: float, difference: float) -> tuple[Any, Any, Any]:
    """Gained, lost and probability of every table that is not next to impossible."""
    gain, loss = (discordance + difference) / 2, (discordance - difference) / 2
    lost = np.arange(int(stats.binom.isf(1e-13, n, loss)) + 2)
    gained = np.arange(int(stats.binom.isf(1e-13, n, gain)) + 2 if gain > 0 else 1)
    gained, lost = (a.ravel() for a in np.meshgrid(gained, lost))
    fits = gained + lost <= n
    gained, lost = gained[fits], lost[fits]
    same = n - gained - lost
    chance = stats.multinomial.pmf(np.stack([gained, lost, same], -1), n, [gain, loss, 1 - gain - loss])
    likely = chance > 1e-13
    return gained[likely], lost[likely], chance[likely]


@cache
def verdict_of(gained: int, lost: int, n: int, margin: float) -> str:
    """What `judge` says of a table of independent right-or-wrong items."""
    before = np.r_[np.zeros(gained), np.ones(n - gained)]
    after = np.r_[np.ones(gained), np.zeros(lost), np.ones(n - gained - lost)]
    return judge(before, after, margin=margin, binary=True, rng=np.random.default_rng(0)).verdict


def kept_tables(gained: Any, lost: Any, n: int, margin: float) -> npt.NDArray[np.bool_]:
    """Which tables `judge` keeps; asked only where Tango's test passes, which it includes."""
    kept = paired.tango_statistic(gained, lost, n, -margin) >= Z90 - 1e-9
    for row in np.unique(gained[kept]):
        # More losses are never better: search for the first number of losses that is not kept.
        here = np.flatnonzero(kept & (gained == row))
        here = here[np.argsort(lost[here])]
        low, high = 0, len(here)
        while low < high:
            middle = (low + high) // 2
            good = verdict_of(int(row), int(lost[here[middle]]), n, margin) in ("kept", "improved")
            low, high = (middle + 1, high) if good else (low, middle)
        kept[here[low:]] = False
    return kept


def passing(gained: Any, lost: Any, n: int, margin: float) -> dict[str, npt.NDArray[np.bool_]]:
    """Which tables each rule lets pass as "not forgotten"."""
    difference = (gained - lost) / n
    # The sample variance with n − 1: what a t interval over the paired differences uses.
    error = np.sqrt(np.maximum((gained + lost) / n - difference**2, 0) / (n - 1))
    flips = gained + lost
    # One-sided and exact: the kindest version, it finds losses more often than the usual two-sided one.
    mcnemar = np.where(flips > 0, stats.binom.sf(lost - 1, np.maximum(flips, 1), 0.5), 1.0)
    after = np.clip(BASELINE_ACCURACY + difference, 0, 1)
    unpaired = np.sqrt((BASELINE_ACCURACY * (1 - BASELINE_ACCURACY) + after * (1 - after)) / (n - 1))
    return {
        "ours": kept_tables(gained, lost, n, margin),
        "tango": paired.tango_statistic(gained, lost, n, -margin) >= Z90 - 1e-9,
        "wald_90": difference - Z90 * error >= -margin,
        "nel_gate": difference - stats.t.ppf(0.975, n - 1) * error >= -margin,
        "mcnemar_ns": mcnemar > 0.05,
        "unpaired_z": np.abs(difference) < Z95 * unpaired,
        "point": difference >= -margin - 1e-12,
    }


def exact_rates(n: int, discordance: float, difference: float, margin: float) -> dict[str, Any]:
    """Chance to pass, by rule, of a model whose true difference is `difference`."""
    gained, lost, chance = all_tables(n, discordance, difference)
    rates = {rule: float(chance[ok].sum()) for rule, ok in passing(gained, lost, n, margin).items()}
    return {"n": n, "discordance": discordance, "difference": difference, "margin": margin, "passed": rates}


def share(hits: int, draws: int) -> dict[str, float]:
    """A Monte Carlo share with its standard error."""
    rate = hits / draws
    return {"rate": rate, "error": math.sqrt(max(rate, 1 / draws) * (1 - rate) / draws), "draws": draws}


def draw_clusters(
    rng: np.random.Generator, draws: int, count: int, size: int, discordance: float, difference: float, icc: float
) -> npt.NDArray[np.int8]:
    """Differences (draws, clusters, items); a cluster's chances are Dirichlet, so its items correlate by `icc`."""
    total = (1 - icc) / icc
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    chances = rng.dirichlet([max(total * s, 1e-9) for s in shares], size=(draws, count))
    u = rng.random((draws, count, size))
    return np.where(u < chances[..., :1], 1, np.where(u < chances[..., :1] + chances[..., 1:2], -1, 0)).astype(np.int8)


def clustered_rates(
    rng: np.random.Generator, draws: int, count: int, discordance: float, difference: float, margin: float
) -> dict[str, Any]:
    """Clusters of 7 items with intraclass correlation 0.3: `judge`, Tango as if independent, and a bare t."""
    d = draw_clusters(rng, draws, count, 7, discordance, difference, 0.3)
    n, sums = count * 7, d.sum(2).astype(float)
    gained, lost = (d > 0).sum((1, 2)), (d < 0).sum((1, 2))
    mean = sums.sum(1) / n
    error = np.sqrt(count / (count - 1) * ((sums - 7 * mean[:, None]) ** 2).sum(1)) / n
    bare_t = mean - stats.t.ppf(0.95, count - 1) * error >= -margin
    naive = paired.tango_statistic(gained, lost, n, -margin) >= Z90
    few = (sums != 0).sum(1) < 10
    groups, kept = np.arange(n) // 7, 0
    # `judge` keeps only what the bare t keeps, or what has too few changes for any t.
    for i in np.flatnonzero((mean >= -margin) & (bare_t | few)):
        flat = d[i].ravel()
        before, after = (flat < 0).astype(float), (flat > 0).astype(float)
        verdict = judge(before, after, margin=margin, binary=True, groups=groups, rng=rng).verdict
        kept += verdict in ("kept", "improved")
    passed = {"ours": kept, "bare_t": int(bare_t.sum()), "tango_naive": int(naive.sum())}
    row = {"clusters": count, "items": n, "discordance": discordance, "difference": difference, "margin": margin}
    return row | {"passed": {rule: share(hits, draws) for rule, hits in passed.items()}}


def unequal_rates(
    rng: np.random.Generator, draws: int, count: int, discordance: float, margin: float
) -> dict[str, Any]:
    """Clusters of 1 to 13 items, correlation 0.3, and a true loss of the margin."""
    kept = 0
    for _ in range(draws):
        sizes = rng.integers(1, 14, size=count)
        there = np.arange(14) < sizes[:, None]
        d = draw_clusters(rng, 1, count, 14, discordance, -margin, 0.3)[0][there]
        # A sample that lost more than the margin is not kept, whatever the test.
        if d.mean() >= -margin:
            before, after = (d < 0).astype(float), (d > 0).astype(float)
            groups = np.repeat(np.arange(count), sizes)
            kept += judge(before, after, margin=margin, binary=True, groups=groups, rng=rng).verdict in (
                "kept",
                "improved",
            )
    row = {"clusters": count, "discordance": discordance, "margin": margin}
    return row | {"passed": {"ours": share(kept, draws)}}


def fractional_rates(rng: np.random.Generator, draws: int, n: int, changed: float, margin: float) -> dict[str, Any]:
    """Per-item F1: a changed item moves by anything up to 1; the true mean loss is the margin."""
    gain, loss = changed / 2 - margin, changed / 2 + margin
    u, size = rng.random((draws, n)), rng.random((draws, n))
    d = np.where(u < gain, size, np.where(u < gain + loss, -size, 0.0))
    bare_t = d.mean(1) - stats.t.ppf(0.95, n - 1) * d.std(1, ddof=1) / math.sqrt(n) >= -margin
    few, kept = (d != 0).sum(1) < 15, 0
    for i in np.flatnonzero((d.mean(1) >= -margin) & (bare_t | few)):
        before, after = np.maximum(-d[i], 0), np.maximum(d[i], 0)
        verdict = judge(before, after, margin=margin, binary=False, rng=rng).verdict
        kept += verdict in ("kept", "improved")
    row = {"items": n, "changed": changed, "margin": margin}
    return row | {"passed": {"ours": share(kept, draws), "bare_t": share(int(bare_t.sum()), draws)}}


def micro_f1(items: Any) -> float:
    """2TP/(2TP + FP + FN) over rows of (TP, FP, FN)."""
    tp, fp, fn = (sum(column) for column in zip(*items, strict=True))
    return 2 * tp / (2 * tp + fp + fn)


def pooled_rates(rng: np.random.Generator, draws: int, documents: int, lose: float) -> dict[str, Any]:
    """Pooled F1 over documents of one to six entities each; the true loss is the margin."""
    share_found, wrong = 0.8, 0.3
    old = 2 * share_found / (2 * share_found + wrong + (1 - share_found))
    found = share_found * (1 - lose)
    margin = old - 2 * found / (2 * found + wrong + (1 - found))
    kept = 0
    for _ in range(draws):
        entities = rng.integers(1, 7, size=documents)
        tp = rng.binomial(entities, share_found)
        fp = rng.binomial(entities, wrong)
        fewer = rng.binomial(tp, 1 - lose)
        before, after = np.stack([tp, fp, entities - tp], 1), np.stack([fewer, fp, entities - fewer], 1)
        pairs = list(zip(before.tolist(), after.tolist(), strict=True))
        kept += judge_statistic(pairs, micro_f1, margin=margin, rng=rng, resamples=400).verdict in ("kept", "improved")
    return {"documents": documents, "margin": margin, "passed": {"ours": share(kept, draws)}}


def planned_power(discordance: float, margin: float) -> dict[str, Any]:
    """Items planned for 80%, and how often a model that lost nothing is then kept; beside it the textbook formula."""
    planned = paired.items_needed(discordance=discordance, margin=margin) or 0
    textbook = paired.mean_items_needed(variance=discordance, margin=margin) or 0
    row: dict[str, Any] = {"discordance": discordance, "margin": margin, "planned": planned, "textbook": textbook}
    for name, n in (("kept", planned), ("kept_textbook", textbook)):
        gained, lost, chance = all_tables(n, discordance, 0.0)
        row[name] = float(chance[kept_tables(gained, lost, n, margin)].sum())
    return row


def suite_alarms(rng: np.random.Generator, suites: int) -> dict[str, Any]:
    """Suites of 15 tasks of a model that did not change: ten of 300 independent items, five of 40 clusters."""
    p = np.empty((suites, 15))
    for task in range(10):
        counts = rng.multinomial(300, [0.05, 0.05, 0.9], size=suites)
        tables, which = np.unique(counts[:, :2], axis=0, return_inverse=True)
        values = np.array([paired.mcnemar_loss_p(g, c) for g, c in tables.tolist()])
        p[:, task] = values[which.ravel()]
    groups = np.arange(280) // 7
    for task in range(10, 15):
        d = draw_clusters(rng, suites, 40, 7, 0.1, 0.0, 0.3)
        p[:, task] = [paired.sign_flip_loss_p(row.ravel(), groups, rng=rng) for row in d]
    holm = sum(min(paired.adjust_holm(row)) <= 0.05 for row in p)
    return {"tasks": 15, "holm": share(int(holm), suites), "uncorrected": share(int((p.min(1) <= 0.05).sum()), suites)}


def run_study(*, quick: bool = False) -> dict[str, Any]:
    """All rates; `quick` draws a tenth."""
    rng = np.random.default_rng(SEED)
    part = 10 if quick else 1
    start = time.perf_counter()
    found = {
        "seed": SEED,
        "published": [{"what": what} | exact_rates(n, p, d, m) for what, n, p, d, m in PUBLISHED],
        "boundary": [exact_rates(n, p, -m, m) for n, p, m in dict.fromkeys(BOUNDARY) if p >= m],
        "clusters": [clustered_rates(rng, 5_000 // part, g, p, -m, m) for g, p, m in CLUSTERS],
        "clusters_unchanged": [clustered_rates(rng, 2_000 // part, g, 0.1, 0.0, 0.05) for g in (40, 100, 150)],
        "unequal": [unequal_rates(rng, 4_000 // part, g, p, m) for g, p, m in ((40, 0.2, 0.1), (120, 0.05, 0.05))],
        "fractional": [
            fractional_rates(rng, 4_000 // part, n, c, m)
            for n, c, m in ((100, 0.1, 0.02), (100, 0.3, 0.03), (200, 0.1, 0.02), (1500, 0.1, 0.02), (1500, 0.3, 0.02))
        ],
        "pooled": [pooled_rates(rng, 500 // part, n, 0.05) for n in (40, 150)],
        "plans": [planned_power(p, m) for p, m in PLANS],
        "suites": suite_alarms(rng, 4_000 // part),
    }
    return found | {"seconds": round(time.perf_counter() - start)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Error rates of the forgetting check and of other rules.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws; writes nothing")
    options = parser.parse_args()
    found = run_study(quick=options.quick)
    text = json.dumps(found, indent=1)
    if options.quick:
        print(text)
        return
    RESULTS.write_text(text + "\n", encoding="utf-8")
    write_page(found, PAGE)
    print(f"{found['seconds']} s; wrote {RESULTS.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
