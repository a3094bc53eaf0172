"""`workbench dashboard` starts a server bound to this machine that hides its faults, and ends with it."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.cli.dashboard import server_command
from workbench.store import Project


@pytest.mark.parametrize(("command", "page"), [(["dashboard"], ""), (["review", "open"], "/review")])
def test_it_serves_until_it_is_stopped_and_leaves_no_process_behind(
    tmp_path: Path, command: list[str], page: str
) -> None:
    Project.init(tmp_path / "p").close()
    words = [sys.executable, "-m", "workbench.cli", *command, "--project", str(tmp_path / "p")]
    process = subprocess.Popen(
        [*words, "--port", "0", "--no-open"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith("http://127.0.0.1:")).strip()
        assert url.endswith(page)
        url = url.removesuffix(page)
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=10) as answer:
            assert answer.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert process.returncode == 0


def test_the_server_is_started_closed(tmp_path: Path) -> None:
    words = server_command(tmp_path, host="127.0.0.1", port=8501, read_only=True)
    assert "-P" in words  # no file of the project takes a module's place
    options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    assert options["server.address"] == "127.0.0.1"
    assert options["client.showErrorDetails"] == "none" and options["client.showErrorLinks"] == "false"
    assert options["browser.gatherUsageStats"] == "false"
    assert options["server.enableXsrfProtection"] == options["server.enableCORS"] == "true"
    assert Path(options["theme.base"]).is_file()
    assert words[words.index("--") + 1 :] == ["--project", str(tmp_path), "--read-only"]


def test_other_machines_are_let_in_only_with_a_sign_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Project.init(tmp_path / "p").close()
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", "--project", str(tmp_path / "p"), "--host", "0.0.0.0", "--no-open"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "[auth]" in said and "Traceback" not in said


def test_streamlit_is_never_imported_by_the_command_line() -> None:
    code = "import sys, workbench.cli.dashboard; sys.exit('streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
