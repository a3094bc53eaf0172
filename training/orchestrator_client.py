"""Drive the episodes of a run from your own process: one file, the standard library alone. Copy it where you need it.

    from orchestrator_client import Run

    def episode(one):
        answer = one.chat(one.messages)                  # as many turns, tools and nested calls as you like
        one.finish(reward=float("42" in answer["content"]))

    Run.of_folder("runs/my-tools").drive(episode, concurrency=8)

The policy behind `chat` is also an OpenAI endpoint: `OpenAI(base_url=one.base_url, api_key=one.key)` works as well.
What was said before must be sent back as it came; a history that was changed begins a new conversation in the episode.
"""

import json
import threading
import time
import traceback
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = "workbench.rollout/1"
_AGAIN = {408, 429, 500, 502, 503, 504}


class Over(Exception):
    """The episode is over: lost by its deadline, or finished. Go on with another."""


class Failed(Exception):
    """The run refused a call; `code` says why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code


class Episode:
    """One attempt at one prompt."""

    def __init__(self, run: "Run", told: Mapping[str, Any]) -> None:
        self.run = run
        self.id: str = told["id"]
        self.attempt: int = told["attempt"]
        self.key: str = told["key"]
        self.base_url: str = told["base_url"]
        self.deadline_s: float = told["deadline_s"]
        self.row: dict[str, Any] = told["row"]
        self.messages: list[dict[str, Any]] = told["messages"]
        self.is_finished = False

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The policy's answer as a message; `options`: max_tokens, tools, stop."""
        return self.completion(messages, **options)["choices"][0]["message"]

    def completion(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The whole answer, as OpenAI has it. Sent again after a broken connection, it is written once."""
        body = {"model": "policy", "messages": [dict(one) for one in messages], **options}
        # never longer than the episode itself: whoever waits beyond its deadline waits for nothing
        return self.run.post("/chat/completions", body, key=self.key, wait_s=self.deadline_s + 10)

    def reward(self, value: float, name: str = "reward") -> None:
        """Reward a step; rewards of one name add up."""
        body = {"reward": value, "name": name, "id": uuid.uuid4().hex}
        self.run.post("/episodes/reward", body, key=self.key)

    def finish(
        self,
        reward: float | None = None,
        *,
        rewards: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """End the episode, with what it is worth besides the rewards of its steps."""
        body = {"reward": reward, "rewards": dict(rewards or {}), "metrics": dict(metrics or {})}
        self.run.post("/episodes/finish", body, key=self.key)
        self.is_finished = True

    def fail(self, why: str) -> None:
        """Give it back: it is begun again, or dropped, and never counts as worth 0."""
        self.run.post("/episodes/finish", {"error": why[:300] or "failed"}, key=self.key)
        self.is_finished = True


class Run:
    """A run in training, whose episodes are to be driven."""

    def __init__(self, url: str, key: str, *, patience_s: float = 60.0) -> None:
        """`url`: as the run tells it, without /v1. `patience_s`: how long a run may be out of reach."""
        self.url, self.key, self.patience_s = url.rstrip("/"), key, patience_s
        self._file: Path | None = None

    @classmethod
    def of_folder(cls, folder: str | Path, *, wait_s: float = 600.0, **options: Any) -> "Run":
        """By the file that a run on this machine writes; waits until it does."""
        path = Path(folder) / "orchestrator.json"
        deadline = time.monotonic() + wait_s
        while not path.is_file():
            if time.monotonic() > deadline:
                raise FileNotFoundError(f"{path}: the run has not begun its rollouts within {wait_s:g} s")
            time.sleep(0.2)
        told = json.loads(path.read_text(encoding="utf-8"))
        run = cls(told["url"], told["key"], **options)
        run._file = path
        return run

    @staticmethod
    def drive_folder(
        folder: str | Path,
        act: Callable[["Episode"], None],
        *,
        concurrency: int = 8,
        wait_s: float = 600.0,
        idle_s: float = 60.0,
    ) -> int:
        """Drive run after run as they appear in a folder; returns how many episodes came to their end.

        An evaluation of several checkpoints is one run after the other in the same folder. The first may take `wait_s`
        to begin; after that it ends when none has come for `idle_s`.
        """
        done, found, last = 0, 1, time.monotonic()
        while found or time.monotonic() - last < idle_s:
            try:
                run = Run.of_folder(folder, wait_s=idle_s if done else wait_s)
            except FileNotFoundError:
                return done
            found = run.drive(act, concurrency=concurrency)  # none: the file is one that a killed run left behind
            done, last = done + found, time.monotonic() if found else last
        return done

    def episodes(self, *, most: int = 1, wait_s: float = 20.0) -> Iterator[Episode]:
        """Episodes until the run is over, or out of reach for `patience_s`."""
        reached = time.monotonic()
        while True:
            try:
                body = {"protocol": PROTOCOL, "max": most, "wait_s": wait_s}
                found = self.post("/episodes", body, key=self.key, wait_s=wait_s + 30, attempts=1)
                reached = time.monotonic()
            except (OSError, urllib.error.URLError):
                gone = self._file is not None and not self._is_told()  # the run took it away when it ended
                if gone or time.monotonic() - reached > self.patience_s:
                    return
                time.sleep(0.5)
                continue
            for told in found["episodes"]:
                yield Episode(self, told)
            if found["over"] and not found["episodes"]:
                return

    def _is_told(self) -> bool:
        """Whether the folder still names this run."""
        try:
            return self._file is not None and json.loads(self._file.read_text(encoding="utf-8"))["key"] == self.key
        except (OSError, ValueError, KeyError):
            return False

    def drive(self, act: Callable[[Episode], None], *, concurrency: int = 8) -> int:
        """Call `act` for every episode, so many at the same time; returns how many came to their end.

        An exception in `act` gives its episode back.
        """
        done, lock = [0], threading.Lock()

        def work() -> None:
            for episode in self.episodes():
                try:
                    act(episode)
                    with lock:
                        done[0] += 1
                except Over:
                    continue
                except Exception as error:
                    traceback.print_exc()
                    try:
                        episode.fail(f"{type(error).__name__}: {error}")
                    except (Over, Failed, OSError):
                        continue

        threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return done[0]

    def post(
        self, path: str, body: Mapping[str, Any], *, key: str, wait_s: float = 60.0, attempts: int = 5
    ) -> dict[str, Any]:
        """One call; again where that may help, under the same idempotency key."""
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url}: no http address")
        request = urllib.request.Request(f"{self.url}/v1{path}", json.dumps(body).encode(), headers)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for attempt in range(attempts):
            try:
                with opener.open(request, timeout=wait_s) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                status, fault = error.code, _fault(error)
                if status == 410:
                    raise Over(fault["message"]) from None
                if status not in _AGAIN or attempt + 1 == attempts:
                    raise Failed(status, fault["code"], fault["message"]) from None
            except OSError:  # a broken connection, or nobody there
                if attempt + 1 == attempts:
                    raise
            time.sleep(min(0.2 * 2**attempt, 5.0))
        raise AssertionError("unreachable")


def _fault(error: urllib.error.HTTPError) -> dict[str, str]:
    try:
        found = json.loads(error.read())["error"]
        return {"code": str(found["code"]), "message": str(found["message"])}
    except (ValueError, KeyError, TypeError):
        return {"code": "unknown", "message": str(error.reason)}
