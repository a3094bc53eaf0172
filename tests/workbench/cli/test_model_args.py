"""`--model-args` reaches the engine, and the project's allow-list reaches the endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.store import Project

QUICK = ("--tasks", "sample_general_cloze", "--limit", "3")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    Project.init(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", *args, *QUICK])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


def test_an_option_of_the_engine_is_read_as_a_value_and_shapes_the_scorer(run: Any, tiny: str) -> None:
    code, out, _ = run(tiny, "--model_args", "share_prefixes=false,batch_tokens=512", "--json")
    assert code == 0
    assert json.loads(out)["reports"][0]["settings"]["scorer"].endswith("plain/512")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [("batch_token=9", 'did you mean "batch_tokens"'), ("share_prefixes", "key=value is expected")],
)
def test_a_misspelt_option_is_one_line(run: Any, tiny: str, words: str, complaint: str) -> None:
    code, _, err = run(tiny, "--model-args", words)
    assert code == 2
    assert complaint in err.splitlines()[-1]


def test_prompts_go_only_to_hosts_that_the_project_allows(run: Any, tmp_path: Path) -> None:
    url = "http://endpoint.invalid:9/v1#m"
    code, _, err = run(url, "--model-args", "attempts=1")
    assert code == 2
    assert "prompts may not be sent there" in err
    (tmp_path / "workbench.yaml").write_text('allowed_endpoints: ["endpoint.invalid:9"]\n')
    code, _, err = run(url, "--model-args", "attempts=1")
    assert code == 4  # allowed, but there is nobody
    assert "may not be sent" not in err
