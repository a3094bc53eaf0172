"""From a model's probabilities to those that hold: by category, with as much freedom as there are labels, and bound to
what they were fitted for.

    under 200 labels     none but the prior: what the model says of a text without content is taken off
    200 to 999           Platt's two parameters on the logit
    1,000 and more       isotonic, where 200 of them violate

Communities lean on their parent: each has an offset that is drawn to zero as by 50 labels. Knows arrays and one file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.records import Estimate

Floats = npt.NDArray[np.float64]
How = Literal["none", "prior", "platt", "isotonic"]
FEW, MANY, MANY_POSITIVE = 200, 1000, 200
SHRINK = 50.0
"""Labels of its own at which a community weighs as much as its parent."""
BINS = 15
BAND = (0.2, 0.8)
"""Where decisions are made."""
SCHEMA_VERSION = 1
_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """What a calibration holds for. Of another model, policy or prompt it says nothing."""

    model: str
    """Fingerprint of the weights."""
    policy_hash: str
    prompt_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One category's calibration."""

    how: How
    n: int
    positives: int
    slope: float = 1.0
    shift: float = 0.0
    """Of the logit; of `prior` only the shift counts."""
    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()
    """Knots of an isotonic curve, between which it is straight."""
    offsets: Mapping[str, float] = field(default_factory=dict)
    """Community -> its shrunken offset on the logit."""

    def apply(self, probability: Floats, communities: Sequence[str] | None = None) -> Floats:
        """Calibrated probabilities."""
        p = np.asarray(probability, np.float64)
        if self.how == "isotonic":
            found = np.interp(p, self.xs, self.ys)
        else:
            found = _sigmoid(self.slope * _logit(p) + self.shift)
        if communities is None or not self.offsets:
            return found
        own = np.array([self.offsets.get(name, 0.0) for name in communities])
        return np.where(own == 0.0, found, _sigmoid(_logit(found) + own))


def fit_curve(
    probability: Floats,
    violates: Floats,
    *,
    communities: Sequence[str] | None = None,
    content_free: float | None = None,
    how: How | None = None,
) -> Curve:
    """As much of a calibration as the labels bear.

    Args:
        content_free: what the model says of texts without content: with few labels, the prior that is taken off.
        how: `platt` or `isotonic` whatever the number of labels, as where a part of them tests what all would give.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(violates, np.float64)
    n, positives = len(y), int((y >= 0.5).sum())
    if positives in (0, n) or (n < FEW and how is None):
        prior = 0.0 if content_free is None else -float(_logit(np.array(content_free)))
        return Curve(how="none" if content_free is None else "prior", n=n, positives=positives, shift=prior)
    many = n >= MANY and MANY_POSITIVE <= positives <= n - MANY_POSITIVE
    if how == "isotonic" or (many and how is None):
        xs, ys = _isotonic(p, y)
        curve = Curve(how="isotonic", n=n, positives=positives, xs=tuple(xs.tolist()), ys=tuple(ys.tolist()))
    else:
        slope, shift = _platt(p, y)
        curve = Curve(how="platt", n=n, positives=positives, slope=slope, shift=shift)
    if communities is None:
        return curve
    return Curve(**{**_fields(curve), "offsets": _offsets(curve.apply(p), y, communities)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Clearance:
    """What is cleared alone of the texts in which a rule is in question, and with what promise."""

    below: float
    """Of the model's own probability: the curve was fitted on the labels that the promise rests on."""
    promise: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrator:
    """A calibration of one model, under one policy, asked in one wording."""

    binding: Binding
    curves: Mapping[str, Curve]
    clear: Mapping[str, Clearance] = field(default_factory=dict)
    """Rules for which there is a promise; texts in which another one is in question are never cleared."""

    def apply(self, category: str, probability: Floats, communities: Sequence[str] | None = None) -> Floats:
        """Calibrated probabilities of a category; those of one without labels as they are."""
        curve = self.curves.get(category)
        return np.asarray(probability, np.float64) if curve is None else curve.apply(probability, communities)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "binding": asdict(self.binding),
            "curves": {n: _fields(c) for n, c in self.curves.items()},
            "clear": {n: asdict(c) for n, c in self.clear.items()},
        }
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Calibrator":
        """Read one, whatever it holds for. Raises ConfigError: it cannot be read."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            curves = {
                name: Curve(**{**one, "xs": tuple(one["xs"]), "ys": tuple(one["ys"])})
                for name, one in data["curves"].items()
            }
            clear = {name: Clearance(**one) for name, one in data.get("clear", {}).items()}
            return cls(binding=Binding(**data["binding"]), curves=curves, clear=clear)
        except OSError as error:
            raise ConfigError(f"{path}: calibration cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: no calibration: {error}") from None

    @classmethod
    def load(cls, path: Path, binding: Binding) -> "Calibrator":
        """Read one. Raises ConfigError: it cannot be read, or was fitted for another model, policy or prompt."""
        made = cls.read(path)
        found = made.binding
        other = [
            f"{name.replace('_', ' ')} {getattr(found, name)[:20]} (asked for {getattr(binding, name)[:20]})"
            for name in ("model", "policy_hash", "prompt_version")
            if getattr(found, name) != getattr(binding, name)
        ]
        if other:
            raise ConfigError(f"{path}: stale: it was fitted for {'; '.join(other)}; fit it anew on labels of today")
        return made


# --- how well probabilities hold --------------------------------------------------------------------------------------


def calibration_error(p: Floats, y: Floats, *, bins: int = BINS) -> float:
    """Adaptive ECE: mean distance between probability and share, over bins of the same number of texts."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return float(sum(len(part) * abs(p[part].mean() - y[part].mean()) for part in parts) / len(p))


