"""Draws that depend on a row alone: a question is the same whatever rows stand beside it."""

import hashlib
import random

from benchmarks.rows import Row


def rng_of(key: str) -> random.Random:
    """A generator seeded by a row's key."""
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))  # noqa: S311


def with_distractors(question: str, right: str, wrong: list[str], *, key: str, count: int = 3) -> Row:
    """Make a question of the right answer and `count` of the wrong ones, in an order drawn from `key`."""
    rng = rng_of(key)
    choices = [right, *rng.sample(wrong, count)]
    rng.shuffle(choices)
    return {"question": question, "choices": choices, "answer": choices.index(right)}
