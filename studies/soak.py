"""Does a project survive its day: everything at work at once, kills, a full disk, lost connections, a stopped server?

python -m studies.soak [--minutes 30] [--seed 7] [--every 6] [--stores postgresql,sqlite] [--write]

Training, evaluation, moderation, a served model, the review API with 50 reviewers and the dashboard work on one project
on a disk of its own, on the tiny model. A seeded generator draws faults: `kill -9` of any of them, a disk without a
free byte, every connection of the database ended, PostgreSQL stopped (as by a crash and as by an administrator). Then
the faults end, what was under way comes to its end by the same commands, and it is asked: does `workbench doctor
--deep` find everything in order, is every label there whose client was told so, has every answer of the served model
its row in the audit, and is every report, checkpoint and output that of a calm run of the same commands? Exit code 1
if not.
"""

import argparse
import json
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studies.soak_actors import Actor, Job, Server, Worker, dashboard, evaluations, model, moderations, trainings
from studies.soak_checks import examine
from studies.soak_faults import Postgres, SmallDisk, Weather, free_port, remove
from studies.soak_people import ask_model, visit
from studies.soak_zygote import Zygote

TAKES = "40 minutes, 1 core"
ROOT = Path(__file__).resolve().parents[1]
REVIEWERS, TEXTS, GROUP = 50, 3000, 10
POLICY = """
schema: policy/v1
id: soak
version: 1
defaults:
  actions: {user_input: block, model_output: block, content: review}
  uncertain: {user_input: block, model_output: block, content: review}
  on_error: {user_input: block, model_output: block, content: review}
  judges: [words]
categories:
  bombs: {title: Bombs, definition: Help to build a bomb.}
judges:
  words: {kind: keyword, options: {words: [bomb]}, timeout_ms: 30000}
runtime: {streaming: {mode: hold_back, window_tokens: 8, overlap_tokens: 4}, budget_ms: 60000, log: {content: none}}
templates: {default: "This is refused."}
"""


class Soak:
    """One project, everybody at work on it, and what befalls them."""

    def __init__(self, folder: Path, store: str, *, minutes: float, seed: int, every_s: float, think_s: float) -> None:
        self.folder, self.kind, self.seconds, self.seed = folder, store, minutes * 60, seed
        self.every_s, self.think_s = every_s, think_s
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.disk = SmallDisk(folder / "disk", 400)
        self.project = self.disk.path / "project"
        data = Path(tempfile.mkdtemp(prefix="workbench-soak-pg-")) / "data"
        self.postgres = Postgres(data) if store != "sqlite" else None
        self.url = self.postgres.url if self.postgres else None
        self.zygote = Zygote(ROOT, self.logs / "zygote.log")
        self.ports = {name: free_port() for name in ("review", "serve", "dashboard")}
        self.weather: Weather | None = None
        self.actors: list[Actor] = []

    def run(self) -> dict[str, Any]:
        """Prepare, let everybody work in bad weather, look at what is left."""
        tokens = prepare(self.project, self.url)
        actors = self.actors = self._actors(tokens)
        clients = [
            threading.Thread(target=ask_model, args=(self.ports["serve"], self.folder, self.seed), daemon=True),
            threading.Thread(target=visit, args=(self.ports["dashboard"], self.folder, self.seed), daemon=True),
        ]
        for actor in actors:
            actor.thread.start()
        print(f"{self.kind}: everybody is at work", flush=True)
        for client in clients:
            client.start()
        self.weather = Weather(actors, self.disk, self.postgres, seed=self.seed, every_s=self.every_s)
        self.weather.blow(self.seconds)
        print(f"{self.kind}: {len(self.weather.log)} faults in {self.seconds / 60:.0f} minutes; now calm", flush=True)
        self._stop(actors, clients)
        return self._summary(actors, examine(self.project, self.folder, actors))

    def close(self) -> None:
        """Stop and remove everything; no process is left, however it ended."""
        for actor in self.actors:
            actor.stopping.set()
            actor.kill()
        self.zygote.close()
        if self.postgres is not None:
            self.postgres.close()
        self.disk.close()

    def _actors(self, tokens: Sequence[tuple[str, str]]) -> list[Actor]:
        zygote, project, calm = self.zygote, str(self.project), self.folder / "calm"
        from workbench.store import Project

        Project.init(calm).close()

        def command(name: str, *words: str, module: str = "") -> Server:
            log = self.logs / f"{name.replace(' ', '-')}.log"
            return Server(name, log, lambda: zygote.start(words, log, module))

        policy = self.folder / "soak.yaml"
        policy.write_text(POLICY)
        served = str(model(self.folder, 1))
        groups = [tokens[at : at + GROUP] for at in range(0, len(tokens), GROUP)]
        people = "studies.soak_people"

        def worker(name: str, jobs: Iterator[Job]) -> Worker:
            return Worker(name, self.logs / f"{name}.log", zygote, jobs, self.project, calm)

        return [
            worker("train", trainings(self.folder, self.project)),
            worker("eval", evaluations(self.folder, self.project)),
            worker("moderate", moderations(self.folder, self.project)),
            command("review-api", "review", "serve", "--port", str(self.ports["review"]), "--project", project),
            command("serve", "serve", served, "--policy", str(policy), "--port", str(self.ports["serve"]), "--project",
                    project, "--grace-s", "5"),
            Server("dashboard", self.logs / "dashboard.log",
                   lambda: dashboard(ROOT, self.project, self.ports["dashboard"], self.logs / "dashboard.log")),
            *(command(f"reviewers {number}", str(self.ports["review"]), str(self.folder), str(self.think_s),
                      str(self.seed * 1000 + number * GROUP), *(f"{name}={token}" for name, token in group),
                      module=people)
              for number, group in enumerate(groups)),
        ]  # fmt: skip

    def _stop(self, actors: Sequence[Actor], clients: Sequence[threading.Thread]) -> None:
        (self.folder / "stop").touch()
        for actor in actors:
            actor.stopping.set()
        for client in clients:
            client.join(90)
        for actor in actors:  # reviewers end by themselves, once what they sent is answered
            if actor.name.startswith("reviewers"):
                actor.thread.join(120)
        for actor in actors:
            if actor.thread.is_alive() and actor.child is not None:
                actor.child.kill(signal.SIGINT)
        for actor in actors:
            actor.thread.join(60)
            if actor.thread.is_alive():
                actor.kill()
                actor.thread.join(10)

    def _summary(self, actors: Sequence[Actor], found: dict[str, Any]) -> dict[str, Any]:
        assert self.weather is not None
        faults = Counter(line["fault"] for line in self.weather.log)
        killed = Counter(line["of"] for line in self.weather.log if line["fault"] == "kill -9" and line["hit"])
        starts: Counter[str] = Counter()
        codes: dict[str, Counter[int]] = {}
        for actor in actors:
            name = actor.name.partition(" ")[0]
            starts[name] += actor.starts
            codes.setdefault(name, Counter()).update(actor.codes)
        return {
            "store": self.kind,
            "minutes": round(self.seconds / 60, 2),
            "seed": self.seed,
            "disk_filled": self.disk.can_fill,
            "faults": dict(faults),
            "killed": dict(killed),
            "starts": dict(starts),
            "exit_codes": {name: {str(code): count for code, count in sorted(own.items())}
                           for name, own in codes.items()},
            "log": self.weather.log,
            **found,
        }  # fmt: skip


