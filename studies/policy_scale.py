"""How long policies take: 100,000 communities resolved over one platform's policy, and one decision.

python -m studies.policy_scale [--quick] [--communities 100000]

Writes a file for each community (the shipped one under another id and with another risk target), resolves them all with
one library, and decides a text under one of them. Times are of this process; the median is hurt least by company.
Writes studies/results/policy_scale.json and the marked part of docs/policies.md.
"""

import argparse
import json
import platform
import re
import resource
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from safety.policy import PolicyLibrary, decide, shipped_policies
from workbench.records import Judgement

ROOT = Path(__file__).resolve().parents[1]
TODAY = date(2026, 11, 25)
DOCUMENT, START, END = ROOT / "docs" / "policies.md", "<!-- policy_scale -->", "<!-- /policy_scale -->"


def write_communities(folder: Path, count: int) -> list[Path]:
    """One file each; a thousand to a folder."""
    text = shipped_policies()["askhistory"].read_text(encoding="utf-8")
    text = re.sub(r"^context: .*\n", "", text, flags=re.M)
    paths: list[Path] = []
    for number in range(count):
        path = folder / f"{number // 1000}" / f"c{number}.yaml"
        path.parent.mkdir(exist_ok=True)
        own = text.replace("id: askhistory", f"id: c{number}", 1).replace("miss: 0.02", f"miss: 0.0{number % 5 + 1}")
        path.write_text(own, encoding="utf-8")
        paths.append(path)
    return paths


def measure(count: int) -> dict[str, Any]:
    """Resolve all communities, then decide."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_communities(Path(folder), count)
        library = PolicyLibrary(today=TODAY)
        started = time.perf_counter()
        library.load("communities")
        parents_ms = 1e3 * (time.perf_counter() - started)
        times: list[float] = []
        hashes: set[str] = set()
        for path in paths:
            before = time.perf_counter()
            policy = library.load(path)
            times.append(1e3 * (time.perf_counter() - before))
            hashes.add(policy.hash)
        assert len(hashes) == count
        again_us = _mean_us(lambda: library.load(paths[-1]))
        policy = library.load(paths[-1])
    judged = [Judgement(category=name, value="allowed", judge="mod", probability=0.01) for name in policy.categories]
    times.sort()
    return {
        "communities": count,
        "parents_ms": parents_ms,
        "median_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * len(times))],
        "total_s": sum(times) / 1e3,
        "again_us": again_us,
        "decide_us": _mean_us(lambda: decide(policy, "content", judged, today=TODAY)),
        "categories": len(policy.categories),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread",
    }


def _mean_us(call: Any, times: int = 1000) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return 1e6 * (time.perf_counter() - started) / times


def page(found: dict[str, Any]) -> str:
    """The table of the document."""
    rows = [
        ("first reading of the platform's policy and its parent", f"{found['parents_ms']:.0f} ms"),
        ("reading and resolving one community, median", f"{found['median_ms']:.1f} ms"),
        ("the same, 95th percentile", f"{found['p95_ms']:.1f} ms"),
        (f"all {found['communities']:,} communities", f"{found['total_s']:.0f} s"),
        ("one that is in memory", f"{found['again_us']:.0f} µs"),
        (f"one decision over {found['categories']} categories", f"{found['decide_us']:.0f} µs"),
        ("memory of the process at most, 20,000 policies kept", f"{found['memory_mib']:.0f} MiB"),
    ]
    lines = ["| what | time |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]
    return "\n".join([*lines, "", f"{found['machine']}; `python -m studies.policy_scale`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 communities, and nothing is written")
    parser.add_argument("--communities", type=int, default=100_000)
    options = parser.parse_args()
    found = measure(1000 if options.quick else options.communities)
    print(page(found))
    if options.quick:
        return
    (ROOT / "studies" / "results" / "policy_scale.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    text = DOCUMENT.read_text(encoding="utf-8")
    head, rest = text.split(START)
    DOCUMENT.write_text(f"{head}{START}\n{page(found)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
