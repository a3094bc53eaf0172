"""What is at work in a soak: commands that are run again until they are done, servers that are started again. No fault.

Each actor is a thread that keeps one child process alive; whoever injects faults kills the child, not the thread.
"""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.soak_zygote import Child, Zygote

DONE = {0, 1, 3}
"""Exit codes of a command that came to its end: done or pass, a gate failed, a gate holds."""
STUCK_AFTER = 60
RECIPE = """\
recipe: {name}
start: {start}
method: pretrain
mix:
  - {{name: domain, data: domain.jsonl, share: 0.75, max_epochs: 90}}
  - {{name: general, data: general.txt, share: 0.25, max_epochs: 90}}
tokens: 8000
sequence_length: 64
batch_tokens: 512
save_every: 4
seed: {seed}
schedule: {{learning_rate: 1.0e-3}}
dtype: float32
evaluation: {{suites: [sample-domain], limit: 4}}
"""


@dataclass
class Job:
    """A command that comes to an end, if it is run often enough."""

    kind: str
    name: str
    words: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    codes: list[int] = field(default_factory=list)
    is_done: bool = False
    is_repeated: bool = False
    """The same command came to its end in the calm project too."""


class Actor:
    """A thread and the child that it keeps alive."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self.child: Child | None = None
        self.starts = 0
        self.codes: Counter[int] = Counter()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.stopping = threading.Event()

    def kill(self) -> bool:
        """Whether there was a process to kill."""
        return self.child is not None and self.child.kill()

    def _work(self) -> None:
        raise NotImplementedError


class Server(Actor):
    """A process that runs until it is killed, and is started again."""

    def __init__(self, name: str, log: Path, start: Callable[[], Child]) -> None:
        super().__init__(name, log)
        self._start = start

    def _work(self) -> None:
        while not self.stopping.is_set():
            self.child = self._start()
            self.starts += 1
            self.child.ended.wait()
            self.codes[int(self.child.code or 0)] += 1
            self.stopping.wait(1.0)


class Worker(Actor):
    """Jobs one after the other, each until it is done."""

    def __init__(self, name: str, log: Path, zygote: Zygote, jobs: Iterator[Job], project: Path, calm: Path) -> None:
        super().__init__(name, log)
        self._zygote, self._jobs, self._project, self._calm = zygote, jobs, project, calm
        self.jobs: list[Job] = []

    def _work(self) -> None:
        while not self.stopping.is_set():
            job = next(self._jobs)
            self.jobs.append(job)
            while not self.stopping.is_set() and not job.is_done and job.attempts < STUCK_AFTER:
                self.run_once(job)
                if not job.is_done:
                    self.stopping.wait(2.0)
            if job.is_done:
                self.repeat(job)

    def repeat(self, job: Job) -> None:
        """The same command in a project that no fault touches: what it gives there is what it should have given."""
        words = [word.replace(str(self._project), str(self._calm)) for word in job.words]
        child = self._zygote.start(words, self.log.with_name("calm.log"))
        job.is_repeated = child.ended.wait(600) and child.code in DONE

    def run_once(self, job: Job) -> None:
        """One attempt."""
        self.starts += 1
        job.attempts += 1
        self.child = self._zygote.start(job.words, self.log)
        self.child.ended.wait()
        code = int(self.child.code or 0)
        self.codes[code] += 1
        job.codes.append(code)
        job.is_done = code in DONE


def model(folder: Path, seed: int) -> Path:
    """A tiny model of its own, made once."""
    from tests.tiny import save_tiny_checkpoint

    path = folder / "models" / f"m{seed}"
    if not path.exists():
        hidden = path.with_name(f".{path.name}")
        save_tiny_checkpoint(hidden, seed=seed)
        hidden.rename(path)
    return path


def evaluations(folder: Path, project: Path) -> Iterator[Job]:
    """Every tiny model on more and more questions: each next evaluation pays for the new ones only."""
    number = 0
    while True:
        seed, limit = 100 + number // 3, (4, 7, 10)[number % 3]
        words = ["eval", str(model(folder, seed)), "--suite", "sample-domain", "--limit", str(limit)]
        yield Job("eval", f"eval-{number}", [*words, "--project", str(project)])
        number += 1


def trainings(folder: Path, project: Path) -> Iterator[Job]:
    """A run of a few steps, evaluated and gated against where it began; a start and a seed of its own."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    rows = [{"text": f"Where is bone {i}? It is in place {i * i}, near the heart. "} for i in range(60)]
    (data / "domain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "general.txt").write_text("He went to the market because the bread was gone. " * 60)
    number = 0
    while True:
        name, recipe = f"toy-{number}", data / f"toy-{number}.yaml"
        recipe.write_text(RECIPE.format(name=name, start=model(folder, 500 + number), seed=number))
        yield Job("train", name, ["train", str(recipe), "--project", str(project)])
        number += 1


def moderations(folder: Path, project: Path) -> Iterator[Job]:
    """Posts under a policy, into one output a job: a killed one goes on to the same bytes."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    number = 0
    while True:
        posts = data / f"posts-{number}.jsonl"
        rows = [{"id": str(n), "text": f"The market {number} sold {n} apples", "community": "abc"[n % 3]}
                for n in range(24)]  # fmt: skip
        posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        output = project / "moderated" / f"out-{number}.jsonl"
        words = ["moderate", str(model(folder, 900)), "--policy", "moderation", "--input", str(posts), "--output"]
        more = ["--chunk", "4", "--min-mass", "1e-9", "--project", str(project)]
        yield Job("moderate", f"out-{number}", [*words, str(output), *more])
        number += 1


def dashboard(root: Path, project: Path, port: int, log: Path) -> Child:
    """The dashboard's own server as a process, in the shape of a zygote's child."""
    from workbench.cli.dashboard import server_command

    words = server_command(project, host="127.0.0.1", port=port, read_only=False)
    words.remove("-P")  # the repository is the working folder here
    process = subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL, stderr=log.open("ab"))
    child = Child()
    child.hear({"pid": process.pid})
    threading.Thread(target=lambda: child.hear({"code": process.wait()}), daemon=True).start()
    return child


def python(*words: str) -> list[str]:
    """A Python of this environment."""
    return [sys.executable, *words]
