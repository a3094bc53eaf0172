"""The solver behind HTTP, in a process of its own: what a reward of kind `http` asks. Knows the reward protocol.

    python -m studies.lattice.simulator --port 8437

POST /score takes `workbench.reward/1`: samples with their row and answer, and gives a score for each. GET /calls says
how many answers were scored since it began.
"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from studies.lattice.tasks import worth

PROTOCOL = "workbench.reward/1"
MOST_BYTES = 4 << 20


class Simulator(ThreadingHTTPServer):
    """Counts what it scores."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.calls = 0
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/calls":
            self._answer(404, {"error": "ask POST /score or GET /calls"})
            return
        self._answer(200, {"calls": self._simulator.calls})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/score" or not 0 < length <= MOST_BYTES:
            self._answer(
                404 if self.path != "/score" else 413, {"error": "POST /score with a JSON body of at most 4 MiB"}
            )
            return
        try:
            samples = json.loads(self.rfile.read(length))["samples"]
            scores = [_score(sample) for sample in samples]
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"error": f"expected {PROTOCOL}: samples with id, row and answer"})
            return
        with self._simulator.lock:
            self._simulator.calls += len(scores)
        self._answer(200, {"protocol": PROTOCOL, "scores": scores})

    @property
    def _simulator(self) -> Simulator:
        assert isinstance(self.server, Simulator)
        return self.server

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Rows and answers are nobody's log."""


def _score(sample: dict[str, Any]) -> dict[str, Any]:
    return {"id": sample["id"], "score": worth(sample["row"], sample["answer"]).score}


def main() -> None:
    """Serve until killed; the port is told on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    server = Simulator(parser.parse_args().port)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
