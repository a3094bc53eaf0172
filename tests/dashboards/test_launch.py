"""What is started from a page is a command like any other: it goes on alone, is followed, stopped and found again."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dashboards import jobs
from dashboards.launching import Choice, build_recipe, find_data, find_recipes, general_share, write_recipe
from tests.tiny import save_tiny_checkpoint
from tests.workbench.cli.test_train import end_turns
from workbench.config import read_yaml
from workbench.errors import ConfigError
from workbench.progress import list_runs
from workbench.store import Project


def wait(root: Path, identity: str, *, seconds: float = 60.0) -> jobs.Job:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = jobs.find_job(root, identity)
        assert job is not None
        if job.state != "running":
            return job
        time.sleep(0.1)
    raise AssertionError(f"still running: {jobs.read_output(root, identity)}")


def test_a_job_writes_down_what_it_said_and_how_it_ended(empty: Path) -> None:
    job = jobs.start_job(empty, ["runs", "--project", str(empty)], who="ada")
    assert job.state == "running" and job.line.startswith("workbench runs")
    done = wait(empty, job.id)
    assert (done.state, done.code, done.who) == ("ended", 0, "ada")
    assert "no runs yet" in jobs.read_output(empty, job.id)
    assert [one.id for one in jobs.list_jobs(empty)] == [job.id]


def test_a_job_that_is_stopped_ends_as_by_ctrl_c_and_one_that_was_killed_is_gone(empty: Path) -> None:
    project = ["--project", str(empty)]
    first = jobs.start_job(empty, ["dashboard", "--port", "0", "--no-open", *project], who="ada")
    deadline = time.monotonic() + 60
    while "http://" not in jobs.read_output(empty, first.id) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert jobs.stop_job(empty, first.id)
    assert wait(empty, first.id).state == "ended"
    assert not jobs.stop_job(empty, first.id)
    second = jobs.start_job(empty, ["dashboard", "--port", "0", "--no-open", *project], who="ada")
    facts = json.loads((empty / "jobs" / second.id / "process.json").read_text())
    time.sleep(0.5)
    os.killpg(facts["pid"], signal.SIGKILL)
    psutil.Process(facts["pid"]).wait(10) if psutil.pid_exists(facts["pid"]) else None
    assert wait(empty, second.id).state == "gone"


@pytest.mark.parametrize("identity", ["../../etc", "20260101-000000-zzzzzz", "", "..", "20260101-000000-abcdef/../x"])
def test_an_id_that_is_none_of_ours_never_becomes_a_path(empty: Path, identity: str) -> None:
    assert jobs.find_job(empty, identity) is None
    assert jobs.read_output(empty, identity) == ""
    assert not jobs.stop_job(empty, identity)


def test_the_number_of_another_process_is_never_taken_for_a_jobs(empty: Path) -> None:
    folder = empty / "jobs" / "20260101-000000-abcdef"
    folder.mkdir(parents=True)
    (folder / "asked.json").write_text(json.dumps({"words": ["runs"], "who": "a", "begun_at": "2026-01-01T00:00:00"}))
    (folder / "process.json").write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))
    assert jobs.read_job(folder).state == "gone"
    assert not jobs.stop_job(empty, folder.name)


def choice(**fields: Any) -> Choice:
    defaults: dict[str, Any] = {
        "name": "mine", "start": "smollm2", "general_share": 0.5, "tokens": 1000, "learning_rate": 1e-4, "data": {},
    }  # fmt: skip
    return Choice(**(defaults | fields))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_the_dial_sets_the_share_of_general_data_in_every_shipped_recipe(share: float, empty: Path) -> None:
    for name, path in find_recipes(empty).items():
        before = general_share(read_yaml(path))
        if before is None:
            continue
        made = build_recipe(path, choice(general_share=share), empty)
        assert general_share(made) == pytest.approx(share, abs=1e-4), name
        total = sum(source["share"] for source in made["mix"])
        assert total == pytest.approx(sum(float(one["share"]) for one in read_yaml(path)["mix"]), abs=1e-4)


def test_data_of_the_project_is_offered_and_none_outside_of_it_is_taken(empty: Path) -> None:
    (empty / "rows.jsonl").write_text("{}\n")
    assert find_data(empty) == ["rows.jsonl"]
    template = find_recipes(empty)["shipped: sft"]
    made = build_recipe(template, choice(data={"domain": "rows.jsonl"}), empty)
    assert made["mix"][0]["data"] == str((empty / "rows.jsonl").resolve())
    with pytest.raises(ConfigError, match="outside of the project"):
        build_recipe(template, choice(data={"domain": "../secret.jsonl"}), empty)
    with pytest.raises(ConfigError, match="small letters"):
        build_recipe(template, choice(name="../x"), empty)


def test_a_recipe_that_was_carried_out_is_not_written_over(empty: Path) -> None:
    made = build_recipe(find_recipes(empty)["shipped: sft"], choice(), empty)
    path = write_recipe(made, empty)
    assert yaml.safe_load(path.read_text())["recipe"] == "mine"
    (empty / "runs" / "mine").mkdir(parents=True)
    assert write_recipe(made, empty) == path
    with pytest.raises(ConfigError, match="another name"):
        write_recipe(made | {"tokens": 5}, empty)


def test_a_viewer_may_not_start_anything(empty: Path, open_page: Callable[..., Any]) -> None:
    with (empty / "workbench.yaml").open("a") as file:
        file.write("\ndashboard_roles: {ada: [ml]}\n")
    shown = open_page(empty, "overview", "--read-only")
    assert "launch" not in str(shown)
    with pytest.raises(ValueError, match="page"):
        open_page(empty, "launch", "--read-only").run()


def test_a_run_from_the_page_is_trained_evaluated_and_decided_and_seen_by_the_command_line(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    root = tmp_path / "p"
    Project.init(root).close()
    save_tiny_checkpoint(root / "tiny", seed=1)
    end_turns(root / "tiny")
    rows = [{"prompt": f"Where is bone {i}?", "completion": f"In place {i * i}."} for i in range(20)]
    (root / "domain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "general.txt").write_text("He went to the market because the bread was gone. " * 20)
    mix = [
        {"name": "domain", "data": "domain.jsonl", "share": 0.5, "max_epochs": 90},
        {"name": "general", "data": "general.txt", "share": 0.5, "max_epochs": 90},
    ]
    recipe = {
        "recipe": "pushed", "start": str(root / "tiny"), "method": "sft", "mix": mix, "tokens": 600,
        "sequence_length": 64, "batch_tokens": 256, "dtype": "float32", "schedule": {"learning_rate": 1e-3},
        "evaluation": {"tasks": ["sample_anatomy_cloze"], "limit": 10},
    }  # fmt: skip
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    shown = open_page(root, "launch")
    shown.slider[0].set_value(25).run()
    next(button for button in shown.button if button.label == "Launch").click().run()
    (job,) = jobs.list_jobs(root)
    done = wait(root, job.id, seconds=120)
    output = jobs.read_output(root, job.id)
    assert done.code in (0, 1, 3), output
    (run,) = list_runs(Project.find(root))
    assert (run.name, run.state) == ("pushed", "done") and run.outcome in ("pass", "hold", "fail")
    made = yaml.safe_load((root / "recipes" / "pushed.yaml").read_text())
    assert [source["share"] for source in made["mix"]] == pytest.approx([0.75, 0.25])
    shown = open_page(root, "launch", job=job.id)
    assert {"Serve", "Decide"} <= {button.label for button in shown.button}
