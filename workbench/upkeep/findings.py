"""What a look through a project finds. Knows words; looks at nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Area = Literal["store", "reports", "rows", "checkpoints", "runs", "ledger", "audit", "leases", "files"]
Kind = Literal["fault", "left", "note"]
"""`fault`: something is not as it was written. `left`: what a killed process leaves, harmless. `note`: good to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sentence, and what to do about it."""

    kind: Kind
    area: Area
    what: str
    next_step: str
    repaired: bool = False
    """It was put in order by this very look."""

    @property
    def sentence(self) -> str:
        """Both in one line."""
        return f"{self.what}; {'mended' if self.repaired else self.next_step}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """All that was found, and how much was looked at."""

    root: str
    findings: tuple[Finding, ...]
    looked_at: Mapping[str, int]
    """What -> how many of it: reports, items, checkpoints, bytes, audit rows, anchors, ..."""

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Those that are not as they were written, and were not mended."""
        return tuple(one for one in self.findings if one.kind == "fault" and not one.repaired)


def fault(area: Area, what: str, next_step: str) -> Finding:
    """Something is not as it was written."""
    return Finding(kind="fault", area=area, what=what, next_step=next_step)


def left(area: Area, what: str, next_step: str, *, repaired: bool = False) -> Finding:
    """Something that a killed process left behind."""
    return Finding(kind="left", area=area, what=what, next_step=next_step, repaired=repaired)


def note(area: Area, what: str, next_step: str) -> Finding:
    """Something that is in order, and good to know."""
    return Finding(kind="note", area=area, what=what, next_step=next_step)
