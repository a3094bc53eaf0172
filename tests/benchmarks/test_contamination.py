"""Overlaps that are really there, built on purpose, are found; what only looks alike is not."""

import gzip
import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.contamination import TestItem, find_contamination, read_training
from workbench.errors import TaskError

LONG = "Which large vessel carries blood rich in oxygen from the lungs back to the left atrium of the heart"
WORDS = [f"w{i}" for i in range(400)]


def noise(n, seed=0):
    rnd = random.Random(seed)
    return " ".join(rnd.choice(WORDS) for _ in range(n))


def write(folder, rows, name="train.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def item(question, answer="", name="q"):
    return TestItem(id=name, question=question, answer=answer)


def found(folder, rows, *items, n=13):
    return find_contamination(items, [write(folder, rows)], n=n)


def test_a_copied_question_is_found_whole_with_its_row_and_answer(tmp_path):
    rows = [{"text": noise(50)}, {"prompt": f"{noise(9)} {LONG.upper()}??", "response": "The pulmonary vein."}]
    result = found(tmp_path, rows, item(LONG, "the pulmonary vein", "q7"))
    (hit,) = result.hits
    assert (hit.item, hit.row, hit.whole, hit.coverage, hit.with_answer) == ("q7", 2, True, 1.0, True)
    assert hit.excerpt == " ".join(LONG.lower().split()[:13])
    assert (result.share(), result.share("whole"), result.share("with_answer")) == (1.0, 1.0, 1.0)
    assert (result.rows, result.items, result.checked) == (2, 1, 1)


def test_thirteen_words_are_found_and_twelve_are_not(tmp_path):
    words = LONG.split()
    assert found(tmp_path, [{"t": f"x {' '.join(words[2:15])} y"}], item(LONG)).share() == 1.0
    assert found(tmp_path, [{"t": f"x {' '.join(words[2:14])} y"}], item(LONG)).share() == 0.0
    hit = found(tmp_path, [{"t": f"x {' '.join(words[2:15])} y"}], item(LONG)).hits[0]
    assert not hit.whole
    assert hit.coverage == pytest.approx(13 / len(words))


def test_an_answer_counts_only_close_behind_the_question(tmp_path):
    near, far = f"{LONG}? {noise(20)} pulmonary vein", f"{LONG}? {noise(80)} pulmonary vein"
    before = f"pulmonary vein {LONG}"
    for text, expected in ((near, True), (far, False), (before, False)):
        assert found(tmp_path, [{"t": text}], item(LONG, "pulmonary vein")).hits[0].with_answer is expected


def test_short_questions_must_stand_whole_or_with_their_answer(tmp_path):
    short, tiny = "Where do most people keep their milk?", "Capital of France?"
    rows = [{"t": "Where do most people keep their milk"}, {"t": "the capital of France is lovely"}]
    result = found(
        tmp_path, rows, item(short, "in the fridge", "short"), item(tiny, "Paris", "tiny"), item("Why?", "so", "no")
    )
    assert [hit.item for hit in result.hits] == ["short"]
    assert result.unchecked == ("tiny", "no")
    assert result.share() == 1.0
    joined = item(tiny, "the city of Paris", "joined")
    assert found(tmp_path, [{"q": tiny, "a": "The city of Paris"}], joined).hits[0].with_answer
    assert found(tmp_path, [{"q": tiny, "a": "the city of Lyon"}], joined).share() == 0.0
    assert found(tmp_path, [{"t": "keep their milk where most people do"}], item(short)).share() == 0.0


def test_the_worst_row_is_told(tmp_path):
    part = " ".join(LONG.split()[:13])
    rows = [{"t": part}, {"t": LONG}, {"t": f"{LONG} aorta"}, {"t": LONG}]
    assert found(tmp_path, rows, item(LONG, "aorta")).hits[0].row == 3
    assert found(tmp_path, rows[:2], item(LONG, "aorta")).hits[0].row == 2


def test_japanese_is_compared_by_character(tmp_path):
    question = "日本国憲法の基本原理として正しいものはどれか"
    assert found(tmp_path, [{"t": f"問：{question}。"}], item(question)).hits[0].whole
    assert found(tmp_path, [{"t": "日本国憲法の前文として正しいもの"}], item(question)).share() == 0.0


def test_every_format_of_training_text_is_read(tmp_path):
    import pandas as pd

    rows = [{"prompt": noise(5), "messages": [{"role": "user", "content": LONG}]}]
    write(tmp_path, rows, "a.jsonl")
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.txt").write_text(f"{noise(5)}\n{LONG}\n")
    (tmp_path / "d.csv").write_text(f'text\n"{LONG}, or so"\n')
    pd.DataFrame({"text": [LONG]}).to_parquet(tmp_path / "e.parquet")
    with gzip.open(tmp_path / "f.jsonl.gz", "wt") as file:
        file.write(json.dumps(rows[0]) + "\n")
    for path in sorted(tmp_path.iterdir()):
        assert find_contamination([item(LONG)], [path]).share() == 1.0, path.name


def test_a_question_across_a_block_of_plain_text_is_found(tmp_path):
    path = tmp_path / "book.txt"
    words = LONG.split()
    for place in range(190, 215):
        lines = [f"line {noise(3, i)}" for i in range(400)]
        lines[place : place + 3] = [" ".join(words[:6]), " ".join(words[6:12]), " ".join(words[12:])]
        path.write_text("\n".join(lines))
        assert find_contamination([item(LONG)], [path]).hits[0].whole, place


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a"\n')
    for name, message in (
        ("none.txt", "no such file"),
        ("x.bin", "unknown ending"),
        ("x.txt", "not UTF-8"),
        ("x.jsonl", "row 2: not JSON"),
    ):
        with pytest.raises(TaskError, match=message):
            list(read_training(tmp_path / name))
    with pytest.raises(TaskError, match="at least 6"):
        find_contamination([item(LONG)], [], n=3)


def test_nothing_to_check_has_no_share(tmp_path):
    assert found(tmp_path, [{"t": noise(20)}], item("Why?")).share() is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 16))
def test_found_means_a_common_run_of_words_and_nothing_else(tmp_path_factory, seed, n):
    rnd = random.Random(seed)
    vocabulary = "red blue green cat dog".split()  # noqa: SIM905
    text = [rnd.choice(vocabulary) for _ in range(60)]
    question = [rnd.choice(vocabulary) for _ in range(rnd.randint(6, 20))]
    if rnd.random() < 0.5:
        start = rnd.randrange(40)
        question[: rnd.randint(1, 20)] = text[start : start + rnd.randint(1, 20)]
    if len(question) < 6:
        return
    size = min(n, len(question))
    runs = {tuple(question[i : i + size]) for i in range(len(question) - size + 1)}
    expected = any(tuple(text[i : i + size]) in runs for i in range(len(text) - size + 1))
    folder = tmp_path_factory.mktemp("c")
    assert bool(found(folder, [{"t": " ".join(text)}], item(" ".join(question)), n=n).hits) == expected


def test_memory_does_not_grow_with_the_training_text(tmp_path):
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for i in range(4000):
            file.write(json.dumps({"text": noise(100, i)}) + "\n")
    small = tmp_path / "small.jsonl"
    small.write_text("".join(path.read_text().splitlines(keepends=True)[:50]))

    def peak(source):
        tracemalloc.start()
        find_contamination([item(LONG)], [source])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(small)
    assert peak(path) < peak(small) + 200_000
