"""Rows that repeat earlier ones are left out, and only those."""

from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_tokenizer
from training.dedup import NEAR, _Alike, leave_out_repeats, similarity, word_runs
from training.sources import RowDocuments


def sources(**texts: list[str]) -> dict[str, RowDocuments]:
    def documents(name: str, rows: list[dict[str, Any]]) -> RowDocuments:
        return RowDocuments(name=name, rows=rows, tokenizer=tiny_tokenizer(), method="pretrain")

    return {name: documents(name, [{"text": text} for text in rows]) for name, rows in texts.items()}


def said(documents: RowDocuments) -> list[str]:
    return [documents.record(row)["text"] for row in range(len(documents))]


def test_the_first_of_equal_rows_is_kept_within_and_across_sources_whatever_case_and_space() -> None:
    found = sources(own=["The heart pumps.", "A bone.", "the HEART\n pumps."], general=["a  bone.", "Other."])
    leave_out_repeats(found)
    assert said(found["own"]) == ["The heart pumps.", "A bone."]
    assert said(found["general"]) == ["Other."]
    assert (found["own"].left_out, found["general"].left_out) == ({"repeated": 1}, {"repeated": 1})
    assert found["general"].number(0) == 2  # a row keeps the number it has in its file


def test_rows_that_differ_in_a_few_words_are_left_out_only_when_near_ones_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in rng.integers(0, 2000, 120)]
    changed = [*words[:60], "other", *words[61:]]
    half = [*words[:60], *(f"v{number}" for number in rng.integers(0, 2000, 60))]
    texts = [" ".join(one) for one in (words, changed, half)]
    exact, near = sources(own=texts), sources(own=texts)
    leave_out_repeats(exact)
    leave_out_repeats(near, near=True)
    assert len(exact["own"]) == 3
    assert said(near["own"]) == [texts[0], texts[2]]
    assert near["own"].left_out == {"nearly repeated": 1}


def test_similarity_is_that_of_the_sets_of_runs() -> None:
    one, other = "a b c d e f g h", "a b c d e f x y"
    runs = [{tuple(text.split()[i : i + 5]) for i in range(4)} for text in (one, other)]
    expected = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    assert similarity(word_runs(one), word_runs(other)) == pytest.approx(expected)
    assert similarity(word_runs("too short"), word_runs("too short")) == 0.0


def test_bands_find_alike_texts_as_often_as_the_formula_says() -> None:
    """P(found) = 1 − (1 − s^depth)^bands, Leskovec et al., Mining of Massive Datasets, 3.4."""
    rng, found, expected = np.random.default_rng(1), 0, 0.0
    for _ in range(150):
        alike = _Alike()
        runs = np.unique(rng.integers(0, 2**63, 100, dtype=np.uint64))
        other = np.unique(np.concatenate([runs[:92], rng.integers(0, 2**63, 8, dtype=np.uint64)]))
        s = similarity(runs, other)
        assert s > NEAR
        expected += 1 - (1 - s**8) ** 16
        alike.is_known(runs)
        found += alike.is_known(other)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(150 * 0.04))
