"""`workbench eval` as people meet it: the table, JSON, bad input, interruption; on tiny real checkpoints."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.tiny import save_tiny_checkpoint, tiny_model, tiny_tokenizer
from workbench.cli import main
from workbench.errors import RunError
from workbench.pipeline import EvaluationRequest, Listener, evaluate_many
from workbench.store import Project, Store

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("--suite", "sample-domain", "--limit", "5")


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that says what is wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new")):
        save_tiny_checkpoint(folder / name, seed=seed)
    return folder


@pytest.fixture
def home(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two checkpoints in it, no project yet."""
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["eval", *args])
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return call


def table(out: str) -> list[dict[str, str]]:
    head, *rows = (line.split("\t") for line in out.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_table_is_data_and_everything_else_is_talk(run: Any, home: Path) -> None:
    ended = run("old", *QUICK)
    assert ended.code == 0
    rows = table(ended.out)
    assert [(r["task"], r["metric"]) for r in rows] == [
        ("sample_anatomy_cloze", "acc_norm ↑"),
        ("sample_anatomy_letter", "acc ↑"),
        ("sample_anatomy_text", "bits_per_byte ↓"),
    ]
    report = Project.find(home / "workbench-project").store.report("latest")
    for row, result in zip(rows, report.results, strict=True):
        e = result.headline
        assert row["n"] == str(e.n)
        assert row["old"] == f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
    assert "made ./workbench-project" in ended.err
    assert "not told from guessing (0.250)" in ended.err
    assert "times the physical limit" in ended.err
    assert f"next: workbench show {report.id[:12]}" in ended.err


def test_a_baseline_stands_first_and_the_change_last(run: Any) -> None:
    ended = run("new", "--baseline", "old", *QUICK)
    rows = table(ended.out)
    assert list(rows[0]) == ["task", "metric", "n", "old", "new", "change [90%]", "verdict"]
    for row in rows:
        before, after, change = (float(row[name].split()[0]) for name in ("old", "new", "change [90%]"))
        assert change == pytest.approx(after - before, abs=0.0011)


def test_several_checkpoints_each_get_their_change(run: Any, home: Path) -> None:
    save_tiny_checkpoint(home / "third", seed=7)
    rows = table(run("new", "third", "--baseline", "old", *QUICK).out)
    new = [f"{what} {name}" for name in ("new", "third") for what in ("change [90%]", "verdict")]
    assert list(rows[0]) == ["task", "metric", "n", "old", "new", "third", *new]


def test_a_narrow_terminal_drops_columns_and_wraps_nothing(run: Any, home: Path) -> None:
    from workbench.cli.output import print_table
    from workbench.cli.tables import report_table

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    run("old", *QUICK)
    report = Project.find(home / "workbench-project").store.report("latest")
    lines: dict[int, list[str]] = {}
    for width in (40, 60, 100):
        screen = Terminal()
        print_table(*report_table([report], {}), file=screen, width=width)
        lines[width] = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in screen.getvalue().splitlines()]
        assert all(len(line) <= width for line in lines[width])
        assert len(lines[width]) == 4
    assert "old" in lines[100][0] and "old" not in lines[40][0]


def test_json_is_one_object_with_reports_and_comparisons(run: Any) -> None:
    ended = run("new", "--baseline", "old", "--json", *QUICK)
    found = json.loads(ended.out)
    assert found["schema_version"] == 1
    assert [r["checkpoint"]["name"] for r in found["reports"]] == ["old", "new"]
    assert found["baseline"] == found["reports"][0]["id"]
    (comparison,) = found["comparisons"].values()
    assert {t["task"] for t in comparison["tasks"]} == {r["task"] for r in found["reports"][0]["results"]}
    assert all(t["verdict"] and t["reason"] and t["difference"]["n"] == t["n"] for t in comparison["tasks"])


def test_a_dry_run_counts_and_computes_nothing(run: Any, home: Path) -> None:
    ended = run("old", "--dry-run", *QUICK)
    rows = table(ended.out)
    assert [r["items"] for r in rows] == ["5", "5", "4"]
    assert all(int(r["tokens"].replace(",", "")) <= int(r["one by one"].replace(",", "")) for r in rows)
    assert Project.find(home / "workbench-project").store.ledger.count() == 0
    assert json.loads(run("old", "--dry-run", "--json", *QUICK).out)["costs"][0]["tasks"][0]["items"] == 5


def test_the_nearest_project_is_used_and_named_ones_are_made(run: Any, home: Path) -> None:
    run("old", *QUICK, "--project", "mine")
    assert (home / "mine" / "workbench.yaml").is_file()
    assert not (home / "workbench-project").exists()
    Project.init(home)
    run("old", *QUICK)
    assert len(Project.find(home).store.reports()) == 1


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("old", "--tasks", "sample_anatomy_kloze"), 'did you mean "sample_anatomy_cloze"?'),
        (("old", "--suite", "sample-domian"), 'did you mean "sample-domain"?'),
        (("old",), "nothing to run: name a suite"),
        ((), "no checkpoint named"),
        (("odl", *QUICK), "odl"),
        (("notes.txt", *QUICK), "notes.txt: this file is no model"),
        (("empty", *QUICK), "no model (it has no config.json)"),
        (("old", *QUICK, "--engine", "transfromers"), 'did you mean "transformers"?'),
        (("old", *QUICK, "--dtype", "float23"), 'did you mean "float32"?'),
        (("old", *QUICK, "--include-path", "nowhere"), "nowhere"),
        (("old", *QUICK, "--baseline", "nothing-like-it"), "nothing-like-it"),
        (("old", *QUICK, "--limit", "0"), "--limit: must be above 0"),
        (("old", *QUICK, "--num-fewshot", "500"), "lower --num-fewshot"),
        (("--resume",), "--resume: no evaluation in"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Any, home: Path, args: tuple[str, ...], complaint: str) -> None:
    (home / "notes.txt").write_text("no model")
    (home / "empty").mkdir()
    ended = run(*args)
    assert ended.code == 2
    assert complaint in ended.complaint
    assert ended.out == ""


