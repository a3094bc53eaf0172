"""Margins as people write them: `2pt`, `2%`, `0.02`. Knows text."""

import re

from workbench.errors import ConfigError

_FORM = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(pt|pts|points?|pp|%)?\s*$", re.IGNORECASE)


def parse_margin(text: str, *, where: str = "--margin") -> float:
    """The margin in the metric's own unit.

    >>> [parse_margin(text) for text in ("1pt", "0.5 points", "2%", "0.02")]
    [0.01, 0.005, 0.02, 0.02]

    Raises ConfigError: not a number above 0, or a bare number of 1 or more, which might mean points.
    """
    found = _FORM.match(text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"{where}: {text!r} is no margin; write 2pt for two points of accuracy, or 0.02")
    if found[2] and float(found[1]) >= 100:
        raise ConfigError(f"{where}: {text!r} is the whole scale; write a loss below 100 points")
    if found[2]:
        return float(found[1]) / 100
    if float(found[1]) >= 1:
        raise ConfigError(f"{where}: {text} could mean points; write {found[1]}pt, or a share below 1 such as 0.02")
    return float(found[1])
