"""Files of the repository: nothing of one machine in them, and data files that can be read."""

import json
import re

import pytest

from tests.laws.tree import ROOT, repository_files
from workbench.strict_yaml import parse_yaml

# Homes and roots of single machines. Written with brackets, so that this line does not match itself.
MACHINE_PATH = re.compile(r"(^|[^\w./~-])/(wor[k]|roo[t]|opt/w[b]|hom[e]/[a-z]|User[s]/[a-z])(/|\b)")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".jsonl", ".json", ".sh", ""}


def files(*suffixes: str):
    return [file for file in repository_files() if file.suffix in suffixes]


def name_of(file) -> str:
    return str(file.relative_to(ROOT))


def test_no_file_names_a_path_of_one_machine():
    found = [
        f"{name_of(file)}:{number}: {line.strip()[:120]}"
        for file in files(*TEXT)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_file_is_larger_than_a_megabyte():
    assert [name_of(file) for file in repository_files() if file.stat().st_size > 1_000_000] == []


@pytest.mark.parametrize("file", files(".yaml", ".yml"), ids=name_of)
def test_yaml_files_can_be_read_and_name_no_key_twice(file):
    assert parse_yaml(file.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("file", files(".jsonl"), ids=name_of)
def test_jsonl_files_hold_an_object_in_each_line(file):
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        assert isinstance(json.loads(line), dict), number
