"""Leave out rows that repeat an earlier one, within a source and across sources. Knows texts; knows no tokeniser.

Exact: the same words, whatever their case, width and white space. Near: a Jaccard similarity of at least 0.8 between
the sets of five-word runs (Lee et al. 2022 take the same), found by MinHash with 16 bands of 8 and then confirmed on
the sets themselves, so nothing is left out for an unlucky hash. The first row is kept: in the order of the mix.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from training.rows import normalise, row_key
from training.sources import RowDocuments

NEAR = 0.8
"""Jaccard similarity from which on two rows are alike."""
WORDS = 5
"""Words of a run."""
BANDS, DEPTH = 16, 8
"""A pair of similarity 0.8 is found with 95%, one of 0.9 with more than 99.9%; one of 0.5 is compared with 6%."""
_PRIME = np.uint64((1 << 31) - 1)

Runs = npt.NDArray[np.uint64]


def leave_out_repeats(sources: Mapping[str, RowDocuments], *, near: bool = False) -> None:
    """Leave out rows of the sources; what was left out is counted in each source's `left_out`."""
    seen = SeenTexts(near=near)
    for documents in sources.values():
        known = ((row, seen.why_known(documents.texts(row))) for row in range(len(documents)))
        documents.leave_out({row: why for row, why in known if why})


class SeenTexts:
    """Rows that were seen; one that is new is remembered."""

    def __init__(self, *, near: bool) -> None:
        self._keys: set[bytes] = set()
        self._alike = _Alike() if near else None

    def why_known(self, texts: Sequence[str]) -> str:
        """`repeated` or `nearly repeated`; empty for a row like no other."""
        key = row_key(texts)
        if key in self._keys:
            return "repeated"
        self._keys.add(key)
        known = self._alike is not None and self._alike.is_known(word_runs("\n".join(texts)))
        return "nearly repeated" if known else ""


def near_groups(texts: Iterable[str]) -> list[int]:
    """Of each text the place of the first one that it repeats, nearly or in all words; of one like no other its own.

    Texts of fewer than five words are alike where their words are the same.
    """
    alike = _Alike()
    leaders: list[int] = []
    whole: dict[bytes, int] = {}
    found: list[int] = []
    for place, text in enumerate(texts):
        first = whole.setdefault(row_key([text]), place)
        runs = word_runs(text) if first == place else None
        if runs is not None and len(runs):
            number = alike.place(runs)
            if number == len(leaders):
                leaders.append(place)
            whole[row_key([text])] = first = leaders[number]
        found.append(first)
    return found


def word_runs(text: str) -> Runs:
    """Hashes of the text's five-word runs, each once, ascending; none for a text of fewer words."""
    words = normalise(text).split()
    # Python's own hash of text differs from process to process; what is left out must not
    ids = np.array([int.from_bytes(_word_id(word), "little") for word in words], np.uint64)
    if len(ids) < WORDS:
        return np.zeros(0, np.uint64)
    runs = np.zeros(len(ids) - WORDS + 1, np.uint64)
    for place in range(WORDS):  # a polynomial in 64 bits; overflow is meant
        runs = runs * np.uint64(6364136223846793005) + ids[place : place + len(runs)]
    return np.unique(runs)


def similarity(one: Runs, other: Runs) -> float:
    """Jaccard similarity of two sets of runs; 0 where one is empty."""
    if not len(one) or not len(other):
        return 0.0
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _word_id(word: str) -> bytes:
    import hashlib

    return hashlib.blake2b(word.encode(), digest_size=8).digest()


class _Alike:
    """Texts that were seen, found again by MinHash bands."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._a = rng.integers(1, int(_PRIME), BANDS * DEPTH, dtype=np.uint64)
        self._b = rng.integers(0, int(_PRIME), BANDS * DEPTH, dtype=np.uint64)
        self._buckets: dict[bytes, list[int]] = defaultdict(list)
        self._kept: list[Runs] = []

    def is_known(self, runs: Runs) -> bool:
        """Is an earlier text like this one? If not, it is remembered."""
        before = len(self._kept)
        return bool(len(runs)) and self.place(runs) < before

    def place(self, runs: Runs) -> int:
        """The number of the first text like this one; of one like no other its own, and it is remembered."""
        bands = self._bands(runs)
        for number in sorted({number for band in bands for number in self._buckets.get(band, ())}):
            if similarity(self._kept[number], runs) >= NEAR:
                return number
        for band in bands:
            self._buckets[band].append(len(self._kept))
        self._kept.append(runs)
        return len(self._kept) - 1

    def _bands(self, runs: Runs) -> list[bytes]:
        folded = (runs ^ (runs >> np.uint64(32))) % _PRIME
        lowest = np.full(BANDS * DEPTH, _PRIME, np.uint64)
        for start in range(0, len(folded), 4096):  # a book has a hundred thousand runs
            part = folded[start : start + 4096, None]
            lowest = np.minimum(lowest, ((part * self._a + self._b) % _PRIME).min(axis=0))
        return [bytes([band]) + lowest[band * DEPTH : (band + 1) * DEPTH].tobytes() for band in range(BANDS)]
