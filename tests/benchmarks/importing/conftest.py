"""A real run of lm-eval's own command line, with a tiny model and tasks of every kind over questions of our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_tiny_checkpoint

CHOICES = [
    ("Which organ pumps blood?", ["the heart", "the liver", "the skin"], 0),
    ("Which gas do plants take in?", ["oxygen", "carbon dioxide", "helium"], 1),
    ("How many legs has a spider?", ["six", "eight", "ten"], 1),
    ("What is frozen water called?", ["ice", "steam", "fog"], 0),
    ("Which planet is called red?", ["Venus", "Mars", "Saturn"], 1),
    ("Which animal says meow?", ["a dog", "a cow", "a cat"], 2),
]
SUMS = [
    ("Anna has 3 apples and buys 4. How many?", "#### 7"),
    ("Tom had 9 pens and lost 2. How many?", "#### 7"),
    ("What is 5 times 3?", "#### 15"),
    ("What is 20 less 8?", "#### 12"),
]
PAIRS = [
    ("The cup did not fit into the bag because the", ["cup", "bag"], "was too large.", 0),
    ("Ann thanked Eve because", ["Ann", "Eve"], "had helped.", 1),
    ("The ball broke the table because the", ["ball", "table"], "was made of steel.", 0),
]
SPLITS = """dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
fewshot_split: test
metadata: {{version: 1.0}}
"""
CHOOSE = """output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TASKS = {
    "choose_zero": ("choices", CHOOSE + "doc_to_target: answer\n"),
    "choose_one": ("choices", CHOOSE + "doc_to_target: '{{choices[answer]}}'\nnum_fewshot: 1\n"),
    "fill": (
        "pairs",
        """output_type: multiple_choice
doc_to_text: right
doc_to_choice: "{{[start + ' ' + names[0], start + ' ' + names[1]]}}"
doc_to_target: end
metric_list: [{metric: acc}]
""",
    ),
    "sums": (
        "sums",
        """output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{answer}}"
num_fewshot: 2
generation_kwargs: {until: ["Q:"], do_sample: false, max_gen_toks: 12}
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "#### (\\\\-?[0-9]+)"}, {function: take_first}]
  - name: any-letter
    filter: [{function: regex, group_select: 0, regex_pattern: "(.)"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    ),
    "last_word": (
        "sums",
        """output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    ),
    "reading": (
        "sums",
        """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    ),
}
GROUP = "group: choose\ntask: [choose_zero, choose_one]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
ASKED = "choose,fill,sums,last_word,reading"


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "choices": [{"question": q, "choices": c, "answer": a, "topic": f"topic {a}"} for q, c, a in CHOICES],
        "sums": [{"question": question, "answer": answer} for question, answer in SUMS],
        "pairs": [{"start": s, "names": n, "end": e, "right": r} for s, n, e, r in PAIRS],
    }
    for name, own in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    for name, (file, text) in TASKS.items():
        head = SPLITS.format(file=folder / f"{file}.jsonl")
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{head}{text}", encoding="utf-8")
    (folder / "choose.yaml").write_text(GROUP, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def lm_eval_output(tmp_path_factory: pytest.TempPathFactory, tasks_folder: Path, tiny_folder: Path) -> Path:
    """The folder that `lm_eval run --output_path` wrote."""
    output = tmp_path_factory.mktemp("output")
    line = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={tiny_folder},dtype=float32"]
    line += ["--tasks", ASKED, "--include_path", str(tasks_folder), "--device", "cpu", "--batch_size", "1"]
    line += ["--log_samples", "--output_path", str(output)]
    done = subprocess.run([sys.executable, "-m", *line], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    return output
