"""Rewards that run Python: a function of yours, or the answer itself against tests. Each in a process with limits.

Limits hold time, memory, size of files and, where the system allows it, keep the process off the network; it starts
with an empty environment in an empty folder. That is no sandbox: run what you do not trust in a container besides.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import regex
from pydantic import Field

from training.rewards.base import Base, Failed, Sample, Score, Services
from workbench.config import StrictModel
from workbench.errors import ConfigError, RunError

WORKER = Path(__file__).with_name("worker.py")
MOST_LINE = 1 << 20
STARTS_S = 20.0
"""Longest that a process may take to be ready."""
_BLOCK = regex.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", regex.DOTALL)


class Process:
    """A worker with limits, talked to by lines. Close it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="reward-")
        self._process = subprocess.Popen(  # noqa: S603  # our own file, no shell
            [sys.executable, "-I", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._home.name,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._buffer = b""
        self.send(settings)

    def send(self, record: Mapping[str, Any]) -> None:
        """One line; a process that is gone is noticed when its answer is awaited."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass

    def receive(self, timeout_s: float) -> dict[str, Any] | Failed:
        """The next line, or why there is none."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            if not ready:
                return Failed(f"took longer than {timeout_s:g} s")
            part = os.read(self._process.stdout.fileno(), 65536)
            self._buffer += part
            if not part:
                return Failed(f"its process ended ({self._how()})")
            if len(self._buffer) > MOST_LINE:
                return Failed("its process wrote too much")
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else Failed("its process wrote what is no answer")

    def close(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                assert pipe is not None
                pipe.close()
            except OSError:
                pass
        self._process.wait()
        self._home.cleanup()

    def _how(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGXCPU or code == -signal.SIGKILL:
            return "killed: out of time or memory"
        return f"exit code {code}"


class FunctionOptions(StrictModel):
    """Of `python`."""

    file: str
    """Python file, relative to the recipe."""
    function: str = "score"
    """`def score(prompt: str, answer: str, row: dict) -> float`."""
    low: float = 0.0
    high: float = 1.0
    """The range of its scores."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Of one answer."""
    memory_mb: int = Field(default=1024, ge=64)
    needs_isolation: bool = False
    """Refuse to run where the system does not let the process leave the network."""


class PythonFunction(Base):
    """What a Python function of yours gives, in a process of its own with limits."""

    Options: ClassVar[type[StrictModel]] = FunctionOptions

    def __init__(self, options: FunctionOptions, services: Services) -> None:
        self.options = options
        self.low, self.high = options.low, options.high
        if options.low >= options.high:
            raise ConfigError(f"python.low: {options.low:g} is not below high {options.high:g}")
        self.path = (services.folder / options.file).resolve()
        if not self.path.is_file():
            raise ConfigError(f"python.file: {self.path}: no such file")
        self._process: Process | None = None
        self._warned = False
        self._start()  # a file that cannot be run is told before a run

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        return [self._one(sample) for sample in samples]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def _start(self) -> Process:
        if self._process is not None:
            return self._process
        settings = {
            "kind": "function",
            "file": str(self.path),
            "function": self.options.function,
            "memory_mb": self.options.memory_mb,
        }
        process = Process(settings)
        found = process.receive(STARTS_S)
        if isinstance(found, Failed) or not found.get("ready"):
            process.close()
            why = found.why if isinstance(found, Failed) else found.get("why")
            raise ConfigError(f"python.file: {self.path}: {self.options.function} cannot be run: {why}")
        if not found["held"]["network"]:
            if self.options.needs_isolation:
                process.close()
                raise ConfigError(
                    "python.needs_isolation: this system does not let a process leave the network; run in a container "
                    "without one, or set it to false"
                )
            if not self._warned:
                warnings.warn(
                    f"{self.path.name}: runs with the network in reach; this system allows no less", stacklevel=2
                )
            self._warned = True
        self._process = process
        return process

    def _one(self, sample: Sample) -> Score:
        try:
            process = self._start()
        except ConfigError as error:
            return Failed(str(error))
        process.send({"id": sample.id, "prompt": sample.prompt, "answer": sample.answer, "row": _plain(sample.row)})
        found = process.receive(self.options.timeout_s)
        if isinstance(found, Failed) or found.get("id") != sample.id:
            self.close()  # the next sample gets a fresh one
            return found if isinstance(found, Failed) else Failed("answered for another sample")
        return found["score"] if "score" in found else Failed(str(found.get("why")))


class TestsOptions(StrictModel):
    """Of `code_tests`."""

    column: str = "tests"
    """Column with the tests: Python text, or a list of texts of which each is a test."""
    setup: str = ""
    """Python that is put before the answer's code, such as imports."""
    partial: bool = True
    """Score the share of tests that pass; false: 1 for all of them, else 0."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Of one test, with the answer's code."""
    memory_mb: int = Field(default=512, ge=64)
    processes: int = Field(default=2, ge=1)
    """Tests that run at the same time."""


class CodeTests(Base):
    """Share of the row's tests that the answer's code passes, each test in a process of its own with limits."""

    Options: ClassVar[type[StrictModel]] = TestsOptions

    def __init__(self, options: TestsOptions, services: Services) -> None:
        self.options = options

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        with ThreadPoolExecutor(self.options.processes) as pool:
            return list(pool.map(self._one, samples))

    def _one(self, sample: Sample) -> Score:
        tests = sample.row.get(self.options.column)
        tests = [tests] if isinstance(tests, str) else tests
        if not isinstance(tests, Sequence) or not tests or not all(isinstance(one, str) for one in tests):
            return Failed(f"column {self.options.column!r} of its row holds no tests")
        code = find_code(sample.answer)
        if not code.strip():
            return 0.0
        passed = [self._passes(f"{self.options.setup}\n{code}", test) for test in tests]
        return sum(passed) / len(passed) if self.options.partial else float(all(passed))

    def _passes(self, code: str, test: str) -> bool:
        settings = {
            "kind": "tests",
            "code": code,
            "memory_mb": self.options.memory_mb,
            "cpu_s": -(-self.options.timeout_s // 1),
        }
        process = Process(settings)
        try:
            found = process.receive(self.options.timeout_s)
            if isinstance(found, Failed) or not found.get("ready"):
                return False
            # the code has run: only now is told what a test that passed has to say
            word = secrets.token_hex(16)
            process.send({"test": test, "word": word})
            found = process.receive(self.options.timeout_s)
            return not isinstance(found, Failed) and found.get("word") == word
        finally:
            process.close()


def find_code(answer: str) -> str:
    """The last block of code in an answer; without one, all of it."""
    blocks = _BLOCK.findall(answer)
    return blocks[-1] if blocks else answer


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON takes it."""
    try:
        return json.loads(json.dumps(dict(row), default=str))
    except (TypeError, ValueError) as error:
        raise RunError(f"a row cannot be told to a reward: {error}") from None
