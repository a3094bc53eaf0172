"""What `pip install` brings: the five packages with their data, and nothing else."""

import subprocess
import sys
import zipfile

import pytest

from tests.laws.tree import PACKAGES, ROOT, repository_files


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_the_top_level_is_exactly_the_five_packages(wheel_names):
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == set(PACKAGES)


def test_every_file_of_a_package_is_in_the_wheel_data_files_included(wheel_names):
    ours = {str(file.relative_to(ROOT)) for file in repository_files()}
    ours = {name for name in ours if name.split("/")[0] in PACKAGES}
    assert {name.rsplit(".", 1)[-1] for name in ours} >= {"py", "yaml", "jsonl"}
    assert {name for name in wheel_names if ".dist-info/" not in name} == ours


def test_the_command_is_installed(wheel_names):
    assert any(name.endswith("entry_points.txt") for name in wheel_names)
