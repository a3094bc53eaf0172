"""Kill a real `workbench eval` ten times at random; it ends with the same report as an undisturbed one, bit for bit."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.store import Project

ROOT = Path(__file__).resolve().parents[1]
KILLS = 10
WRITING = """\
task: crash_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 24}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def start(home: Path, project: str, *options: str) -> subprocess.Popen[str]:
    arguments = ["eval", "model", "--project", project, "--include-path", "tasks", "--batch-tokens", "96", *options]
    arguments += ["--suite", "sample-domain", "--suite", "sample-general", "--tasks", "crash_writing"]
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", *arguments],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(home / "hf")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, talk = process.communicate(timeout=600)
    assert process.returncode == 0, talk
    return talk


def kill_at_random(process: subprocess.Popen[str], moment: random.Random, project: Path) -> None:
    """Sometimes at any time from the start on, else once some more answers are written down, and a bit later."""
    if moment.random() < 0.3:
        time.sleep(moment.uniform(0.2, 8.0))
    else:
        wait_for_answers(project, count_answers(project) + moment.randrange(1, 120), process)
        time.sleep(moment.uniform(0, 0.05))
    process.kill()
    process.communicate()


def wait_for_answers(project: Path, wanted: int, process: subprocess.Popen[str]) -> None:
    while count_answers(project) == 0 < wanted and process.poll() is None:
        time.sleep(0.2)  # the store may not be there yet
    store = Project.find(project).store
    while store.ledger.count() < wanted and process.poll() is None:
        time.sleep(0.01)
    store.close()


def count_answers(project: Path) -> int:
    if not (project / "workbench.yaml").is_file():
        return 0
    store = Project.find(project).store
    try:
        return store.ledger.count()
    finally:
        store.close()


def read_report(folder: Path) -> tuple[dict[str, Any], bytes]:
    (report,) = (folder / "reports").iterdir()
    content = json.loads((report / "report.json").read_text())
    for name in ("created_at", "environment", "timing"):
        del content[name]
    return content, (report / "items.parquet").read_bytes()


@pytest.mark.timeout(900)
def test_ten_kills_change_no_bit_of_the_report(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "model")
    (tmp_path / "tasks").mkdir()
    rows = tmp_path / "tasks" / "writing.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Count to {i}:", "answer": str(i)}) + "\n" for i in range(12)))
    (tmp_path / "tasks" / "writing.yaml").write_text(WRITING.format(rows=rows))

    finish(start(tmp_path, "calm"))
    whole = count_answers(tmp_path / "calm")

    moment = random.Random(20)
    kept: list[int] = []
    for _ in range(KILLS):
        kill_at_random(start(tmp_path, "stormy"), moment, tmp_path / "stormy")
        kept.append(count_answers(tmp_path / "stormy"))
        assert not list((tmp_path / "stormy").glob("reports/*"))  # no half report
    assert kept == sorted(kept)  # nothing that was paid for is ever lost
    assert len({count for count in kept if 0 < count < whole}) >= 3, (
        f"the kills missed the computing: {kept} of {whole}"
    )

    talk = finish(start(tmp_path, "stormy"))
    assert "answers from the ledger" in talk
    assert read_report(tmp_path / "stormy") == read_report(tmp_path / "calm")
    assert count_answers(tmp_path / "stormy") == whole
