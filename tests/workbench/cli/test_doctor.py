"""`workbench doctor` tells the truth about this machine, and about machines that lack something."""

import json
from pathlib import Path

import psutil
import pytest
import torch

import workbench
from workbench.cli import main
from workbench.cli.checks import FEATURES, check_feature, hub_state, install_command, installed_version, look_at_project
from workbench.store import Project


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--no-network", *args])
    return int(ended.value.code or 0)


def test_the_json_names_what_is_installed_and_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["lm-eval"] == installed_version("lm-eval")
    assert found["machine"]["memory_gb"] == pytest.approx(psutil.virtual_memory().total / 1e9)
    assert found["machine"]["rates"]["float32"] > 1e8
    assert found["machine"]["auto"] in ("float32", "bfloat16")
    assert found["project"]["root"] is None
    assert {feature["name"] for feature in found["features"]} == set(FEATURES)


def test_the_text_is_lines_of_title_name_and_value_in_a_pipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"Versions\tworkbench\t{workbench.__version__}" in lines
    assert all(line.count("\t") == 2 for line in lines)


def test_a_project_is_described_without_its_password(tmp_path):
    Project.init(tmp_path)
    found = look_at_project(tmp_path)
    assert (found.root, found.reports, found.ledger, found.faults) == (str(tmp_path), 0, 0, ())
    assert found.store == f"sqlite:///{tmp_path / 'workbench.sqlite'}"
    assert found.revision and found.size_mb


def test_faults_of_a_project_are_told_and_make_the_exit_code_2(capsys, tmp_path, monkeypatch):
    (tmp_path / "workbench.yaml").write_text("stor: sqlite:///x.sqlite\n")
    monkeypatch.chdir(tmp_path)
    assert run() == 2
    assert 'stor: unknown key; did you mean "store"?' in capsys.readouterr().out


def test_an_unreachable_store_is_a_fault_and_its_password_stays_secret(tmp_path):
    (tmp_path / "workbench.yaml").write_text("store: postgresql://ada:hunter2@127.0.0.1:9/none\n")
    found = look_at_project(tmp_path)
    assert len(found.faults) == 1
    assert "hunter2" not in str(found)


def test_a_wrong_data_folder_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "nowhere"))
    assert "nowhere" in look_at_project(tmp_path).faults[0]


def test_a_feature_names_its_missing_modules_and_the_command_that_brings_them():
    feature = check_feature("dashboard", ["json", "no_such_module"])
    assert feature.missing == ("no_such_module",)
    assert "[dashboard]" in feature.cure
    assert check_feature("eval", ["json"]).cure == ""


def test_without_a_gpu_nobody_is_told_to_install_the_vllm_that_brings_cuda():
    assert "make test-vllm" in check_feature("vllm", ["no_such_module"], has_gpu=False).cure
    assert "[vllm]" in check_feature("vllm", ["no_such_module"], has_gpu=True).cure


def test_the_install_command_fits_a_clone_and_an_installed_package(tmp_path, monkeypatch):
    assert install_command("scale", tmp_path) == "pip install 'model-workbench[scale]'"
    (tmp_path / "pyproject.toml").touch()
    assert install_command("scale", tmp_path) == f"pip install -c {tmp_path / 'constraints.txt'} -e '{tmp_path}[scale]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("scale", Path.cwd()) == "pip install -c constraints.txt -e '.[scale]'"


def test_the_offline_setting_is_told(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub_state(ask_network=True) == "offline by setting (HF_HUB_OFFLINE)"
