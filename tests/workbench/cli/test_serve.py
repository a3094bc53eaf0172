"""`workbench serve` and `workbench new-key`: what is refused before anything listens, and keys that only you have."""

import stat

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.serve.tenants import Tenants, key_digest


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(args))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no policy"),
        (["--policy", "moderatoin"], "did you mean"),
        (["--policy", "default"], "--judge harm=model:CHECKPOINT"),
        (["--policy", "default", "--judge", "harm=classifier"], "no judge here can score csae"),
        (["--policy", "moderation", "--judge", "classifer=classifier"], 'did you mean "classifier"?'),
        (["--policy", "moderation", "--judge", "classifier"], "expected NAME=classifier"),
        (["--policy", "moderation", "--host", "0.0.0.0"], "give --keys"),
        (["--policy", "moderation", "--engine", "vlm"], "unknown"),
        (["--policy", "moderation", "--keys", "none.yaml"], "leave one of the two out"),
    ],
)
def test_what_cannot_work_is_said_in_a_line_before_anything_listens(capsys, tmp_path, tiny, args, said):
    code, out, err = run(capsys, "serve", tiny, *args, "--project", str(tmp_path / "project"))
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_key_is_shown_once_and_its_file_holds_the_digest(capsys, tmp_path):
    file = tmp_path / "keys.yaml"
    _, first, _ = run(capsys, "new-key", "acme", "--policy", "moderation", "--keys", str(file))
    _, second, _ = run(capsys, "new-key", "acme", "--policy", "moderation", "--keys", str(file))
    text = file.read_text()
    assert first.strip() != second.strip()
    assert first.strip() not in text
    assert f"sha256:{key_digest(first.strip())}" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tenants = Tenants.load(file)
    assert [t.name for t in tenants.all] == ["acme"]
    assert tenants.find(f"Bearer {second.strip()}") is tenants.all[0]
    assert tenants.find("Bearer wb-guess") is None
    code, _, err = run(capsys, "new-key", "acme", "--policy", "default", "--keys", str(file))
    assert code == 2
    assert "is under moderation" in err


def test_a_key_in_the_file_itself_is_refused(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("schema: keys/v1\ntenants: [{tenant: a, policy: default, keys: [wb-secret]}]\n")
    with pytest.raises(Exception, match="expected sha256:DIGEST") as error:
        Tenants.load(file)
    assert "wb-secret" not in str(error.value)
