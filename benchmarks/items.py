"""lm-eval's samples of one task -> one ItemScore per question. Knows lm-eval's sample rows; knows no interval.

An item's hash covers document, prompts, choices and target, so items pair across reports by what was asked, never by
their place in a file. Where choices tie exactly, the right one gets its share of the credit; lm-eval's argmax would
give all of it to whichever comes first.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.lm import ItemFacts, ItemKey
from benchmarks.suite import card_of
from workbench.errors import TaskError
from workbench.records import Direction, ItemScore

Sample = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One column of per-item values, as lm-eval's aggregation wants them."""

    raw: Mapping[int, Any]
    """Index into `LeafItems.scores` -> value. Documents for which the task gives none are left out."""
    aggregate: Callable[[list[Any]], float]
    is_mean: bool
    direction: Direction


@dataclass(frozen=True, kw_only=True, slots=True)
class LeafItems:
    """All items of one leaf task."""

    scores: list[ItemScore]
    metrics: Mapping[str, Metric]
    ties: int
    """Items whose best choices tie exactly on some metric."""
    chance: float | None
    """Score of a guesser on acc and its kin; None where there are no choices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a multiple-choice item offers. `values` are the metrics after sharing the credit of ties."""

    values: Mapping[str, float]
    answer: str
    target: str
    tied: bool
    chance: float


def read_items(task: Any, samples: Sequence[Sample], facts: Mapping[ItemKey, ItemFacts]) -> LeafItems:
    """Item scores of one evaluated lm-eval task; `facts` come from the EngineLM that answered."""
    name: str = task.task_name
    by_doc: dict[int, list[Sample]] = {}
    for sample in samples:
        by_doc.setdefault(sample["doc_id"], []).append(sample)
    if not by_doc:
        raise TaskError(f"task {name}: it has no items")
    card = card_of(task)
    cluster = card.cluster
    scores: list[ItemScore] = []
    raw: dict[str, dict[int, Any]] = {}
    choices: list[Choice] = []
    seen: Counter[str] = Counter()
    for doc_id, rows in sorted(by_doc.items()):
        sample = rows[0]
        choice = _read_choice(task, sample, headline=card.metric)
        values = {metric_name(m, row["filter"]): row[m] for row in rows for m in row["metrics"]}
        if choice is not None:
            choices.append(choice)
            values |= {metric: value for metric, value in choice.values.items() if metric in values}
        for metric, value in values.items():
            raw.setdefault(metric, {})[len(scores)] = value
        item = _hash_item(sample)
        seen[item] += 1
        fact = facts.get((name, doc_id), ItemFacts())
        group = sample["doc"].get(cluster) if cluster and isinstance(sample["doc"], dict) else None
        # A question that stands twice in a set is two items: hashes must be unique for pairing.
        unique = item if seen[item] == 1 else digest([item, seen[item]])
        scores.append(
            ItemScore(
                task=name,
                item=unique,
                doc_id=doc_id,
                group=unique if group is None else str(group),
                metrics={},
                logprobs=_logprobs(task, sample),
                greedy=_greedy(task, sample),
                answer=choice.answer if choice else _answer_text(sample),
                target=choice.target if choice else str(sample["target"]),
                prompt="" if task.OUTPUT_TYPE == "loglikelihood_rolling" else str(sample["arguments"][0][0]),
                truncated=fact.truncated,
                extra=_extra(task, sample, values, fact),
            )
        )
    metrics = {m: _metric(task, m, column) for m, column in raw.items() if not m.startswith("bypass")}
    return LeafItems(
        scores=[_with_metrics(score, i, metrics) for i, score in enumerate(scores)],
        metrics=metrics,
        ties=sum(choice.tied for choice in choices),
        chance=sum(c.chance for c in choices) / len(choices) if choices else None,
    )


def metric_name(metric: str, filter_name: str) -> str:
    """lm-eval's `metric,filter`; plain `metric` where no filter has a name."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def share_credit(values: Sequence[float], gold: set[int]) -> float:
    """Credit for the highest value: 1 if it is a right one, its share where several tie.

    >>> share_credit([-1.0, -2.0, -1.0], {2})
    0.5
    """
    best = max(values)
    tied = [i for i, value in enumerate(values) if value == best]
    return sum(i in gold for i in tied) / len(tied)


def _read_choice(task: Any, sample: Sample, *, headline: str) -> Choice | None:
    """Choices of an item that lm-eval itself scores; None for tasks that score in code of their own."""
    config = getattr(task, "config", None)
    if task.OUTPUT_TYPE != "multiple_choice" or config is None or callable(config.process_results):
        return None
    if "offered" in sample:  # an imported row: it has no task to ask, and brings (texts, right indices) or None
        if sample["offered"] is None:
            return None
        texts, gold = sample["offered"]
    else:
        doc = sample["doc"]
        texts = task.doc_to_choice(doc)
        multiple_input = bool(getattr(task, "multiple_input", 0))
        gold = gold_indices(task.doc_to_text(doc) if multiple_input else task.doc_to_target(doc), texts)
    values = choice_values(_logprobs(task, sample), texts)
    used = [values[m] for m in sample["metrics"] if m in values]
    best = int(np.argmax(values.get(headline, values["acc"])))
    return Choice(
        values={m: share_credit(v.tolist(), gold) for m, v in values.items()},
        answer=texts[best],
        target=" | ".join(texts[i] for i in sorted(gold)),
        tied=any(int((v == v.max()).sum()) > 1 for v in used),
        chance=len(gold) / len(texts),
    )


def choice_values(logprobs: Sequence[float], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """What lm-eval takes the argmax of, by metric: the log-probability of each choice, plain or per length."""
    own, without_context = np.array(logprobs[: len(texts)]), np.array(logprobs[len(texts) :])
    values = {
        "acc": own,
        "acc_norm": own / np.array([float(len(text)) for text in texts]),
        "acc_bytes": own / np.array([float(len(text.encode())) for text in texts]),
    }
    if len(without_context) == len(texts):
        values["acc_mutual_info"] = own - without_context
    return values


def gold_indices(target: Any, texts: Sequence[str]) -> set[int]:
    """Indices of the right choices; empty where the document names one that isn't there (lm-eval scores it 0)."""
    if isinstance(target, str):
        return {texts.index(target)} if target in texts else set()
    several = target if isinstance(target, list) else [target]
    return {int(i) for i in several if 0 <= int(i) < len(texts)}


