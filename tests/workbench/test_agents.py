"""Environments as evaluation tasks: success with intervals; resumed, in process or over HTTP, compared, gated."""

import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from training.orchestrator_client import Episode, Run
from training.rl.evaluate import pass_at_k
from workbench.agents import check_environments
from workbench.errors import ConfigError, RunError
from workbench.pipeline import EvaluationRequest, evaluate, evaluate_many, gate
from workbench.statistics import cluster_t_interval, wilson_interval
from workbench.store import Project

OWN = """
from pathlib import Path
from training.rl.environments import Turn, environments

LOG = Path(__file__).parent / "begun.txt"
FAULT = Path(__file__).parent / "fault"

@environments.register("two-turns", replace=True)
class TwoTurns:
    '''Right where the second answer has an even length.'''
    def reset(self, row, messages):
        if FAULT.exists() and row["number"] > 40:
            raise ValueError("the simulator is down")
        with LOG.open("a") as file:
            file.write(f"{row['number']}\\n")
        self.turn = 0
        return messages
    def step(self, answer):
        self.turn += 1
        if self.turn == 1:
            return Turn(messages=[{"role": "user", "content": "And then?"}], rewards={"said": 0.1})
        return Turn(done=True, rewards={"right": float(len(answer) % 2 == 0)})
    def close(self):
        return {}
"""
ASKED = {
    "task": "turns", "prompts": "rows.jsonl", "column": "question", "environment": "two-turns", "include": ["own.py"],
    "success": "right", "max_tokens": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents")
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    for seed, name in enumerate(("old", "new")):
        save_tiny_checkpoint(folder / name, seed=seed, scale=0.3)
        (folder / name / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture
def home(models: Path, tmp_path: Path) -> Path:
    rows = [{"question": f"Which gas, {i}?", "number": i, "answer": "x"} for i in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.py").write_text(OWN)
    Project.init(tmp_path)
    return tmp_path


def write(home: Path, name: str = "turns.yaml", **more: Any) -> Path:
    fields = {key: value for key, value in (ASKED | more).items() if value is not None}
    (home / name).write_text(json.dumps(fields))
    return home / name


def begun(home: Path) -> list[int]:
    return [int(line) for line in (home / "begun.txt").read_text().split()]


def test_pass_at_k_is_the_mean_over_all_choices_of_k_episodes() -> None:
    for won in range(6):
        episodes = [i < won for i in range(5)]
        for k in range(1, 6):
            choices = [any(chosen) for chosen in itertools.combinations(episodes, k)]
            assert pass_at_k(5, won, k) == pytest.approx(sum(choices) / len(choices))


def test_an_interrupted_evaluation_goes_on_to_the_report_it_would_have_been(home: Path, models: Path) -> None:
    asked = write(home)
    (home / "fault").touch()
    with pytest.raises(RunError, match=r"9 of 18 episodes were lost .*the simulator is down; mend the cause"):
        evaluate(models / "old", project=home, environments=[asked])
    kept = len(begun(home))
    (home / "fault").unlink()
    report = evaluate(models / "old", project=home, environments=[asked])
    assert begun(home)[:32] == list(range(32)), "the first part was recorded"
    assert sorted(begun(home)[kept:]) == list(range(32, 50)), "and is not driven again"
    items = Project.find(home).store.items(report.id)
    (result,) = report.results
    won = [item.metrics["success"] for item in items]
    assert 0 < sum(won) < 50, "a model that always or never succeeds would test nothing"
    expected = wilson_interval(sum(won), 50)
    assert (result.headline.value, result.headline.low) == pytest.approx((expected.value, expected.low))
    assert {e.metric for e in result.estimates} == {"success", "reward", "said", "right"}
    assert all(item.extra["episodes"][0]["turns"] == 2 for item in items)
    (home / "again").mkdir()
    for name in ("own.py", "rows.jsonl"):
        (home / "again" / name).write_bytes((home / name).read_bytes())
    Project.init(home / "again")
    elsewhere = evaluate(models / "old", project=home / "again", environments=[write(home / "again")])
    assert elsewhere.id == report.id, "never interrupted, it is the same report"


def test_several_episodes_of_a_row_are_one_cluster_and_a_larger_limit_asks_for_the_new_rows(
    home: Path, models: Path
) -> None:
    asked = write(home, samples=4, temperature=1.0, pass_at=[1, 4], metric="pass@4")
    evaluate(models / "old", project=home, environments=[asked], limit=8)
    before = len(begun(home))
    report = evaluate(models / "old", project=home, environments=[asked], limit=12)
    assert (before, len(begun(home))) == (32, 48)
    items = Project.find(home).store.items(report.id)
    episodes = [(float(one["success"]), item.group) for item in items for one in item.extra["episodes"]]
    expected = cluster_t_interval([value for value, _ in episodes], [group for _, group in episodes])
    found = {one.metric: one for one in report.results[0].estimates}
    assert (found["success"].n, found["success"].clusters) == (48, 12)
    assert (found["success"].value, found["success"].low) == pytest.approx((expected.value, expected.low))
    assert found["pass@1"].value == pytest.approx(found["success"].value)
    assert found["pass@4"].value == pytest.approx(sum(i.metrics["success"] > 0 for i in items) / 12)
    assert report.results[0].metric == "pass@4"


def test_an_orchestrator_elsewhere_gives_the_same_report_and_a_gate_decides_on_it(home: Path, models: Path) -> None:
    def act(episode: Episode) -> None:
        messages = list(episode.messages)
        messages += [episode.chat(messages), {"role": "user", "content": "And then?"}]
        episode.reward(0.1, "said")
        answer = episode.chat(messages)
        episode.finish(rewards={"right": float(len(answer["content"]) % 2 == 0)})

    here = write(home, "here.yaml")
    elsewhere = write(
        home, "there.yaml", task="elsewhere", environment=None, include=(), orchestrator={"port": 0, "deadline_s": 30}
    )
    folder = home / "episodes" / "elsewhere"
    # one orchestrator for both checkpoints, as long as the next comes within a minute
    threading.Thread(target=Run.drive_folder, args=(folder, act), kwargs={"concurrency": 4}, daemon=True).start()
    request = EvaluationRequest(environments=[here, elsewhere], limit=20)
    found = evaluate_many([models / "new"], project=home, request=request, baseline=models / "old")
    for one in (found.baseline, *found.evaluated):
        assert one is not None
        by_task = {name: [i.metrics for i in one.items if i.task == name] for name in ("turns", "elsewhere")}
        assert by_task["turns"] == by_task["elsewhere"], "the same policy in the same world"
    (comparison,) = found.comparisons.values()
    verdicts = {task.task: (task.n, task.gained, task.lost) for task in comparison.tasks}
    assert verdicts["turns"] == verdicts["elsewhere"]
    assert verdicts["turns"][0] == 20
    assert verdicts["turns"][1] or verdicts["turns"][2]
    decision = gate(found.evaluated[0].report.id, project=home, baseline=str(comparison.baseline)).decision
    assert {rule.task for rule in decision.rules} == {"turns", "elsewhere"}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"samples": 4}, "at temperature 0 all episodes of a row are alike"),
        ({"pass_at": [2]}, r"pass_at: between 1 and samples \(1\)"),
        ({"environment": "two-turn"}, "two-turn.*did you mean.*two-turns"),
        ({"prompts": "row.jsonl"}, "turns.yaml: .*row.jsonl"),
        ({"environment": None, "include": ()}, "nothing says what is good"),
        ({"sample": 4}, "sample: unknown key"),
    ],
)
def test_a_faulty_file_is_told_before_a_model_is_loaded(home: Path, more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        evaluate("no-such-model", project=home, environments=[write(home, **more)])


def test_a_run_is_refused_whose_environment_asks_what_it_trains_on(home: Path, models: Path) -> None:
    from transformers import AutoTokenizer

    from training.recipe import Recipe
    from training.sources import open_sources

    write(home)
    (home / "own_rows.jsonl").write_text(json.dumps({"question": "Which gas, 7? "}) + "\n")
    fields = {
        "recipe": "agent", "start": str(models / "old"), "method": "grpo", "dtype": "float32",
        "rl": {"prompts": "own_rows.jsonl", "column": "question", "steps": 2, "prompts_per_step": 1,
               "environment": "two-turns", "include": ["own.py"]},
        "schedule": {"kind": "constant", "learning_rate": 1e-3}, "evaluation": {"environments": ["turns.yaml"]},
    }  # fmt: skip
    recipe = Recipe.model_validate(fields, strict=False)
    sources = open_sources(recipe, tokenizer=AutoTokenizer.from_pretrained(models / "old"), folder=home)
    (finding,) = check_environments(recipe, sources, Project.find(home), home)
    assert (finding.level, "1 of its 50 rows" in finding.text) == ("refused", True)
