"""Speed and exactness against lm-eval's backends, all in one run on one machine. Writes docs/performance.md.

python -m studies.speed [--quick] [--only letters,cloze,hellaswag,generation] [--no-vllm]

We score every question of a job. lm-eval's backends are so much slower that they get every k-th question of the same
job; their time is per question, and so is the comparison. The real model and the real sets of the data folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = ("anatomy", "astronomy", "college_biology", "high_school_psychology", "marketing", "us_foreign_policy")


@dataclass(frozen=True)
class Work:
    """A job: tasks, questions of each, and how many questions lm-eval's backends get."""

    name: str
    title: str
    tasks: tuple[str, ...]
    limit: int
    peers: int
    max_gen_toks: int | None = None
    all_to_vllm: bool = False
    """Whether vLLM gets every question: where its speed depends on how many run together."""
    goals: tuple[float, float] = (1.0, 1.0)


WORKS = (
    Work("letters", "5-shot MMLU, letters", tuple(f"mmlu_letter_{s}" for s in SUBJECTS), 80, 12, goals=(20, 20)),
    Work("cloze", "5-shot MMLU, cloze", tuple(f"mmlu_cloze_{s}" for s in SUBJECTS), 80, 6, goals=(15, 15)),
    Work("hellaswag", "0-shot HellaSwag", ("hellaswag",), 400, 24, goals=(2.5, 2.5)),
    Work(
        "generation",
        "GSM8K, 128 new tokens",
        ("gsm8k",),
        48,
        12,
        max_gen_toks=128,
        all_to_vllm=True,
        goals=(3, 0.9),
    ),
)


@dataclass
class Timing:
    """What a worker printed, for `questions` questions."""

    questions: int
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def per_question(self) -> float:
        """Seconds."""
        return float(self.raw["seconds"]) / self.questions


