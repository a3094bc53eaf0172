"""Turn the rows of each public set into ours. Functions are named in `tasks/manifest.yaml`.

Two kinds: `<set>_hub` takes one row as the hub has it and returns the row that our local file would have;
`<set>_docs` takes all local rows and returns documents: `question, choices, answer`, or what the form needs.
Hub fields are written down from the sets' cards; a set whose hub rows look otherwise raises KeyError, not wrong scores.
"""

import re

from benchmarks.rows import Row

LETTERS = "ABCDEFGHIJ"


def mmlu_hub(row: Row) -> Row:
    """Map cais/mmlu."""
    return {key: row[key] for key in ("subject", "question", "choices", "answer")}


def lettered_hub(row: Row) -> Row:
    """Map sets with `choices{text, label}` and `answerKey`: ARC, OpenBookQA, CommonsenseQA."""
    question = row["question_stem"] if "question_stem" in row else row["question"]
    labels = list(row["choices"]["label"])
    return {
        "question": question,
        "choices": list(row["choices"]["text"]),
        "answer": labels.index(row["answerKey"].strip()),
    }


def hellaswag_hub(row: Row) -> Row:
    """Map Rowan/hellaswag."""
    question = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {
        "question": question,
        "choices": list(row["endings"]),
        "answer": int(row["label"]),
        "source": row["source_id"],
    }


def hellaswag_docs(rows: list[Row]) -> list[Row]:
    """Clean the text as lm-eval does: brackets are left over from WikiHow's markup."""

    def clean(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    return [{**row, "question": clean(row["question"]), "choices": [clean(c) for c in row["choices"]]} for row in rows]


def text_docs(rows: list[Row]) -> list[Row]:
    """Take `text` as what is to be predicted."""
    return [{**row, "target": row["text"]} for row in rows]
