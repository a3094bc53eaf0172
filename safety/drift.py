"""Something new in the stream, noticed without a label: novelty as bets, arrival rates of clusters, and what an alarm
opens. Knows numbers and names.

The bets are e-processes: if nothing changes, a false alarm is on average at least LIMIT texts away, whatever the stream
looks like otherwise (the mean of e-CUSUMs is below an e-detector of Shiryaev and Roberts).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RATE = 0.01
"""Share of usual texts that count as new: those with a conformal p-value up to it."""
BETS = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How many times as many new texts are bet on."""
LIMIT = 5000.0
LANE = 100


@dataclass(slots=True)
class NoveltyAlarm:
    """Watches how often texts are new. Feed it each text's p-value; it says when too many are."""

    rate: float = RATE
    limit: float = LIMIT
    seen: int = 0
    fired_at: int | None = None
    """Number of the text at which it fired."""
    _wealth: Floats = field(default_factory=lambda: np.zeros(len(BETS)))

    @property
    def evidence(self) -> float:
        """Against "nothing has changed"; LIMIT fires."""
        return float(self._wealth.mean())

    def feed(self, p_values: Floats) -> bool:
        """Take texts in the order in which they came; whether it has fired."""
        bets = np.asarray(BETS)
        won, lost = bets, (1.0 - bets * self.rate) / (1.0 - self.rate)
        for p in p_values:
            self.seen += 1
            self._wealth = np.maximum(self._wealth, 1.0) * (won if p <= self.rate else lost)
            if self.fired_at is None and self.evidence >= self.limit:
                self.fired_at = self.seen
        return self.fired_at is not None

    def reset(self) -> None:
        """Begin anew, after somebody looked."""
        self._wealth, self.fired_at, self.seen = np.zeros(len(BETS)), None, 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rising:
    """A cluster that arrives faster than before."""

    cluster: str
    now: int
    before: int
    times: float
    """Rate now over rate before; infinite where there were none before."""
    statistic: float
    """Generalised log-likelihood ratio of two Poisson rates against one."""
    p: float


def rising_clusters(
    now: Mapping[str, int], before: Mapping[str, int], *, window: float, history: float, fdr: float = 0.05
) -> list[Rising]:
    """Clusters whose arrival rate rose, at a false discovery rate over all clusters; the surest first.

    Given both counts together, the count of now is binomial if the rates are one: the p-value is exact. Benjamini and
    Hochberg's step-up decides.

    Args:
        window, history: time, or number of texts, in which the counts were taken.
    """
    from scipy.stats import binom

    found: list[Rising] = []
    share = window / (window + history)
    for cluster in sorted({*now, *before}):
        k, past = now.get(cluster, 0), before.get(cluster, 0)
        if not k + past:
            continue
        times = (k / window) / (past / history) if past else math.inf
        p = float(binom.sf(k - 1, k + past, share))
        found.append(Rising(cluster=cluster, now=k, before=past, times=times, statistic=_glr(k, past, share), p=p))
    found.sort(key=lambda one: (one.p, -one.statistic, one.cluster))
    passed = [place for place, one in enumerate(found, 1) if one.p <= fdr * place / len(found)]
    return [one for one in found[: max(passed, default=0)] if one.times > 1.0]


def _glr(k: int, past: int, share: float) -> float:
    """k ln(k / e) + past ln(past / e'), e the counts expected of one rate; 0 where the rate did not rise."""
    total = k + past
    if k <= total * share:
        return 0.0
    return k * math.log(k / (total * share)) + (past * math.log(past / (total * (1 - share))) if past else 0.0)


def lane_items(vectors: Floats, suspects: npt.NDArray[np.bool_], *, size: int = LANE) -> npt.NDArray[np.intp]:
    """What people look at after an alarm: half nearest to the middle of the suspects, half at their edge.

    The middle shows what it is, the edge where it ends. The nearest first; all texts where there are fewer.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if not suspects.any():
        return np.zeros(0, np.intp)
    centre = unit[suspects].mean(axis=0)
    distance = 1.0 - unit @ (centre / max(float(np.linalg.norm(centre)), 1e-12))
    order = np.lexsort((np.arange(len(distance)), distance))
    near = order[: size // 2]
    rest = order[size // 2 :]
    # the edge: as far out as the outermost tenth of the suspects themselves
    border = float(np.quantile(distance[suspects], 0.9))
    edge = rest[np.lexsort((rest, np.abs(distance[rest] - border)))][: size - len(near)]
    return np.concatenate([near, edge]).astype(np.intp)


def draft_rule(name: str, examples: Sequence[str], *, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """A rule for a policy's `rules`, in review mode: it withholds nothing until somebody has read and named it."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "new-threat"
    return {
        "id": f"draft-{slug}",
        "text": f"Draft, to be worded by the policy's owner: texts like the examples ({name}).",
        "severity": "medium",
        "actions": {"user_input": "log", "model_output": "review", "content": "review"},
        "examples": {"violates": list(examples[:5]), "allowed": list(allowed[:5])},
    }
