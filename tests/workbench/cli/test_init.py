"""`workbench init` makes a project, and does no harm to one."""

import json

import pytest

from workbench.cli import main
from workbench.config import load_project_config


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *args])
    return int(ended.value.code or 0)


def test_a_folder_becomes_a_project_with_a_commented_configuration(tmp_path, capsys):
    assert run(str(tmp_path / "shop")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'shop'}\n"
    assert (tmp_path / "shop" / "workbench.sqlite").exists()
    assert load_project_config(tmp_path / "shop").store == "sqlite:///workbench.sqlite"
    assert "# baseline: null" in (tmp_path / "shop" / "workbench.yaml").read_text()


def test_the_working_folder_is_the_default_and_a_second_time_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    (tmp_path / "workbench.yaml").write_text("# mine\n")
    assert run("--json") == 0
    assert (tmp_path / "workbench.yaml").read_text() == "# mine\n"
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["root"] == str(tmp_path)


def test_another_store_for_a_project_that_has_one_is_a_usage_error(tmp_path, capsys):
    run(str(tmp_path))
    assert run(str(tmp_path), "--store", "sqlite:///other.sqlite") == 2
    assert "exists already with another store" in capsys.readouterr().err


def test_a_store_of_no_kind_is_refused_in_one_line(tmp_path, capsys):
    assert run(str(tmp_path), "--store", "mysql://x/y") == 2
    assert capsys.readouterr().err.count("\n") == 1
