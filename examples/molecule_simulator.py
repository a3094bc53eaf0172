"""A simulator as a reward, in a process of its own: molecules written as SMILES, scored by RDKit.

    pip install rdkit
    python examples/molecule_simulator.py --port 8431

A recipe names it: `{kind: http, options: {url: "http://127.0.0.1:8431/score", allow_private: [127.0.0.1]}}`. It speaks
`workbench.reward/1`: batches in, a score for each sample out. With the secret in MOLECULE_SECRET it refuses requests
that are not signed by it (`secret_env` of the recipe). Yours has your docking program, your lab's model or your test
bench in place of `score`; nothing here knows the workbench.
"""

import argparse
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rdkit import Chem, RDLogger
from rdkit.Chem import QED, Crippen

PROTOCOL = "workbench.reward/1"
OILY = (0.0, 3.0)
"""logP (Crippen) that is wanted: a molecule outside counts half."""
OLDEST_S = 300


def score(smiles: str) -> float:
    """0 for what is no molecule; else its drug-likeness (QED, Bickerton et al. 2012), half outside the wanted logP."""
    text = smiles.strip()
    molecule = Chem.MolFromSmiles(text) if text and len(text) < 500 else None
    if molecule is None or not molecule.GetNumAtoms():
        return 0.0
    low, high = OILY
    return float(QED.qed(molecule)) * (1.0 if low <= Crippen.MolLogP(molecule) <= high else 0.5)


def is_signed(body: bytes, header: str, secret: str) -> bool:
    """Whether the signature `t=TIME,v1=HEX` is the secret's over `TIME.BODY`, and not old."""
    parts = {name: value for name, _, value in (part.partition("=") for part in header.split(","))}
    try:
        age = abs(time.time() - int(parts["t"]))
    except (KeyError, ValueError):
        return False
    wanted = hmac.new(secret.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    return age < OLDEST_S and hmac.compare_digest(wanted, parts.get("v1", ""))


class Handler(BaseHTTPRequestHandler):
    """POST /score."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Score a batch."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        secret = os.environ.get("MOLECULE_SECRET", "")
        if secret and not is_signed(body, self.headers.get("X-Workbench-Signature", ""), secret):
            return self._answer(401, {"error": "not signed by the secret"})
        try:
            asked = json.loads(body)
            samples = [(str(one["id"]), str(one["answer"])) for one in asked["samples"]]
        except (ValueError, KeyError, TypeError):
            return self._answer(400, {"error": "no batch of samples"})
        if asked.get("protocol") != PROTOCOL:
            return self._answer(400, {"error": f"this endpoint speaks {PROTOCOL}"})
        scores = [{"id": one, "score": score(answer)} for one, answer in samples]
        return self._answer(200, {"protocol": PROTOCOL, "scores": scores})

    def _answer(self, status: int, record: dict) -> None:
        text = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8431)
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")  # a text that is no molecule is an ordinary answer here
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    sys.stderr.write(f"http://127.0.0.1:{server.server_address[1]}/score\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
