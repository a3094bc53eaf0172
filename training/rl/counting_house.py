"""A small environment with tools: how much lies in some boxes? They are opened one by one, and a tool adds up.

Rows have `boxes` (name -> number) and `answer`. It takes a call for each box, one for each sum, and an answer.
"""

from collections.abc import Mapping
from typing import Any

from training.rewards.answers import find_number
from training.rl.environments import ToolEnvironment


class CountingHouse(ToolEnvironment):
    """1 for the right sum; a tenth for each box of the question that was opened, and nothing for one opened twice."""

    def __init__(self) -> None:
        self.tools = (self.open_box, self.add)
        self.boxes: dict[str, int] = {}
        self.opened: set[str] = set()
        self.right = 0

    def begin(self, row: Mapping[str, Any]) -> None:
        """Fill the boxes."""
        self.boxes = {str(name): int(count) for name, count in row["boxes"].items()}
        self.opened, self.right = set(), int(row["answer"])

    def open_box(self, name: str) -> str:
        """Say how many coins lie in a box."""
        if name not in self.boxes:
            return f"there is no box {name}; there are: {', '.join(sorted(self.boxes))}"
        self.opened.add(name)
        return str(self.boxes[name])

    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        return str(int(a) + int(b))

    def grade(self, answer: str) -> Mapping[str, float]:
        """As the class says."""
        found = find_number(answer)
        return {"right": float(found == self.right), "opened": 0.1 * len(self.opened)}
