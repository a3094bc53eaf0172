"""No god file, no god function."""

import ast

import pytest

from tests.laws.tree import ROOT, source_files

MAX_FILE = 500
MAX_FUNCTION = 80


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: lines for node in functions if (lines := body_lines(node)) > MAX_FUNCTION}
    assert long == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines without the signature: a command's options stand there, and they are a table."""
    return (function.end_lineno or 0) - function.body[0].lineno + 1
