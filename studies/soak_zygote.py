"""A process that has imported what commands need and forks one for each line it is given. Knows no command.

Starting Python with torch costs half a minute on a busy machine, and a soak starts hundreds of commands to kill them. A
fork of this process runs `workbench ...` as a process of its own: own pid, own connections, own files; a kill hits it
and nothing else. It is forked before any model, thread or database exists.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Zygote:
    """The parent's end: start a command, hear how it ended. Threads may share it."""

    def __init__(self, root: Path, log: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "studies.soak_zygote"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            text=True,
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._number = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, words: Sequence[str], log: Path, module: str = "") -> "Child":
        """Run `workbench WORDS` in a process of its own; `module`: that module's `run(words)` instead."""
        child = Child()
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = child.hear
            line = {"number": number, "words": list(words), "log": str(log), "module": module}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        child.begun.wait(180)
        return child

    def close(self) -> None:
        """No more commands; those under way are left alone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # it waits for a child that somebody left behind
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._waiting[told["number"]](told)


class Child:
    """A command under way."""

    def __init__(self) -> None:
        self.pid = 0
        self.code: int | None = None
        self.begun = threading.Event()
        self.ended = threading.Event()

    def hear(self, told: dict[str, Any]) -> None:
        """A message of the zygote."""
        if "pid" in told:
            self.pid = told["pid"]
            self.begun.set()
        else:
            self.code = told["code"]
            self.ended.set()

    def kill(self, signal_number: int = signal.SIGKILL) -> bool:
        """Whether it was there to be killed."""
        if self.ended.is_set() or not self.pid:
            return False
        try:
            os.kill(self.pid, signal_number)
        except ProcessLookupError:
            return False
        return True


def serve() -> None:
    """Fork for each line of stdin until it ends."""
    _import_everything()
    alive: dict[int, int] = {}
    buffer, is_open = b"", True
    while is_open or alive:
        ready = select.select([0], [], [], 0.05)[0] if is_open else []
        if ready:
            data = os.read(0, 65536)
            is_open = bool(data)
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _become(order)
                alive[pid] = order["number"]
                _tell(number=order["number"], pid=pid)
        for pid in list(alive):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                _tell(number=alive.pop(pid), code=os.waitstatus_to_exitcode(status))
        if not is_open:
            return


def _become(order: dict[str, Any]) -> None:
    code = 70
    try:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        print(f"--- {os.getpid()}: {' '.join(order['words'])}", file=sys.stderr, flush=True)
        code = _run(order)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # whatever it is, it belongs into the log that is searched for it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(order: dict[str, Any]) -> int:
    if order["module"]:
        import importlib

        importlib.import_module(order["module"]).run(order["words"])
    else:
        from workbench.cli import main

        main(order["words"])
    return 0


_MODULES = (
    "fastapi", "lm_eval", "torch", "transformers.trainer", "uvicorn", "benchmarks.runner", "training.run",
    "workbench.assessment", "workbench.moderation", "workbench.pipeline", "workbench.serve.review",
    "workbench.serve.server",
)  # fmt: skip


def _import_everything() -> None:
    import importlib

    for name in _MODULES:
        importlib.import_module(name)


def _tell(**message: int) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    serve()