def test_a_tokenizer_of_another_model_is_refused(run: Any, home: Path) -> None:
    save_tiny_checkpoint(home / "mixed", vocabulary=len(tiny_tokenizer()) - 20)
    ended = run("mixed", *QUICK)
    assert ended.code == 2
    assert "not the tokenizer of this model" in ended.complaint


def test_prompts_longer_than_the_window_are_counted(run: Any, home: Path) -> None:
    save_tiny_checkpoint(home / "short", window=96)
    ended = run("short", *QUICK)
    assert ended.code == 0
    assert "of 5 prompts did not fit the model's window of 96 tokens and were cut from the left" in ended.err


def test_weights_that_are_no_numbers_stop_the_run_and_name_the_item(run: Any, home: Path) -> None:
    import torch

    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(home / "broken")
    tiny_tokenizer().save_pretrained(home / "broken")
    ended = run("broken", *QUICK)
    assert ended.code == 4
    assert "task sample_anatomy_cloze, item" in ended.complaint
    assert "no number" in ended.complaint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_stops_the_run_loses_nothing_and_goes_on_when_there_is_space(
    run: Any, home: Path, small_disk: Path
) -> None:
    project = ("--project", str(small_disk / "project"))
    assert run("old", *QUICK, *project).code == 0
    paid = count_answers(small_disk / "project")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    everything = ("--suite", "sample-domain", "--suite", "sample-general")
    ended = run("new", *everything, *project)
    assert ended.code == 4
    assert "full" in ended.complaint
    ballast.unlink()
    assert count_answers(small_disk / "project") >= paid
    assert run("new", *everything, *project).code == 0
    calm = run("new", *everything, "--project", "elsewhere")
    assert latest_id(small_disk / "project") == latest_id(home / "elsewhere") and calm.code == 0


def count_answers(project: Path) -> int:
    store = Project.find(project).store
    try:
        return store.ledger.count()
    finally:
        store.close()


def latest_id(project: Path) -> str:
    store = Project.find(project).store
    try:
        return store.report("latest").id
    finally:
        store.close()


def test_a_store_locked_by_another_process_is_one_line_and_nothing_is_lost(models: Path, tmp_path: Path) -> None:
    project = Project.init(tmp_path / "project")
    url = f"sqlite:///{tmp_path / 'project' / 'workbench.sqlite'}"
    project.store.close()
    project.__dict__["store"] = Store.open(url, folder=project.root, busy_timeout_s=0.3)
    holder = sqlite3.connect(tmp_path / "project" / "workbench.sqlite", isolation_level=None)

    def lock(checkpoint: Any, report: Any) -> None:
        if report.done and not holder.in_transaction:
            holder.execute("BEGIN IMMEDIATE")

    request = EvaluationRequest(suites=["sample-domain"], batch_tokens=128)
    with pytest.raises(RunError, match=r"lock|busy|another process"):
        evaluate_many([models / "old"], project=project, request=request, listener=Listener(on_progress=lock))
    kept = project.store.ledger.count()
    assert kept > 0
    holder.execute("ROLLBACK")
    holder.close()
    resumed = evaluate_many([models / "old"], project=project, request=request).evaluated[0]
    assert resumed.reused == kept
    calm = evaluate_many([models / "old"], project=tmp_path / "calm", request=request).evaluated[0]
    assert resumed.report.id == calm.report.id


# Processes ------------------------------------------------------------------------------------------------------------


def start(home: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "eval", *args],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell in the background lets its children ignore Ctrl-C; people's terminals don't.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_keeps_what_was_computed_and_prints_how_to_go_on(home: Path, run: Any) -> None:
    options = ("--suite", "sample-domain", "--suite", "sample-general", "--batch-tokens", "64", "--project", "mine")
    process = start(home, "old", *options)
    database = home / "mine" / "workbench.sqlite"
    while process.poll() is None and (not database.exists() or count_rows(database) == 0):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    command = f"workbench eval old {' '.join(options)}"
    assert f"To go on: {command}" in err
    paid = count_answers(home / "mine")
    assert paid > 0
    ended = run("--resume", "--project", "mine")
    assert ended.code == 0
    assert "answers from the ledger" in ended.err
    assert not (home / "mine" / "unfinished-eval.json").exists()


def count_rows(database: Path) -> int:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM ledger").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_two_evaluations_at_once_in_one_project_agree(home: Path) -> None:
    Project.init(home / "mine").store.close()
    both = [start(home, "old", *QUICK, "--batch-tokens", "64", "--project", "mine", "--json") for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    ids = {json.loads(out)["reports"][0]["id"] for out, _ in ended}
    assert len(ids) == 1
