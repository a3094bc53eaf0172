"""The notebooks run as they stand, cell after cell, in a fresh process and with a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").glob("**/*.ipynb"))
RUN = """
import ast, json, pathlib, sys
cells, shared = json.loads(pathlib.Path(sys.argv[1]).read_text()), {"__name__": "__main__"}
for number, source in enumerate(cells):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), shared)
    if last is not None:  # what a notebook shows below the cell
        print(json.dumps([number, repr(eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), shared))]))
"""


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_what_it_printed(notebook: Path) -> None:
    for cell in read_cells(notebook):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_its_first_cell_to_its_last(notebook: Path, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "tiny")
    cells = ["".join(cell["source"]) for cell in read_cells(notebook) if cell["cell_type"] == "code"]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "cells.json")],
        cwd=tmp_path,
        env=os.environ | {"WORKBENCH_START": str(tmp_path / "tiny"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert shown[0] == "'notebook-project'"
    assert any(outcome in value for value in shown.values() for outcome in ("pass", "hold", "fail"))
    assert list(shown.values())[-1] == "True"
