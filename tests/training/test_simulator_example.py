"""The example of a simulator behind an endpoint: asked over HTTP by the reward, signed; what it says is RDKit's."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.rewards.base import Failed, RewardPart, Sample, Services, build_reward

EXAMPLE = Path(__file__).parents[2] / "examples" / "molecule_simulator.py"
SECRET = "a secret of the lab"


def is_open(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MOLECULE_SECRET", SECRET)
    process = subprocess.Popen([sys.executable, str(EXAMPLE), "--port", str(port)])
    try:
        deadline = time.monotonic() + 60
        while not is_open(port):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_a_signed_batch_is_scored_and_one_with_another_secret_gets_no_score(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdkit import Chem
    from rdkit.Chem import QED

    options = {
        "url": f"http://127.0.0.1:{port}/score", "allow_private": ["127.0.0.1"], "secret_env": "MOLECULE_SECRET",
        "attempts": 1,
    }  # fmt: skip
    texts = ["CC(=O)Oc1ccccc1C(=O)O", " CCO ", "CCCCCCCCCCCCCCCC", "C1CC", "", "no molecule"]
    samples = [Sample(id=str(at), prompt="", answer=text) for at, text in enumerate(texts)]
    aspirin, ethanol, oil = (QED.qed(Chem.MolFromSmiles(text.strip())) for text in texts[:3])
    found = build_reward(RewardPart(kind="http", options=options), Services()).score(samples)
    assert found == pytest.approx([aspirin, ethanol / 2, oil / 2, 0.0, 0.0, 0.0]), "aspirin alone has the wanted logP"
    monkeypatch.setenv("MOLECULE_SECRET", "another one")
    refused = build_reward(RewardPart(kind="http", options=options), Services()).score(samples)
    assert all(isinstance(one, Failed) and "401" in one.why for one in refused)
