"""`make studies`: the list of studies, what each asks and how long it takes. Starts none: some run for hours.

A study is a module here with a `main`; its docstring begins with what it asks, and its `TAKES` says the time.
"""

import ast
from pathlib import Path


def list_studies() -> list[tuple[str, str, str]]:
    """(name, time, question) of each study, by name; modules are read, not imported."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and path.stem not in ("__main__", "speed_worker"):
            found.append((path.stem, _takes(tree), (ast.get_docstring(tree) or "").split("\n")[0]))
    return found


def _takes(tree: ast.Module) -> str:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["TAKES"]:
            return str(ast.literal_eval(node.value))
    return "time not noted"


def main() -> None:
    """Print the list."""
    for name, takes, question in list_studies():
        print(f"make study-{name.replace('_', '-'):<18} {takes:<34} {question}")


if __name__ == "__main__":
    main()
