"""A run that watches itself: it acts where it forgets, changes no number of training, and decides alike when killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_run import home, make_recipe, open_all, same_weights  # noqa: F401
from training.control import Control, Judged, Measured
from training.ledger import seen_rows
from training.run import Trained, train
from training.sentinel import Sentinel, text_losses, write_texts
from workbench.errors import RunError
from workbench.watching import task_rows


class Retained:
    """Losses of texts that the start itself wrote: whatever a run learns, these go up."""

    def __init__(self, start: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
            self.texts = write_texts(model, AutoTokenizer.from_pretrained(start), 24)

    def __call__(self, model: Any) -> Mapping[str, Measured]:
        torch.rand(3)  # a careless probe: the run must not notice
        losses = text_losses(model, self.texts)
        return {"retained": Measured(values=losses, margin=0.02, binary=False, direction="lower", keys=("general",))}


def control(**more: Any) -> Control:
    fields: dict[str, Any] = {"suites": ("given",), "every": 2, "hits": 2, "replay": ("chat",)}
    return Control.model_validate(fields | more, strict=False)


def run_watched(home: Path, folder: Path, asked: Control, *, told: list[Judged] | None = None) -> Trained:  # noqa: F811
    recipe = make_recipe(control=asked.model_dump(), tokens=5000)
    tokenizer, opened, plan = open_all(recipe, home)
    rows = task_rows(recipe, opened, tokenizer.eos_token_id)
    hear = (lambda judged: told.append(judged)) if told is not None else (lambda _: None)
    sentinel = Sentinel(asked, Retained(home / "tiny"), task_rows=rows, on_judged=hear)
    return train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, hooks=[sentinel])


def events(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    for event in found:
        event.pop("seconds", None)
    return found


def test_watching_changes_no_number_of_training(home: Path) -> None:  # noqa: F811
    recipe = make_recipe(tokens=5000)
    tokenizer, opened, plan = open_all(recipe, home)
    plain = train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=home / "unwatched")
    watched = run_watched(home, home / "warned", control(on_forgetting="warn", self_written=24, kl_every=2))
    assert same_weights(plain.last, watched.last)
    assert watched.stopped is None
    looks = [event for event in events(watched.folder) if event["event"] == "evaluated"]
    assert looks[-1]["verdict"] == "warn"
    assert set(looks[-1]["slipped"]) == {"retained", "self-written text"}  # the two probes agree


def test_a_run_that_forgets_is_stopped_with_a_checkpoint(home: Path) -> None:  # noqa: F811
    told: list[Judged] = []
    made = run_watched(home, home / "stopped-by-sentinel", control(on_forgetting="stop"), told=told)
    assert made.stopped is not None and made.stopped.startswith("forgot: retained")
    assert told[-1].verdict == "stop" and made.steps == told[-1].step
    assert (made.last / "model.safetensors").is_file()
    task = told[-1].tasks[0]
    assert task.change < -0.02 and task.p_loss <= 0.05


def test_more_replay_is_given_to_what_slipped(home: Path) -> None:  # noqa: F811
    made = run_watched(home, home / "remixed", control(on_forgetting="remix", max_changes=1, hits=1))
    shares = [event for event in events(made.folder) if event["event"] == "shares"]
    assert shares[0]["shares"]["chat"] == pytest.approx(0.45)  # half as much again of 0.3
    assert shares[0]["from"] > shares[0]["step"]


@pytest.fixture(scope="module")
def rolled(home: Path) -> Trained:  # noqa: F811
    return run_watched(home, home / "rolled", control(on_forgetting="roll_back", max_changes=1, hits=1))


def test_a_big_loss_goes_back_to_the_last_good_checkpoint_with_more_replay(rolled: Trained) -> None:
    (back,) = [event for event in events(rolled.folder) if event["event"] == "rolled back"]
    assert back["step"] < back["at"] and back["shares"]["chat"] == pytest.approx(0.45)
    assert back["slipped"] == ["retained"] and back["tasks"][0]["big"]
    seen = sorted({(one.step, one.packed) for one in seen_rows(rolled.folder)})
    assert [step for step, packed in seen if packed == 0] == list(range(1, rolled.steps + 1))  # one history, the last


def test_where_no_look_was_good_the_run_begins_again_with_more_replay(home: Path) -> None:  # noqa: F811
    asked = control(on_forgetting="roll_back", every=4, max_changes=1, hits=1)
    made = run_watched(home, home / "again", asked)
    (back,) = [event for event in events(made.folder) if event["event"] == "rolled back"]
    assert (back["step"], back["at"]) == (0, 4)
    cut = home / "again-cut"
    shutil.copytree(made.folder, cut)
    for checkpoint in cut.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # killed before the first one was whole: what was decided is kept all the same
    assert same_weights(made.last, run_watched(home, cut, asked).last)


@pytest.mark.parametrize("asked", ["roll_back", "remix"])
def test_a_run_killed_at_any_moment_decides_alike_and_ends_in_the_same_bits(
    home: Path,  # noqa: F811
    rolled: Trained,
    asked: str,
) -> None:
    folder = home / f"killed-{asked}"
    script = (
        "import sys; from pathlib import Path; from tests.training.test_sentinel import control, run_watched;"
        "run_watched(Path(sys.argv[1]), Path(sys.argv[2]),"
        " control(on_forgetting=sys.argv[3], max_changes=1, hits=1))"
    )
    whole = rolled if asked == "roll_back" else run_watched(
        home, home / "whole-remix", control(on_forgetting="remix", max_changes=1, hits=1)
    )  # fmt: skip
    for lines in (1, 3):  # killed after its first look, and once more on the way
        process = subprocess.Popen([sys.executable, "-c", script, str(home), str(folder), asked])
        while process.poll() is None and len(_lines(folder / "events.jsonl")) < lines:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = run_watched(home, folder, control(on_forgetting=asked, max_changes=1, hits=1))
    assert same_weights(whole.last, again.last)
    assert (again.steps, again.stopped, again.given) == (whole.steps, whole.stopped, whole.given)
    assert events(folder) == events(whole.folder)


def test_the_kl_from_the_start_is_zero_at_the_start_grows_and_alarms(home: Path) -> None:  # noqa: F811
    quiet = run_watched(home, home / "kl", control(every=10, kl_every=1, kl_limit=100.0))
    values = [event["nats"] for event in events(quiet.folder) if event["event"] == "kl"]
    assert values[-1] > values[0] >= 0
    alarmed = run_watched(home, home / "kl-alarm", control(every=10, kl_every=1, kl_limit=values[2] * 0.999))
    looks = [event["step"] for event in events(alarmed.folder) if event["event"] == "evaluated"]
    (first,) = [event["step"] for event in events(alarmed.folder) if event["event"] == "kl" and event["alarm"]][:1]
    assert looks[0] == first


def test_the_kl_is_that_of_the_definition(home: Path) -> None:  # noqa: F811
    """Against torch's own, over the whole row."""
    from transformers import AutoModelForCausalLM

    from training.sentinel import _kl_places, _log_probabilities

    recipe = make_recipe(control=control().model_dump())
    tokenizer, opened, _ = open_all(recipe, home)
    rows, places = _kl_places(task_rows(recipe, opened, tokenizer.eos_token_id))
    one, other = (AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
        a, b = (_log_probabilities(model, rows, places) for model in (one, other))
        mine = (a.exp() * (a - b)).sum(-1).mean()
        logits = [
            model(input_ids=torch.from_numpy(rows[0]), position_ids=torch.from_numpy(rows[1]), use_cache=False).logits
            for model in (one, other)
        ]
        flat = [torch.log_softmax(one.reshape(-1, one.shape[-1])[places], -1) for one in logits]
    assert mine == pytest.approx(
        float(torch.nn.functional.kl_div(flat[1], flat[0], log_target=True, reduction="batchmean")), rel=1e-4
    )


def test_self_written_texts_are_the_same_each_time_and_their_loss_is_the_models(home: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(home / "tiny", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(home / "tiny")
    texts = []
    for _ in range(2):
        torch.manual_seed(3)
        texts.append(write_texts(model, tokenizer, 5))
    assert np.array_equal(*texts)
    with torch.no_grad():
        losses = text_losses(model, texts[0])
        for text, loss in zip(texts[0], losses, strict=True):
            ids = torch.from_numpy(text[text >= 0])[None]
            assert loss == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-4)


def test_the_pace_is_found_once_and_keeps_to_its_share_of_the_time(home: Path) -> None:  # noqa: F811
    made = run_watched(home, home / "paced", control(every=None, share=0.5))
    (pace,) = [event for event in events(made.folder) if event["event"] == "pace"]
    assert pace["every"] >= pace["evaluation_s"] / (0.5 * pace["step_s"]) * 0.99
    assert json.loads((made.folder / "sentinel.json").read_text())["every"] == pace["every"]


def test_without_what_was_measured_of_the_start_a_run_does_not_go_on(home: Path) -> None:  # noqa: F811
    made = run_watched(home, home / "to-lose", control(on_forgetting="warn"))
    cut = home / "lost"
    shutil.copytree(made.folder, cut)
    shutil.rmtree(cut / made.last.name)
    (cut / "sentinel.npz").unlink()
    with pytest.raises(RunError, match="is gone"):
        run_watched(home, cut, control(on_forgetting="warn"))


def test_two_processes_decide_as_one(home: Path, rolled: Trained) -> None:  # noqa: F811
    folder, script = home / "two-watched", home / "two_watched.py"
    script.write_text(
        "import sys; from pathlib import Path; from tests.training.test_sentinel import control, run_watched\n"
        "run_watched(Path(sys.argv[1]), Path(sys.argv[2]),"
        " control(on_forgetting='roll_back', max_changes=1, hits=1))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(script), str(home), str(folder)),
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = [
        [(event["step"], event["event"], event.get("verdict")) for event in events(one)]
        for one in (folder, rolled.folder)
    ]
    assert told[0] == told[1]
    assert seen_rows(folder) == seen_rows(rolled.folder)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def test_adapters_are_watched_as_the_model_that_they_are_merged_into(home: Path) -> None:  # noqa: F811
    from transformers import AutoModelForCausalLM

    asked = control(on_forgetting="warn", kl_every=2)
    recipe = make_recipe(control=asked.model_dump(), tokens=2000, lora={"rank": 4}, save_every=2, keep=9)
    tokenizer, opened, plan = open_all(recipe, home)
    retained, means = Retained(home / "tiny"), []

    def measure(model: Any) -> Mapping[str, Measured]:
        found = retained(model)
        means.append(float(found["retained"].values.mean()))
        return found

    hooks = [Sentinel(asked, measure, task_rows=task_rows(recipe, opened, tokenizer.eos_token_id))]
    folder = home / "adapters"
    train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, hooks=hooks)
    merged = AutoModelForCausalLM.from_pretrained(folder / "checkpoint-2", dtype=torch.float32)
    with torch.no_grad():
        assert means[1] == pytest.approx(text_losses(merged, retained.texts).mean(), rel=1e-4)
    assert means[1] != pytest.approx(means[0], rel=1e-4)
    assert all(event["nats"] > 0 for event in events(folder) if event["event"] == "kl")
