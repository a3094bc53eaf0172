import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from tests.workbench.publish import samples
from workbench.publish.forest import forest_plots
from workbench.publish.html import comparison_html, decision_html


class Page(HTMLParser):
    """Start tags with their attributes, and the text that is read."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skipped = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skipped = tag == "style"
        self.text += " "

    def handle_endtag(self, tag):
        self._skipped = False

    def handle_data(self, data):
        self.text += "" if self._skipped else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(
        decision_html(samples.decision(), samples.comparison(), flips=[samples.flip(1), samples.flip(2, "gained")])
    )


def test_the_answer_stands_on_top_in_one_sentence(page):
    text = " ".join(page.text.split())
    assert "Gate: smollm2-3bit against smollm2 ■ fail smollm2-3bit forgot 2 of 6 required tasks: arc_easy" in text
    assert text.index("forgot 2 of 6") < text.index("What changed") < text.index("Rules") < text.index("Digests")


def test_the_page_loads_nothing_and_forbids_loading(page):
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert {"script", "link", "img", "iframe", "object", "a", "form"} & {tag for tag, _ in page.tags} == set()
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "href") or a.startswith("on")]


def test_the_page_can_be_read_by_a_screen_reader(page):
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)][:3] == ["h1", "h2", "h2"]
    assert all("scope" in head for head in page.all("th"))
    labelled = {section["aria-labelledby"] for section in page.all("section")}
    assert labelled <= {attributes.get("id") for _, attributes in page.tags}
    labels = [str(svg["aria-label"]) for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(labels) == 2
    assert "arc_easy: forgot, −12.3 points [−15.0, −9.7], margin 2." in labels[0]
    assert "wikitext: forgot, worse by" in labels[1]


def test_every_verdict_is_told_by_word_and_shape(page):
    for label in ("★ improved", "● kept", "■ forgot", "▲ inconclusive", "○ uninformative", "✕ incomparable", "▲ hold"):
        assert label in page.text


def test_flips_show_question_target_both_answers_and_log_probabilities(page):
    text = " ".join(page.text.split())
    assert "Items that flipped: 1 lost, 1 gained" in text
    assert text.index("■ lost acc_norm 1 → 0") < text.index("★ gained acc_norm 0 → 1")
    assert "Target the heart Baseline’s answer the heart Candidate’s answer the liver" in text
    assert "the heart −4.21 −5.52" in text


def test_of_each_task_only_so_many_flips_are_shown_and_the_page_says_so():
    flips = [samples.flip(n, "lost" if n % 2 else "gained") for n in range(60)]
    flips += [samples.flip(n, task="openbookqa") for n in range(3)]
    page = Page(comparison_html(samples.comparison(), flips=flips, per_task=10))
    assert len(page.all("article")) == 13
    assert "arc_easy: 30 lost, 30 gained; the first 10 are shown" in " ".join(page.text.split())
    assert page.text.count("★ gained") == 0  # lost ones come first


def test_the_question_of_a_long_prompt_is_seen_and_what_stood_before_it_is_folded():
    prompt = "".join(f"Question: {n} {'x ' * 100}\n\n" for n in range(8)) + "Question: and now?"
    text = Page(comparison_html(samples.comparison(), flips=[samples.flip(prompt=prompt)])).text
    before, seen = text.split("What stood before the question")[1].split("Question: 5", 1)
    assert before.count("Question:") == 5 and "and now?" in seen


def test_a_flip_with_nothing_but_text_is_shown():
    flip = samples.flip(choices=(), baseline_logprobs=(), candidate_logprobs=(), baseline_value=None, metric="")
    page = Page(comparison_html(samples.comparison(samples.FORGOT), flips=[flip]))
    assert "log-probability" not in page.text and "the liver" in page.text


def test_choices_without_text_are_numbered():
    page = Page(comparison_html(samples.comparison(samples.FORGOT), flips=[samples.flip(choices=())]))
    assert "choice 3" in page.text


def test_a_gate_without_a_comparison_and_one_of_nothing_can_be_shown():
    page = Page(decision_html(samples.decision(samples.LIMIT_RULE, outcome="pass", baseline=None)))
    assert "● pass" in page.text and "2.1% [1.1%, 3.9%]" in page.text and page.all("svg") == []
    page = Page(comparison_html(replace(samples.comparison(), tasks=())))
    assert "no task is required" in page.text


def test_hostile_text_makes_no_element():
    plain = {
        tag for tag, _ in Page(decision_html(samples.decision(), samples.comparison(), flips=[samples.flip()])).tags
    }
    html = decision_html(samples.hostile_decision(), samples.hostile_comparison(), flips=[samples.HOSTILE_FLIP])
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= plain | {"p"}
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in html and "\x00" not in html and "⟨U+202E⟩" in page.text
    html.encode("utf-8")


def test_losses_point_left_in_every_plot_whatever_the_direction_of_the_metric():
    def place(element: ElementTree.Element) -> float:
        return float(element.attrib["x"].rstrip("%"))

    plots = dict(forest_plots(samples.TASKS))
    assert list(plots) == ["points", "bits per byte"]
    for unit, task in (("points", samples.FORGOT), ("bits per byte", samples.FORGOT_BITS)):
        svg = ElementTree.fromstring(plots[unit])
        row = next(g for g in svg.iter("g") if task.task in "".join(g.itertext()))
        point = next(row.iter("svg"))
        margin = next(line for line in row.iter("line") if line.attrib["class"] == "margin")
        zero = next(line for line in svg.iter("line") if line.attrib["class"] == "zero")
        assert place(point) < float(margin.attrib["x1"].rstrip("%")) < float(zero.attrib["x1"].rstrip("%"))
        ends = [float(line.attrib["x1"].rstrip("%")) for line in row.iter("line") if line.attrib["class"] == "interval"]
        assert max(ends) < float(margin.attrib["x1"].rstrip("%"))  # forgot: all of the interval lies beyond


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.9999, -0.9999])
def test_a_plot_of_any_difference_stays_within_its_axis(value):
    task = replace(samples.KEPT, margin=0.0, difference=samples.difference(value, None, None, 10))
    [(_, svg)] = forest_plots([task])
    places = [float(text) for text in re.findall(r'x\d?="(-?[\d.]+)%"', svg)]
    assert places and all(0 <= place <= 100 for place in places)
