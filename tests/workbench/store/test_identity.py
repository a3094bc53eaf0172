"""Content hashes: equal content, equal id; different content, different id."""

import json
import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workbench.store.samples import make_report
from workbench.records import Report
from workbench.store import canonical_json, content_hash, read_record, to_plain
from workbench.store.identity import without_defaults

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(Json)
def test_canonical_json_reads_back_and_is_its_own_canonical_form(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()
    assert "\n" not in text


@given(st.dictionaries(st.text(), Json, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert content_hash("x", {key: value[key] for key in keys}) == content_hash("x", value)


@given(Json, Json)
def test_different_content_has_different_ids(one: Any, two: Any) -> None:
    assert (content_hash("x", one) == content_hash("x", two)) == (canonical_json(one) == canonical_json(two))
    assert content_hash("x", one) != content_hash("y", one)


def test_numbers_and_paths_of_other_libraries_have_a_plain_form() -> None:
    import numpy as np

    value = {"a": np.float64(0.1), "b": np.arange(3), "c": PurePosixPath("x/y"), "d": {3, 1}, 4: (1,)}
    assert to_plain(value) == {"a": 0.1, "b": [0, 1, 2], "c": "x/y", "d": [1, 3], "4": [1]}


def test_infinities_are_words_because_json_has_none() -> None:
    assert canonical_json([math.inf, -math.inf, math.nan, -0.0]) == '["Infinity","-Infinity","NaN",0.0]'


def test_what_has_no_plain_form_is_named() -> None:
    with pytest.raises(TypeError, match="object has no plain form"):
        canonical_json({"a": object()})


def test_a_field_that_a_later_version_adds_leaves_old_ids_alone() -> None:
    @dataclass
    class Before:
        name: str
        notes: tuple[str, ...] = ()

    @dataclass
    class After(Before):
        added: dict[str, int] = field(default_factory=dict)

    assert without_defaults(After("a")) == without_defaults(Before("a")) == {"name": "a"}
    assert without_defaults(After("a", added={"x": 1})) == {"name": "a", "added": {"x": 1}}


def test_a_record_reads_back_and_ignores_what_a_newer_version_wrote() -> None:
    report, _ = make_report()
    document = to_plain(report) | {"added_later": 1}
    assert read_record(Report, json.dumps(document)) == report
    with pytest.raises(ValueError, match="checkpoint"):
        read_record(Report, "{}")
