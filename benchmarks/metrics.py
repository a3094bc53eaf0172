"""Scores of one answer, each in [0, 1]: ranking, retrieval, spans, numbers, text. Pure; knows no task and no model.

A ranking is a sequence of 0-based indices, best first. What a model can get wrong in writing one down costs it, and
never gains: an index given twice counts once, at its first place; an index out of range is dropped; missing items
come last. (Scorers that skip these rules give more than 1 for "1, 1, 1".)
"""

import functools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def clean_ranking(ranking: Iterable[int], n: int) -> list[int]:
    """Return the ranking without repeats and without indices outside 0..n-1.

    >>> clean_ranking([2, 2, 7, -1, 0], 3)
    [2, 0]
    """
    return list(dict.fromkeys(index for index in ranking if 0 <= index < n))


def ndcg_score(relevance: Sequence[float], ranking: Iterable[int], *, k: int | None = None) -> float:
    """Return NDCG with gain 2^relevance - 1 and discount log2(place + 1) (Burges et al. 2005).

    Items that the ranking leaves out gain nothing.

    Raises:
        ValueError: a relevance is negative, or none is positive: then no order is better than another.

    >>> ndcg_score([0, 3, 1], [1, 2, 0])
    1.0
    """
    if any(value < 0 or not math.isfinite(value) for value in relevance) or not any(relevance):
        raise ValueError(f"relevance must be finite, not negative and not all zero, got {list(relevance)}")

    def dcg(values: Iterable[float]) -> float:
        return sum((2.0**value - 1) / math.log2(place + 2) for place, value in enumerate(values))

    found = clean_ranking(ranking, len(relevance))[:k]
    best = dcg(sorted(relevance, reverse=True)[:k])
    return min(1.0, dcg(relevance[index] for index in found) / best)


def ndcg_chance(relevance: Sequence[float]) -> float:
    """Return the mean NDCG of all orders: each place holds the mean gain.

    >>> round(ndcg_chance([1, 0]), 4)  # (1 + 1 / log2(3)) / 2
    0.8155
    """
    gain = sum(2.0**value - 1 for value in relevance) / len(relevance)
    ideal = sum((2.0**v - 1) / math.log2(i + 2) for i, v in enumerate(sorted(relevance, reverse=True)))
    return gain * sum(1 / math.log2(place + 2) for place in range(len(relevance))) / ideal


def hit_score(gold: Collection[int], ranking: Iterable[int], *, k: int) -> float:
    """Return 1 if a gold index is among the first k different ones, else 0."""
    return float(bool(_first(gold, ranking, k)))


def recall_score(gold: Collection[int], ranking: Iterable[int], *, k: int) -> float:
    """Return the share of gold indices among the first k different ones.

    Where there are more gold ones than k, the best ranking gets 1: the share is of min(k, |gold|).
    """
    return len(_first(gold, ranking, k)) / min(k, len(set(gold)))


def _first(gold: Collection[int], ranking: Iterable[int], k: int) -> set[int]:
    if not gold or k < 1:
        raise ValueError(f"needs at least one gold index and k >= 1, got {list(gold)}, k={k}")
    return set(gold) & set(list(dict.fromkeys(ranking))[:k])


def parse_ranking(text: str, *, base: int = 1) -> list[int]:
    """Read indices from the first line with a number, as 0-based: `3, 1, 2` -> [2, 0, 1]. Never wraps below `base`.

    >>> parse_ranking("3, 1, 0, 10\\n4")
    [2, 0, 9]
    """
    for line in text.splitlines():
        numbers = [int(number) for number in re.findall(r"\d+", line)]
        if numbers:
            return [number - base for number in numbers if number >= base]
    return []


def normalise(text: str) -> str:
    """Lower case, no punctuation, no English articles, single spaces (as SQuAD's scorer); width and form unified."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(char for char in text if unicodedata.category(char)[0] != "P" and char not in string.punctuation)
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def words(text: str) -> list[str]:
    """Split into words; a character of a script without spaces (Chinese, Japanese) is a word of its own."""
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+", text)


def exact_score(answer: str, golds: Collection[str]) -> float:
    """Return 1 if the answer equals one of `golds` once both are normalised."""
    return float(normalise(answer) in {normalise(gold) for gold in golds})


@dataclass(frozen=True, slots=True)
class Counts:
    """Right, spurious and missed spans of one item; sums of them give the pooled (micro) F1."""

    right: int
    spurious: int
    missed: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.right + other.right, self.spurious + other.spurious, self.missed + other.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where nothing was to be found and nothing was said."""
        total = 2 * self.right + self.spurious + self.missed
        return 2 * self.right / total if total else 1.0


