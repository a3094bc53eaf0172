"""What the guard costs: the same server with and without it, one client and 32.

python -m studies.serve_speed [--quick] [--render]

Two servers of the real model stand side by side, one without a guard and one under the shipped policy `moderation` with
its classifier, audit on disk included. Requests alternate between them, so that other work on the machine meets both.
Writes studies/results/serve_speed.json and the table of docs/performance.md.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "studies" / "results" / "serve_speed.json"
BEGIN, END = "<!-- guard: begin -->\n", "<!-- guard: end -->"
TAKES = "4 minutes on one core"
SUBJECTS = (
    "how the heart pumps blood",
    "why the sky is blue",
    "how bread rises",
    "what a prime number is",
    "how a bicycle stays upright",
    "why leaves change their colour",
    "how a library is sorted",
    "what makes a good map",
)
PROMPTS = tuple(f"{ask} {subject}." for ask in ("Explain", "Tell a child", "Write a note on") for subject in SUBJECTS)


def serve(port: int, guarded: bool) -> None:
    """Run one of the two servers until it is told to stop."""
    import uvicorn

    from workbench.references import resolve_checkpoint
    from workbench.serve.answering import Service
    from workbench.serve.app import create_app
    from workbench.serve.backend import load_backend
    from workbench.serve.metrics import Metrics
    from workbench.serve.recording import Recorder
    from workbench.serve.server import build_guards
    from workbench.serve.tenants import Tenants
    from workbench.store import Project

    project = Project.init(Path(tempfile.mkdtemp(prefix="serve-speed-")))
    tenants = Tenants.open_to_all("moderation")
    backend = load_backend(
        resolve_checkpoint("smollm2"), engine="transformers", model="smollm2", options={"dtype": "float32"}
    )
    service = Service(
        backend=backend,
        guards=build_guards(tenants, (), project) if guarded else {},
        recorder=Recorder(project.store) if guarded else None,
        metrics=Metrics(backend.load),
    )
    uvicorn.run(create_app(service, tenants), host="127.0.0.1", port=port, log_level="error", access_log=False)


def start(guarded: bool) -> tuple["subprocess.Popen[bytes]", str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "studies.serve_speed", "--serve", str(port), *(["--guarded"] if guarded else [])]
    server = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/healthz", trust_env=False).is_success:
                return server, url
        except httpx.TransportError:
            time.sleep(0.5)
    raise SystemExit("a server did not start")


async def ask(client: httpx.AsyncClient, url: str, prompt: str, tokens: int) -> tuple[float, int, bool]:
    """(seconds, new tokens, whether it was withheld)"""
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0}
    began = time.perf_counter()
    answer = (await client.post(f"{url}/v1/chat/completions", json=body)).raise_for_status().json()
    withheld = answer["choices"][0]["finish_reason"] == "content_filter"
    return time.perf_counter() - began, int(answer["usage"]["completion_tokens"]), withheld


def processor_s(server: "subprocess.Popen[bytes]") -> float:
    """Processor time that a server has used, which other work on the machine changes little."""
    import psutil

    used = psutil.Process(server.pid).cpu_times()
    return used.user + used.system


Servers = Sequence[tuple["subprocess.Popen[bytes]", str]]


async def one_client(servers: Servers, prompts: Sequence[str], tokens: int) -> list[list[float]]:
    """Seconds of each prompt (bare, guarded), and of the processor, one after the other, the order of the two drawn."""
    rng = np.random.default_rng(0)
    pairs = []
    async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
        for _, url in servers:  # warm
            await ask(client, url, PROMPTS[0], 8)
        for prompt in prompts:
            seconds = [0.0, 0.0, 0.0, 0.0]
            for place in map(int, rng.permutation(2)):
                server, url = servers[place]
                before = processor_s(server)
                seconds[place], _, withheld = await ask(client, url, prompt, tokens)
                seconds[2 + place] = processor_s(server) - before
                if withheld:
                    raise SystemExit(f"the guard withheld an answer to: {prompt}")
            pairs.append(seconds)
    return pairs


async def many_clients(server: "subprocess.Popen[bytes]", url: str, requests: int, tokens: int) -> list[float]:
    """New tokens a second, and a second of the server's processor time, under 32 clients."""
    clients = 32
    waiting = [PROMPTS[i % len(PROMPTS)] for i in range(requests)]
    written = 0

    async def client_loop(client: httpx.AsyncClient) -> None:
        nonlocal written
        while waiting:
            _, new, _ = await ask(client, url, waiting.pop(), tokens)
            written += new

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=900, trust_env=False, limits=limits) as client:
        began, used = time.perf_counter(), processor_s(server)
        await asyncio.gather(*(client_loop(client) for _ in range(clients)))
        return [written / (time.perf_counter() - began), written / (processor_s(server) - used)]


