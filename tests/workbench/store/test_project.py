"""The project folder: made once, found from anywhere below, never overwritten."""

from pathlib import Path

import pytest
import yaml

from workbench.config import ProjectConfig
from workbench.errors import ConfigError, StoreError
from workbench.store import Project
from workbench.store.project import project_yaml


def test_a_new_project_has_a_commented_config_folders_and_a_store(tmp_path: Path) -> None:
    with Project.init(tmp_path / "shop") as project:
        assert project.store.reports() == []
    assert project.config == ProjectConfig()
    assert sorted(path.name for path in project.root.iterdir()) == [
        "reports",
        "suites",
        "tasks",
        "workbench.sqlite",
        "workbench.yaml",
    ]
    assert project.reports_folder == tmp_path / "shop" / "reports"


def test_the_written_config_names_every_key_and_its_default(tmp_path: Path) -> None:
    text = project_yaml()
    uncommented = "\n".join(line.removeprefix("# ") for line in text.splitlines() if ": " in line and "# " in line)
    for name, field in ProjectConfig.model_fields.items():
        assert f"{name}: " in text
        assert field.description
        assert field.description.split()[0] in text
    for name in ("data", "baseline", "engine", "dtype", "include_path", "allowed_endpoints"):
        line = next(line for line in uncommented.splitlines() if line.startswith(f"{name}:"))
        value = yaml.safe_load(line)[name]
        default = ProjectConfig.model_fields[name].default
        assert value == (list(default) if isinstance(default, tuple) else default)
    assert yaml.safe_load(text) == {"store": "sqlite:///workbench.sqlite"}
    (tmp_path / "workbench.yaml").write_text(text)
    assert Project.find(tmp_path).config == ProjectConfig()


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    Project.init(tmp_path).close()
    file = tmp_path / "workbench.yaml"
    file.write_text("engine: vllm  # chosen by hand\n")
    with Project.init(tmp_path) as project:
        assert project.config.engine == "vllm"
    assert file.read_text() == "engine: vllm  # chosen by hand\n"


def test_init_refuses_to_change_the_store_of_a_project(tmp_path: Path) -> None:
    Project.init(tmp_path).close()
    before = (tmp_path / "workbench.yaml").read_text()
    with pytest.raises(StoreError, match="exists already with another store"):
        Project.init(tmp_path, store_url="sqlite:///other.sqlite")
    assert (tmp_path / "workbench.yaml").read_text() == before
    assert not (tmp_path / "other.sqlite").exists()


def test_a_project_is_found_from_any_folder_below(tmp_path: Path) -> None:
    Project.init(tmp_path).close()
    deep = tmp_path / "tasks" / "shop" / "deep"
    deep.mkdir(parents=True)
    assert Project.find(deep).root == tmp_path
    assert Project.open_or_init(deep).root == tmp_path


def test_without_a_project_the_cure_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no workbench.yaml here or in any folder above; run workbench init"):
        Project.find(tmp_path)
    with Project.open_or_init(tmp_path / "new") as project:
        assert project.root == tmp_path / "new"


def test_a_faulty_config_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "workbench.yaml").write_text("stoer: x\n")
    for call in (Project.find, Project.open_or_init, Project.init):
        with pytest.raises(ConfigError, match=r'workbench.yaml: stoer: unknown key; did you mean "store"\?'):
            call(tmp_path)
    assert (tmp_path / "workbench.yaml").read_text() == "stoer: x\n"


def test_the_store_url_may_stand_in_the_environment(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_STORE", postgres_url)
    project = Project.init(tmp_path, store_url="env:SHOP_STORE")
    assert not project.store.database.is_sqlite
    project.close()
    assert "search_path" not in (tmp_path / "workbench.yaml").read_text()
    monkeypatch.delenv("SHOP_STORE")
    with pytest.raises(ConfigError, match="environment variable SHOP_STORE is not set"):
        _ = Project.find(tmp_path).store


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Project.init(tmp_path / "file" / "project")


def test_a_failed_init_of_a_store_leaves_a_config_that_can_be_corrected(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mysql is not supported"):
        Project.init(tmp_path, store_url="mysql://host/x")
    assert not (tmp_path / "workbench.yaml").exists()
