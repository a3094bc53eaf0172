"""Scoring functions on hand-checked answers, and IFEval without a network."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from benchmarks import offline, scoring


def test_ranking_by_likelihood_does_not_punish_length():
    doc = {"choices": ["a", "a long and likely candidate"], "relevance": [0, 1]}
    scores = scoring.rank(doc, [(-3.0, False), (-20.0, False)])
    assert scores == {"ndcg": 1.0, "hit_at_1": 1.0, "hit_at_3": 1.0}


def test_a_written_ranking_is_scored_by_its_first_line():
    doc = {"relevance": [0, 0, 2, 1]}
    assert scoring.rank_written(doc, ["3, 4, 1, 2\nbecause"])["ndcg"] == 1
    assert scoring.rank_written(doc, ["I cannot rank these."])["ndcg"] == 0


@pytest.mark.parametrize("shift", [0.0, -2000.0])
def test_true_mass_equals_lm_evals_where_that_is_a_number(shift):
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    labels = [1, 0, 1]
    results = [(-1.0 + shift, False), (-2.0 + shift, False), (-3.0 + shift, True)]
    mine = scoring.true_mass({"labels": labels}, results)["acc"]
    assert mine == pytest.approx((np.exp(-1) + np.exp(-3)) / (np.exp(-1) + np.exp(-2) + np.exp(-3)))
    if shift == 0:
        assert mine == pytest.approx(process_results_mc2({"mc2_targets": {"labels": labels}}, results)["acc"])


@pytest.mark.parametrize(
    ("said", "golds", "scale", "right"),
    [
        (" 12.6", ["12.6"], "million", 1),
        ("$12.6 million", ["12.6"], "million", 1),
        ("12.6 thousand", ["12.6"], "million", 0),
        ("-22.2%", ["-22.22"], "percent", 1),
        ("0.127", ["0.12738"], "", 1),
        ("yes", ["yes"], "", 1),
        ("Yes.", ["no"], "", 0),
        ("the fixed-price type", ["fixed-price type"], "", 1),
        ("time type and fixed type", ["fixed type", "time type"], "", 0),
        ("time type; fixed type", ["fixed type", "time type"], "", 1),
        ("", ["5"], "", 0),
    ],
)
def test_short_answers(said, golds, scale, right):
    result = scoring.short_answer({"golds": golds, "scale": scale}, [said + "\nQuestion: and then?"])
    assert result["exact_match"] == right
    assert 0 <= result["token_f1"] <= 1


IFEVAL = [
    # instruction, its arguments, an answer that follows it, one that does not
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3},
     "Dr. Smith lives in the U.S. with Mr. Jones. They met at 5 p.m. on Jan. 3.", "One. Two. Three."),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 4}, "one two three four", "one two"),
    ("punctuation:no_comma", {}, "No commas here.", "Well, here."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "It is sunny.", "It will rain."),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2},
     "THE end is NEAR.", "The end is NEAR."),
    ("change_case:english_lowercase", {}, "all is small here, as was asked.", "Not All is small here."),
    ("startend:quotation", {}, '"A quoted answer."', "A bare answer."),
    ("detectable_format:json_format", {}, '{"a": 1}', "a = 1"),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Well. That is all.", "That is all. Bye."),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), IFEVAL, ids=[case[0] for case in IFEVAL])
def test_ifeval_verdicts_on_hand_checked_answers(instruction, arguments, good, bad):
    doc = {"key": 1, "prompt": "p", "instruction_id_list": [instruction], "kwargs": [arguments]}
    for answer, followed in ((good, True), (bad, False)):
        verdicts = scoring.ifeval(doc, [answer])
        assert verdicts["prompt_level_strict_acc"] is followed
        assert verdicts["inst_level_strict_acc"] == [followed]


def test_ifeval_counts_sentences_as_nltks_english_model_does_without_any_network(tmp_path):
    """A fresh process, empty caches, sockets closed: lm-eval would try to download the model at import."""
    program = textwrap.dedent("""
        import socket
        def refuse(*_, **__):
            raise AssertionError("network")
        socket.socket.connect = refuse
        socket.create_connection = refuse
        from benchmarks.offline import ensure_punkt
        ensure_punkt()
        from lm_eval.tasks.ifeval import instructions_util as util
        text = "Dr. Smith came at 5 p.m. from the U.S. to see Mr. Brown. He left. Was it late? No!"
        print(util.count_sentences(text))
    """)
    home = {"HOME": str(tmp_path), "WORKBENCH_CACHE": str(tmp_path / "cache"), "NLTK_DATA": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **home},
        cwd=Path(offline.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4"]
    folder = tmp_path / "cache" / "nltk_data" / "tokenizers"
    assert sorted(path.name for path in folder.iterdir()) == ["punkt_tab"]
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o022, "NLTK refuses folders that others may write to"