def bootstrap(values: np.ndarray, statistic: Any, *, seed: int = 0, draws: int = 5000) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def measure(quick: bool) -> dict[str, Any]:
    servers = [start(guarded) for guarded in (False, True)]
    try:
        count, tokens = (6, 32) if quick else (16, 32)
        pairs = np.array(asyncio.run(one_client(servers, PROMPTS[:count], tokens)))
        rounds, requests = (1, 32) if quick else (3, 32)
        rates = [[asyncio.run(many_clients(*one, requests, tokens)) for one in servers] for _ in range(rounds)]
    finally:
        for server, _ in servers:
            server.terminate()
            server.wait(30)
    return {
        "pairs": pairs.tolist(),
        "tokens": tokens,
        "rates": rates,
        "requests": requests,
        "date": str(datetime.now(UTC).date()),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s) for both servers and the clients",
    }


def render(found: dict[str, Any]) -> str:
    """The table and how it was measured."""
    pairs, rates = np.array(found["pairs"]), np.array(found["rates"])

    def overhead(rows: np.ndarray) -> float:
        return float(rows[:, 1].sum() / rows[:, 0].sum() - 1)

    rows = []
    for what, own in (("seconds by the clock", pairs[:, :2]), ("processor seconds of the server", pairs[:, 2:])):
        low, high = bootstrap(own, overhead)
        bare, guarded = own.mean(0)
        change = f"{overhead(own):+.1%} [{low:+.1%}, {high:+.1%}]"
        rows.append(f"| one client, {what} an answer | {bare:.2f} | {guarded:.2f} | {change} | at most +15% |")
    for place, what in enumerate(("a second by the clock", "a processor second of the server")):
        bare, guarded = rates[:, 0, place].mean(), rates[:, 1, place].mean()
        shares = rates[:, 1, place] / rates[:, 0, place]
        rounds = f"{guarded / bare:.1%} (rounds: {', '.join(f'{s:.1%}' for s in shares)})"
        rows.append(f"| 32 clients, new tokens {what} | {bare:.1f} | {guarded:.1f} | {rounds} | at least 85% |")
    lines = [
        f"`python -m studies.serve_speed` on {found['date']}, {found['machine']}; SmolLM2-135M-Instruct in float32,",
        "transformers engine, policy `moderation` with the shipped classifier, audit rows on disk (SQLite).",
        "",
        "| | bare | guarded | guarded against bare | goal |",
        "|---|---:|---:|---:|---:|",
        *rows,
        "",
        f"One client: {len(pairs)} pairs of answers of {found['tokens']} tokens, their order drawn for each; the",
        "interval is a bootstrap over prompts (5,000 draws, seed 0) of the ratio of sums. 32 clients:",
        f"{found['requests']} requests of {found['tokens']} tokens, {len(rates)} rounds of each server in turn.",
        "The clock also sees what else ran on the machine; processor time hardly does.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the numbers, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few requests; writes no document")
    parser.add_argument("--render", action="store_true", help="write the table again from the kept numbers")
    parser.add_argument("--serve", type=int)
    parser.add_argument("--guarded", action="store_true")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.guarded)
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if given.render else measure(given.quick)
    text = render(found)
    print(text)
    if given.quick:
        return
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    whole = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(whole[: whole.index(BEGIN) + len(BEGIN)] + text + whole[whole.index(END) :], encoding="utf-8")


if __name__ == "__main__":
    main()
