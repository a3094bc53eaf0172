"""Each known complaint is a recipe that is refused before a second of training, with the cure in the message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from tests.workbench.cli.test_train import end_turns
from training.preflight import Finding, refuse
from workbench.cli import main
from workbench.errors import ConfigError
from workbench.preflight import check_model
from workbench.runs import PreparedRun, prepare_run
from workbench.store import Project

PAIRS = [{"prompt": f"Where is bone {i}?", "completion": f"It is in place {i * i} of the body."} for i in range(240)]
BASE: dict[str, Any] = {
    "recipe": "toy",
    "method": "sft",
    "mix": [{"name": "own", "data": "pairs.jsonl", "share": 1.0, "max_epochs": 9}],
    "tokens": 6000,
    "sequence_length": 128,
    "batch_tokens": 512,
    "dtype": "float32",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "tiny")
    end_turns(tmp_path / "tiny")
    write(tmp_path, "pairs", PAIRS)
    write(tmp_path, "text", [{"text": f"Sentence {i} says where bone {i} lies. " * 4} for i in range(200)])
    return tmp_path


def write(home: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def prepare(home: Path) -> Callable[..., PreparedRun]:
    def call(**changes: Any) -> PreparedRun:
        path = home / "recipe.yaml"
        path.write_text(json.dumps(BASE | {"start": str(home / "tiny")} | changes))
        return prepare_run(path, Project.open_or_init(home / "p"))

    return call


def texts(findings: tuple[Finding, ...], check: str) -> list[str]:
    return [f"{one.level}: {one.text}" for one in findings if one.check == check]


def test_a_sound_recipe_passes_every_check(prepare: Any) -> None:
    run = prepare()
    levels = {one.check: one.level for one in (*run.findings, *check_model(run, steps=False).findings)}
    assert levels.pop("evaluation") == "warning"  # it names no suite
    assert set(levels) == {"schedule", "tokenizer", "mask", "stop token", "memory", "packing"}
    assert levels.pop("tokenizer") == "warning"  # a vocabulary of 400
    assert set(levels.values()) == {"ok"}


def test_a_model_that_would_never_stop_is_refused(home: Path, prepare: Any) -> None:
    """huggingface/trl#7230, #1623, #2059: pad = eos, or a template without the stop token."""
    end_turns(home / "tiny", ended=False)
    with pytest.raises(ConfigError, match="would never stop; mend the chat template"):
        prepare()


def test_a_warm_up_of_the_whole_run_is_refused(prepare: Any) -> None:
    """Nova's shipped recipe: 10 of 10 steps are warm-up."""
    with pytest.raises(ConfigError, match=r"steps are warm-up.*lower schedule.warmup \(0.05 is usual\)"):
        prepare(schedule={"warmup": 0.99, "kind": "cosine"})


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"save_every": 2500}, "save_every: 2500 never comes in a run of 32 steps; lower it"),
        ({"evaluation": {"suites": ["sample-general"], "every": 2500}}, "evaluation.every: 2500 never comes"),
        ({"lerning_rate": 1}, "lerning_rate: unknown key"),
        ({"schedule": {"learning_rat": 1}}, 'did you mean "learning_rate"'),
    ],
)
def test_what_never_comes_and_what_is_misspelt_is_refused(prepare: Any, change: dict[str, Any], cure: str) -> None:
    """Nova: validation every 2500 of 100 steps; validators that accept any key."""
    with pytest.raises(ConfigError) as caught:
        prepare(**change)
    assert cure in str(caught.value)


def test_rows_too_long_for_the_run_are_refused_with_the_length_that_fits(home: Path, prepare: Any) -> None:
    """Others cut answers, or drop rows, unseen."""
    write(home, "pairs", [{"prompt": f"Say {i}.", "completion": "word " * (6 + 90 * (i % 2))} for i in range(240)])
    with pytest.raises(
        ConfigError, match=r"5\d% of its rows are longer than 128 tokens.*sequence_length: \d+ takes 99%"
    ):
        prepare(mix=[BASE["mix"][0] | {"max_epochs": 99}])


def test_a_method_without_its_kind_of_data_is_refused_with_advice(prepare: Any) -> None:
    with pytest.raises(ConfigError, match=r"no own source holds any.*set method: pretrain"):
        prepare(mix=[{"name": "own", "data": "text.jsonl", "share": 1, "max_epochs": 99}])


def test_pairs_in_pre_training_and_few_pairs_are_answered_with_advice(home: Path, prepare: Any) -> None:
    (pretrain,) = texts(prepare(method="pretrain").findings, "method")
    assert pretrain.startswith("warning") and "method: sft puts it on the answers" in pretrain
    write(home, "pairs", PAIRS[:60])
    (few,) = texts(prepare(mix=[BASE["mix"][0] | {"max_epochs": 99}]).findings, "method")
    assert few.startswith("warning: 60 pairs are few: examples in the prompt often do as well")


