"""Programs of a lattice: grammar, parser, interpreter, picture, generator. Knows no model and no stiffness.

A lattice has nine nodes at (0..2, 0..2). A program is one line of statements:

    program   = statement, { "; ", statement } ;            at most eight
    statement = ("row " | "col "), node | "beam ", cell, " ", node | "post ", node, " ", cell
              | ("up " | "down " | "cross "), cell, " ", cell | "flip" ;
    node = "0" | "1" | "2" ;  cell = "0" | "1" ;

`beam 1 0` is the right bar of the lowest row, `post 0 1` the upper bar of the left column; `row` and `col` put both
bars of one. `up 0 1` is the bar / of the left upper cell, `down` its bar \\, `cross` both. `flip` adds the mirror
image, left to right, of all bars so far.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Node = tuple[int, int]
Bar = tuple[Node, Node]
"""Its two ends, the smaller one first."""
SIZE, MOST = 3, 8
_STATEMENT = re.compile(
    r"(row|col) ([012])|(up|down|cross) ([01]) ([01])|(flip)|beam ([01]) ([012])|post ([012]) ([01])"
)


@dataclass(frozen=True, slots=True)
class ProgramError(Exception):
    """A program that means nothing."""

    statement: int
    """From 1; 0: the program as a whole."""
    why: str


def bar(one: Node, other: Node) -> Bar:
    """The bar between two nodes."""
    return (one, other) if one < other else (other, one)


def interpret(program: str) -> frozenset[Bar]:
    """The bars of a program.

    Raises ProgramError: no program of the grammar.

    >>> sorted(interpret("up 0 0; flip"))
    [((0, 0), (1, 1)), ((1, 1), (2, 0))]
    """
    statements = program.strip().split("; ")
    if len(statements) > MOST:
        raise ProgramError(0, f"{len(statements)} statements, at most {MOST}")
    bars: set[Bar] = set()
    for number, text in enumerate(statements, start=1):
        found = _STATEMENT.fullmatch(text)
        if found is None:
            raise ProgramError(number, f"{text[:20]!r} is no statement")
        if found[6] and not bars:
            raise ProgramError(number, "flip comes before any bar")
        bars |= _mirrored(bars) if found[6] else set(_bars(found))
    return frozenset(bars)


def _bars(found: re.Match[str]) -> Iterator[Bar]:
    if found[7]:
        x, y = int(found[7]), int(found[8])
        yield bar((x, y), (x + 1, y))
        return
    if found[9]:
        x, y = int(found[9]), int(found[10])
        yield bar((x, y), (x, y + 1))
        return
    if found[1]:
        fixed = int(found[2])
        for along in range(SIZE - 1):
            ends = ((along, fixed), (along + 1, fixed)) if found[1] == "row" else ((fixed, along), (fixed, along + 1))
            yield bar(*ends)
        return
    x, y = int(found[4]), int(found[5])
    if found[3] != "down":
        yield bar((x, y), (x + 1, y + 1))
    if found[3] != "up":
        yield bar((x, y + 1), (x + 1, y))


def _mirrored(bars: set[Bar]) -> set[Bar]:
    return {bar(*((SIZE - 1 - x, y) for x, y in one)) for one in bars}


def canonical(bars: frozenset[Bar]) -> str:
    """The one program without `flip` that says these bars in the order rows, columns, cells; may exceed the longest.

    >>> canonical(interpret("cross 1 0; row 2; col 0; flip"))
    'row 2; col 0; col 2; cross 0 0; cross 1 0'
    """
    parts: list[str] = []
    for y in range(SIZE):
        there = [x for x in range(SIZE - 1) if bar((x, y), (x + 1, y)) in bars]
        parts += [f"row {y}"] if len(there) == SIZE - 1 else [f"beam {x} {y}" for x in there]
    for x in range(SIZE):
        there = [y for y in range(SIZE - 1) if bar((x, y), (x, y + 1)) in bars]
        parts += [f"col {x}"] if len(there) == SIZE - 1 else [f"post {x} {y}" for y in there]
    for y in range(SIZE - 1):
        for x in range(SIZE - 1):
            up, down = bar((x, y), (x + 1, y + 1)) in bars, bar((x, y + 1), (x + 1, y)) in bars
            if up or down:
                parts.append(f"{'cross' if up and down else 'up' if up else 'down'} {x} {y}")
    return "; ".join(parts)


def picture(bars: frozenset[Bar]) -> str:
    r"""Five lines of five characters, the highest row first.

    >>> print(picture(interpret("row 0; up 0 1; cross 1 0")))
    o.o.o
    ./...
    o.o.o
    ...X.
    o-o-o
    """
    lines = [["o" if x % 2 == 0 and y % 2 == 0 else "." for x in range(5)] for y in range(5)]
    for (x1, y1), (x2, y2) in bars:
        x, y = x1 + x2, y1 + y2
        sign = "-" if y1 == y2 else "|" if x1 == x2 else "/" if y2 > y1 else "\\"
        lines[y][x] = sign if lines[y][x] == "." else "X"
    return "\n".join("".join(line) for line in reversed(lines))


def draw_lattice(rng: np.random.Generator) -> frozenset[Bar]:
    """A random lattice that a short program says."""
    while True:
        parts: list[str] = []
        for _ in range(int(rng.integers(3, 8))):
            kind = str(rng.choice(["row", "col", "beam", "post", "post", "up", "down", "cross"]))
            widths = {"row": (3,), "col": (3,), "beam": (2, 3), "post": (3, 2)}.get(kind, (2, 2))
            parts.append(" ".join([kind, *(str(rng.integers(0, width)) for width in widths)]))
        if rng.random() < 0.4:
            parts.append("flip")
        bars = interpret("; ".join(parts))
        if len(canonical(bars).split("; ")) <= MOST:
            return bars
