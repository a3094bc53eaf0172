"""`make studies`: runs the studies that ask no model, and lists the others with the time they take.

A study is a module here with a `main`; its docstring begins with what it asks, its `TAKES` says the time, and
`ASKS_NO_MODEL = True` that arithmetic is all it needs: such a study is reproduced by `make studies` itself.
"""

import argparse
import ast
import subprocess
import sys
from pathlib import Path


def list_studies() -> list[tuple[str, str, str, bool]]:
    """(name, time, question, whether it asks no model) of each study, by name; modules are read, not imported."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and path.stem not in ("__main__", "speed_worker", "train_speed_worker"):
            question = (ast.get_docstring(tree) or "").split("\n")[0]
            found.append((path.stem, _takes(tree), question, bool(_constant(tree, "ASKS_NO_MODEL"))))
    return found


def _takes(tree: ast.Module) -> str:
    return str(_constant(tree, "TAKES") or "time not noted")


def _constant(tree: ast.Module, name: str) -> object:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            return ast.literal_eval(node.value)
    return None


def main() -> None:
    """Print the list; with --run, then run what asks no model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="then run the studies that ask no model")
    options = parser.parse_args()
    for name, takes, question, _ in list_studies():
        print(f"make study-{name.replace('_', '-'):<18} {takes:<34} {question}", flush=True)
    for name, *_, light in list_studies():
        if options.run and light:
            print(f"\n--- make study-{name.replace('_', '-')}", flush=True)
            subprocess.run([sys.executable, "-m", f"studies.{name}"], check=True)


if __name__ == "__main__":
    main()
