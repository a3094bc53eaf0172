"""Every page, run as Streamlit runs it, on an empty project and on a small real one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.pages import existing_pages
from tests.laws.tree import PACKAGES, ROOT

PAGES = existing_pages()
NAMES = [page.name for page in PAGES]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "studies"])  # not about the project
def test_an_empty_project_is_told_which_command_fills_it(name: str, empty: Path, open_page: Callable[..., Any]) -> None:
    shown = open_page(empty, name)
    assert not shown.exception and not shown.error
    assert len(shown.title) == 1
    assert any("workbench " in code.value for code in shown.code)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_project_is_shown_without_a_fault(name: str, small: Path, open_page: Callable[..., Any]) -> None:
    shown = open_page(small, name)
    assert not shown.exception and not shown.error, [one.value for one in shown.error]
    assert shown.title[0].value.endswith("?")


def test_the_overview_says_what_the_newest_decision_says(small: Path, open_page: Callable[..., Any]) -> None:
    shown = open_page(small, "overview")
    told = [text.value for text in shown.text]
    assert "toy/checkpoint-14" in told[0] and "required rules" in told[0]
    assert any("sample_general_cloze" in text for text in told)


def test_local_mode_is_marked_and_a_sign_in_is_not_asked(empty: Path, open_page: Callable[..., Any]) -> None:
    shown = open_page(empty, "overview")
    assert any("local mode" in one.value for one in shown.sidebar.markdown)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_has_its_module_and_its_module_is_run_only_by_streamlit(page: Any) -> None:
    text = page.path.read_text(encoding="utf-8")
    assert text.rstrip().endswith('if __name__ == "__main__":\n    page()')


def test_no_module_of_the_pages_bears_the_name_of_a_package() -> None:
    # Streamlit puts this folder first on the path: such a module would take the package's place.
    names = {path.stem for path in (ROOT / "dashboards").iterdir()}
    assert names & {*PACKAGES, "streamlit", "tests", "pages"} <= {"pages"}
    assert not (ROOT / "dashboards" / "pages").is_dir()  # Streamlit would build a navigation of its own from it


def test_nothing_of_the_pages_can_render_text_of_others_as_markup() -> None:
    for file in (ROOT / "dashboards").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "unsafe_allow_html" not in text and "st.html" not in text and "st.components" not in text, file
