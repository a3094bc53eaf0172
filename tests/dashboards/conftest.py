"""Projects that all tests of the pages share, and a way to open a page without a browser."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.making import make_empty, make_small


@pytest.fixture(scope="session")
def made_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small(tmp_path_factory.mktemp("small") / "home")


@pytest.fixture
def small(made_small: Path, tmp_path: Path) -> Path:
    """A copy of its own of the small project's store and reports; runs stay where they were."""
    shutil.copytree(made_small, tmp_path / "p", ignore=shutil.ignore_patterns("checkpoint-*"))
    return tmp_path / "p"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return make_empty(tmp_path / "empty")


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`open_page(project, "overview", comparison="ab12")` runs that page as Streamlit would."""
    from streamlit.testing.v1 import AppTest

    import dashboards

    def run(project: Path, name: str, *flags: str, **params: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["app.py", "--project", str(project), *flags])
        test = AppTest.from_file(str(Path(dashboards.__file__).parent / "app.py"), default_timeout=60)
        test.run()
        for key, value in params.items():
            test.query_params[key] = value
        return test.switch_page(f"views/{name}.py").run()

    return run
