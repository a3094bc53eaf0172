import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from workbench.publish.text import cut_start, reveal, reveal_line, split_start


@given(st.text())
def test_what_is_shown_holds_no_character_that_hides_or_reorders(text):
    shown = reveal(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in shown)
    assert not {"\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"} & set(shown)
    assert reveal(shown) == shown


def test_visible_text_of_any_language_stays_as_it_is():
    for text in ("naïve Ärzte", "日本語の質問", "שלום", "नमस्ते क्‍ष", "👩‍⚕️ a\tb\nc"):
        assert reveal(text) == text


def test_a_line_has_no_line_breaks():
    assert reveal_line(" a\r\n b\tc\u2028d ") == "a b c d"


@given(st.text(alphabet="ab\n", max_size=80), st.integers(1, 40))
def test_the_end_is_kept_and_nothing_is_lost(text, limit):
    cut, rest = split_start(text, limit)
    assert cut + rest == text
    assert len(rest) <= limit
    assert len(rest) >= min(len(text), limit - limit // 2)
    assert cut_start(text, limit).endswith(rest)


def test_a_cut_says_how_much_is_gone():
    assert cut_start("x" * 1500, 100) == f"[… 1,400 characters cut] {'x' * 100}"