def span_counts(gold: Iterable[str], found: Iterable[str]) -> Counts:
    """Compare two sets of spans after normalisation; a span said twice counts once."""
    wanted = {normalise(span) for span in gold} - {""}
    said = {normalise(span) for span in found} - {""}
    return Counts(len(wanted & said), len(said - wanted), len(wanted - said))


def parse_spans(text: str) -> list[str]:
    """Read spans from the first line that holds text, separated by semicolons or else by commas; `none` is empty."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    parts = [part.strip(" \t\"'[].") for part in re.split(r"[;；]" if re.search(r"[;；]", line) else r"[,，、]", line)]
    return [part for part in parts if part and part.lower() not in ("none", "n/a")]


def token_f1_score(answer: str, golds: Collection[str]) -> float:
    """Return the best F1 over words with one of `golds` (SQuAD)."""
    said = Counter(words(normalise(answer)))

    def f1(gold: str) -> float:
        wanted = Counter(words(normalise(gold)))
        shared = sum((said & wanted).values())
        return Counts(shared, sum(said.values()) - shared, sum(wanted.values()) - shared).f1

    return max(f1(gold) for gold in golds)


def jaccard_score(gold: Collection[Any], found: Collection[Any]) -> float:
    """Return the shared part of two sets over their union; 1 if both are empty."""
    union = set(gold) | set(found)
    return len(set(gold) & set(found)) / len(union) if union else 1.0


NUMBER = re.compile(r"[-−–]?\s*[$€£¥]?\s*[-−]?\s*(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}


def parse_number(text: str) -> float | None:
    """Read the first number: thousands commas, currency, minus, `%` as /100, scale words. An answer that begins with
    a bracketed number is negative, as accountants write it.

    >>> parse_number("$ (1,234.5) million"), parse_number("up 12% (5)"), parse_number("none")
    (-1234500000.0, 0.12, None)
    """
    found = NUMBER.search(text)
    if found is None:
        return None
    digits = re.sub(r"[\s$€£¥,]", "", found[0]).replace("−", "-").replace("–", "-")
    value = float("-" + digits.strip("-") if digits.startswith("-") else digits)
    before, after = text[: found.start()].rstrip(), text[found.end() :].lstrip()
    # A dash right behind a digit or letter joins ("2018-2019", "covid-19"); it is no minus.
    if value < 0 and text[: found.start()] and text[found.start() - 1].isalnum():
        value = -value
    if re.fullmatch(r"[\s$€£¥]*\(", before) and re.match(r"%?\)", after):
        value, after = -abs(value), after.replace(")", "", 1).lstrip()
    if after.startswith("%") or re.match(r"per\s?cent\b", after, re.IGNORECASE):
        return value / 100
    scale = re.match(r"[a-z]+", after, re.IGNORECASE)
    return value * SCALES.get(scale[0].lower(), 1.0) if scale else value


def numeric_score(answer: str, gold: float, *, tolerance: float = 0.01, absolute: float = 0.0) -> float:
    """Return 1 if the first number of the answer is within `tolerance` (a share of gold) or `absolute` of gold.

    A percentage counts as its share and as its number: gold 0.12 and gold 12 both accept "12%".
    """
    value = parse_number(answer)
    if value is None:
        return 0.0
    limit = max(abs(gold) * tolerance, absolute, 1e-9)
    readings = (value, value * 100) if "%" in answer or "percent" in answer.lower() else (value,)
    return float(any(abs(reading - gold) <= limit for reading in readings))


class _Words:
    """Tokenizer for rouge-score, whose own drops every letter outside a-z."""

    def tokenize(self, text: str) -> list[str]:
        return words(text.lower())


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l_score(answer: str, golds: Collection[str]) -> float:
    """Return the best ROUGE-L F-measure with one of `golds` (rouge-score, without stemming; any script)."""
    return max(_rouge().score(gold, answer)["rougeL"].fmeasure for gold in golds)
