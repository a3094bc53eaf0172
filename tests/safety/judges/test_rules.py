"""Rules raise, never clear; no pattern hangs; look-alike letters do not hide a word."""

import pytest

from safety.judges import Passage, PlainCategory, build_judge
from workbench.errors import ConfigError, UserError

HATE, FRAUD = PlainCategory(id="hate"), PlainCategory(id="fraud")


def values(judge, text, *categories):
    return [one.value for one in judge.judge([Passage(text=text)], categories)[0]]


def test_a_word_raises_its_own_category_only():
    judge = build_judge("words", "keyword", {"words": {"hate": ["grunk"]}})
    assert values(judge, "You Grunk!", HATE, FRAUD) == ["violates", "allowed"]


def test_a_word_inside_another_word_is_no_match():
    judge = build_judge("words", "keyword", {"words": ["ass"]})
    assert values(judge, "I am assisting the class", HATE) == ["allowed"]


def test_no_match_has_no_probability_so_that_it_clears_nothing():
    (found,) = build_judge("words", "keyword", {"words": ["grunk"]}).judge([Passage(text="hello")], [HATE])[0]
    assert found.probability is None


@pytest.mark.parametrize("hidden", ["gr\u200bunk", "ｇｒｕｎｋ", "GRUNK", "grunk\u00ad"])
def test_invisible_and_wide_letters_do_not_hide_a_word(hidden):
    judge = build_judge("words", "keyword", {"words": ["grunk"]})
    assert values(judge, f"you {hidden}", HATE) == ["violates"]


def test_cyrillic_twins_do_not_hide_a_word():
    judge = build_judge("words", "keyword", {"words": ["grape"]})
    assert values(judge, "gr\u0430p\u0435", HATE) == ["violates"]


def test_a_catastrophic_pattern_is_unscorable_within_its_time():
    judge = build_judge("slow", "regex", {"patterns": [r"(a|aa)+$"], "timeout_ms": 20})
    assert values(judge, "a" * 5000 + "!", HATE) == ["unscorable"]


def test_a_text_of_ten_megabytes_is_unscorable():
    judge = build_judge("words", "keyword", {"words": ["grunk"]})
    assert values(judge, "x" * 10_000_000, HATE) == ["unscorable"]


def test_spans_are_those_of_the_original_text():
    text = "mail \u200banna@example.org now"
    (found,) = build_judge("pii", "regex", {"patterns": ["email"]}).judge([Passage(text=text)], [HATE])[0]
    start, end = found.spans[0]
    assert text[start:end] == "anna@example.org"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("email", "write to a.b@example.co.uk"),
        ("phone", "call +44 20 7946 0958"),
        ("card", "4111 1111 1111 1111"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("ip_address", "host 192.168.1.1 is down"),
        ("ssn", "123-45-6789"),
    ],
)
def test_named_patterns_find_what_they_name(name, text):
    judge = build_judge("pii", "regex", {"patterns": [name]})
    assert values(judge, text, HATE) == ["violates"]
    assert values(judge, "version 1.2 of 2024, page 7", HATE) == ["allowed"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patterns": ["("]}, "missing"),
        ({"patterns": ["a*"]}, "empty text"),
        ({"words": "grunk"}, "expected a list"),
        ({}, "no rules"),
        ({"file": "nowhere.txt"}, "no such file"),
        ({"wrods": ["x"]}, "wrods"),
    ],
)
def test_faulty_options_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        build_judge("words", "rules", options)


def test_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="clasifier"):
        build_judge("x", "clasifier", {})
