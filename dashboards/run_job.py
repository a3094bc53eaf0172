"""Run one job of `dashboards.jobs`: `python -m dashboards.run_job FOLDER`. Writes its output and how it ended."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from workbench.store.files import write_file


def main(folder: Path) -> int:
    """The command's exit code; what it says goes to `output.txt`."""
    # Ctrl-C goes to the whole group: the command ends by it, and this process waits to write down how.
    signal.signal(signal.SIGINT, lambda *_: None)
    words = json.loads((folder / "asked.json").read_text(encoding="utf-8"))["words"]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # no shell; the words are a command of ours
            [sys.executable, "-P", "-m", "workbench.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        code = process.wait()
    ended = {"code": code, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_file(folder / "ended.json", json.dumps(ended))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