def test_packed_documents_that_see_each_other_are_refused_as_measured_on_the_model(home: Path, prepare: Any) -> None:
    """huggingface/trl#3067, #1230, #2834: a state-space model keeps its state from one document to the next."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    run = prepare()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=2, state_size=8, eos_token_id=1)
        model = MambaForCausalLM(config).eval()
    from training.preflight import check_leak, first_rows, leak
    from training.start import load_weights

    rows = first_rows(run.recipe, run.sources, pad=1)
    found = check_leak(model, rows)
    assert found.level == "refused" and "set packing: false" in found.text
    sound = leak(load_weights(home / "tiny"), rows[0])
    assert sound < 1e-5
    # with the cure each document has a row of its own, and what pads stands behind it
    alone = prepare(packing=False)
    (row, *_) = first_rows(alone.recipe, alone.sources, pad=1)
    assert len(row.spans) == 1 and leak(model, row) < 1e-5


def test_questions_of_the_suites_in_the_data_are_refused_or_left_out(home: Path, prepare: Any) -> None:
    from benchmarks.overlap import load_asked

    (task, *_) = load_asked(["sample-general"])
    held = [{"prompt": f"Hear this. {item.question}", "completion": item.answer} for item in task.items[:12]]
    assert task.required and len(task.items) == 203 and task.margin == 0.05
    suites = {"suites": ["sample-general"]}
    write(home, "pairs", [*PAIRS, *held])
    with pytest.raises(ConfigError, match=r"12 of 252 rows hold 12 of 203 questions.*margin 5%.*set on_overlap: drop"):
        prepare(evaluation=suites)
    write(home, "pairs", [*PAIRS, held[0]])  # one question in 203 cannot move the score by the margin
    (told,) = texts(prepare(evaluation=suites).findings, "overlap")
    assert told.startswith("warning") and "1 of 203 questions" in told
    run = prepare(evaluation=suites, on_overlap="drop")
    assert run.plan.sources[0].left_out == {"evaluation": 1} and run.plan.sources[0].rows == 240
    (told,) = texts(run.findings, "overlap")
    assert told.startswith("warning") and "row 241" in told
    (allowed,) = texts(prepare(evaluation=suites, on_overlap="allow").findings, "overlap")
    assert "nobody looked" in allowed


def test_a_retained_suite_that_shares_its_source_with_the_replay_is_refused(
    home: Path, prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe that shares its source with the replay improves whatever else is forgotten."""
    data = home / "sets"
    (data / "lambada").mkdir(parents=True)
    (data / "lambada" / "train.jsonl").write_text((home / "text.jsonl").read_text())
    rows = [{"id": f"p{i}", "context": f"He walked to place {i} and saw a", "continuation": "house"} for i in range(20)]
    from benchmarks.catalog import load_manifest

    (data / load_manifest().sets["lambada"].test).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("WORKBENCH_DATA", str(data))
    replay = {"name": "old", "data": str(data / "lambada" / "train.jsonl"), "share": 0.3, "max_epochs": 99}
    mix = [BASE["mix"][0] | {"share": 0.7}, replay | {"role": "replay"}]
    asked = {"tasks": ["lambada"]}
    with pytest.raises(ConfigError, match=r"share their source.*take another source for the replay"):
        prepare(mix=mix, evaluation=asked, on_overlap="allow")
    prepare(mix=[mix[0], replay | {"role": "replay", "data": "text.jsonl"}], evaluation=asked)


def test_too_little_memory_is_refused_before_anything_is_loaded_twice() -> None:
    from training.preflight import check_memory

    assert check_memory(10**9, 16 * 10**9).level == "ok"
    refused = check_memory(10**9, 15 * 10**9)
    assert refused.level == "refused" and "smaller start" in refused.text
    assert check_memory(10**9, 5 * 10**9, trained=10**7).level == "ok"  # adapters
    with pytest.raises(ConfigError, match="memory: 1,000,000,000 weights"):
        refuse([refused])


def test_a_text_that_the_tokenizer_was_not_made_for_is_pointed_out(home: Path, prepare: Any) -> None:
    write(home, "text", [{"text": "心臓は血液を全身に送り出す器官である。" * 4 + str(i)} for i in range(200)])
    mix = [BASE["mix"][0] | {"share": 0.5}, {"name": "ja", "data": "text.jsonl", "share": 0.5}]
    found = [text for text in texts(prepare(mix=mix).findings, "tokenizer") if "'ja'" in text]
    assert found[0].startswith("warning") and "tokens a character" in found[0]


def test_all_refusals_are_told_at_once(prepare: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(
            mix=[{"name": "own", "data": "text.jsonl", "share": 1, "max_epochs": 99}],
            schedule={"warmup": 0.99, "kind": "cosine"},
        )
    assert len(str(caught.value).splitlines()) == 2


def test_a_dry_run_measures_two_real_steps_and_shows_the_first_row(
    home: Path, prepare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare()
    before = {path.name for path in home.iterdir()}
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main(["train", str(home / "recipe.yaml"), "--dry-run", *words, "--project", str(home / "p")])
        assert not caught.value.code
        out, err = capsys.readouterr()
        if not words:
            assert "two real steps:" in err and "⟦It is in place" in out and "— own:" in out
    found = json.loads(out)
    assert found["measured"]["seconds_per_step"] > 0
    assert found["measured"]["seconds"] == pytest.approx(found["measured"]["seconds_per_step"] * found["plan"]["steps"])
    assert {one["check"] for one in found["checks"]} >= {"packing", "memory", "stop token", "mask"}
    assert {path.name for path in home.iterdir()} == before and not (home / "p" / "runs").exists()


def test_inspect_shows_samples_shares_and_what_carries_loss(
    home: Path, prepare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = [BASE["mix"][0] | {"share": 0.5}, {"name": "old", "data": "text.jsonl", "share": 0.5, "max_epochs": 99}]
    prepare(mix=mix)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["data", "inspect", str(home / "recipe.yaml"), *words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    code, out, err = call("--rows", "2")
    assert code == 0 and "asked 50.0%" in err
    assert "[user]Where is bone" in out and "⟦It is in place" in out
    _, out, _ = call("--json", "--step", "3")
    found = json.loads(out)
    pieces = found["packed"][0]
    assert {piece["source"] for piece in pieces} <= {"own", "old", "padding"}
    assert all(len(source["samples"]) == 2 for source in found["sources"])
    assert call("--step", "999")[0] == 2