def prepare(project: Path, url: str | None) -> list[tuple[str, str]]:
    """A project with texts to review and fifty members; names and tokens."""
    from safety.review.queue import Grant, Operator, ReviewQueue
    from tests.safety.review.people import entry
    from workbench.store import Project

    operator = Operator(name="soak")
    with Project.init(project, store_url=url) as home:
        queue = ReviewQueue.open(home)
        for start in range(0, TEXTS, 500):
            queue.add(operator, [entry(number) for number in range(start, start + 500)])
        queue.configure(operator, "default", lease_s=60, double_share=0.2, break_after_severe=10_000)
        joined = [queue.add_member(operator, f"person-{n}", [Grant(role="reviewer")]) for n in range(REVIEWERS)]
    return [(one.member.name, one.token) for one in joined]


def main() -> None:
    """Soak, examine, write; exit code 1 if anything is lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=float, default=6.0, help="seconds from fault to fault on average")
    parser.add_argument("--think", type=float, default=6.0, help="seconds that a reviewer thinks on average")
    parser.add_argument("--stores", default="postgresql,sqlite")
    parser.add_argument("--write", action="store_true", help="write studies/results/soak.json and docs/studies/soak.md")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    options = parser.parse_args()
    stores = options.stores.split(",")
    shares = {"postgresql": 2 / 3, "sqlite": 1 / 3} if len(stores) > 1 else dict.fromkeys(stores, 1.0)
    found = []
    begun = time.time()
    for number, store in enumerate(stores):
        folder = Path(tempfile.mkdtemp(prefix=f"workbench-soak-{store}-"))
        soak = Soak(folder, store, minutes=options.minutes * shares[store], seed=options.seed + number,
                    every_s=options.every, think_s=options.think)  # fmt: skip
        try:
            found.append(soak.run())
        finally:
            soak.close()
        show(found[-1])
        if options.keep or found[-1]["wrong"]:
            print(f"logs: {folder / 'logs'}", flush=True)
        else:
            remove(folder)
    if options.write:
        from studies.soak_page import write

        write({"minutes": options.minutes, "seconds_in_all": round(time.time() - begun), "soaks": found})
    raise SystemExit(1 if any(one["wrong"] for one in found) else 0)


def show(found: dict[str, Any]) -> None:
    """What a person wants to see first."""
    brief = {name: value for name, value in found.items() if name not in ("log", "wrong")}
    print(json.dumps(brief, indent=1), flush=True)
    for line in found["wrong"]:
        print(f"WRONG {line}", flush=True)
    print("nothing lost, nothing wrong" if not found["wrong"] else f"{len(found['wrong'])} things wrong", flush=True)


if __name__ == "__main__":
    main()
