"""Files of questions in every usual layout, and every fault named with its row."""

import csv
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.author import Options, read_questions
from benchmarks.questions import NAMES, Reader
from benchmarks.tables import Table, read_table
from workbench.errors import TaskError


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def jsonl(folder: Path, rows, name: str = "q.jsonl") -> Path:
    return write(folder, name, "".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path, **options):
    draft = read_questions(path, Options(**options))
    return list(draft.questions), [str(fault) for fault in draft.errors]


COLOURS = ["red", "green", "blue", "grey"]
LAYOUTS = {
    "letter columns": ("q.csv", "question,A,B,C,D,answer\nSky?,red,green,blue,grey,C\nGrass?,red,green,blue,grey,B\n"),
    "MMLU without a header": ("q.csv", '"Sky?",red,green,blue,grey,C\nGrass?,red,green,blue,grey,B\n'),
    "semicolons and a byte order mark": (
        "q.csv",
        "\ufeffstem;option_a;option_b;option_c;option_d;key\nSky?;red;green;blue;grey;(c)\nGrass?;red;green;blue;grey;b\n",
    ),
    "OpenCompass": ("q.csv", "question,A,B,C,D,answer\nSky?,red,green,blue,grey,C\nGrass?,red,green,blue,grey,B\n"),
    "ShoppingMMLU, a Python list": (
        "multiple_choice/x_dataset.csv",
        "question,choices,answer\nSky?,\"['red', 'green', 'blue', 'grey']\",2\n"
        "Grass?,\"['red', 'green', 'blue', 'grey']\",1\nBlood?,\"['red', 'green', 'blue', 'grey']\",0\n",
    ),
    "MedMCQA from 1": (
        "q.csv",
        "question,opa,opb,opc,opd,cop\nSky?,red,green,blue,grey,3\nGrass?,red,green,blue,grey,2\n"
        "Ash?,red,green,blue,grey,4\n",
    ),
    "answers in full": (
        "q.tsv",
        "prompt\tchoice1\tchoice2\tchoice3\tchoice4\tlabel\nSky?\tred\tgreen\tblue\tgrey\tBlue\n"
        "Grass?\tred\tgreen\tblue\tgrey\tgreen\n",
    ),
    "bars": ("q.csv", "question,options,answer\nSky?,red|green|blue|grey,blue\nGrass?,red|green|blue|grey,green\n"),
}


