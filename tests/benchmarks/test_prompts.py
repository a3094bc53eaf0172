"""Our tasks ask exactly what lm-eval's own ask: rows as the hub has them, through both, give the same requests."""

from pathlib import Path

import lm_eval.tasks
import pytest
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from benchmarks import adapters, catalog
from benchmarks.build import build_leaf

LM_EVAL = Path(lm_eval.tasks.__file__).parent


def lettered(stem="question"):
    return [
        {
            stem: "What is ice?",
            "choices": {"text": ["fire", "water", "air"], "label": ["A", "B", "C"]},
            "answerKey": "B",
        },
        {stem: "Where is it cold? ", "choices": {"text": ["sun", "pole"], "label": ["1", "2"]}, "answerKey": "2"},
        {stem: "Who swims?", "choices": {"text": ["a fish", "a stone"], "label": ["A", "B"]}, "answerKey": "A"},
    ]


HELLASWAG = [
    {
        "activity_label": "Ice [step] skating",
        "ctx_a": "A man  stands on ice. [header] He falls",
        "ctx_b": "the crowd",
        "endings": ["laughs [title] loud", "sleeps."],
        "label": "1",
    },
    {"activity_label": "Cooking", "ctx_a": "Heat oil.", "ctx_b": "", "endings": ["Fry it.", "Go away."], "label": "0"},
]
TRUTH = [
    {
        "question": "Do pigs fly?",
        "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["No", "They do not", "Yes"], "labels": [1, 1, 0]},
    },
    {
        "question": "Is the Earth flat?",
        "mc1_targets": {"choices": ["It is round", "It is flat"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["It is round", "It is flat"], "labels": [1, 0]},
    },
]
WINOGRANDE = [
    {"sentence": "Ann gave Eve a cup because _ was kind.", "option1": "Ann", "option2": "Eve", "answer": "1"},
    {
        "sentence": "The box did not fit the bag as _ was small.",
        "option1": "the box",
        "option2": "the bag",
        "answer": "2",
    },
]
BOOLQ = [
    {"passage": "Ice is frozen water.", "question": "is ice water", "label": 1, "answer": True},
    {"passage": "Iron is a metal.", "question": "is iron a gas", "label": 0, "answer": False},
]
GSM8K = [
    {"question": f"Tom has {n} nuts and eats 2. How many are left?", "answer": f"{n}-2={n - 2}\n#### {n - 2}"}
    for n in range(3, 12)
]
MMLU = [
    {
        "question": f" What is {n} + 1?\n",
        "choices": [str(n), str(n + 1), str(n + 2), "0"],
        "answer": 1,
        "subject": "anatomy",
    }
    for n in range(8)
]

PIQA = [{"goal": f"Cut {what}", "sol1": "a knife", "sol2": "a pen", "label": 0} for what in ("bread", "wood")]
LAMBADA = [{"text": "He went home to see his dog"}, {"text": "A b c"}]
WIKITEXT = [{"page": " = Ice = \n It is cold , and 1 @,@ 000 m deep . "}]

CASES = [
    ("arc_easy", "arc/arc_easy.yaml", "lettered_hub", lettered(), 0),
    ("openbookqa", "openbookqa/openbookqa.yaml", "lettered_hub", lettered("question_stem"), 0),
    ("hellaswag", "hellaswag/hellaswag.yaml", "hellaswag_hub", HELLASWAG, 0),
    ("piqa", "piqa/piqa.yaml", "piqa_hub", PIQA, 0),
    ("winogrande", "winogrande/default.yaml", "winogrande_hub", WINOGRANDE, 0),
    ("boolq", "super_glue/boolq/default.yaml", "boolq_hub", BOOLQ, 0),
    ("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_hub", TRUTH, 0),
    ("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2.yaml", "truthfulqa_hub", TRUTH, 0),
    ("lambada", "lambada/lambada_openai.yaml", "lambada_hub", LAMBADA, 0),
    ("wikitext", "wikitext/wikitext.yaml", "wikitext_hub", WIKITEXT, 0),
    ("gsm8k", "gsm8k/gsm8k.yaml", "gsm8k_hub", GSM8K, 5),
    ("mmlu_letter_anatomy", "mmlu/default/mmlu_anatomy.yaml", "mmlu_hub", MMLU, 5),
    ("mmlu_cloze_anatomy", "mmlu/continuation/mmlu_anatomy.yaml", "mmlu_hub", MMLU, 5),
]


def theirs(path, rows, dev, shots):
    config = load_yaml(LM_EVAL / path)
    config.pop("tag", None)
    config["num_fewshot"] = shots
    if shots:  # lm-eval draws GSM8K's shots anew for each question; ours are the first ones, for all alike
        config["fewshot_config"] = {"sampler": "first_n"}
    splits = {"test": rows, "validation": rows, "train": dev or rows, "dev": dev}
    config["custom_dataset"] = lambda **_: {name: Dataset.from_list(split) for name, split in splits.items() if split}
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(1234)
    return task


def ours(name, adapter, rows, dev, shots):
    whole, subject = catalog.split_name(name)
    spec, form = catalog.shipped_entries()[whole]
    prepare = getattr(adapters, catalog.load_manifest().sets[spec.set].prepare or "", lambda docs: docs)
    adapt = getattr(adapters, adapter)
    spec = spec.model_copy(update={"keep": 0})
    docs, shown = prepare([adapt(row) for row in rows]), prepare([adapt(row) for row in dev])
    return build_leaf(name, spec, form, docs, shown, shots=shots, subject=subject)


def requests(task):
    task.build_all_requests()
    return {(i.request_type, i.args if i.request_type != "generate_until" else i.args[0]) for i in task.instances}


@pytest.mark.parametrize(("name", "path", "adapter", "rows", "shots"), CASES, ids=[case[0] for case in CASES])
def test_requests_equal_lm_evals_own(name, path, adapter, rows, shots):
    dev, test = rows[:shots], rows[shots:]
    mine, reference = ours(name, adapter, test, dev, shots), theirs(path, test, dev, shots)
    assert mine.OUTPUT_TYPE == reference.OUTPUT_TYPE
    assert requests(mine) == requests(reference)


@pytest.mark.parametrize(("name", "path", "adapter", "rows", "shots"), CASES, ids=[case[0] for case in CASES])
def test_targets_equal_lm_evals_own(name, path, adapter, rows, shots):
    mine, reference = (
        ours(name, adapter, rows[shots:], rows[:shots], shots),
        theirs(path, rows[shots:], rows[:shots], shots),
    )

    def targets(task):
        index = task.doc_to_text if task.multiple_input else task.doc_to_target
        choose = task.OUTPUT_TYPE == "multiple_choice"
        return sorted(str(task.doc_to_choice(doc)[index(doc)] if choose else index(doc)) for doc in task.eval_docs)

    if name == "lambada":
        assert [reference.doc_to_target(doc) for doc in reference.eval_docs] == [" dog", " c"]
    assert targets(mine) == targets(reference)


@pytest.mark.parametrize(
    ("answer", "strict", "flexible"),
    [
        ("4 + 3 = 7\n#### 7", 1, 1),
        ("4 + 3 = 7. The answer is $7.", 0, 1),
        ("#### 1,007", 0, 0),
        ("so 8", 0, 0),
        ("", 0, 0),
    ],
)
def test_gsm8k_scores_strictly_and_flexibly_as_lm_eval_does(answer, strict, flexible):
    rows = [{"question": "Four and three?", "answer": "4+3=7\n#### 7"}, GSM8K[0]]
    for task in (ours("gsm8k", "gsm8k_hub", rows, [], 0), theirs("gsm8k/gsm8k.yaml", rows, [], 0)):
        task.build_all_requests()
        doc = next(i for i in task.instances if i.doc["question"] == "Four and three?")
        for instance in task.instances:
            instance.resps = [answer]
        task.apply_filters()
        for name, expected in (("strict-match", strict), ("flexible-extract", flexible)):
            assert task.process_results(doc.doc, [doc.filtered_resps[name]]) == {"exact_match": expected}


def test_hub_rows_of_the_other_sets_become_questions():
    medmcqa = {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 3, "subject_name": "ENT"}
    assert adapters.medmcqa_hub(medmcqa) == {"question": "q", "choices": [*"abcd"], "answer": 3, "subject": "ENT"}
    medqa = {"sent1": "q", "label": 2, **{f"ending{i}": str(i) for i in range(4)}}
    assert adapters.medqa_hub(medqa)["choices"][2] == "2"
    context = {"contexts": ["One.", "Two."], "labels": ["A", "B"]}
    pubmed = adapters.pubmedqa_hub({"question": "q", "context": context, "final_decision": "maybe"})
    assert adapters.pubmedqa_docs([pubmed]) == [
        {"context": "One.\nTwo.", "question": "q", "choices": ["yes", "no", "maybe"], "answer": 2}
    ]
    jcqa = {"question": "q", "label": 4, **{f"choice{i}": f"c{i}" for i in range(5)}}
    assert adapters.jcommonsenseqa_hub(jcqa)["choices"][4] == "c4"
    finqa = {"query": "Please answer.\nContext: Sales were 5.\nQuestion: What were sales?\nAnswer:", "answer": "5.0"}
    assert adapters.finqa_hub(finqa) == {"context": "Sales were 5.", "question": "What were sales?", "answer": "5.0"}
    tatqa = {
        "table": {"uid": "t", "table": [["a", "1"]]},
        "paragraphs": [{"text": "two", "order": 2}, {"text": "one", "order": 1}],
        "questions": [{"question": "How much?", "answer": ["1", "2"], "scale": "million"}],
    }
    (doc,) = adapters.tatqa_docs([adapters.tatqa_hub(tatqa)])
    assert doc["context"] == "a | 1\n\none\ntwo"
    assert doc["target"] == "1; 2 million"
