"""How stiff is a lattice when its upper plate is pressed onto its lower one? Knows bars; linear, pin-jointed.

Every bar has EA = 1. The three lower nodes are held, the three upper ones move down by 1 and not aside; the force that
this takes is the stiffness. Nodes between that nothing holds move without a force, which changes none.
"""

import numpy as np

from studies.lattice.language import SIZE, Bar


def stiffness(bars: frozenset[Bar]) -> float:
    """Force over displacement, at least 0.

    A column is two bars in a row, of stiffness 1 each:

    >>> from studies.lattice.language import interpret
    >>> round(stiffness(interpret("col 1")), 6), round(stiffness(interpret("col 0; flip")), 6)
    (0.5, 1.0)
    """
    count = SIZE * SIZE
    matrix = np.zeros((2 * count, 2 * count))
    for one, other in bars:
        along = np.subtract(other, one).astype(float)
        length = float(np.hypot(*along))
        unit = along / length
        block = np.outer(unit, unit) / length
        i, j = (2 * (y * SIZE + x) for x, y in (one, other))
        matrix[i : i + 2, i : i + 2] += block
        matrix[j : j + 2, j : j + 2] += block
        matrix[i : i + 2, j : j + 2] -= block
        matrix[j : j + 2, i : i + 2] -= block
    free = np.arange(2 * SIZE, 2 * SIZE * (SIZE - 1))
    moved = np.zeros(2 * count)
    moved[2 * SIZE * (SIZE - 1) + 1 :: 2] = -1.0
    load = -matrix[np.ix_(free, np.arange(2 * count))] @ moved
    moved[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], load, rcond=None)[0]
    return max(0.0, float(moved @ matrix @ moved))