@pytest.mark.parametrize(("name", "text"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts_give_the_same_questions(tmp_path, name, text):
    questions, errors = read(write(tmp_path, name, text))
    assert errors == []
    sky, grass = questions[:2]
    assert (sky.question, sky.choices, sky.right) == ("Sky?", COLOURS, [2])
    assert (grass.question, grass.choices, grass.right) == ("Grass?", COLOURS, [1])


OBJECTS = {
    "MMLU on the hub": [
        {"question": "Sky?", "choices": COLOURS, "answer": 2},
        {"question": "Ox?", "choices": ["a", "b"], "answer": 0},
    ],
    "options by letter": [{"question": "Sky?", "options": dict(zip("ABCD", COLOURS, strict=True)), "answer_idx": "C"}],
    "Inspect": [{"input": "Sky?", "choices": COLOURS, "target": "C", "id": 7, "metadata": {"x": 1}}],
    "ARC": [{"question": "Sky?", "choices": {"text": COLOURS, "label": [*"ABCD"]}, "answerKey": "C"}],
    "AGIEval": [
        {"question": "Sky?", "options": [f"({x}){c}" for x, c in zip("ABCD", COLOURS, strict=True)], "label": "C"}
    ],
}


@pytest.mark.parametrize("rows", OBJECTS.values(), ids=OBJECTS.keys())
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_objects_give_the_same_question(tmp_path, rows, ending):
    path = tmp_path / f"q.{ending}"
    if ending == "jsonl":
        jsonl(tmp_path, rows)
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    questions, errors = read(path)
    assert errors == []
    assert (questions[0].question, questions[0].choices, questions[0].right) == ("Sky?", COLOURS, [2])


@pytest.mark.parametrize(
    ("folder", "row", "kind", "expected"),
    [
        ("ranking", {"input_field": "1. a 2. b", "target_field": [0.0, 3.0]}, "ranking", {"relevance": [0.0, 3.0]}),
        ("retrieval", {"input_field": "Pick.", "target_field": [3, 1]}, "retrieval", {"golds": ["3", "1"]}),
        (
            "named_entity_recognition",
            {"input_field": "Tag.", "target_field": ["red"]},
            "extraction",
            {"golds": ["red"]},
        ),
        ("generation", {"input_field": "Say.", "target_field": "Yes"}, "text", {"golds": ["Yes"]}),
        ("skills", {"input_field": "?", "output_field": 3, "task_type": "multiple-choice"}, "short", {"golds": ["3"]}),
        ("", {"query": "Who?", "response": "He", "system": "Be brief."}, "short", {"context": "Be brief."}),
        ("", {"question": "Rank", "candidates": ["a", "b"], "relevance": [0, 2]}, "ranking", {"choices": ["a", "b"]}),
        ("", {"question": "How much?", "answer": 12.5, "tolerance": 0.1}, "short", {"tolerance": 0.1}),
    ],
)
def test_other_kinds_are_recognised(tmp_path, folder, row, kind, expected):
    name = f"{folder}/x_dataset.json" if folder else "x.jsonl"
    questions, errors = read(write(tmp_path, name, json.dumps(row)))
    assert errors == []
    assert questions[0].kind == kind
    assert {name: getattr(questions[0], name) for name in expected} == expected


def test_a_list_in_a_cell_is_read_and_never_run(tmp_path):
    path = write(tmp_path, "q.csv", "question,choices,answer\nSky?,\"[__import__('os').getcwd(), 'b']\",A\n")
    _, errors = read(path)
    assert len(errors) == 1
    assert "a list of choices is needed" in errors[0]


@pytest.mark.parametrize(
    ("answer", "right"), [("A, C", [0, 2]), ("AC", [0, 2]), ("A and C", [0, 2]), (["A", "C"], [0, 2]), ("b", [1])]
)
def test_several_right_letters(tmp_path, answer, right):
    rows = [
        {"question": "Warm?", "choices": COLOURS, "answer": answer},
        {"question": "D?", "choices": COLOURS, "answer": "D"},
    ]
    questions, errors = read(jsonl(tmp_path, rows))
    assert errors == []
    assert questions[0].right == right


def test_numbers_that_could_count_from_0_or_1_must_be_told(tmp_path):
    path = jsonl(tmp_path, [{"question": f"q{i}?", "choices": COLOURS, "answer": i} for i in (1, 2, 3)])
    _, errors = read(path)
    assert errors == [
        "answer: answers can be read as numbers from 0 or numbers from 1, which disagree; say which with --answers"
    ]
    assert [q.right for q in read(path, answers="index1")[0]] == [[0], [1], [2]]
    assert [q.right for q in read(path, answers="index0")[0]] == [[1], [2], [3]]


def test_numbers_among_choices_that_are_numbers_must_be_told(tmp_path):
    rows = [{"question": f"q{i}?", "choices": ["4", "3", "2", "1"], "answer": str(i)} for i in (1, 2, 3, 4)]
    _, errors = read(jsonl(tmp_path, rows))
    assert "the choices' texts or numbers from 1" in errors[0]


def test_every_fault_is_told_in_one_pass_with_its_row(tmp_path):
    rows = [
        ["question", "A", "B", "C", "D", "answer", "split"],
        ["Fine?", "a", "b", "c", "d", "A", "test"],
        ["", "a", "b", "c", "d", "A", ""],
        ["No answer?", "a", "b", "c", "d", "", ""],
        ["Out of range?", "a", "b", "c", "", "D", ""],
        ["Twice?", "a", "b", "A ", "d", "B", ""],
        ["One?", "a", "", "", "", "A", ""],
        ["Gap?", "a", "", "c", "d", "A", ""],
        ["All?", "a", "b", "c", "d", "ABCD", ""],
        ["Where?", "a", "b", "c", "d", "A", "somewhere"],
    ]
    path = tmp_path / "q.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    questions, errors = read(path)
    assert [question.question for question in questions] == ["Fine?"]
    assert errors == [
        "row 3, question: empty question",
        "row 4, answer: no answer",
        "row 5, answer: 'D' is none of the 3 choices",
        "row 6, choices: choices A and C are the same",
        "row 7, choices: 1 choices; 2 to 26 are needed",
        "row 8, choices: choice B is empty",
        "row 9, answer: every choice is right",
        "row 10, split: unknown split 'somewhere'; test, or dev for few-shot examples",
    ]


def test_faults_of_rows_that_are_no_questions(tmp_path):
    rows = [{"question": question, "choices": ["a", "b"], "answer": "A"} for question in ("Sky?", 5)]
    lines = [json.dumps(rows[0]), "[1]", "not json", json.dumps(rows[1])]
    _, errors = read(write(tmp_path, "q.jsonl", "\n".join(lines)))
    assert errors == [
        "row 2: a JSON object is needed, got list",
        "row 3: not JSON (Expecting value); one object a line is needed",
        "row 4, question: text is needed, got int",
    ]


def test_a_row_with_too_many_cells_is_a_fault(tmp_path):
    _, errors = read(write(tmp_path, "q.csv", "question,A,B,answer\nSo, what?,a,b,A\nWhy?,a,b,A\n"))
    assert "row 2: 5 cells where the header has 4; quote cells that hold ','" in errors


def test_a_file_in_another_encoding_is_refused_with_row_and_cure(tmp_path):
    path = write(tmp_path, "q.csv", "question,A,B,answer\nSky?,a,b,A\nWarum heißt es so?,ä,b,A\n", encoding="cp1252")
    with pytest.raises(TaskError, match=r"row 3: byte 0xdf is not utf-8.*--encoding"):
        read(path)
    questions, errors = read(path, encoding="cp1252")
    assert errors == []
    assert questions[1].question == "Warum heißt es so?"


def test_text_that_was_read_in_a_wrong_encoding_before_is_warned_of(tmp_path):
    path = jsonl(tmp_path, [{"question": "Warum heiÃŸt es cafÃ©?", "choices": ["a", "b"], "answer": "A"}])
    faults = [str(fault) for fault in read_questions(path).faults]
    assert any("wrong encoding" in fault for fault in faults)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a,b\n1,2\n", "no column of questions; the file has a, b"),
        ('question,A,B,answer\n"Sky?,a,b,A\n', "a quotation mark left open"),
    ],
)
def test_files_without_questions_say_what_is_missing(tmp_path, text, message):
    _, errors = read(write(tmp_path, "q.csv", text))
    assert any(message in error for error in errors)