def _logprobs(task: Any, sample: Sample) -> tuple[float, ...]:
    match task.OUTPUT_TYPE:
        case "multiple_choice" | "loglikelihood":
            return tuple(float(answers[0][0]) for answers in sample["resps"])
        case "loglikelihood_rolling":
            return tuple(float(answers[0]) for answers in sample["resps"])
        case _:
            return ()


def _greedy(task: Any, sample: Sample) -> tuple[bool, ...]:
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
        return ()
    return tuple(bool(answers[0][1]) for answers in sample["resps"])


def _answer_text(sample: Sample) -> str:
    first = sample["resps"][0][0]
    return first if isinstance(first, str) else ""


def _extra(task: Any, sample: Sample, values: Mapping[str, Any], fact: ItemFacts) -> dict[str, Any]:
    """What comparisons need beyond the metrics: the document's hash, parts of pooled metrics, counts of tokens."""
    extra: dict[str, Any] = {"doc": digest(sample["doc"])}
    prompts = list(dict.fromkeys(str(a[0]) for a in sample["arguments"] if a[0]))
    if task.OUTPUT_TYPE == "multiple_choice" and len(prompts) > 1:
        extra["prompts"] = prompts
    if len(sample["resps"][0]) > 1:
        extra["answers"] = [str(answer) for answer in sample["resps"][0]]
    if fact.tokens:
        extra["tokens"] = fact.tokens
    if fact.finish:
        extra["finish"] = fact.finish
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        extra["loglikelihood"] = float(sample["resps"][0][0])
        counts = {m: v[1] for m, v in values.items() if isinstance(v, tuple | list) and len(v) == 2}
        if "word_perplexity" in counts:
            extra["words"] = int(counts["word_perplexity"])
        if (in_bytes := counts.get("byte_perplexity", counts.get("bits_per_byte"))) is not None:
            extra["bytes"] = int(in_bytes)
    parts = {m: _plain(v) for m, v in values.items() if not _is_number(v)}
    if parts and task.OUTPUT_TYPE != "loglikelihood_rolling":
        extra["parts"] = parts
    return extra


def _metric(task: Any, name: str, raw: Mapping[int, Any]) -> Metric:
    from lm_eval.api import metrics as lm_eval_metrics

    bare = name.split(",")[0]
    aggregate = task.aggregation().get(bare, lm_eval_metrics.mean)
    means = (lm_eval_metrics.mean, lm_eval_metrics.nanmean, np.mean, np.nanmean)
    is_mean = aggregate in means and all(_is_number(value) for value in raw.values())
    if is_mean:
        column = {i: float(value) for i, value in raw.items() if not math.isnan(float(value))}
    elif aggregate is lm_eval_metrics.brier_score:
        # The mean over items of what it gives for each alone, so an interval of a mean fits.
        column, is_mean = {i: float(aggregate([value])) for i, value in raw.items()}, True
    else:
        column = dict(raw)
    lower = task.higher_is_better().get(bare, True) is False
    return Metric(raw=column, aggregate=aggregate, is_mean=is_mean, direction="lower" if lower else "higher")


def _with_metrics(score: ItemScore, index: int, metrics: Mapping[str, Metric]) -> ItemScore:
    own = {name: _item_value(metric, metric.raw[index]) for name, metric in metrics.items() if index in metric.raw}
    return ItemScore(
        **{name: getattr(score, name) for name in score.__slots__ if name != "metrics"},
        metrics={name: value for name, value in own.items() if value is not None},
    )


def _item_value(metric: Metric, value: Any) -> float | None:
    """An item's own value of a metric: the aggregation of this item alone; None where that says nothing."""
    if metric.is_mean:
        return float(value)
    if isinstance(value, list | tuple) and not all(_is_number(part) for part in value):
        return None
    try:
        own = float(metric.aggregate([value]))
    except (ValueError, TypeError, ZeroDivisionError, OverflowError, IndexError):
        return None
    return own if math.isfinite(own) else None


def _hash_item(sample: Sample) -> str:
    return digest([sample["doc"], sample["arguments"], sample["target"]])


def digest(value: Any) -> str:
    """SHA-256 of plain values, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str | bool | int | float | dict) or value is None else str(value)
