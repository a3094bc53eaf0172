"""The process that runs somebody else's Python: a reward function, or code under test. Imports no library.

Started as `python -I worker.py`. It limits itself (time, memory, files, processes where the system lets it), leaves the
network where the system lets it, and talks over its standard input and output by lines of JSON. This is a hurdle
against accidents, no sandbox against malice: what runs here can read what its user can read.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import sys
import traceback
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def limit(settings: dict) -> dict:
    """Apply what the system allows; returns what holds."""
    held = {}
    memory = int(settings["memory_mb"]) << 20
    wanted = {
        "memory": (resource.RLIMIT_AS, memory),
        "file_size": (resource.RLIMIT_FSIZE, 16 << 20),
        "core": (resource.RLIMIT_CORE, 0),
        "files": (resource.RLIMIT_NOFILE, 64),
    }
    if settings.get("cpu_s"):
        wanted["cpu"] = (resource.RLIMIT_CPU, int(settings["cpu_s"]) + 1)
    for name, (kind, value) in wanted.items():
        try:
            resource.setrlimit(kind, (value, value))
            held[name] = True
        except (OSError, ValueError):
            held[name] = False
    held["network"] = leave_network()
    return held


def leave_network() -> bool:
    """Whether this process has a network of its own now, with nothing in it."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) == 0:  # as root
            return True
        return libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
    except (OSError, AttributeError):
        return False


def main() -> None:
    """Serve one parent until it closes the pipe."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the code prints goes where errors go
    settings = json.loads(sys.stdin.readline())
    held = limit(settings)
    if settings["kind"] == "function":
        serve_function(settings, held, channel)
    else:
        run_tests(settings, held, channel)


def serve_function(settings: dict, held: dict, channel: io.TextIOBase) -> None:
    """A function `score(prompt, answer, row)` for each line; a failure is told, never a number."""
    space: dict = {"__name__": "reward"}
    try:
        text = Path(settings["file"]).read_text(encoding="utf-8")
        exec(compile(text, settings["file"], "exec"), space)  # noqa: S102  # what this process is for
        function = space[settings["function"]]
    except BaseException as error:
        say(channel, {"ready": False, "why": describe(error)})
        return
    say(channel, {"ready": True, "held": held})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            value = function(asked["prompt"], asked["answer"], asked["row"])
            answer = {"id": asked["id"], "score": float(value)} if value is not None else {"id": asked["id"]}
            if value is None:
                answer["why"] = "returned None"
        except BaseException as error:
            answer = {"id": asked["id"], "why": describe(error)}
        say(channel, answer)


def run_tests(settings: dict, held: dict, channel: io.TextIOBase) -> None:
    """Run code, then each test after it; a test's word comes with the line, after the code has run."""
    space: dict = {"__name__": "answer"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(settings["code"], "answer.py", "exec"), space)  # noqa: S102
        say(channel, {"ready": True, "held": held})
    except BaseException as error:
        say(channel, {"ready": False, "why": describe(error)})
        return
    line = sys.stdin.readline()
    if not line:
        return
    asked = json.loads(line)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(asked["test"], "test.py", "exec"), space)  # noqa: S102
        say(channel, {"word": asked["word"]})
    except BaseException as error:
        say(channel, {"why": describe(error)})


def say(channel: io.TextIOBase, record: dict) -> None:
    """One line."""
    channel.write(json.dumps(record) + "\n")
    channel.flush()


def describe(error: BaseException) -> str:
    """The error and the line it came from, short."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"[:300]


if __name__ == "__main__":
    main()
