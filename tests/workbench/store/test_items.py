"""Item files: every value comes back, whatever a model or a data set may hold."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workbench.store.samples import make_items
from workbench.errors import StoreError
from workbench.records import ItemScore
from workbench.store.items import in_row_order, items_digest, read_items, read_items_frame, write_items

Number = st.floats(allow_nan=False).map(lambda value: value + 0.0)
Text = st.text(max_size=30)
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | Text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Text, inner, max_size=3),
    max_leaves=5,
)
Item = st.builds(
    ItemScore,
    task=st.sampled_from(["shop", "anatomy"]),
    item=Text,
    doc_id=st.integers(0, 2**63 - 1),
    group=Text,
    metrics=st.dictionaries(Text, Number, max_size=3),
    logprobs=st.lists(Number, max_size=4).map(tuple),
    greedy=st.lists(st.booleans(), max_size=4).map(tuple),
    answer=Text,
    target=Text,
    prompt=Text,
    truncated=st.integers(0, 2**31),
    extra=st.dictionaries(Text, Json, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(items=st.lists(Item, max_size=5))
def test_items_read_back_equal_and_with_the_same_digest(
    items: list[ItemScore], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "items-property.parquet"
    write_items(path, items)
    found = read_items(path)
    assert found == in_row_order(items)
    assert [list(item.metrics) for item in found] == [list(item.metrics) for item in in_row_order(items)]
    assert items_digest(found) == items_digest(items)


def test_floats_keep_every_bit(tmp_path: Path) -> None:
    values = (0.1, -1 / 3, 5e-324, -1.7976931348623157e308, float("-inf"), 2**53 + 1.0, -16.11809539794922)
    item = ItemScore(task="t", item="i", doc_id=0, group="i", metrics={"acc": 1 / 3}, logprobs=values)
    write_items(tmp_path / "items.parquet", [item])
    (found,) = read_items(tmp_path / "items.parquet")
    assert [value.hex() for value in found.logprobs] == [value.hex() for value in values]


def test_rows_stand_in_one_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    items = make_items(9)
    write_items(tmp_path / "a.parquet", items)
    write_items(tmp_path / "b.parquet", items[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert [item.doc_id for item in read_items(tmp_path / "b.parquet")] == list(range(9))


def test_a_lone_surrogate_of_real_json_data_becomes_the_replacement_character(tmp_path: Path) -> None:
    item = ItemScore(task="t", item="i", doc_id=0, group="i", metrics={}, prompt="half \ud83d, whole 🙂")
    write_items(tmp_path / "items.parquet", [item])
    (found,) = read_items(tmp_path / "items.parquet")
    assert found.prompt == "half �, whole 🙂"
    assert items_digest([found]) == items_digest([item])


def test_numbers_of_other_types_are_stored_as_what_the_columns_say(tmp_path: Path) -> None:
    import numpy as np

    item = ItemScore(
        task="t",
        item="i",
        doc_id=0,
        group="i",
        metrics={"acc": True, "f1": np.float32(0.5)},
        logprobs=(np.float64(-0.1), -1),
        extra={"scores": np.array([1, 2])},
    )
    write_items(tmp_path / "items.parquet", [item])
    (found,) = read_items(tmp_path / "items.parquet")
    assert found.metrics == {"acc": 1.0, "f1": 0.5}
    assert found.extra == {"scores": [1, 2]}
    assert items_digest([found]) == items_digest([item])


def test_the_frame_has_a_column_per_metric_and_no_data_is_not_zero(tmp_path: Path) -> None:
    other = ItemScore(task="free", item="x", doc_id=0, group="x", metrics={"rouge_l": 0.5})
    write_items(tmp_path / "items.parquet", [*make_items(3), other])
    frame = read_items_frame(tmp_path / "items.parquet")
    assert list(frame["task"]) == ["free", "shop_mc", "shop_mc", "shop_mc"]
    assert list(frame["metrics.acc"][1:]) == [0.0, 1.0, 0.0]
    assert math.isnan(frame["metrics.acc"][0])
    assert frame["metrics.rouge_l"][0] == 0.5
    assert list(frame["logprobs"][1]) == [-0.1, -1 / 3]
    assert frame["extra"][1] == {"subject": "bags", "shares": [0.1, None]}
    assert str(frame["doc_id"].dtype) == "int64"


def test_a_report_without_items_is_a_frame_without_rows(tmp_path: Path) -> None:
    write_items(tmp_path / "items.parquet", [])
    assert read_items(tmp_path / "items.parquet") == []
    assert len(read_items_frame(tmp_path / "items.parquet")) == 0


def test_a_damaged_or_foreign_file_is_one_clear_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "items.parquet"
    write_items(path, make_items())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match="damaged item file"):
        read_items(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StoreError, match="not an item file of this workbench"):
        read_items(path)


def test_a_file_of_a_newer_workbench_is_refused_with_the_cure(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "items.parquet"
    write_items(path, make_items())
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"workbench.items.schema_version": b"2"}), path)
    with pytest.raises(StoreError, match=r"schema 2, this workbench knows 1.*pip install -U"):
        read_items(path)
