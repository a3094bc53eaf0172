"""Metrics that pool their items (perplexity, BLEU, corpus F1), computed from what items keep. Knows no interval."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.records import ItemScore

Pooled = Callable[[Sequence[ItemScore]], float]


def pooled_statistic(metric: str) -> Pooled | None:
    """How the metric is made of one side's items; None where it is the mean of its items' own values.

    lm-eval's pooled metrics work where items keep their parts (`extra["parts"]`), as its aggregations want them.
    """
    return _TEXT.get(metric) or _from_parts(metric)


def keeps_parts(items: Sequence[ItemScore], metric: str) -> bool:
    """Do items keep what `pooled_statistic` needs? Another tool's metric of the same name may be a mean of items."""
    return metric in _TEXT or all(metric in item.extra.get("parts", {}) for item in items)


def _from_parts(metric: str) -> Pooled | None:
    if metric.split(",")[0] in _KNOWN_MEANS:  # lm-eval takes a second to import
        return None
    import lm_eval.api.metrics  # noqa: F401  (registers the aggregations)
    from lm_eval.api.registry import METRIC_AGGREGATION_REGISTRY

    aggregate: Any = METRIC_AGGREGATION_REGISTRY.get(metric.split(",")[0], None)
    if aggregate is None or getattr(aggregate, "__name__", "") in _MEANS:
        return None

    def pooled(items: Sequence[ItemScore]) -> float:
        return float(aggregate([_part(item, metric) for item in items]))

    return pooled


def _part(item: ItemScore, metric: str) -> Any:
    part = item.extra.get("parts", {}).get(metric)
    if part is None:
        raise ValueError(f"item {item.item[:8]} keeps no parts of {metric}")
    return part


def _mean_logprob(items: Sequence[ItemScore]) -> float:
    return sum(item.logprobs[0] for item in items) / len(items)


def _per(unit: str, metric: str) -> Pooled:
    """Negative log-likelihood (nats) per unit of text, pooled over documents.

    A document that is scored as a whole keeps both itself; an answer after a question keeps them as the metric's parts.
    """

    def rate(items: Sequence[ItemScore]) -> float:
        extras: list[Mapping[str, Any]] = [item.extra for item in items]
        pairs = [
            (extra["loglikelihood"], extra[unit]) if "loglikelihood" in extra else _part(item, metric)
            for item, extra in zip(items, extras, strict=True)
        ]
        return -sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)

    return rate


# brier_score is the mean of its items' own values, and items keep those.
_MEANS = ("mean", "nanmean", "median", "brier_score", "bypass_agg")
_KNOWN_MEANS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "prompt_level_strict_acc")
_TEXT: Mapping[str, Pooled] = {
    "bits_per_byte": lambda items: _per("bytes", "bits_per_byte")(items) / math.log(2),
    "byte_perplexity": lambda items: math.exp(_per("bytes", "byte_perplexity")(items)),
    "word_perplexity": lambda items: math.exp(_per("words", "word_perplexity")(items)),
    "perplexity": lambda items: math.exp(-_mean_logprob(items)),
}
