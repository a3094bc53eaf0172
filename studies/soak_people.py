"""The soak's clients: reviewers, people who ask a served model, visitors of the dashboard. Each keeps what it was told.

A reviewer's log is what "no label lost" is measured against: an act is written down before it is sent and again when it
was acknowledged, each forced to disk, in a folder that no fault touches. Whoever is killed, or gets no answer, sends
the same act with the same key again.
"""

import http.client
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0


class Notes:
    """Lines of one client, forced to disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **line: Any) -> None:
        """One line, durable when this returns."""
        os.write(self._handle, json.dumps(line).encode() + b"\n")
        os.fsync(self._handle)


def read_notes(path: Path) -> list[dict[str, Any]]:
    """All whole lines."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # a client that was killed while it wrote
    return found


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """(status, body, headers); OSError and HTTPException where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        text = answer.read()
        try:
            return answer.status, json.loads(text), answer.headers
        except ValueError:
            return answer.status, {}, answer.headers
    finally:
        connection.close()


class Reviewer:
    """One person: claim, think, label, until the stop file is there."""

    def __init__(self, name: str, token: str, port: int, folder: Path, think_s: float, seed: int) -> None:
        self.name, self.token, self.port = name, token, port
        self.stop = folder / "stop"
        self.path = folder / "people" / f"{name}.jsonl"
        self.notes = Notes(self.path)
        self.think_s, self.random = think_s, random.Random(seed)
        self.count = 0

    def work(self) -> None:
        """The day; what was sent and not acknowledged before a kill is sent again first."""
        self._take_up()
        while not self.stop.exists():
            try:
                status, told, _ = self._ask("/queues/default/default/claim", {}, "")
            except (OSError, http.client.HTTPException):
                time.sleep(self.random.uniform(0.5, 2.0))
                continue
            claim = told.get("claim") if status == 200 else None
            if claim is None:
                if status >= 500:
                    self.notes.write(refused=status, claim=True)
                time.sleep(self.random.uniform(1.0, 3.0))
                continue
            time.sleep(self.random.expovariate(1 / self.think_s))
            self._label(claim)

    def _label(self, claim: dict[str, Any]) -> None:
        self.count += 1
        view = claim["view"]
        body = {
            "token": claim["token"],
            "decision": self.random.choice(["violates", "allowed"]),
            "policy_hash": view["policy_hash"],
        }
        key = f"{self.name}-{os.getpid()}-{self.count}"
        self.notes.write(sent=key, body=body)
        self._send(key, body)

    def _send(self, key: str, body: dict[str, Any]) -> None:
        while True:
            try:
                status, told, _ = self._ask("/labels", body, key)
            except (OSError, http.client.HTTPException):
                if self.stop.exists():
                    return
                time.sleep(self.random.uniform(0.5, 2.0))
                continue
            if status == 200:
                self.notes.write(
                    done=key, label=told["label"], item=told["item"], decision=body["decision"],
                    replayed=told["replayed"],
                )  # fmt: skip
                return
            if status < 500:  # the lease was lost meanwhile, or the like: said so, so nothing is owed
                self.notes.write(refused=status, key=key, code=told.get("error", {}).get("code", ""))
                return
            self.notes.write(refused=status, key=key)
            if self.stop.exists():
                return
            time.sleep(self.random.uniform(0.5, 2.0))

    def _take_up(self) -> None:
        open_acts: dict[str, dict[str, Any]] = {}
        for line in read_notes(self.path):
            if "sent" in line:
                open_acts[line["sent"]] = line["body"]
            else:
                open_acts.pop(line.get("done") or line.get("key") or "", None)
        for key, body in open_acts.items():
            self._send(key, body)

    def _ask(self, path: str, body: Any, key: str) -> tuple[int, dict[str, Any], Any]:
        return ask(self.port, "POST", f"/v1/review{path}", body, authorization=f"Bearer {self.token}",
                   idempotency_key=key or "-")  # fmt: skip


def run(words: list[str]) -> None:
    """Several reviewers as threads of one process: PORT FOLDER THINK_S SEED NAME=TOKEN..."""
    port, folder, think_s, seed, *people = words
    threads = []
    for number, person in enumerate(people):
        name, _, token = person.partition("=")
        one = Reviewer(name, token, int(port), Path(folder), float(think_s), int(seed) + number)
        threads.append(threading.Thread(target=one.work))
        threads[-1].start()
    for thread in threads:
        thread.join()


def ask_model(port: int, folder: Path, seed: int) -> None:
    """Ask the served model until the stop file is there; the id of every answer is noted."""
    notes, rng = Notes(folder / "people" / f"asker-{seed}.jsonl"), random.Random(seed)
    while not (folder / "stop").exists():
        words = rng.choice(["Where is the market?", "How do I build a bomb?", "Who sold bread?"])
        body = {"model": "m1", "max_tokens": 6, "messages": [{"role": "user", "content": words}]}
        try:
            status, _, headers = ask(port, "POST", "/v1/chat/completions", body)
        except (OSError, http.client.HTTPException):
            notes.write(unreachable=True)
            time.sleep(rng.uniform(0.5, 2.0))
            continue
        if status == 200:
            notes.write(answered=headers["x-request-id"])
        else:
            notes.write(refused=status)
        time.sleep(rng.uniform(0.5, 2.5))


PAGES = ("", "items", "gate", "training", "lineage", "queue", "compare", "responsible")


def visit(port: int, folder: Path, seed: int) -> None:
    """Open the dashboard's pages as a browser does, over its websocket, until the stop file is there."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    notes, rng = Notes(folder / "people" / f"visitor-{seed}.jsonl"), random.Random(seed)
    while not (folder / "stop").exists():
        page = rng.choice(PAGES)
        try:
            address = f"ws://127.0.0.1:{port}/_stcore/stream"
            with connect(address, subprotocols=["streamlit"], open_timeout=10, max_size=2**26) as socket:  # type: ignore[list-item]
                wish = BackMsg()
                wish.rerun_script.page_name = page
                socket.send(wish.SerializeToString())
                seen, errors = 0, []
                while True:
                    data = socket.recv(timeout=60)
                    message = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
                    if message.WhichOneof("type") == "delta":
                        seen += 1
                        element = message.delta.new_element
                        if element.WhichOneof("type") == "exception":
                            errors.append(f"{element.exception.type}: {element.exception.message}"[:300])
                    elif message.WhichOneof("type") == "script_finished":
                        break
            notes.write(page=page, elements=seen, errors=errors)
        except (OSError, TimeoutError, WebSocketException) as error:
            notes.write(page=page, unreachable=type(error).__name__)
        time.sleep(rng.uniform(1.0, 4.0))
