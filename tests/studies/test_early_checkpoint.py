"""The early-checkpoint study compares what it says it compares."""

import numpy as np
import pytest

from studies.early_checkpoint import difference
from studies.family import DOMAIN


def arm(*bits: float) -> dict[str, list[list[object]]]:
    return {DOMAIN: [[f"doc{i // 2}", f"item{i}", value, 100] for i, value in enumerate(bits)]}


def test_a_difference_is_pooled_over_bytes_and_its_seeds_are_told_apart_from_its_documents():
    one, other = [arm(100, 120, 90, 110), arm(104, 124, 94, 114)], [arm(110, 130, 100, 120)] * 2
    value, low, high, seeds = difference(one, other, DOMAIN, rng=np.random.default_rng(0))
    assert value == pytest.approx(-0.08)
    assert low == pytest.approx(-0.08) and high == pytest.approx(-0.08)  # every document lost the same
    assert seeds is not None and seeds[0] < -0.10 < -0.06 < seeds[1]  # seeds differ by 0.04


def test_other_passages_are_refused():
    mine = arm(100, 120)
    other = {DOMAIN: [["doc0", "another", 100, 100], ["doc0", "item1", 100, 100]]}
    with pytest.raises(ValueError, match="other passages"):
        difference([mine], [other], DOMAIN, rng=np.random.default_rng(0))
