"""Rows become tokens: what carries loss, which columns are understood, and which faults are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from training.recipe import Method, Source
from training.sources import PAIRS, RowDocuments, open_source
from workbench.errors import ConfigError


@pytest.fixture
def tokenizer() -> Any:
    """One whose template ends an answer with the end token, as real ones do."""
    import copy

    found = copy.deepcopy(tiny_tokenizer())
    found.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}</s>{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return found


def documents(rows: list[dict[str, Any]], tokenizer: Any, method: Method = "sft") -> RowDocuments:
    return RowDocuments(name="s", rows=rows, tokenizer=tokenizer, method=method)


def with_loss(found: RowDocuments, row: int = 0) -> str:
    document = found.document(row)
    return found.tokenizer.decode(document.tokens[document.loss])


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "Now."},
]


def test_only_answers_carry_loss_each_with_the_token_that_ends_it(tokenizer: Any) -> None:
    found = documents([{"messages": TALK}], tokenizer)
    assert with_loss(found) == "Here.</s>\nNow.</s>\n"
    whole = found.tokenizer.decode(found.document(0).tokens)
    assert whole == "[system]Be brief.\n[user]Where?\n[assistant]Here.</s>\n[user]When?\n[assistant]Now.</s>\n"


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_of_any_usual_name_are_a_question_and_an_answer(tokenizer: Any, pair: tuple[str, str]) -> None:
    found = documents([{pair[0]: "Where?", pair[1]: "Here."}], tokenizer)
    assert with_loss(found) == "Here.</s>\n"
    assert "[user]Where?" in found.tokenizer.decode(found.document(0).tokens)


def test_an_instruction_may_have_an_input_and_a_pair_a_system_text(tokenizer: Any) -> None:
    rows = [{"instruction": "Translate.", "input": "Haus", "output": "house", "system": "Be brief."}]
    text = tokenizer.decode(documents(rows, tokenizer).document(0).tokens)
    assert text.startswith("[system]Be brief.\n[user]Translate.\n\nHaus\n[assistant]house</s>")


def test_plain_text_carries_loss_everywhere_and_ends(tokenizer: Any) -> None:
    found = documents([{"text": "The heart pumps."}], tokenizer)
    assert with_loss(found) == "The heart pumps.</s>"
    assert found.splits


def test_conversations_carry_loss_everywhere_where_all_text_is_learnt(tokenizer: Any) -> None:
    found = documents([{"messages": TALK}], tokenizer, method="pretrain")
    assert with_loss(found).startswith("[system]Be brief.")
    assert found.splits and not documents([{"messages": TALK}], tokenizer).splits


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"txet": "a"}], "no column 'text'"),
        ([{"messages": TALK}, {"messages": [{"role": "user"}]}], "row 2: messages is no list"),
        ([{"messages": TALK[:2]}], "row 1: no assistant turn"),
        ([{"prompt": "a", "completion": None}], "row 1: prompt or completion is no text"),
        ([{"text": 3}], "row 1: column 'text' holds int"),
    ],
)
def test_faulty_rows_are_named(tokenizer: Any, rows: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ConfigError, match="source 's'") as caught:
        documents(rows, tokenizer).document(len(rows) - 1)
    assert fault in str(caught.value)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ConfigError, match="rewrites earlier turns"):
        documents([{"messages": TALK}], tokenizer).document(0)


def test_conversations_without_a_template_are_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        documents([{"messages": TALK}], tokenizer).document(0)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".txt"])
def test_files_of_every_kind_hold_the_same_text(tokenizer: Any, tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    path = tmp_path / f"data{suffix}"
    match suffix:
        case ".jsonl":
            path.write_text(json.dumps({"text": "The heart pumps."}) + "\n")
        case ".parquet":
            pd.DataFrame({"text": ["The heart pumps."]}).to_parquet(path)
        case ".csv":
            pd.DataFrame({"text": ["The heart pumps."]}).to_csv(path, index=False)
        case _:
            path.write_text("The heart pumps.")
    source = Source(name="s", data=path.name, share=1.0)
    found = open_source(source, tokenizer=tokenizer, method="pretrain", folder=tmp_path)
    assert with_loss(found) == "The heart pumps.</s>"
    assert len(found.digest) == 64


def test_a_file_that_is_missing_or_of_an_unknown_kind_is_one_line(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "data.xlsx").write_text("?")
    for name, fault in (("dta.jsonl", 'did you mean "data.jsonl"'), ("data.xlsx", "known: .jsonl")):
        with pytest.raises(ConfigError) as caught:
            source = Source(name="s", data=name, share=1.0)
            open_source(source, tokenizer=tokenizer, method="sft", folder=tmp_path)
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"chosen": "a", "rejected": "b"}, "no prompt that it answers"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "rejected is empty"),
        ({"chosen": TALK[:2], "rejected": TALK[:3]}, "chosen does not end with an assistant's turn"),
    ],
)
def test_faulty_preferences_are_named(tokenizer: Any, row: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        documents([row], tokenizer).pair(0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
        {"prompt": [TALK[1]], "chosen": [TALK[2]], "rejected": [{"role": "assistant", "content": "There."}]},
        {"chosen": TALK[1:3], "rejected": [TALK[1], {"role": "assistant", "content": "There."}]},
        {"prompt": [TALK[1]], "chosen": TALK[1:3], "rejected": [TALK[1], {"role": "assistant", "content": "There."}]},
    ],
)
def test_preferences_of_any_usual_form_are_two_answers_to_one_prompt(tokenizer: Any, row: dict[str, Any]) -> None:
    found = documents([row], tokenizer)
    pair = found.pair(0)
    texts = [
        (tokenizer.decode(one.tokens), tokenizer.decode(one.tokens[one.loss])) for one in (pair.chosen, pair.rejected)
    ]
    before = "[user]Where?\n[assistant]"
    assert texts == [(f"{before}Here.</s>\n", "Here.</s>\n"), (f"{before}There.</s>\n", "There.</s>\n")]
    assert with_loss(found) == "Here.</s>\n"  # where no pairs are wanted, the better answer is learnt
    assert found.is_preference


def mixed_file(tmp_path: Path) -> Path:
    lines = ['{"text": "a good row"}', "{broken", '{"text": ""}', '{"text": 3}', '{"txet": "b"}', '{"text": "last"}']
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_malformed_rows_are_refused_all_at_once(tokenizer: Any, tmp_path: Path) -> None:
    source = Source(name="s", data="data.jsonl", share=1.0)
    with pytest.raises(ConfigError) as caught:
        open_source(source, tokenizer=tokenizer, method="pretrain", folder=mixed_file(tmp_path))
    for part in ("row 2: no JSON", "row 4: column 'text' holds int", "row 5: no column 'text'", "on_bad_row: skip"):
        assert part in str(caught.value)


def test_malformed_rows_are_counted_and_left_out_where_the_recipe_says_so(tokenizer: Any, tmp_path: Path) -> None:
    source = Source(name="s", data="data.jsonl", share=1.0)
    folder = mixed_file(tmp_path)
    found = open_source(source, tokenizer=tokenizer, method="pretrain", folder=folder, on_bad_row="skip")
    assert [found.record(row)["text"] for row in range(len(found))] == ["a good row", "last"]
    assert [found.number(row) for row in range(len(found))] == [1, 6]
    assert found.left_out == {"malformed": 3, "empty": 1}
    assert [fault.row for fault in found.faults] == [2, 4, 5]


def test_a_source_without_a_usable_row_is_refused_with_the_reason(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    (tmp_path / "none.jsonl").write_text("")
    for name, part in (("data.jsonl", "(2 empty)"), ("none.jsonl", "holds no rows that can be used;")):
        with pytest.raises(ConfigError) as caught:
            source = Source(name="s", data=name, share=1.0)
            open_source(source, tokenizer=tokenizer, method="pretrain", folder=tmp_path)
        assert part in str(caught.value)


def test_a_csv_row_with_missing_cells_is_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("prompt,completion\nWhere?,Here.\nWhen?\n")
    source = Source(name="s", data="data.csv", share=1.0)
    with pytest.raises(ConfigError, match="row 2: 1 cells, where the head has 2"):
        open_source(source, tokenizer=tokenizer, method="sft", folder=tmp_path)


def test_rows_weigh_what_their_column_says(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": "b", "w": 0.25}, {"prompt": "c", "completion": "d", "w": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Source(name="s", data="rows.jsonl", share=1, weight_column="w")
    found = open_source(source, tokenizer=tokenizer, method="sft", folder=tmp_path)
    assert [found.document(row).weight for row in range(2)] == [0.25, 1.0]


@pytest.mark.parametrize("weight", [0, -1, "much", None, True, float("inf")])
def test_a_row_whose_weight_is_no_positive_number_is_named(tokenizer: Any, tmp_path: Path, weight: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "w": weight}) + "\n", encoding="utf-8")
    source = Source(name="s", data="rows.jsonl", share=1, weight_column="w")
    with pytest.raises(ConfigError, match="row 1: weight 'w' is"):
        open_source(source, tokenizer=tokenizer, method="sft", folder=tmp_path)
