"""Posts come out the same from every kind of file, and a faulty row is named by its place."""

import csv
import io
import json

import pytest

from workbench.errors import ConfigError
from workbench.posts import read_posts

ROWS = [
    {"id": "a1", "body": "first, with a comma", "subreddit": "books", "title": 'A "title"', "views": 30},
    {"id": "a2", "body": "second\nline", "subreddit": "art", "title": "", "views": 0},
]


def seen(posts):
    return [(p.id, p.text, p.community, p.title, p.views) for p in posts]


def test_every_kind_of_file_gives_the_same_posts(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    wanted = [("a1", "first, with a comma", "books", 'A "title"', 30.0), ("a2", "second\nline", "art", "", 0.0)]
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet"):
        assert seen(read_posts(tmp_path / name)) == wanted, name
    assert seen(read_posts("-", stdin=io.StringIO((tmp_path / "a.jsonl").read_text()))) == wanted


def test_a_stream_is_read_as_it_comes():
    def lines():
        yield json.dumps(ROWS[0])
        raise AssertionError("read ahead")

    class Stream:
        def __iter__(self):
            return lines()

    assert next(read_posts("-", stdin=Stream())).id == "a1"


def test_signals_of_an_author_are_one_line():
    rows = [{"text": "x", "author": {"age_days": 3, "karma": -2}}, {"text": "x", "author_age_days": 3}, {"text": "x"}]
    stdin = io.StringIO("\n".join(map(json.dumps, rows)))
    assert [post.author for post in read_posts("-", stdin=stdin)] == ["age days 3; karma -2", "age days 3", ""]


def test_a_row_without_an_id_has_that_of_its_content():
    rows = [{"text": "x"}, {"text": "y"}, {"text": "x"}]
    first, second, third = read_posts("-", stdin=io.StringIO("\n".join(map(json.dumps, rows))))
    assert first.id == third.id != second.id


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "standard input:2: no JSON"),
        ("[1]", "standard input:2: expected an object"),
        ('{"title": "x"}', "standard input:2: no text"),
        ('{"text": 5}', "standard input:2: no text"),
        ('{"text": "x", "views": "many"}', "standard input:2: views"),
        ('{"text": "x", "views": -1}', "standard input:2: views"),
        ('{"text": "x", "rules": [1]}', "standard input:2: rules"),
        ('{"text": "x", "attributes": 3}', "standard input:2: attributes"),
    ],
)
def test_a_faulty_row_is_named_by_its_line(line, told):
    with pytest.raises(ConfigError, match=told):
        list(read_posts("-", stdin=io.StringIO(f'{{"text": "fine"}}\n{line}\n')))


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"text\n\xff\xfe")
    (tmp_path / "c.csv").write_text("text,id\na,b,c\n")
    (tmp_path / "d.parquet").write_text("no")
    for name, told in (
        ("a.csv", "did you mean"), ("b.csv", "no UTF-8"), ("c.csv", "columns are expected"),
        ("d.parquet", "no Parquet"), ("e.xml", "JSONL, CSV"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            list(read_posts(tmp_path / name))
