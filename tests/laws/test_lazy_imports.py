"""Nothing heavy on the way to `--help`."""

import json
import subprocess
import sys

import pytest

from tests.laws.test_commands import COMMAND_LINES
from tests.laws.tree import ROOT

HEAVY = ("torch", "transformers", "lm_eval", "datasets", "vllm", "streamlit", "pandas", "sklearn", "scipy", "rich")


def loaded_by(*args: str) -> set[str]:
    """Heavy packages that `workbench ARGS` has imported when it ends."""
    code = f"""
import json, sys
from workbench.cli import main
try:
    main({list(args)!r})
except SystemExit:
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_of_the_root_loads_no_command_and_nothing_heavy():
    assert loaded_by("--help") == set()


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_help_of_each_command_loads_nothing_heavy(line):
    assert loaded_by(*line.split()[1:], "--help") == set()


def test_the_check_sees_what_is_loaded():
    assert "torch" in loaded_by("doctor", "--no-network")
