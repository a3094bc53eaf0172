"""Turn the rows of each public set into documents. Functions are named in `tasks/manifest.yaml`; they know no prompt.

Two kinds: `<set>_hub` takes one row as the hub has it and returns the row that our local file would have;
`<set>_docs` takes all local rows and returns documents: `question, choices, answer`, or what the form needs.
Hub fields follow the sets' cards; a set whose hub rows look otherwise raises KeyError, never gives wrong scores.
"""

import hashlib
import re
from collections import defaultdict

from benchmarks.draws import with_distractors
from benchmarks.rows import Row
from benchmarks.shopping import (  # noqa: F401  (the manifest names them)
    aspect_docs,
    category_docs,
    goal_docs,
    opinion_docs,
    review_docs,
    wands_docs,
)


def _short(text: str) -> str:
    """Name a long text that stands for a cluster."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _id(row: Row) -> Row:
    """Keep the row's id, which local files have and hubs mostly have not."""
    return {"id": row["id"]} if "id" in row else {}


def mmlu_hub(row: Row) -> Row:
    """Map cais/mmlu."""
    return {key: row[key] for key in ("subject", "question", "choices", "answer")}


def stripped_docs(rows: list[Row]) -> list[Row]:
    """Take blanks and line ends off the question, as lm-eval's MMLU prompt does."""
    return [{**row, "question": row["question"].strip()} for row in rows]


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
    return {"question": question, "choices": list(row["endings"]), "answer": int(row["label"])}


