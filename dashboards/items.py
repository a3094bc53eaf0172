"""Which answers flipped between two reports, and single ones of them read whole. Knows item files; draws nothing.

A report may hold 100,000 items: which of them moved is told by columns of numbers, and only the page that is looked at
is read. Reports and comparisons never change (their ids are hashes), so what was found is kept by id.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from benchmarks.flips import Moved, find_moved, read_moved
from benchmarks.side import Side
from dashboards import data
from dashboards.options import options
from workbench.comparing import side_of
from workbench.records import Comparison, Flip


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipIndex:
    """All flips of a comparison, without their texts: the lost ones first, then by task and place in the file."""

    moved: tuple[Moved, ...]
    task: np.ndarray
    """Which of `moved`."""
    place: np.ndarray
    """Which row of it."""
    lost: np.ndarray
    row: np.ndarray
    """Row of the candidate's item file."""
    items: tuple[str, ...]
    """Hash of each."""

    def chosen(self, *, task: str = "", kind: str = "", rows_with: np.ndarray | None = None) -> np.ndarray:
        """Which flips there are of a task and kind (`lost`, `gained`), in rows that hold a text."""
        keep = np.ones(len(self.task), dtype=bool)
        if task:
            keep &= np.isin(self.task, [i for i, one in enumerate(self.moved) if one.task.task == task])
        if kind:
            keep &= self.lost == (kind == "lost")
        if rows_with is not None:
            keep &= rows_with[self.row]
        return np.flatnonzero(keep)

    def find(self, item: str) -> int | None:
        """The flip of an item, by the beginning of its hash."""
        return next((i for i, one in enumerate(self.items) if item and one.startswith(item)), None)


def flip_index(comparison: Comparison) -> FlipIndex:
    """All flips of a recorded comparison."""
    return _flip_index(str(options().project), comparison.id, _comparison=comparison)


def flips_at(comparison: Comparison, index: FlipIndex, chosen: Sequence[int]) -> list[Flip]:
    """Some flips, read whole, in the order given."""
    return _flips_at(str(options().project), comparison.id, tuple(chosen), _of=(comparison, index))


@st.cache_data(show_spinner=False, max_entries=64)
def _flips_at(root: str, identity: str, chosen: tuple[int, ...], _of: tuple[Comparison, FlipIndex]) -> list[Flip]:
    del root, identity
    comparison, index = _of
    baseline, candidate = _sides(comparison)
    found: dict[int, Flip] = {}
    for number, moved in enumerate(index.moved):
        mine = [i for i in chosen if index.task[i] == number]
        if mine:
            read = read_moved(moved, index.place[mine], baseline, candidate)
            found |= dict(zip(mine, read, strict=True))
    return [found[i] for i in chosen]


def rows_with(comparison: Comparison, text: str) -> np.ndarray:
    """bool for each row of the candidate's item file: whether its prompt, answer or target holds a text."""
    return _rows_with(str(options().project), comparison.candidate, text)


def word_diff(before: str, after: str) -> str:
    """What stayed, went and came, word by word: a line for each stretch, begun by a blank, `-` or `+`.

    >>> print(word_diff("the left lung", "the right lung"))
      the
    - left
    + right
      lung
    """
    old, new = re.findall(r"\S+", before), re.findall(r"\S+", after)
    lines: list[str] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            lines.append("  " + " ".join(old[a0:a1]))
        else:
            lines += ["- " + " ".join(old[a0:a1])] if a1 > a0 else []
            lines += ["+ " + " ".join(new[b0:b1])] if b1 > b0 else []
    return "\n".join(lines)


@st.cache_resource(show_spinner="Reading items", max_entries=8)
def _side(root: str, report: str) -> Side:
    del root
    return side_of(data.project().store, report)


@st.cache_resource(show_spinner="Looking for flips", max_entries=16)
def _flip_index(root: str, identity: str, *, _comparison: Comparison) -> FlipIndex:
    del root, identity
    baseline, candidate = _sides(_comparison)
    found = [find_moved(task, baseline, candidate) for task in _comparison.tasks]
    moved = tuple(one for one in found if one is not None)
    empty = np.array([], dtype=np.intp)
    task = np.concatenate([empty, *(np.full(len(one.after), i) for i, one in enumerate(moved))]).astype(np.intp)
    place = np.concatenate([empty, *(np.arange(len(one.after)) for one in moved)]).astype(np.intp)
    lost = np.concatenate([empty.astype(bool), *(one.lost for one in moved)]).astype(bool)
    row = np.concatenate([empty, *(one.after for one in moved)]).astype(np.intp)
    order = np.lexsort((place, task, ~lost))
    return FlipIndex(
        moved=moved,
        task=task[order],
        place=place[order],
        lost=lost[order],
        row=row[order],
        items=tuple(candidate.columns.item[row[order]].tolist()),
    )


@st.cache_data(show_spinner="Searching", max_entries=32)
def _rows_with(root: str, report: str, text: str) -> np.ndarray:
    del root
    return data.project().store.items_with(report, text)


def _sides(comparison: Comparison) -> tuple[Side, Side]:
    root = str(options().project)
    return _side(root, comparison.baseline), _side(root, comparison.candidate)