def brier(p: Floats, y: Floats) -> float:
    """Mean squared error."""
    return float(np.mean((p - y) ** 2))


def log_loss(p: Floats, y: Floats) -> float:
    """Mean negative log-likelihood, in nats; of soft labels too."""
    q = np.clip(p, _EPS, 1 - _EPS)
    return float(-np.mean(y * np.log(q) + (1 - y) * np.log(1 - q)))


def reliability(p: Floats, y: Floats, *, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean probability, share that violates, texts) of bins of the same number of texts: a reliability diagram."""
    order = np.argsort(p, kind="stable")
    return [
        (float(p[part].mean()), float(y[part].mean()), len(part))
        for part in np.array_split(order, min(bins, len(order)))
        if len(part)
    ]


def measure(
    p: Floats, y: Floats, *, rng: np.random.Generator, resamples: int = 500, level: float = 0.95
) -> dict[str, Estimate]:
    """ECE, ECE within BAND, Brier score and log-loss, with percentile bootstrap intervals.

    ECE of finite data lies above 0 even where probabilities hold, and that of resamples lies higher still: the interval
    is shifted by the difference (basic bootstrap), cut at 0.
    """
    names = {"ece": calibration_error, "brier": brier, "log_loss": log_loss}
    found = {name: _bootstrap(name, f, p, y, rng, resamples, level) for name, f in names.items()}
    within = (p >= BAND[0]) & (p <= BAND[1])
    if within.sum() >= 2 * BINS:
        found["ece_band"] = _bootstrap("ece_band", calibration_error, p[within], y[within], rng, resamples, level)
    return found


def _bootstrap(
    name: str, statistic: Any, p: Floats, y: Floats, rng: np.random.Generator, resamples: int, level: float
) -> Estimate:
    value = statistic(p, y)
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(0, len(p), len(p))
        draws[i] = statistic(p[rows], y[rows])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    basic = name.startswith("ece")
    low, high = (2 * value - high, 2 * value - low) if basic else (low, high)
    return Estimate(
        metric=name,
        value=value,
        low=max(0.0, min(float(low), value)),
        high=max(float(high), value),
        n=len(p),
        method=f"{'basic' if basic else 'percentile'} bootstrap, {resamples}",
        level=level,
        direction="lower",
    )


# --- fits -------------------------------------------------------------------------------------------------------------


def _platt(p: Floats, y: Floats) -> tuple[float, float]:
    """Slope and shift by maximum likelihood on Platt's smoothed targets; never a falling curve."""
    from scipy.optimize import minimize

    z = _logit(p)
    positives = float(y.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2)
    target = low + y * (high - low)

    def loss(at: Floats) -> tuple[float, Floats]:
        logits = at[0] * z + at[1]
        q = _sigmoid(logits)
        value = np.logaddexp(0.0, logits).sum() - (target * logits).sum()
        return float(value), np.array([((q - target) * z).sum(), (q - target).sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    return float(found.x[0]), float(found.x[1])


def _isotonic(p: Floats, y: Floats) -> tuple[Floats, Floats]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip", y_min=0.0, y_max=1.0).fit(p, y)
    # ends of 0 and 1 would be certain; n labels are not
    edge = 1.0 / (len(y) + 2.0)
    return np.asarray(fitted.X_thresholds_, np.float64), np.clip(fitted.y_thresholds_, edge, 1 - edge)


def _offsets(p: Floats, y: Floats, communities: Sequence[str]) -> dict[str, float]:
    """u = n/(n + 50) * u_hat, u_hat by maximum likelihood beside the parent's curve, half a label on each side."""
    names = np.asarray(communities)
    found: dict[str, float] = {}
    for name in sorted(set(communities)):
        own = names == name
        n = int(own.sum())
        found[str(name)] = n / (n + SHRINK) * _offset(_logit(p[own]), y[own])
    return found


def _offset(z: Floats, y: Floats) -> float:
    """The u at which as many are expected as violate; bisection, for the expectation rises with u."""
    wanted = float(y.sum()) + 0.5
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        expected = float(_sigmoid(z + middle).sum() + _sigmoid(np.array(middle)))
        low, high = (middle, high) if expected < wanted else (low, middle)
    return 0.5 * (low + high)


def _fields(curve: Curve) -> dict[str, Any]:
    return {name: getattr(curve, name) for name in Curve.__dataclass_fields__}


def _logit(p: Floats) -> Floats:
    q = np.clip(np.asarray(p, np.float64), _EPS, 1 - _EPS)
    return np.log(q) - np.log1p(-q)


def _sigmoid(z: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(z, np.float64)))


def temperature_of(logits: Floats, labels: npt.NDArray[np.intp]) -> float:
    """The temperature of several classes that makes the labels likeliest; [texts, classes] in, above 0 out."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        whole = np.asarray(logsumexp(scaled, axis=1), np.float64)
        return float(np.mean(whole - scaled[np.arange(len(labels)), labels]))

    found: Any = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return math.exp(float(found.x))
