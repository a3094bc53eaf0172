"""One tree of errors, and what each means to a shell."""

import importlib
import inspect

import pytest

from tests.laws.tree import ROOT, source_files
from workbench import errors
from workbench.errors import UserError, WorkbenchError

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WorkbenchError)]


@pytest.mark.parametrize("kind", TREE)
def test_a_users_mistake_is_2_and_a_failed_run_is_4(kind):
    assert kind.exit_code == (2 if issubclass(kind, UserError) else 4)
    assert kind.__doc__


def test_the_tree_is_drawn_completely_at_the_top_of_its_module():
    drawn = (errors.__doc__ or "").split()
    assert [kind.__name__ for kind in TREE if kind.__name__ not in drawn] == []


def test_no_other_module_makes_errors_of_this_tree_with_another_exit_code():
    for file in source_files():
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if "raise " not in file.read_text(encoding="utf-8") or name.endswith("__main__"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if issubclass(kind, WorkbenchError):
                assert kind.exit_code in (2, 4), kind