def build_job(work: Work, model: str, *, quick: bool) -> dict[str, Any]:
    """The requests of a job, with lm-eval's own prompts."""
    from benchmarks.lm import EngineLM
    from benchmarks.runner import build_plan, build_requests
    from workbench.engines.transformers_engine import TransformersEngine

    plan = build_plan(tasks=work.tasks, limit=max(4, work.limit // 8) if quick else work.limit)
    lm = EngineLM(TransformersEngine.load(model, dtype="float32"), fingerprint="", tokenizer_digest="")
    (kind, instances), *_ = build_requests(lm, plan).items()
    requests = []
    for i in instances:
        args = list(i.args)
        if work.max_gen_toks:
            args[1] = {"until": args[1]["until"], "max_gen_toks": work.max_gen_toks, "do_sample": False}
        requests.append({"args": args, "task": i.task_name, "doc": i.doc_id, "idx": i.idx})
    return {"kind": "score" if kind == "loglikelihood" else "generate", "requests": requests, "warm": 4}


def questions_of(job: dict[str, Any]) -> list[tuple[str, int]]:
    """Distinct (task, document) in order."""
    return list(dict.fromkeys((r["task"], r["doc"]) for r in job["requests"]))


def thin(job: dict[str, Any], count: int) -> dict[str, Any]:
    """Every k-th question, `count` in all."""
    questions = questions_of(job)
    kept = {questions[i] for i in np.linspace(0, len(questions) - 1, min(count, len(questions))).astype(int)}
    return job | {"requests": [r for r in job["requests"] if (r["task"], r["doc"]) in kept]}


def run_worker(backend: str, job: dict[str, Any], model: str, dtype: str, batch_size: int = 1) -> Timing:
    """Time a backend in a process of its own; the ones with vLLM in its own environment."""
    python = str(ROOT / ".venv-vllm/bin/python") if "vllm" in backend else sys.executable
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        command = [python, "-m", "studies.speed_worker", backend, file.name, model, dtype, str(batch_size)]
        # vLLM takes one thread unless it is told otherwise.
        environment = os.environ | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if not lines:
        raise SystemExit(f"{backend} failed:\n{done.stderr[-3000:]}")
    timing = Timing(len(questions_of(job)), json.loads(lines[-1]))
    say(
        f"  {backend:15s} {dtype:9s} batch {batch_size:3d}: {timing.questions} questions, "
        f"{timing.raw['seconds']:.1f} s, {timing.per_question * 1000:.1f} ms a question"
    )
    return timing


def best_hf(job: dict[str, Any], model: str, dtype: str, count: int) -> tuple[Timing, int]:
    """lm-eval's hf backend at its best batch size, found on a few questions."""
    sizes = (1, 8) if job["kind"] == "score" else (12,)
    probe = thin(job, 2 if job["kind"] == "score" else count)
    tried = {size: run_worker("hf", probe, model, dtype, size) for size in sizes}
    best = min(tried, key=lambda size: tried[size].per_question)
    if job["kind"] == "generate":
        return tried[best], best
    return run_worker("hf", thin(job, count), model, dtype, best), best


def say(text: str) -> None:
    """Talk goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def exactness(model: str, job: dict[str, Any]) -> dict[str, float]:
    """Errors against lm-eval's hf in float32, one request at a time, and exact ties."""
    few = thin(job, 12)
    reference = run_worker("hf", few, model, "float32", 1)
    rows = {
        "ours float32": run_worker("workbench", few, model, "float32"),
        "ours bfloat16": run_worker("workbench", few, model, "bfloat16"),
        "hf bfloat16": run_worker("hf", few, model, "bfloat16", 1),
    }
    truth = np.array([a[0] for a in reference.raw["answers"]])
    out: dict[str, float] = {}
    for name, timing in rows.items():
        values = np.array([a[0] for a in timing.raw["answers"]])
        out[f"{name}: largest error"] = float(np.abs(values - truth).max())
        out[f"{name}: mean error"] = float(np.abs(values - truth).mean())
        out[f"{name}: tied questions"] = float(_ties(few, values))
        out[f"{name}: other answers"] = float(_other_answers(few, values, truth))
    out["hf float32: tied questions"] = float(_ties(few, truth))
    return out


def _by_question(job: dict[str, Any], values: np.ndarray) -> list[np.ndarray]:
    where: dict[tuple[str, int], list[int]] = {}
    for i, r in enumerate(job["requests"]):
        where.setdefault((r["task"], r["doc"]), []).append(i)
    return [values[at] for at in where.values()]


def _ties(job: dict[str, Any], values: np.ndarray) -> int:
    return sum(int((v == v.max()).sum() > 1) for v in _by_question(job, values))


def _other_answers(job: dict[str, Any], values: np.ndarray, truth: np.ndarray) -> int:
    pairs = zip(_by_question(job, values), _by_question(job, truth), strict=True)
    return sum(int(a.argmax() != b.argmax()) for a, b in pairs)


def machine() -> dict[str, str]:
    """What this ran on."""
    import lm_eval
    import torch
    import transformers

    from workbench.engines.device import matmul_rate

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return {
        "processor": f"{cpu}, {torch.get_num_threads()} threads, {', '.join(units)}",
        "matrix products": ", ".join(f"{matmul_rate(t) / 1e9:.0f} GFLOP/s in {t}" for t in ("float32", "bfloat16")),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"lm-eval {lm_eval.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(w.name for w in WORKS))
    parser.add_argument("--dtypes", default="bfloat16,float32", help="the first one against vLLM as well")
    parser.add_argument("--quick", action="store_true", help="an eighth of the questions")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--model", default=None, help="a checkpoint folder; default: the embedded model")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run all workers; yields the results so far after each work, so that a killed study keeps what it measured."""
    from workbench.engines.embedded import fetch_embedded

    model = options.model or str(fetch_embedded("smollm2", say=say).folder)
    has_vllm = not options.no_vllm and (ROOT / ".venv-vllm/bin/python").exists()
    results: dict[str, Any] = {"machine": machine(), "works": {}}
    dtypes = options.dtypes.split(",")
    for dtype in dtypes:
        for work in (w for w in WORKS if w.name in options.only.split(",")):
            say(f"{work.title}, {dtype}")
            job = build_job(work, model, quick=options.quick)
            count = max(4, work.peers // 4) if options.quick else work.peers
            rows = results["works"].setdefault(
                work.name, {"title": work.title, "goals": work.goals, "questions": len(questions_of(job))}
            )
            rows[f"workbench {dtype}"] = run_worker("workbench", job, model, dtype).raw
            peer, size = best_hf(job, model, dtype, count)
            rows[f"hf {dtype}"] = peer.raw | {"questions": peer.questions, "batch_size": size}
            if has_vllm and dtype == dtypes[0]:
                few = thin(job, len(questions_of(job)) if work.all_to_vllm else count)
                vllm = run_worker("vllm", few, model, dtype)
                rows[f"vllm {dtype}"] = vllm.raw | {"questions": vllm.questions}
                if work.max_gen_toks:
                    own = run_worker("workbench-vllm", few, model, dtype)
                    rows[f"workbench-vllm {dtype}"] = own.raw | {"questions": own.questions}
            if work.name == "letters" and dtype == dtypes[-1]:
                rows["exactness"] = exactness(model, job)
            for row in rows.values():
                if isinstance(row, dict):
                    row.pop("answers", None)
            yield results


def render(results: dict[str, Any], dtypes: Sequence[str]) -> str:
    """The tables of docs/performance.md."""
    lines = [f"- {key}: {value}" for key, value in results["machine"].items()]
    for dtype in dtypes:
        lines += [
            "",
            f"### {dtype}",
            "",
            "| work | questions | ours, ms a question | lm-eval `hf` | lm-eval `vllm` | "
            "against `hf` | against `vllm` | of the limit | peak memory: ours, `hf` |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for rows in results["works"].values():
            if f"hf {dtype}" not in rows:
                continue
            ours = rows[f"workbench {dtype}"]
            mine = ours["seconds"] / rows["questions"]
            cells = [rows["title"], str(rows["questions"]), f"{mine * 1e3:.1f}"]
            ratios = []
            for name in ("hf", "vllm"):
                peer = rows.get(f"{name} {dtype}")
                each = peer["seconds"] / peer["questions"] if peer else None
                cells.append(f"{each * 1e3:.1f} (n={peer['questions']})" if each else "not run")
                ratios.append(f"{each / mine:.2f} times" if each else "not run")
            limit = f"{ours['seconds'] / ours['limit_seconds']:.2f} times" if ours["limit_seconds"] else "–"
            memory = f"{ours['peak_rss_gb']:.1f} GB, {rows[f'hf {dtype}']['peak_rss_gb']:.1f} GB"
            lines.append("| " + " | ".join([*cells, *ratios, limit, memory]) + " |")
            own = rows.get(f"workbench-vllm {dtype}")
            if own:
                peer = rows[f"vllm {dtype}"]
                ratio = (peer["seconds"] / peer["questions"]) / (own["seconds"] / own["questions"])
                lines.append(
                    f"| {rows['title']}, our `vllm` engine | {own['questions']} | "
                    f"{own['seconds'] / own['questions'] * 1e3:.1f} | | | | {ratio:.2f} times | – | |"
                )
    for rows in results["works"].values():
        if "exactness" in rows:
            lines += [
                "",
                "### Exactness",
                "",
                "Against lm-eval's `hf` in float32, one request at a time, on 12 questions of "
                f"{rows['title']} (nats a continuation):",
                "",
            ]
            lines += [f"- {key}: {value:.3g}" for key, value in rows["exactness"].items()]
    return "\n".join(lines) + "\n"


def write_document(text: str) -> None:
    """Put the tables between the marks of docs/performance.md."""
    path = ROOT / "docs/performance.md"
    begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->"
    page = path.read_text()
    path.write_text(page[: page.index(begin) + len(begin)] + text + page[page.index(end) :])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    folder = ROOT / "studies/results"
    folder.mkdir(exist_ok=True)
    whole = options.only == ",".join(w.name for w in WORKS) and not options.quick
    text = ""
    for results in measure(options):
        text = render(results, options.dtypes.split(","))
        (folder / ("speed.json" if whole else "speed-part.json")).write_text(json.dumps(results, indent=1) + "\n")
        if whole:
            write_document(text)
    print(text)


if __name__ == "__main__":
    main()
