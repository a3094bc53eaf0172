"""A run over posts that is killed goes on to the same bytes, and says what came of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.errors import ConfigError
from workbench.moderation import ModerationRequest, moderate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("moderate")
    save_tiny_checkpoint(home / "model")
    posts = [{"id": str(n), "text": f"The market sold {n} apples", "community": "abc"[n % 3]} for n in range(23)]
    (home / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    (home / "rules.jsonl").write_text(json.dumps({"community": "a", "rules": ["No fruit."]}) + "\n")
    return home


def options(home, output="out.jsonl", **more):
    given = {"min_mass": 1e-9, "chunk": 4} | more
    return ModerationRequest(
        policy="moderation", input=home / "posts.jsonl", output=home / output, communities=home / "rules.jsonl", **given
    )


@pytest.fixture(scope="module")
def whole(home):
    run = moderate(home / "model", project=home / "project", request=options(home, "whole.jsonl"))
    return run, (home / "whole.jsonl").read_bytes()


def test_each_post_has_a_line_in_the_order_of_the_input(whole):
    run, data = whole
    rows = [json.loads(line) for line in data.splitlines()]
    assert [row["id"] for row in rows] == [str(n) for n in range(23)]
    assert run.posts == 23 and run.actions.total() == 23
    assert ("rule.no-fruit-" in str(rows[0])) and ("rule.no-fruit-" not in str(rows[1]))
    assert {rule["value"] for row in rows for rule in row["rules"].values()} <= {"violates", "allowed", "uncertain"}
    assert run.naive_tokens > run.tokens  # what the prompts share is computed once


@pytest.mark.parametrize("lines", [0, 3, 4, 10, 22, 23])
def test_a_run_goes_on_from_any_line_to_the_same_bytes(home, whole, lines):
    output = home / f"cut{lines}.jsonl"
    output.write_bytes(b"".join(whole[1].splitlines(keepends=True)[:lines]) + b'{"id": "to')
    header = (home / "whole.jsonl.run.json").read_text()
    output.with_name(output.name + ".run.json").write_text(header)
    run = moderate(home / "model", project=home / "project", request=options(home, output.name))
    assert output.read_bytes() == whole[1]
    assert (run.kept, run.posts) == (lines, 23)
    assert run.actions == whole[0].actions


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(home, whole):
    arguments = ["moderate", "model", "--policy", "moderation", "--input", "posts.jsonl", "--output", "killed.jsonl"]
    arguments += [
        "--communities",
        str(home / "rules.jsonl"),
        "--chunk",
        "4",
        "--min-mass",
        "1e-9",
        "--project",
        "project",
    ]
    command = [sys.executable, "-m", "workbench.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    output = home / "killed.jsonl"
    process = subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (output.exists() and output.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = output.read_bytes()
    assert whole[1].startswith(kept[: kept.rfind(b"\n") + 1])
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == whole[1]


def test_another_input_is_refused_and_nothing_is_written(home, whole):
    output = home / "other.jsonl"
    output.write_bytes(b"".join(whole[1].splitlines(keepends=True)[5:9]))
    output.with_name(output.name + ".run.json").write_text((home / "whole.jsonl.run.json").read_text())
    before = output.read_bytes()
    with pytest.raises(ConfigError, match="line 1 is about post '5'"):
        moderate(home / "model", project=home / "project", request=options(home, "other.jsonl"))
    assert output.read_bytes() == before


def test_another_layout_of_the_prompt_is_another_run(home, whole):
    other = "rules_first" if whole[0].layout == "text_first" else "text_first"
    with pytest.raises(ConfigError, match="prompt_version was"):
        moderate(home / "model", project=home / "project", request=options(home, "whole.jsonl", layout=other))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    return left.value.code or 0, out, err


def test_lines_go_to_standard_output_and_talk_elsewhere(home, capsys):
    code, out, err = run(
        capsys, "moderate", str(home / "model"), "--policy", "moderation", "--input", str(home / "posts.jsonl"),
        "--limit", "2", "--project", str(home / "project"), "--min-mass", "1e-9",
    )  # fmt: skip
    assert code == 0, err
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["0", "1"]
    assert "tokens computed" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--policy", "moderaton"], 'did you mean "moderation"'),
        (["--policy", "moderation", "--layout", "sideways"], "--layout sideways"),
        (["--policy", "moderation", "--surface", "contents"], 'did you mean "content"'),
        (["--policy", "moderation", "--communities", "none"], "no such folder or file"),
        (["--policy", "moderation", "--restart"], "--restart"),
        (["--policy", "moderation", "--json"], "add --output"),
        (["--policy", "moderation", "--input", "none.jsonl"], "no such file"),
        (["--policy", "moderation", "--min-mass", "2"], "min_mass"),
    ],
)
def test_what_can_be_mended_is_told_in_a_line(home, capsys, options, told):
    given = ["--input", str(home / "posts.jsonl")] if "--input" not in options else []
    code, out, err = run(capsys, "moderate", str(home / "model"), *options, *given, "--project", str(home / "project"))
    assert code == 2 and told in err and not out and "Traceback" not in err


def test_the_summary_is_one_object(home, whole, capsys):
    code, out, _ = run(
        capsys, "moderate", str(home / "model"), "--policy", "moderation", "--input", str(home / "posts.jsonl"),
        "--communities", str(home / "rules.jsonl"), "--chunk", "4", "--min-mass", "1e-9",
        "--output", str(home / "whole.jsonl"), "--json", "--project", str(home / "project"),
    )  # fmt: skip
    summary = json.loads(out)
    assert code == 0 and summary["schema_version"] and summary["kept"] == summary["posts"] == 23


def test_posts_are_drawn_into_the_queue_with_their_chance_and_nothing_twice(home, whole, capsys):
    from safety.review.ranking import draw_batch, pool_of
    from workbench.pipeline import open_project
    from workbench.store.reviews import review_items

    arguments = [
        "moderate", str(home / "model"), "--policy", "moderation", "--input", str(home / "posts.jsonl"),
        "--communities", str(home / "rules.jsonl"), "--chunk", "4", "--min-mass", "1e-9",
        "--output", str(home / "whole.jsonl"), "--project", str(home / "project"), "--queue", "mods", "--batch", "8",
    ]  # fmt: skip
    code, _, err = run(capsys, *arguments)
    assert code == 0 and "drawn for people" in err, err
    rows = [json.loads(line) for line in whole[1].splitlines()]
    draw = draw_batch(pool_of(rows), size=8, seed=0)
    with open_project(home / "project") as project:
        items = [one for one in review_items(project.store.database) if one.entry.queue == "mods"]
    # every text has other words or the same ones but for digits: all 23 are one cluster here
    assert items and all(one.entry.pi and 0 < one.entry.pi <= 1 and one.entry.stratum for one in items)
    assert {one.entry.score_version for one in items} == {
        f"expected_loss, {draw.score_version}, {whole[0].prompt_version}"
    }
    assert len({one.entry.cluster for one in items}) == 1
    assert all(one.entry.scores and one.entry.text for one in items)
    run(capsys, *arguments)
    with open_project(home / "project") as project:
        again = [one for one in review_items(project.store.database) if one.entry.queue == "mods"]
    assert [one.id for one in again] == [one.id for one in items]


def test_a_queue_needs_texts_that_can_be_read_again(home, capsys):
    code, _, err = run(
        capsys, "moderate", str(home / "model"), "--policy", "moderation", "--queue", "mods",
        "--project", str(home / "project"),
    )  # fmt: skip
    assert code == 2 and "give --input FILE and --output FILE" in err


def test_a_calibration_is_written_into_lines_and_one_of_something_else_is_refused(home, whole, capsys):
    import numpy as np

    from safety.calibration import Binding, Calibrator, Clearance, Curve

    first = json.loads(whole[1].splitlines()[0])
    rules = [name for name, one in first["rules"].items() if one["probability"] is not None]
    binding = Binding(
        model=whole[0].checkpoint.fingerprint, policy_hash=whole[0].policy_hash, prompt_version=whole[0].prompt_version
    )
    curve = Curve(how="platt", n=300, positives=100, slope=0.5, shift=-1.0)
    clear = {name: Clearance(below=0.9, promise="all of them") for name in rules}
    Calibrator(binding=binding, curves={rules[0]: curve}, clear=clear).save(home / "fits.json")
    rows = []
    request = options(home, output="", calibration=home / "fits.json", limit=8)
    moderate(home / "model", project=home / "project", request=replace(request, output=None), write=rows.append)
    for row, line in zip(rows, whole[1].splitlines(), strict=False):
        plain = json.loads(line)
        wanted = curve.apply(np.array([plain["rules"][rules[0]]["probability"]]))[0]
        assert row["rules"][rules[0]]["calibrated"] == pytest.approx(wanted, abs=1e-5)
        found = [one["value"] for one in row["rules"].values()]
        assert row["cleared"] == ("violates" not in found and "unscorable" not in found)
        assert row["action"] == plain["action"]  # what the policy does is the policy's
    other = replace(binding, policy_hash="p" * 64)
    Calibrator(binding=other, curves={}).save(home / "stale.json")
    code, _, err = run(
        capsys, "moderate", str(home / "model"), "--policy", "moderation", "--input", str(home / "posts.jsonl"),
        "--calibration", str(home / "stale.json"), "--project", str(home / "project"),
    )  # fmt: skip
    assert code == 2 and "stale" in err and "policy hash" in err


def test_of_near_duplicates_one_has_a_ranked_chance():
    from workbench.moderation_queue import cluster_keys

    long = "the new firmware stops at the second step and then the board blinks red until I pull the plug"
    keys = cluster_keys([long, f"{long} out", "buy 5 now", "Buy 77 NOW!", "something else is said here today", ""])
    assert keys[0] == keys[1] and keys[2] == keys[3] and len(set(keys)) == 4
