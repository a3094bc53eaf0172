"""A foreign package with one of our names is noticed before it does harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli.clashes import PACKAGES, find_clashes

ROOT = Path(__file__).resolve().parents[3]


def test_our_own_tree_has_no_clash():
    assert find_clashes() == []


@pytest.mark.parametrize("package", ["benchmarks", "safety", "training", "dashboards"])
def test_a_rival_earlier_on_the_path_stops_a_command_with_the_cure(tmp_path, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    env = dict(os.environ, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    code = "from workbench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "ls", "tasks"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: package "{package}": {tmp_path / package} took the place of ours')
    assert f"pip uninstall -y {package}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_rival_installed_over_ours_is_found_by_its_metadata(tmp_path):
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "safety-3.2.0.dist-info").mkdir()
    assert [clash.package for clash in find_clashes(tmp_path) if "dist-info" in clash.found] == ["safety"]
