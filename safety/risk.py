"""From a risk target to thresholds, on calibration data that was drawn at random. Pure but for reading that data.

`miss`: the share of violations that are cleared. With n positives sorted ascending and
k = max{k : BinomCDF(k; n, miss) <= 1 - confidence}, the threshold is the (k+1)-th smallest: the share of violations
below it exceeds `miss` with probability at most 1 - confidence (Clopper-Pearson inverted). That takes
n >= ln(1 - confidence) / ln(1 - miss) of them: 59 at 0.05 and 0.95. `wrong_action` is the same on the allowed.

Where the data do not suffice nothing is cleared, or nothing acted on, by itself: such a probability is uncertain and
goes to a person. It never falls back to 0.5.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safety.resolved import Category, Risk, Threshold
from safety.schema import RiskTarget
from workbench.errors import ConfigError

BY_HAND = "no guarantee: set by hand"
NOTHING_ACTED = math.nextafter(1.0, 2.0)
"""A threshold above every probability."""


def merge_risk(before: Risk | None, given: RiskTarget | None) -> Risk:
    """A parent's risk target with what a file says on top."""
    before = before or Risk()
    if given is None:
        return before
    if given.fixed is not None:
        fixed = given.fixed
        low, high = (fixed, fixed) if isinstance(fixed, int | float) else (fixed.low, fixed.high)
        return Risk(fixed=Threshold(low=low, high=high, guarantee=BY_HAND))
    return Risk(
        miss=given.miss if given.miss is not None else before.miss,
        wrong_action=given.wrong_action if given.wrong_action is not None else before.wrong_action,
        confidence=given.confidence if given.confidence is not None else before.confidence,
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of one judge on labelled texts that were drawn at random from what it will see."""

    rows: Mapping[tuple[str, str], Sequence[tuple[float, str]]]
    """(category, label) -> probabilities, ascending, each with the hash of the category that it was labelled under."""

    def scores(self, category: Category, label: str) -> list[float]:
        """Those of a category as it is defined now, ascending; labels of another definition say nothing about it."""
        found = self.rows.get((category.id, label), ())
        return [probability for probability, digest in found if digest in ("", category.hash)]

    def stale(self, category: Category) -> int:
        """Rows that were labelled under another definition."""
        labels = ("violates", "allowed")
        return sum(
            digest not in ("", category.hash)
            for label in labels
            for _, digest in self.rows.get((category.id, label), ())
        )

    @classmethod
    def load(cls, path: str) -> "Calibration":
        """Read rows {category, probability, label}. Raises ConfigError: no such file, or a row is not such."""
        return _load(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)


@lru_cache(maxsize=256)
def _load(path: str, _changed: int) -> Calibration:
    rows: dict[tuple[str, str], list[tuple[float, str]]] = {}
    number = 0
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            number += 1
            row = json.loads(line)
            probability = float(row["probability"])
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"probability {probability}")
            if row["label"] not in ("violates", "allowed"):
                raise ValueError(f"label {row['label']!r}")
            found = rows.setdefault((str(row["category"]), row["label"]), [])
            found.append((probability, str(row.get("category_hash") or "")))
    except OSError as error:
        raise ConfigError(f"{path}: calibration data cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        what = "rows {category, probability in [0, 1], label: violates | allowed} are expected"
        raise ConfigError(f"{path}:{number}: {what}, got {error}") from None
    return Calibration({key: sorted(found) for key, found in rows.items()})


def thresholds_of(category: Category, calibrations: Mapping[str, Calibration]) -> dict[str, Threshold]:
    """Judge -> thresholds; `*` where they are fixed. Empty where there is neither: the judge's own value counts."""
    if category.risk.fixed is not None:
        return {"*": category.risk.fixed}
    return {
        name: calibrate(
            category.risk, violating=own.scores(category, "violates"), allowed=own.scores(category, "allowed")
        )
        for name, own in calibrations.items()
    }


def calibrate(risk: Risk, *, violating: Sequence[float], allowed: Sequence[float]) -> Threshold:
    """Thresholds that keep a risk target, with what they promise.

    Args:
        violating: probabilities of the violations, ascending, drawn at random from what the judge will see.
        allowed: those of the allowed texts.

    >>> t = calibrate(Risk(miss=0.05), violating=[i / 100 for i in range(1, 60)], allowed=[])
    >>> t.low, t.guarantee
    (0.01, 'misses at most 5% of violations, 95% confidence, 59 of them')
    """
    low, high, said = 0.0, NOTHING_ACTED, []
    delta = 1 - risk.confidence
    if risk.miss is not None:
        k = _largest_count(len(violating), risk.miss, delta)
        if k is None:
            said.append(f"no guarantee for misses: {len(violating)} violations, {needed(risk.miss, delta)} are needed")
        else:
            low = violating[k]
            promise = f"misses at most {risk.miss * 100:.3g}% of violations"
            said.append(f"{promise}, {risk.confidence * 100:.3g}% confidence, {len(violating)} of them")
    if risk.wrong_action is not None:
        k = _largest_count(len(allowed), risk.wrong_action, delta)
        if k is None:
            count = needed(risk.wrong_action, delta)
            said.append(f"no guarantee for wrong actions: {len(allowed)} allowed texts, {count} are needed")
        else:
            high = math.nextafter(allowed[len(allowed) - 1 - k], 2.0)
            promise = f"acts wrongly on at most {risk.wrong_action * 100:.3g}% of allowed texts"
            said.append(f"{promise}, {risk.confidence * 100:.3g}% confidence, {len(allowed)} of them")
    low = min(low, high)  # well apart: one threshold keeps both promises, and nothing is uncertain
    return Threshold(low=low, high=high, guarantee="; ".join(said) or "no guarantee: no target is set")


def needed(risk: float, delta: float) -> int:
    """Calibration items without which no threshold keeps the promise.

    >>> needed(0.05, 0.05), needed(0.1, 0.1), needed(0.01, 0.05)
    (59, 22, 299)
    """
    return math.ceil(math.log(delta) / math.log(1 - risk))


def _largest_count(n: int, risk: float, delta: float) -> int | None:
    """max{k : BinomCDF(k; n, risk) <= delta}; None where not even k = 0 is."""
    if n == 0 or (1 - risk) ** n > delta:
        return None
    from scipy.stats import binom

    k = int(binom.ppf(delta, n, risk))  # the smallest count whose CDF reaches delta
    return k if binom.cdf(k, n, risk) <= delta else k - 1
