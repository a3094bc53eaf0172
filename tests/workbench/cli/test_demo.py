"""`workbench demo` at toy size: the embedded model's place holds a tiny one."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest

import training
from benchmarks.rows import PACKAGE
from tests.tiny import save_tiny_checkpoint, tiny_tokenizer
from workbench.cli import main
from workbench.store import Project

TESTED = ("routing_test.jsonl", "routing_dev.jsonl", "general_test.jsonl", "general_dev.jsonl")


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *args])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working folder, and a cache in which `smollm2` is a tiny random model."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(folder / "cache"))
        patch.setattr("sys.argv", ["workbench", "demo"])
        _save_model(folder / "cache" / "models" / "smollm2")
        (folder / "work").mkdir()
        patch.chdir(folder / "work")
        yield folder / "work"


def _save_model(folder):
    """A tiny model whose chat template ends each turn, as a start of fine-tuning needs it."""
    save_tiny_checkpoint(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    tokenizer.save_pretrained(folder)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of one command after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


@pytest.fixture(scope="module")
def first(home):
    """What the first demo printed: (stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run("--json") == 0
    return out.getvalue(), err.getvalue()


def test_the_demo_trains_evaluates_and_decides_by_commands_that_anyone_could_type(home, first):
    commands = [line.removeprefix("$ workbench ").split()[0] for line in first[1].splitlines() if line.startswith("$ ")]
    assert commands == ["train", "eval", "gate", "gate", "compare", "assess", "gate", "moderate", "review"]
    assert first[1].count("exit code ") == 4
    assert (home / "demo" / "decision.html").is_file()


def test_the_demo_fills_a_ranked_queue_from_the_models_own_doubt_and_says_how_to_open_it(home, first):
    from safety.review.queue import Operator, ReviewQueue

    stats = ReviewQueue.open(Project.open_or_init(home / "demo")).stats(Operator(name="test"), "default")
    assert stats.items["open"] > 0
    assert "workbench review open --project demo" in first[1]
    assert "workbench dashboard --project demo" in first[1]


def test_the_demo_ends_in_a_decision_for_each_checkpoint(first):
    trained, evaluated, harmless, damaged, compared, *_ = objects(first[0])
    assert trained["decision"]["checkpoint"]["name"].startswith("demo")
    names = [gate["decision"]["checkpoint"]["name"] for gate in (harmless, damaged)]
    assert names == ["smollm2-float16", "smollm2-3bit"]
    assert {gate["decision"]["outcome"] for gate in (trained, harmless, damaged)} <= {"pass", "fail", "hold"}
    assert len(evaluated["comparisons"]) == 2
    (comparison,) = compared["comparisons"]
    assert all(task["noise"] is not None for task in comparison["tasks"] if task["metric"] != "bits_per_byte")


def test_the_demo_holds_the_harmless_copy_against_a_policy(home, first):
    *_, assessed, decided, _, _ = objects(first[0])
    assert decided["decision"]["evidence"]["policy"] == "default@1"
    assert decided["decision"]["evidence"]["assessment"] == assessed["reports"][-1]["id"]
    rules = [rule["rule"] for rule in decided["decision"]["rules"]]
    assert any(rule.endswith("kept") for rule in rules) and any("violation_rate[defamation]" in rule for rule in rules)
    assert (home / "demo" / "prompts.jsonl").is_file()


def test_what_was_trained_and_both_copies_have_the_model_as_their_parent(home, first):
    model, *twins = (report["checkpoint"] for report in objects(first[0])[1]["reports"])
    store = Project.find(home / "demo").store
    trained = objects(first[0])[0]["checkpoints"][-1]
    for made in (*twins, trained):
        assert store.checkpoint(made["fingerprint"]).parent == model["fingerprint"]
    assert len({one["fingerprint"] for one in (model, trained, *twins)}) == 4


def test_no_message_of_the_demo_trains_and_tests():
    samples = Path(training.__file__).parent / "samples"
    texts = "".join(path.read_text() for path in samples.glob("*.jsonl"))
    tested = [json.loads(line) for name in TESTED for line in (PACKAGE / "samples" / name).read_text().splitlines()]
    assert len(tested) > 300
    assert [row["question"] for row in tested if json.dumps(row["question"], ensure_ascii=False)[1:-1] in texts] == []


def test_the_second_demo_pays_for_nothing_and_decides_the_same(first, capsys):
    assert run("--json") == 0
    again = objects(capsys.readouterr().out)
    before, after = (objects(first[0])[1]["reports"], again[1]["reports"])
    assert all(report["timing"]["requests_computed"] > 0 for report in before)
    assert all(report["timing"]["requests_computed"] == 0 for report in after)
    assert [report["id"] for report in before] == [report["id"] for report in after]
    assert again[0]["decision"]["outcome"] == objects(first[0])[0]["decision"]["outcome"]
