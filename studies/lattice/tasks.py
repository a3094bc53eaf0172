r"""The study's three tasks: prompts, answers, and what an answer is worth. Knows the language; asks no model.

reconstruct: picture -> program; design: stiffness -> program; predict: program -> stiffness. An answer that is no
program (or, of predict, no number) scores 0, any other at least LEAST: an invalid one is never above a valid one.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.lattice.language import ProgramError, canonical, draw_lattice, interpret, picture
from studies.lattice.stiffness import stiffness

TASKS = ("reconstruct", "design", "predict")
LEAST = 0.1
"""Of a valid answer."""
SOFTEST = 0.1
"""Errors are shares of the stiffness, or of this where it is smaller."""
_NUMBER = re.compile(r"\d{1,4}(\.\d{1,6})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What an answer is worth."""

    score: float
    """0 to 1."""
    valid: bool
    exact: bool
    error: float | None
    """Relative error of the stiffness (design, predict), or 1 − shared bars (reconstruct); None of an invalid one."""


NOTHING = Worth(score=0.0, valid=False, exact=False, error=None)


def worth(row: Mapping[str, Any], answer: str) -> Worth:
    """An answer to a row of `task_rows`."""
    text = answer.strip()
    if row["task"] == "predict":
        if not _NUMBER.fullmatch(text):
            return NOTHING
        return _near(float(text), float(row["stiffness"]))
    try:
        bars = interpret(text)
    except ProgramError:
        return NOTHING
    if row["task"] == "design":
        return _near(stiffness(bars), float(row["stiffness"]))
    wanted = interpret(row["program"])
    shared = len(bars & wanted) / len(bars | wanted)
    return _worth(error=1 - shared, exact=bars == wanted)


def _near(found: float, wanted: float) -> Worth:
    error = abs(found - wanted) / max(wanted, SOFTEST)
    return _worth(error=error, exact=math.isclose(round(found, 2), wanted, abs_tol=1e-9))


def _worth(*, error: float, exact: bool) -> Worth:
    score = LEAST + (1 - LEAST) * max(0.0, 1 - error)
    return Worth(score=score, valid=True, exact=exact, error=error)


def is_held_out(key: str) -> bool:
    """One of five lattices, or of five values of stiffness, by a hash."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 5 == 0


def task_row(task: str, program: str) -> dict[str, Any]:
    """A prompt with its answer, and what a simulator needs to judge another one."""
    bars = interpret(program)
    value = f"{stiffness(bars):.2f}"
    prompt = {
        "reconstruct": f"draw\n{picture(bars)}",
        "design": f"stiffness {value}",
        "predict": f"measure {program}",
    }[task]
    completion = value if task == "predict" else program
    return {"task": task, "prompt": prompt, "completion": completion, "program": program, "stiffness": value}


def task_rows(count: int, *, seed: int, held_out: bool) -> list[dict[str, Any]]:
    """`count` different rows of the tasks, as many of each as there are. No lattice that is held out, and no
    held-out stiffness as a wish, stands in any row that is not."""
    rng = np.random.default_rng(seed)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    left = {task: count // len(TASKS) for task in TASKS}
    for _ in range(100 * count):
        program = canonical(draw_lattice(rng))
        task = max(left, key=lambda one: left[one])
        row = task_row(task, program)
        wish, lattice = is_held_out(row["stiffness"]), is_held_out(program)
        apart = wish if task == "design" else lattice
        if float(row["stiffness"]) < SOFTEST or apart != held_out or (not held_out and lattice):
            continue
        key = row["prompt"], "" if held_out else program  # a wish may be taught by several programs, and asked once
        if key not in rows:
            rows[key] = row
            left[task] -= 1
        if not any(left.values()):
            return list(rows.values())
    raise ValueError(f"only {len(rows)} of {count} different rows in {100 * count} draws; ask for fewer")


def manual(count: int, *, seed: int) -> list[dict[str, str]]:
    """Plain text about the language, without any task: programs with their pictures and their stiffness."""
    rng = np.random.default_rng(seed)
    texts: dict[str, str] = {}
    while len(texts) < count:
        bars = draw_lattice(rng)
        program = canonical(bars)
        if not is_held_out(program):
            texts[program] = f"{program}\n{picture(bars)}\nstiffness {stiffness(bars):.2f}"
    return [{"text": text} for text in texts.values()]
