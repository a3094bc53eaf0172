"""Commands that go on in the background: begun from a page, followed from any, alive when the dashboard is not.

A job is a folder `jobs/<id>` of the project: `job.json` (the words of the command, who began it, its process),
`output.txt`, and `ended.json` once it is over. The command is `workbench ...` itself, so all that it does is seen by
the command line too. Knows processes and files; draws nothing.
"""

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

from workbench.errors import StoreError
from workbench.store.files import write_file

FOLDER = "jobs"
State = Literal["running", "ended", "gone"]
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_TAIL = 40_000
_CHILDREN: "list[subprocess.Popen[bytes]]" = []
"""Jobs that this very process began, so that none of them stays behind as a zombie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command in the background."""

    id: str
    words: tuple[str, ...]
    """Behind `workbench`."""
    who: str
    begun_at: str
    state: State
    """`gone`: its process is not there any more and never said how it ended (a machine that was switched off)."""
    code: int | None = None
    """Exit code: 0 done or pass, 1 fail, 2 usage, 3 hold, 4 failed, 130 interrupted."""
    ended_at: str = ""

    @property
    def line(self) -> str:
        """The command as it would be typed."""
        return shlex.join(["workbench", *self.words])

    @property
    def kind(self) -> str:
        """`train`, `eval`, `gate`, `serve`, ..."""
        return self.words[0] if self.words else ""


def start_job(root: Path, words: Sequence[str], *, who: str) -> Job:
    """Begin a command in a process group of its own, which outlives the dashboard.

    Raises:
        StoreError: the project folder cannot be written.
    """
    identity = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = root / FOLDER / identity
    try:
        folder.mkdir(parents=True)
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        write_file(folder / "asked.json", json.dumps({"words": list(words), "who": who, "begun_at": begun}))
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; a job needs to write there") from error
    process = subprocess.Popen(  # noqa: S603  # no shell; every word is ours
        [sys.executable, "-P", "-m", "dashboards.run_job", str(folder)],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _CHILDREN.append(process)
    facts = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    write_file(folder / "process.json", json.dumps(facts))
    return read_job(folder)


def list_jobs(root: Path, *, limit: int = 50) -> list[Job]:
    """The newest jobs of a project."""
    folder = root / FOLDER
    names = sorted((path.name for path in folder.glob("*") if _ID.fullmatch(path.name)), reverse=True)
    return [read_job(folder / name) for name in names[:limit] if (folder / name / "asked.json").is_file()]


def find_job(root: Path, identity: str) -> Job | None:
    """One job by its id; None where there is none. An id that is none of ours is never made a path."""
    folder = root / FOLDER / identity
    return read_job(folder) if _ID.fullmatch(identity) and (folder / "asked.json").is_file() else None


def read_job(folder: Path) -> Job:
    """A job as it stands now."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    common = {
        "id": folder.name,
        "words": tuple(asked["words"]),
        "who": asked["who"],
        "begun_at": asked["begun_at"],
    }
    ended = folder / "ended.json"
    if ended.is_file():
        told = json.loads(ended.read_text(encoding="utf-8"))
        return Job(**common, state="ended", code=told["code"], ended_at=told["at"])
    return Job(**common, state="running" if _process(folder) is not None else "gone")


def stop_job(root: Path, identity: str) -> bool:
    """As Ctrl-C would: what was computed is kept. False where it is not running."""
    job = find_job(root, identity)
    process = _process(root / FOLDER / identity) if job is not None and job.state == "running" else None
    if process is None:
        return False
    os.killpg(process.pid, signal.SIGINT)
    return True


def read_output(root: Path, identity: str, *, lines: int = 60) -> str:
    """The last lines that a job wrote; a line that was written over (a progress bar) as it was last."""
    path = root / FOLDER / identity / "output.txt"
    if not _ID.fullmatch(identity) or not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")[-lines:]).strip("\n")


def _process(folder: Path) -> psutil.Process | None:
    """The job's process, if it is still that one: numbers of processes are used again."""
    path = folder / "process.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    try:
        found = psutil.Process(facts["pid"])
        is_same = abs(found.create_time() - facts["started"]) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return found if is_same else None
