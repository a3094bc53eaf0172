"""Documents cannot lie: the reference is current, links lead somewhere, commands shown can be typed."""

import re

import pytest

from studies import early_checkpoint, family, medical, own_language, shopping
from studies.__main__ import list_studies
from studies.experiment import BEGIN, END, read_results
from tests.laws.test_commands import parses
from tests.laws.tree import ROOT
from workbench.cli.reference import build_reference

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
WRITTEN = [page for page in PAGES if page.name != "cli.md"]


def name_of(page) -> str:
    return str(page.relative_to(ROOT))


def test_the_command_reference_is_what_make_docs_would_write():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == build_reference(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_commands_in_code_blocks_can_be_typed(page):
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [re.sub(r"^\$ ", "", line).split(" | ")[0].split(" > ")[0] for line in lines]
    for command in commands:
        if command.startswith("workbench ") and "..." not in command:
            assert parses(command), command


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_make_targets_named_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z][a-z-]*)(?![A-Z])", text)) | set(
        re.findall(r"^make ([a-z][a-z-]*)", text, re.MULTILINE)
    )
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known |= {f"study-{name.replace('_', '-')}" for name, *_ in list_studies()}
    assert targets - known == set()


@pytest.mark.parametrize(
    "study", [early_checkpoint, family, medical, own_language, shopping], ids=lambda study: study.__name__
)
def test_the_measured_part_of_a_study_is_what_its_numbers_say(study):
    name = study.__name__.removeprefix("studies.").replace("_", "-")
    page = (ROOT / "docs" / "studies" / f"{name}.md").read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == study.render(read_results(name)), f"run: make study-{name}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_modules_and_files_named_in_backticks_exist(page):
    named = re.findall(r"`((?:workbench|benchmarks|safety|training|dashboards|tests|docs)/[\w./-]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
