"""A document is read as any YAML of ours, with the line of each key, whichever reader is there."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.strict_yaml import YamlFault, parse_document, parse_yaml

TEXTS = st.text(st.sampled_from("ab: -[]{},\n&*'\"#1~|>\\u"), max_size=60)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_a_document_says_what_a_plain_reading_says(text: str) -> None:
    try:
        wanted = parse_yaml(text)
    except YamlFault:
        return  # libyaml reads some oddities that PyYAML's own reader refuses, such as `|#`
    assert repr(parse_document(text).data) == repr(wanted)


def test_every_key_and_list_entry_has_its_line() -> None:
    found = parse_document("a: 1\nb:\n  - x\n  -\n    c: d\n")
    assert found.lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 5, ("b", 1, "c"): 5}


def test_escapes_in_halves_are_joined() -> None:
    assert parse_document('a: "\\ud83d\\ude00"').data == {"a": "😀"}
