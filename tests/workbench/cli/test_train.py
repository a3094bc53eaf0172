"""`workbench train`: from a recipe to a decision, at toy size."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.laws.tree import ROOT
from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.store import Project

RECIPE = """\
recipe: toy
start: {home}/tiny
method: {method}
mix:
  - {{name: domain, data: domain.jsonl, share: 0.75, max_epochs: 90}}
  - {{name: general, data: general.txt, share: 0.25, max_epochs: 90}}
tokens: 3000
sequence_length: 64
batch_tokens: 512
schedule: {{learning_rate: 1e-3}}
dtype: float32
evaluation: {{suites: [sample-domain], limit: 8}}
"""


def end_turns(folder: Path, *, ended: bool = True) -> None:
    """Let the tokenizer's chat template end an answer with the end token, as a real one does; or not."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = "{% if m['role'] == 'assistant' %}</s>{% endif %}" if ended else ""
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.save_pretrained(folder)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "tiny")
    end_turns(tmp_path / "tiny")
    rows = [{"prompt": f"Where is bone {i}?", "completion": f"It is in place {i * i}."} for i in range(30)]
    (tmp_path / "domain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "general.txt").write_text("He went to the market because the bread was gone. " * 40)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path, method="sft"))
    return tmp_path


@pytest.fixture
def train(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["train", str(home / "recipe.yaml"), *words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_a_dry_run_says_tokens_and_steps_and_trains_nothing(train: Any, home: Path) -> None:
    code, out, _ = train("--dry-run", "--json")
    plan = json.loads(out)["plan"]
    shares = {source["name"]: source["share"] for source in plan["sources"]}
    assert code == 0
    assert shares == {"domain": pytest.approx(0.75, abs=0.03), "general": pytest.approx(0.25, abs=0.03)}
    assert plan["tokens"] >= 3000 > plan["tokens"] - 512
    assert not (home / "p" / "runs").exists()


def test_a_run_ends_in_an_evaluated_checkpoint_with_lineage_and_a_decision(train: Any, home: Path) -> None:
    code, out, _ = train("--json")
    found = json.loads(out)
    assert found["decision"]["outcome"] == {0: "pass", 1: "fail", 3: "hold"}[code]
    last = found["checkpoints"][-1]
    store = Project.find(home / "p").store
    recorded = store.checkpoint(last["fingerprint"])
    assert (recorded.stage, recorded.name) == ("posttrain", f"toy/checkpoint-{found['plan']['steps']}")
    (run,) = store.runs()
    assert (run.status, recorded.run, recorded.parent) == ("done", run.id, run.start)
    assert set(run.document["data"]) == {"domain", "general"}
    reports = {report.checkpoint.fingerprint for report in store.reports()}
    assert reports == {recorded.fingerprint, recorded.parent}
    again, out, _ = train("--json")
    assert (again, json.loads(out)["decision"]["id"]) == (code, found["decision"]["id"])


def test_a_run_goes_on_from_another_run(train: Any, home: Path) -> None:
    train("--json")
    _, out, _ = train("--json", "--set", "start=run/toy", "--set", "recipe=second", "--set", "method=pretrain")
    first, second = Project.find(home / "p").store.runs()[::-1]
    assert second.start != first.start
    assert json.loads(out)["checkpoints"][-1]["stage"] == "pretrain"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix:": "mixx:"}, 'mixx: unknown key; did you mean "mix"'),
        ({"domain.jsonl": "domian.jsonl"}, 'did you mean "domain.jsonl"'),
        ({"batch_tokens: 512": "batch_tokens: 500"}, "no multiple of 64 (a micro batch); try 512"),
        ({"tokens: 3000": "tokens: 300", "method: sft": "method: pretrain"}, "are one step of 512"),
        ({"max_epochs: 90": "max_epochs: 1"}, "more than 1 passes over its rows"),
        ({"learning_rate: 1e-3": "warmup: 0.9, anneal: 0.3"}, "take more than the whole run"),
        ({"dtype: float32": "save_every: 5000"}, "never comes in a run of"),
        ({"share: 0.75": "share: 7.5"}, "share"),
        ({"sequence_length: 64": "sequence_length: 16"}, "none of its rows fits into 16 tokens"),
        ({"start: ": "start: run/none #"}, "no run of that name"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_training(
    train: Any, home: Path, change: dict[str, str], message: str
) -> None:
    text = (home / "recipe.yaml").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (home / "recipe.yaml").write_text(text)
    code, out, err = train()
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
    assert not (home / "p" / "runs").exists()


def test_faulty_rows_are_named(train: Any, home: Path) -> None:
    with (home / "domain.jsonl").open("a") as file:
        file.write('{"prompt": "no end\n[1]\n')
    code, _, err = train()
    assert code == 2 and "row 31: no JSON" in err and "row 32: no JSON object" in err


def test_an_answer_whose_end_carries_no_loss_is_refused(train: Any, home: Path) -> None:
    """A model trained so would never stop."""
    end_turns(home / "tiny", ended=False)
    code, _, err = train()
    assert code == 2 and "the token that ends an answer" in err and "mend the chat template" in err


def test_the_recipe_in_the_readme_runs_at_the_first_try(train: Any, home: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = (block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if block.startswith("recipe:"))
    rows = [{"prompt": f"Where is tool {i}?", "completion": f"It hangs in row {i * i}."} for i in range(150)]
    (home / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    many = [
        {
            "messages": [
                {"role": "user", "content": f"Count to {i}."},
                {"role": "assistant", "content": f"1, 2, ... {i}"},
            ]
        }
        for i in range(150)
    ]
    (home / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    (home / "recipe.yaml").write_text(recipe.replace("start: smollm2", f"start: {home / 'tiny'}"))
    code, out, err = train("--set", "evaluation.limit=6", "--set", "dtype=float32")
    assert code in (0, 1, 3), err
    assert "sample_general_cloze" in out
