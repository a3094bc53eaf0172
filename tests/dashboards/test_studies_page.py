"""Studies: the project's own pages, shown where the source is, and nothing but them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards import study_pages
from tests.laws.tree import ROOT


def test_every_study_of_the_table_is_listed_and_each_page_brings_its_plots() -> None:
    studies = study_pages.read_studies(ROOT / "docs" / "studies")
    table = (ROOT / "docs" / "studies" / "README.md").read_text().splitlines()
    head = table.index("| study | asks | found | page |")
    assert len(studies) == sum(line.startswith("|") for line in table[head:]) - 2
    for one in studies:
        if one.page:
            file = ROOT / "docs" / "studies" / one.page
            parts = study_pages.read_parts(file)
            assert sum(part.plot is not None for part in parts) == file.read_text().count(".svg)")
            assert not any("<!--" in part.text or "](../" in part.text for part in parts), one.name
        elif one.elsewhere:
            assert (ROOT / one.elsewhere).exists(), one.name


def test_a_study_is_opened_by_its_name_and_no_name_becomes_a_path(empty: Path, open_page: Callable[..., Any]) -> None:
    shown = open_page(empty, "studies", study="rl-format")
    assert not shown.exception and shown.title[0].value == "Does a regular expression alone teach a format?"
    assert any("held-out answers" in one.value for one in shown.markdown)
    assert any(code.value == "make study-rl-format" for code in shown.code)
    shown = open_page(empty, "studies", study="../../README")
    assert not shown.exception and "studies are listed" in shown.text[0].value


def test_an_installed_package_says_where_the_studies_are(
    empty: Path, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study_pages, "FOLDER", tmp_path / "none")
    shown = open_page(empty, "studies")
    assert not shown.exception and "installed package" in shown.text[0].value
