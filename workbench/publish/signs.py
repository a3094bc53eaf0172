"""The shape, word, tone and colours of every verdict and outcome: one table for all that shows them. Knows no layout.

An outcome is told three times, by a colour, a word and a shape, so that it survives greyscale and a screen reader.
A verdict that decides like an outcome bears its shape: kept like pass, inconclusive like hold, forgot like fail.
"""

from dataclasses import dataclass
from typing import Literal

from workbench.records import Outcome, Verdict

Tone = Literal["good", "warn", "bad", "dim"]
Glyph = Literal["circle", "triangle", "square", "star", "ring", "cross"]


@dataclass(frozen=True, slots=True)
class Sign:
    """How one verdict or outcome is shown."""

    shape: str
    """One character, one column wide on a terminal, with no emoji form."""
    word: str
    tone: Tone
    glyph: Glyph
    """The shape's name, for those who draw it."""
    meaning: str

    @property
    def label(self) -> str:
        """`● kept`."""
        return f"{self.shape} {self.word}"


OUTCOMES: dict[Outcome, Sign] = {
    "pass": Sign("●", "pass", "good", "circle", "every required rule passes"),
    "hold": Sign("▲", "hold", "warn", "triangle", "the evidence does not suffice"),
    "fail": Sign("■", "fail", "bad", "square", "a required rule is broken"),
}
VERDICTS: dict[Verdict, Sign] = {
    "improved": Sign("★", "improved", "good", "star", "kept, and a gain is certain"),
    "kept": Sign("●", "kept", "good", "circle", "a loss beyond the margin is excluded"),
    "forgot": Sign("■", "forgot", "bad", "square", "the whole interval lies beyond the margin"),
    "inconclusive": Sign("▲", "inconclusive", "warn", "triangle", "the interval straddles the margin"),
    "uninformative": Sign("○", "uninformative", "dim", "ring", "both models guess"),
    "incomparable": Sign("✕", "incomparable", "warn", "cross", "not the same questions asked in the same way"),
}
CERTIFIED: frozenset[Verdict] = frozenset({"kept", "improved"})
UNDECIDED: frozenset[Verdict] = frozenset({"inconclusive", "uninformative", "incomparable"})

LIGHT: dict[Tone, str] = {"good": "#1a7f37", "warn": "#8a5a00", "bad": "#c1121f", "dim": "#59636e"}
"""Colour of each tone on a light ground; at least 4.5:1 on white."""
DARK: dict[Tone, str] = {"good": "#4ac26b", "warn": "#d9a032", "bad": "#ff7b72", "dim": "#9aa4ae"}
"""Colour of each tone on a dark ground."""
