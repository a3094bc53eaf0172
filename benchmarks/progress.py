"""How far a run is: answered requests counted as finished items, with rate and time left. Knows no model."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["score", "perplexity", "generate", "episodes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressReport:
    """How far one phase of a run is. Counts are items (questions), whatever the number of requests behind each."""

    phase: Phase
    done: int
    total: int
    reused: int
    """Items whose every answer was known before."""
    rate: float | None
    """Items a second that this run computed; None before the first."""
    seconds_left: float | None


class Tracker:
    """Turns answered keys into finished items. `keys[i]` is a request of `items[i]`; `known` are answered already."""

    def __init__(
        self,
        phase: Phase,
        keys: Sequence[bytes],
        items: Sequence[Hashable],
        *,
        known: Collection[bytes] = (),
        report: Callable[[ProgressReport], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase: Phase = phase
        self._report = report
        self._clock = clock
        self._owners: dict[bytes, list[Hashable]] = {}
        self._open: Counter[Hashable] = Counter()
        for key, item in dict.fromkeys(zip(keys, items, strict=True)):
            if key not in known:
                self._owners.setdefault(key, []).append(item)
                self._open[item] += 1
        self.total = len(set(items))
        self.reused = self.done = self.total - len(self._open)
        self._started = clock()
        self._tell()

    def add(self, keys: Iterable[bytes]) -> None:
        """These requests are answered."""
        for key in keys:
            for item in self._owners.pop(key, ()):
                self._open[item] -= 1
                self.done += self._open[item] == 0
        self._tell()

    def _tell(self) -> None:
        if self._report is None:
            return
        computed, elapsed = self.done - self.reused, self._clock() - self._started
        rate = computed / elapsed if computed and elapsed > 0 else None
        self._report(
            ProgressReport(
                phase=self.phase,
                done=self.done,
                total=self.total,
                reused=self.reused,
                rate=rate,
                seconds_left=(self.total - self.done) / rate if rate else None,
            )
        )
