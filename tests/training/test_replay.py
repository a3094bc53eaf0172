"""Replay that a model writes itself: reproducible, resumable, without repeats, and counted honestly."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from training.replay import Writing, _fault, _whole_sentences, is_refusal, user_turn, write_replay
from workbench.engines import Engine, load
from workbench.errors import ConfigError, RunError
from workbench.store.checkpoints import resolve

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real engine with a tiny random model, which writes nonsense of many kinds."""
    found = load(resolve(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")), dtype="float32")
    found.tokenizer.chat_template = TEMPLATE
    yield found
    found.close()


def writing(**more: Any) -> Writing:
    fields: dict[str, Any] = {"written_by": "f" * 64, "kind": "text", "max_new_tokens": 24}
    return Writing(**(fields | more))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_texts_are_written_again_alike_and_other_seeds_write_others(engine: Engine, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = write_replay(engine, writing(seed=seed), tmp_path / name, tokens=300)
        assert done.tokens >= 300 and len(rows(tmp_path / name)) == done.rows
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() != (tmp_path / "c").read_text()
    assert all(row["written_by"] == "f" * 64 and row["text"].strip() for row in rows(tmp_path / "a"))
    assert len({row["text"] for row in rows(tmp_path / "a")}) == len(rows(tmp_path / "a"))


def test_a_writing_that_was_killed_goes_on_to_the_same_file(engine: Engine, tmp_path: Path) -> None:
    whole = write_replay(engine, writing(), tmp_path / "whole", tokens=1200)
    write_replay(engine, writing(), tmp_path / "cut", tokens=300)
    with (tmp_path / "cut").open("a") as file:
        file.write('{"text": "half a li')  # the round that was not finished
    again = write_replay(engine, writing(), tmp_path / "cut", tokens=1200)
    assert (tmp_path / "cut").read_text() == (tmp_path / "whole").read_text()
    assert again == whole and whole.rounds > 1


def test_what_was_begun_otherwise_or_by_others_is_refused(engine: Engine, tmp_path: Path) -> None:
    write_replay(engine, writing(), tmp_path / "a", tokens=100)
    with pytest.raises(ConfigError, match="was begun with seed 0, now 7"):
        write_replay(engine, writing(seed=7), tmp_path / "a", tokens=100)
    (tmp_path / "mine").write_text("{}\n")
    with pytest.raises(ConfigError, match="was not begun by this command"):
        write_replay(engine, writing(), tmp_path / "mine", tokens=100)


def test_a_model_that_never_ends_a_turn_is_told_with_the_counts(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"of 128 texts \d+ are of use \(.*unfinished"):
        write_replay(engine, writing(kind="chat", max_new_tokens=8), tmp_path / "a", tokens=10**6)


def test_a_users_turn_is_opened_and_closed_as_the_template_does(engine: Engine) -> None:
    assert user_turn(engine.tokenizer) == ("<s>user\n", "</s>")
    engine.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="--kind text"):
        user_turn(engine.tokenizer)
    engine.tokenizer.chat_template = TEMPLATE


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("As an AI, I have no body.", True),
        ("The heart pumps blood. I can help you with more.", False),
    ],
)
def test_refusals_are_known_by_their_words(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) is refuses


def test_circles_and_cut_sentences_are_noticed() -> None:
    assert _fault({"text": "the bone is white and " * 8}) == "repetitive"
    assert _fault({"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]}) == "empty"
    assert _fault({"text": "One plain sentence that says a thing."}) == ""
    assert _whole_sentences('He left. "Why?" she asked. Then the') == 'He left. "Why?" she asked.'
