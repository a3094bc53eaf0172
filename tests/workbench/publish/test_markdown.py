import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.workbench.publish import samples
from workbench.publish.markdown import (
    MAX_COMMENT,
    code,
    comparison_markdown,
    decision_markdown,
    escape_block,
    escape_prose,
)
from workbench.publish.text import reveal, reveal_line

OURS = {
    *("p", "strong", "em", "code", "table", "thead", "tbody", "tr", "th", "td", "br", "ul", "li", "details", "summary"),
    "pre",
}
"""Elements that the renderer itself makes."""
VOID = {"br", "img", "hr"}
# What GitHub makes of finished text outside of code: mentions, addresses, issues, emoji, mathematics.
LINKED = re.compile(r"@[\w-]|https?://|www\.\w|#\d|:[a-z]+:|\b[0-9a-f]{7,40}\b")


class Seen(HTMLParser):
    """Elements, attributes and text of a rendered page; text outside of code and boxes is kept apart."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self.prose, self.open = "", "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [entry for entry in attrs if entry[0] != "style"]  # markdown-it aligns columns by it
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if not {"pre", "code"} & set(self.open):
            self.prose += data


def render(text: str) -> Seen:
    return Seen(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


@pytest.fixture
def flips():
    return [samples.flip(1), samples.flip(2, "gained"), samples.HOSTILE_FLIP]


def test_the_first_line_is_the_answer_in_words_with_its_shape():
    text = decision_markdown(samples.decision(), samples.comparison())
    assert text.startswith("**■ fail**: smollm2-3bit forgot 2 of 6 required tasks: ")
    assert comparison_markdown(samples.comparison(samples.KEPT)).startswith("**● pass**: ")


def test_the_reason_of_the_record_is_used_where_there_is_one():
    made = samples.decision(outcome="hold", reason="3 of 5 required rules lack evidence")
    assert decision_markdown(made).startswith("**▲ hold**: 3 of 5 required rules lack evidence\n")


def test_the_table_shows_each_task_with_change_margin_verdict_and_n():
    text = comparison_markdown(samples.comparison())
    assert "change [90% interval]" in text
    row = next(line for line in text.splitlines() if "hellaswag" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "<code>hellaswag</code>", "41.4%", "40.6%", "−0.8 [−1.5, −0.1]", "2", "● kept<br>small real loss", "9,000"
    ]  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("| <code>boolq"))
    assert row.count("–") == 3 and "✕ incomparable" in row and "(advisory)" in row


def test_what_could_not_be_certified_is_listed_with_the_items_it_lacks():
    text = decision_markdown(samples.decision(), samples.comparison())
    assert "openbookqa</code> cannot be certified with 500 items; about 1,240 more would decide." in text
    assert "boolq</code> was not compared: 0 shots in the baseline, 5 in the candidate." in text


def test_overrides_are_told_with_name_and_reason():
    rules = [samples.rule(samples.FORGOT, overridden="Ann Example: retired exam"), samples.LIMIT_RULE]
    text = decision_markdown(samples.decision(*rules, outcome="pass"), samples.comparison())
    assert "**Overridden**" in text and "Ann Example: retired exam" in text and "■ fail (overridden)" in text


def test_a_gate_without_a_baseline_shows_its_rules_unfolded():
    text = decision_markdown(samples.decision(samples.LIMIT_RULE, outcome="pass", baseline=None))
    assert "| refusals at most 5% | ● pass | 5% |" in text
    assert "<details><summary>Rules" not in text


def test_evidence_and_the_command_that_reproduces_it_are_given():
    seen = render(comparison_markdown(samples.comparison()))
    assert f"workbench compare {'e' * 64} {'f' * 64}" in seen.text
    assert "a" * 64 in seen.text and "b" * 64 in seen.text
    assert "make it again" in render(comparison_markdown(samples.comparison(), reproduce=["make it again"])).text


def test_hostile_text_makes_no_element_no_link_and_no_mention(flips):
    text = decision_markdown(samples.hostile_decision(), samples.hostile_comparison(), flips=flips)
    seen = render(text)
    assert seen.open == []
    assert seen.tags <= OURS
    assert seen.attributes == []
    assert LINKED.findall(seen.prose) == []
    assert "<script>alert(1)</script>" in seen.text  # shown, not swallowed
    assert "⟨U+202E⟩" in seen.text and "⟨U+0000⟩" in seen.text
    text.encode("utf-8")


def test_the_check_sees_what_it_looks_for():
    seen = render(
        "<script></script>\n\n[click](http://x.example) ![i](p.png)\n\n@everyone #12 https://x.example :smile:"
    )
    assert {"script", "img", "a"} <= seen.tags
    assert len(LINKED.findall(seen.prose)) == 4


def test_hostile_names_break_no_table_row():
    text = comparison_markdown(samples.hostile_comparison())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {8}


@settings(deadline=None)
@given(st.text(max_size=60), st.text(alphabet="`|<>[]()!*_~#@&;:\\\n -+=.1a\t", max_size=60))
def test_any_text_reads_back_as_it_was(foreign, markup):
    for text in (foreign, markup, foreign + markup):
        for shown in (escape_prose(text), code(text)):
            seen = render(f"x {shown}")
            assert seen.tags <= {"p", "code"}
            assert seen.text.replace("\u2060", "").split() == ["x", *reveal_line(text).split()]
        seen = render(escape_block(text, 1000))
        assert (seen.tags, seen.text.strip("\n")) == ({"pre"}, reveal(text).strip("\n"))


@pytest.mark.parametrize(
    "start", ["# a", "- a", "+ a", "1. a", "12) a", "> a", "=== a", "    a", "* a", "``` a", "~~~ a"]
)
def test_foreign_text_at_the_start_of_a_line_is_no_heading_list_or_box(start):
    assert render(escape_prose(start)).tags == {"p"}


def test_a_long_prompt_is_cut_at_its_start_and_says_so():
    text = comparison_markdown(samples.comparison(), flips=[samples.flip(1, prompt=samples.LONG)])
    seen = render(text)
    assert "Which organ pumps blood?" in seen.text
    assert f"[… {len(samples.LONG) - 700:,} characters cut]" in seen.text


def test_worked_examples_are_left_out_whole():
    prompt = "".join(f"Question: {n} {'x ' * 100}\nAnswer: {n}\n\n" for n in range(5)) + "Question: and now?\nAnswer:"
    seen = render(comparison_markdown(samples.comparison(), flips=[samples.flip(1, prompt=prompt)]))
    assert "characters cut] Question: 2 x" in seen.text and "Question: and now?\nAnswer:" in seen.text


def test_the_tasks_that_lost_most_come_first_and_each_has_a_few():
    flips = [samples.flip(n, "gained", task="gained_only") for n in range(30)]
    flips += [samples.flip(n, task="lost_two") for n in range(2)]
    flips += [samples.flip(n, "gained" if n < 4 else "lost", task="lost_most") for n in range(20)]
    text = comparison_markdown(samples.comparison(), flips=flips, per_task=5)
    rows = re.findall(r"(lost|gained) · <code>(\w+)&#95;(\w+)</code>", text)
    assert rows == [("lost", "lost", "most")] * 5 + [("lost", "lost", "two")] * 2 + [("gained", "gained", "only")] * 5
    assert "_40 more are left out of this comment" in text


def test_a_comment_is_never_larger_than_github_takes_and_says_what_is_left_out():
    many = [samples.flip(n, "gained" if n % 3 else "lost", prompt=samples.HOSTILE + samples.LONG) for n in range(300)]
    text = decision_markdown(samples.decision(), samples.comparison(), flips=many, per_task=300)
    assert len(text) <= MAX_COMMENT
    assert len(text) > MAX_COMMENT // 2  # the room is used
    shown = text.count("■ lost ·") + text.count("★ gained ·")
    assert f"_{300 - shown:,} more are left out of this comment" in text
    assert text.index("■ lost ·") < text.index("★ gained ·") if "★ gained ·" in text else True
    assert "To reproduce:" in text  # the end is kept
    assert render(text).open == []


@pytest.mark.parametrize("limit", [700, 1_500, 3_000, 6_000, 20_000])
def test_hundreds_of_tasks_are_cut_between_rows(limit):
    tasks = [replace(samples.KEPT, task=f"task_{n}") for n in range(400)]
    text = comparison_markdown(samples.comparison(*tasks), flips=[samples.flip(1)], limit=limit)
    assert len(text) <= limit
    assert "Cut here" in text
    assert render(text).open == []
    assert text.startswith("**● pass**")
