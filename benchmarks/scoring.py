"""Per-item scoring functions in lm-eval's shape (`process_results`): documents and raw results to metric values.

The arithmetic is in `metrics`; here is what a document's columns mean. Task files made by `workbench task new` name
these functions, so they keep their names.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import metrics
from workbench.registry import Registry

Doc = Mapping[str, Any]
Judge = Callable[[str, str, Sequence[str]], float]
"""(question, answer, accepted answers) -> score in [0, 1]; whatever model it asks is its own matter."""

judges: Registry[Judge] = Registry("answer judge", group="workbench.answer_judges")
"""Judges of generated texts, by name: registered in code, an installed package, or a file of `--include-path`."""


def by_likelihood(doc: Doc, results: Sequence[tuple[float, bool]]) -> list[int]:
    """Return candidates from the likeliest, per byte: a longer one is not worse for being longer."""
    per_byte = [
        result[0] / max(1, len(choice.encode())) for result, choice in zip(results, doc["choices"], strict=True)
    ]
    return sorted(range(len(per_byte)), key=lambda index: -per_byte[index])


def rank(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Score the candidates' order by likelihood against `relevance`."""
    return ranking_scores(doc, by_likelihood(doc, results))


def rank_written(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score a written ranking (`3, 1, 2`) against `relevance`."""
    return ranking_scores(doc, metrics.parse_ranking(results[0]))


def ranking_scores(doc: Doc, ranking: Sequence[int]) -> dict[str, float]:
    """NDCG, and whether the first three hold a relevant candidate."""
    gold = [index for index, value in enumerate(doc["relevance"]) if value > 0]
    return {
        "ndcg": metrics.ndcg_score(doc["relevance"], ranking),
        "hit_at_1": metrics.hit_score(gold, ranking, k=1),
        "hit_at_3": metrics.hit_score(gold, ranking, k=3),
    }


def true_mass(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Share of probability on the true answers (TruthfulQA mc2).

    lm-eval takes exp() of the sums first, which is 0/0 once all answers are long; here the largest is taken out first.
    """
    best = max(result[0] for result in results)
    shares = [math.exp(result[0] - best) for result in results]
    return {"acc": sum(share for share, label in zip(shares, doc["labels"], strict=True) if label) / sum(shares)}


def answer_bits(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-likelihood and bytes of a long answer: lm-eval's `bits_per_byte` pools them."""
    return {"bits_per_byte": (results[0][0], len(doc["target"].encode()))}


def wikitext(doc: Doc, results: Sequence[float]) -> dict[str, tuple[float, int]]:
    """Count words and bytes on the text before detokenisation, as lm-eval does."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results

    return process_results(doc, results)


def answer_scores(answer: str, golds: Sequence[str], *, scale: str = "", tolerance: float = 0.01) -> float:
    """Return 1 for a right short answer: a number within `tolerance` (with or without its scale), else equal words."""
    if len(golds) == 1 and (gold := _as_number(golds[0])) is not None:
        factor = 0.01 if scale == "percent" else metrics.SCALES.get(scale, 1.0)
        return max(metrics.numeric_score(answer, value, tolerance=tolerance) for value in (gold, gold * factor))
    return max(
        metrics.exact_score(answer, ["; ".join(golds), ", ".join(golds), " and ".join(golds)]),
        float(metrics.span_counts(golds, metrics.parse_spans(answer)).f1 == 1.0) if len(golds) > 1 else 0.0,
    )


def _as_number(text: str) -> float | None:
    try:
        return float(str(text).replace(",", ""))
    except ValueError:
        return None


def short_answer(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score the first line of a short answer, number or words, against `golds`."""
    lines = [line.strip() for line in results[0].splitlines() if line.strip()]
    said = lines[0] if lines else ""
    golds = [str(gold) for gold in doc["golds"]]
    scale, tolerance = doc.get("scale") or "", doc.get("tolerance") or 0.01
    return {
        "exact_match": answer_scores(said, golds, scale=scale, tolerance=tolerance),
        "token_f1": metrics.token_f1_score(said, ["; ".join(golds)]),
    }


def ifeval(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Check the instructions with lm-eval's own checkers; works without a network."""
    from benchmarks.offline import ensure_punkt

    ensure_punkt()
    from lm_eval.tasks.ifeval.utils import process_results

    return process_results(doc, results)


def ifeval_share(items: Sequence[Sequence[bool]]) -> float:
    """Pool lists of verdicts: the share of instructions that were followed."""
    flat = [verdict for item in items for verdict in item]
    return sum(flat) / len(flat)


def select(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score written letters (`A, C`) against all right ones: the whole set, and its overlap."""
    line = next((line for line in results[0].splitlines() if line.strip()), "")
    said = {ord(letter) - ord("A") for letter in re.findall(r"\b[A-Z]\b", line)}
    right = set(doc["right"])
    return {"exact_match": float(said == right), "jaccard": metrics.jaccard_score(right, said)}


def retrieve(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score written ids, best first, against the relevant ones."""
    gold = [int(number) - 1 for number in doc["golds"]]
    ranking = metrics.parse_ranking(results[0])
    return {
        "recall_at_3": metrics.recall_score(gold, ranking, k=3),
        "hit_at_3": metrics.hit_score(gold, ranking, k=3),
    }


def extract(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score written spans; the F1 is of this item, so a report's value is the mean over items."""
    counts = metrics.span_counts(doc["golds"], metrics.parse_spans(results[0]))
    return {"span_f1": counts.f1, "exact_match": float(counts.f1 == 1.0)}


def free_text(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score a text against accepted ones; a judge scores it too where the document names one."""
    said = results[0].strip()
    scores = {
        "rouge_l": metrics.rouge_l_score(said, doc["golds"]),
        "token_f1": metrics.token_f1_score(said, doc["golds"]),
    }
    if doc.get("judge"):
        scores["judge"] = judges.get(doc["judge"])(doc["question"], said, doc["golds"])
    return scores