def test_unknown_columns_and_endings_are_refused(tmp_path):
    path = write(tmp_path, "q.csv", "stem,A,B,answer\nSky?,a,b,A\n")
    _, errors = read(path, fields={"question": "text"})
    assert errors[0] == "--field question=text: no such column; the file has stem, A, B, answer"
    with pytest.raises(TaskError, match="unknown ending"):
        read_table(write(tmp_path, "q.xlsx", "x"))
    with pytest.raises(TaskError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TaskError, match="not a Parquet file"):
        read_table(write(tmp_path, "q.parquet", "x"))


def test_a_line_separator_inside_a_text_ends_no_row(tmp_path):
    row = {"question": "One\u2028two\x85three?", "choices": ["a", "b"], "answer": "A"}
    path = write(tmp_path, "q.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    questions, errors = read(path)
    assert errors == []
    assert questions[0].question == row["question"]


@settings(max_examples=150, deadline=None)
@example([{"choices": [""], "answer": math.nan}])
@example([{"choices": [""], "answer": math.inf}])
@example([{"choices": [""], "answer": 10**400}])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([names[0] for names in NAMES.values()]),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=8)
            | st.lists(st.text(max_size=3)),
        ),
        max_size=5,
    )
)
def test_no_table_breaks_the_reader(rows):
    reader = Reader()
    questions = reader.read(Table(path=Path("x/q.jsonl"), rows=rows, numbers=list(range(1, len(rows) + 1))))
    for question in questions:
        assert question.question
        assert all(0 <= index < len(question.choices) for index in question.right)
        assert question.kind != "choice" or question.right