def hellaswag_docs(rows: list[Row]) -> list[Row]:
    """Clean the text as lm-eval does: brackets are left over from WikiHow's markup."""

    def clean(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    return [{**row, "question": clean(row["question"]), "choices": [clean(c) for c in row["choices"]]} for row in rows]


def piqa_hub(row: Row) -> Row:
    """Map baber/piqa."""
    return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer": row["label"]}


def winogrande_hub(row: Row) -> Row:
    """Map allenai/winogrande: the blank cuts the sentence into the options' contexts and one continuation."""
    before, after = row["sentence"].split("_", 1)
    contexts = [before + row["option1"], before + row["option2"]]
    return {"context_options": contexts, "continuation": after.strip(), "answer": int(row["answer"]) - 1}


def winogrande_docs(rows: list[Row]) -> list[Row]:
    """Name the contexts `choices` and the continuation `target`."""
    return [
        {**_id(row), "choices": row["context_options"], "target": row["continuation"], "answer": row["answer"]}
        for row in rows
    ]


def boolq_hub(row: Row) -> Row:
    """Map google/boolq, which leaves the article's title out: the passage stands for it."""
    return {**row, "title": _short(row["passage"]), "choices": ["no", "yes"], "answer": int(row["answer"])}


def truthfulqa_hub(row: Row) -> Row:
    """Map truthfulqa/truthful_qa, configuration multiple_choice."""
    targets = {
        key: dict(zip(row[key]["choices"], row[key]["labels"], strict=True)) for key in ("mc1_targets", "mc2_targets")
    }
    return {"question": row["question"], **targets}


def truthfulqa1_docs(rows: list[Row]) -> list[Row]:
    """One right answer among several."""
    return [
        {
            **_id(row),
            "question": row["question"],
            "choices": list(row["mc1_targets"]),
            "answer": list(row["mc1_targets"].values()).index(1),
        }
        for row in rows
    ]


def truthfulqa2_docs(rows: list[Row]) -> list[Row]:
    """Several right answers; `labels` says which."""
    return [
        {
            **_id(row),
            "question": row["question"],
            "choices": list(row["mc2_targets"]),
            "labels": list(row["mc2_targets"].values()),
            "answer": 0,
        }
        for row in rows
    ]


def lambada_hub(row: Row) -> Row:
    """Map EleutherAI/lambada_openai."""
    context, _, word = row["text"].rpartition(" ")
    return {"context": context, "continuation": word}


def lambada_docs(rows: list[Row]) -> list[Row]:
    """Name the last word `target`."""
    return [{**_id(row), "context": row["context"], "target": row["continuation"]} for row in rows]


def wikitext_hub(row: Row) -> Row:
    """Map EleutherAI/wikitext_document_level."""
    return {"text": row["page"]}


def wikitext_docs(rows: list[Row]) -> list[Row]:
    """Undo the tokenisation as lm-eval does; words and bytes are counted on the original text (`page`)."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    return [{**_id(row), "page": row["text"], "target": wikitext_detokenizer({"page": row["text"]})} for row in rows]


def text_docs(rows: list[Row]) -> list[Row]:
    """Take `text` as what is to be predicted."""
    return [{**row, "target": row["text"]} for row in rows]


def passage_docs(rows: list[Row], *, size: int = 2000) -> list[Row]:
    """Cut long texts at blank lines into passages of about `size` characters; `source` is the text they come from."""
    docs = []
    for row in rows:
        passage = ""
        for part in [*row["text"].split("\n\n"), ""]:
            if passage and (not part or len(passage) + len(part) > size):
                if len(passage) >= size // 4:  # a rest of a line or two says little and varies much
                    docs.append({"book": row["book"], "source": row["id"], "target": passage})
                passage = ""
            passage = f"{passage}\n\n{part}" if passage else part
    return docs


def ifeval_hub(row: Row) -> Row:
    """Map google/IFEval."""
    return {key: row[key] for key in ("key", "prompt", "instruction_id_list", "kwargs")}


def gsm8k_hub(row: Row) -> Row:
    """Map openai/gsm8k."""
    return {"question": row["question"], "solution": row["answer"]}


def gsm8k_docs(rows: list[Row]) -> list[Row]:
    """Take the worked solution as the target; `####` stands before its last number."""
    return [{**_id(row), "question": row["question"], "target": row["solution"]} for row in rows]


def medqa_hub(row: Row) -> Row:
    """Map GBaker/MedQA-USMLE-4-options-hf: four choices where the original has five."""
    return {"question": row["sent1"], "choices": [row[f"ending{i}"] for i in range(4)], "answer": row["label"]}


def medmcqa_hub(row: Row) -> Row:
    """Map openlifescienceai/medmcqa, where `cop` counts from 0 (from 1 in the authors' own files)."""
    choices = [row[key] for key in ("opa", "opb", "opc", "opd")]
    return {"question": row["question"], "choices": choices, "answer": row["cop"], "subject": row["subject_name"]}


def pubmedqa_hub(row: Row) -> Row:
    """Map qiaojin/PubMedQA, configuration pqa_labeled."""
    choices = ["yes", "no", "maybe"]
    answer = choices.index(row["final_decision"])
    contexts = list(row["context"]["contexts"])
    return {"question": row["question"], "contexts": contexts, "choices": choices, "answer": answer}


def pubmedqa_docs(rows: list[Row]) -> list[Row]:
    """Join the abstract's parts."""
    keep = ("question", "choices", "answer")
    return [{**_id(row), "context": "\n".join(row["contexts"]), **{key: row[key] for key in keep}} for row in rows]


def jcommonsenseqa_hub(row: Row) -> Row:
    """Map sbintuitions/JCommonsenseQA."""
    choices = [row[f"choice{i}"] for i in range(5)]
    return {"question": row["question"], "choices": choices, "answer": row["label"]}


def cpa_docs(rows: list[Row]) -> list[Row]:
    """Put the numbered statements under the question."""
    return [
        {**row, "question": "\n".join([row["question"], *(f"{k}. {v}" for k, v in row["statements"].items())])}
        for row in rows
    ]


def legal_docs(rows: list[Row]) -> list[Row]:
    """Take clause and question; LegalBench's own few-shot rows keep them in `fields` and answer in words."""
    answers = {
        "contract_qa": {"No": ("no", "yes", 0), "Yes": ("no", "yes", 1)},
        "privacy_policy_qa": {"Irrelevant": ("irrelevant", "relevant", 0), "Relevant": ("irrelevant", "relevant", 1)},
    }
    docs = []
    for row in rows:
        if "fields" in row:
            if row["task"] not in answers:
                continue
            *choices, answer = answers[row["task"]][row["answer"]]
            passage, question = row["fields"]["text"], row["fields"]["question"]
            row = {"task": row["task"], "passage": passage, "question": question, "choices": choices, "answer": answer}
        doc = {key: row[key] for key in ("task", "passage", "question", "choices", "answer")}
        docs.append({**_id(row), **doc, "clause": _short(row["passage"])})
    return docs


def finqa_hub(row: Row) -> Row:
    """Map TheFinAI/flare-finqa, which keeps context and question in one prompt."""
    text = re.sub(r"(?s)^.*?Context:\s*", "", row["query"])
    context, _, question = text.rpartition("Question:")
    return {"context": context.strip(), "question": question.split("\nAnswer:")[0].strip(), "answer": row["answer"]}


def finqa_docs(rows: list[Row]) -> list[Row]:
    """Tell numbers from words in the answer."""
    return [
        {
            **_id(row),
            "report": _short(row["context"]),
            "context": row["context"],
            "question": row["question"],
            "target": str(row["answer"]),
            "golds": [row["answer"]],
        }
        for row in rows
    ]


def tatqa_hub(row: Row) -> Row:
    """Map next-tat/TAT-QA."""
    paragraphs = [part["text"] for part in sorted(row["paragraphs"], key=lambda part: part["order"])]
    return {
        "id": row["table"]["uid"],
        "table": row["table"]["table"],
        "paragraphs": paragraphs,
        "questions": row["questions"],
    }


def tatqa_docs(rows: list[Row]) -> list[Row]:
    """One document a question: the table as text, the paragraphs, and every accepted spelling of the answer."""
    docs = []
    for row in rows:
        table = "\n".join(" | ".join(cell.strip() for cell in line) for line in row["table"])
        context = table + "\n\n" + "\n".join(row["paragraphs"])
        for question in row["questions"]:
            answer = question["answer"]
            parts = [str(part) for part in answer] if isinstance(answer, list) else [str(answer)]
            docs.append(
                {
                    "table_id": row["id"],
                    "context": context,
                    "question": question["question"],
                    "scale": question["scale"],
                    "golds": parts,
                    "target": "; ".join(parts) + (f" {question['scale']}" if question["scale"] else ""),
                }
            )
    return docs


def openstax_docs(rows: list[Row]) -> list[Row]:
    """Keep what a question needs, and its module: questions of one module lean on one text."""
    keep = ("id", "question", "choices", "answer", "book", "chapter", "module")
    return stripped_docs([{key: row[key] for key in keep} for row in rows])


def term_docs(rows: list[Row]) -> list[Row]:
    """Ask a glossary backwards: which of four terms of one chapter (or book) has this meaning?"""
    chapters, books = defaultdict(set), defaultdict(set)
    for row in rows:
        chapters[row["book"], row["chapter"]].add(row["term"])
        books[row["book"]].add(row["term"])
    docs = []
    for row in rows:
        near = sorted(chapters[row["book"], row["chapter"]] - {row["term"]})
        wrong = near if len(near) >= 3 else sorted(books[row["book"]] - {row["term"]})
        if len(wrong) < 3 or row["term"].lower() in row["meaning"].lower():
            continue
        asked = with_distractors(f"Which term means: {row['meaning'].rstrip('.')}?", row["term"], wrong, key=row["id"])
        docs.append({**_id(row), **asked, "book": row["book"], "chapter": row["chapter"], "module": row["module"]})
    return docs


def glossary_docs(rows: list[Row]) -> list[Row]:
    """Ask a glossary forwards: how likely is the meaning that it gives of a term?"""
    keep = ("id", "book", "chapter", "module")
    return [
        {**{key: row[key] for key in keep}, "question": f'What does "{row["term"]}" mean?', "target": row["meaning"]}
        for row in rows
    ]


def free_docs(rows: list[Row]) -> list[Row]:
    """Take the model answer as what is to be predicted."""
    keep = ("id", "question", "book", "module")
    return [{**{key: row[key] for key in keep}, "target": row["answer"]} for row in rows]
