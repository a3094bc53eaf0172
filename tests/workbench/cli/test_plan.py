"""`workbench plan`, with a tiny model that stands for the baseline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence import CLUSTERED
from tests.benchmarks.test_runner import question, write_task
from tests.tiny import save_tiny_checkpoint
from workbench import planning
from workbench.cli import main
from workbench.errors import ConfigError
from workbench.evaluation import EvaluationRequest
from workbench.pipeline import evaluate


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_tiny_checkpoint(folder / "tiny")
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_without_a_report_the_plan_says_that_it_guesses_and_computes_nothing(run: Any, home: Path) -> None:
    code, out, _ = run("plan", "--suite", "sample-domain", "--baseline", str(home / "tiny"), "--json")
    tasks = {task["facts"]["task"]: task for task in json.loads(out)["plan"]["tasks"]}
    assert code == 0
    assert tasks["sample_anatomy_cloze"]["facts"]["items"] == 60
    assert tasks["sample_anatomy_cloze"]["facts"]["origin"] == "unknown"
    assert tasks["sample_anatomy_text"]["chance"] is None
    _, out, _ = run("ls", "reports", "--json")
    assert not json.loads(out)["reports"]


def test_with_a_report_the_plan_uses_its_accuracy_its_speed_and_its_guessing(run: Any, home: Path) -> None:
    report = evaluate(home / "tiny", suites=["sample-domain"], project=home / "p")
    _, out, err = run(
        "plan", "--suite", "sample-domain", "--baseline", str(home / "tiny"), "--margin", "10pt", "--json"
    )
    plan = json.loads(out)["plan"]
    assert report.id[:12] in plan["speed"]
    guessing = {task["facts"]["task"] for task in plan["tasks"] if task["facts"]["guessing"]}
    at_chance = {
        r.task
        for r in report.results
        if r.chance and r.headline.low and r.headline.high and r.headline.low <= r.chance <= r.headline.high
    }
    assert guessing == at_chance
    assert all(task["facts"]["margin"] == 0.1 for task in plan["tasks"])
    _, out, err = run("plan", "--suite", "sample-domain", "--baseline", str(home / "tiny"))
    assert "whole gate" in err and out.splitlines()[0].startswith("task\t")


def test_a_planned_suite_can_be_evaluated(run: Any, home: Path) -> None:
    file = home / "planned.yaml"
    words = ("plan", "--tasks", "sample_general_cloze", "--baseline", str(home / "tiny"))
    code, _, err = run(*words, "--change", "0.02", "--margin", "20pt", "--budget", "10min", "--write", str(file))
    assert code == 0 and "--suite planned" in err
    code, out, _ = run("eval", str(home / "tiny"), "--suite", "planned", "--include-path", str(home), "--json")
    (result,) = json.loads(out)["reports"][0]["results"]
    assert code == 0 and result["margin"] == 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "sample-domian"), 'did you mean "sample-domain"'),
        (("--suite", "sample-domain", "--margin", "2"), "write 2pt"),
        (("--suite", "sample-domain", "--budget", "soon"), "write 20min"),
        (("--suite", "sample-domain", "--margin", "150pt"), "below 100 points"),
        (("--suite", "sample-domain", "--baseline", "nobody"), "nobody"),
    ],
)
def test_bad_input_is_one_line(run: Any, home: Path, words: tuple[str, ...], message: str) -> None:
    base = () if "--baseline" in words else ("--baseline", str(home / "tiny"))
    code, out, err = run("plan", *words, *base)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_a_plan_needs_a_baseline(run: Any) -> None:
    code, _, err = run("plan", "--suite", "sample-domain")
    assert code == 2 and "--baseline" in err


def test_a_later_look_at_a_few_items_does_not_replace_what_is_known(run: Any, home: Path) -> None:
    words = ("plan", "--suite", "sample-domain", "--baseline", str(home / "tiny"), "--json")
    evaluate(home / "tiny", suites=["sample-domain"], project=home / "p")
    before = json.loads(run(*words)[1])["plan"]["tasks"]
    evaluate(home / "tiny", suites=["sample-domain"], limit=3, project=home / "p")
    after = json.loads(run(*words)[1])["plan"]["tasks"]
    assert [task["facts"] for task in after] == [task["facts"] for task in before]


def test_a_planned_suite_says_which_required_tasks_it_leaves_out(run: Any, home: Path) -> None:
    from dataclasses import replace

    evaluate(home / "tiny", suites=["sample-domain"], project=home / "p")
    request = EvaluationRequest(suites=["sample-domain"])
    evidence = planning.plan_evidence(str(home / "tiny"), project=home / "p", request=request, margin=0.5)
    first, *others = evidence.tasks
    less = replace(evidence, tasks=(replace(first, planned=0), *(replace(one, planned=40) for one in others)))
    text = planning.as_suite(less, "less")
    assert planning.left_out(less) == [first.facts.task] and first.facts.required
    assert first.facts.task in text.splitlines()[0] and f"task: {first.facts.task}," not in text
    assert all(f"task: {one.facts.task}, limit: 40" in text for one in others)


def test_a_plan_that_gives_no_task_any_items_writes_no_suite(run: Any, home: Path) -> None:
    evaluate(home / "tiny", suites=["sample-domain"], project=home / "p")
    file = home / "none.yaml"
    words = ("plan", "--suite", "sample-domain", "--baseline", str(home / "tiny"), "--budget", "10min")
    code, out, err = run(*words, "--write", str(file), "--json")
    assert not any(task["planned"] for task in json.loads(out)["plan"]["tasks"])  # the tiny model guesses
    assert code == 0 and "no task gets any items" in err and not file.exists()


def test_a_budget_that_buys_no_certificate_is_not_spent(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "nothing.yaml"
    words = ("plan", "--tasks", "sample_general_cloze", "--baseline", str(home / "tiny"), "--change", "0.3", "--json")
    with pytest.raises(SystemExit):  # a project of its own: there no report says that the tiny model guesses
        main([*words, "--margin", "6pt", "--budget", "0.001s", "--write", str(file), "--project", str(home / "fresh")])
    out, err = capsys.readouterr()
    plan = json.loads(out)["plan"]
    assert [task["planned"] for task in plan["tasks"]] == [0] and plan["seconds"] == 0
    assert "buys no certificate" in plan["notes"][0]
    assert "is not written" in err and not file.exists()


def test_a_budget_without_a_known_speed_is_refused() -> None:
    with pytest.raises(ConfigError, match="--budget: no report of this checkpoint tells its speed"):
        planning._within([], 60.0, 0.05, None, "no report of this checkpoint tells its speed")


def test_a_task_in_several_prompts_is_planned_once_at_their_cost(run: Any, home: Path) -> None:
    (home / "robust.yaml").write_text(
        "suite: robust\ntitle: t\ntasks:\n"
        "  - {task: sample_general_cloze, variants: 3, choices_only: true, margin: 0.2}\n"
    )
    words = ("plan", "--baseline", str(home / "tiny"), "--change", "0.02", "--include-path", str(home), "--json")
    file = home / "replanned.yaml"
    _, out, _ = run(*words, "--suite", "robust", "--write", str(file))
    _, plain, _ = run(*words, "--tasks", "sample_general_cloze", "--margin", "20pt")
    (task,), (alone,) = (json.loads(text)["plan"]["tasks"] for text in (out, plain))
    assert (task["facts"]["prompts"], task["facts"]["required"]) == (3, True)
    assert task["facts"]["items"] == alone["facts"]["items"]  # questions, not prompts
    assert alone["facts"]["tokens_per_item"] < task["facts"]["tokens_per_item"] < 3 * alone["facts"]["tokens_per_item"]
    assert "asked in 3 prompts" in json.loads(out)["plan"]["notes"][0]
    assert "variants: 3" in file.read_text() and "@" not in file.read_text()


@pytest.mark.filterwarnings("ignore")
def test_without_a_report_items_that_share_a_passage_count_less(run: Any, home: Path) -> None:
    rows = [question(i, passage=f"p{i // 5}") for i in range(50)]
    card = {"version": 1, "workbench": {"cluster": "passage"}}
    folder = write_task(home / "tasks", "passages", rows, metadata=card)
    words = ("plan", "--tasks", "passages", "--baseline", str(home / "tiny"), "--include-path", str(folder), "--json")
    (task,) = json.loads(run(*words)[1])["plan"]["tasks"]
    assert task["facts"]["design_effect"] == pytest.approx(1 + 4 * CLUSTERED)
