"""How much better an episode was than the others of its prompt. Knows numbers only."""

from typing import Literal

import numpy as np
import numpy.typing as npt

SMALL = 1e-4
"""Added to a spread before it divides, as in TRL."""


def advantages(
    rewards: npt.NDArray[np.float64], *, group_size: int, normalise: Literal["group", "batch", "none"]
) -> npt.NDArray[np.float64]:
    """Distance of each reward from the mean of its group, in units that `normalise` names; float64 (N,).

    Args:
        rewards: group after group; NaN is an episode without one, which is left out of every mean and gets 0.
        group_size: episodes of a prompt.
        normalise: divide by the group's standard deviation (of the sample), by the batch's, or by nothing.

    >>> advantages(np.array([1.0, 0.0, 1.0, np.nan]), group_size=2, normalise="none").tolist()
    [0.5, -0.5, 0.0, 0.0]
    """
    grouped = rewards.reshape(-1, group_size)
    found = np.zeros_like(grouped)
    batch = _spread(rewards)
    for values, into in zip(grouped, found, strict=True):
        known = ~np.isnan(values)
        if known.sum() < 2:
            continue  # nothing to be compared with
        into[known] = values[known] - values[known].mean()
        if normalise != "none":
            into[known] /= (_spread(values) if normalise == "group" else batch) + SMALL
    return found.reshape(-1)


def has_signal(rewards: npt.NDArray[np.float64], *, group_size: int) -> npt.NDArray[np.bool_]:
    """Of each group, whether its episodes differ: others teach nothing."""
    return np.array([_spread(values) > 1e-8 for values in rewards.reshape(-1, group_size)])


def _spread(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0
