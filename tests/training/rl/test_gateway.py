"""Episodes driven over HTTP: what was sampled is learned from, lost ones are given out again, nothing counts twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_model
from tests.training.rl.test_run import ROOT, home, make, run  # noqa: F401  # home is a fixture
from training.orchestrator_client import PROTOCOL, Episode, Failed, Over, Run
from training.rl.collect import Task
from training.rl.conversation import Template
from training.rl.desk import Desk, Refused
from training.rl.drivers import EnvironmentDriver
from training.rl.environments import Turn
from training.rl.episodes import read_episodes
from training.rl.gateway import OrchestratedDriver
from training.rl.loss import PolicyLoss, batch_of
from training.rl.options import Orchestrated, Reinforce
from training.rl.sampling import Policy
from workbench.errors import ConfigError, RunError

TOLD = ["And then?", "Are you sure?"]


@pytest.fixture(scope="module")
def tokenizer(home: Path) -> Any:  # noqa: F811
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(home / "tiny")


def options(**more: Any) -> Reinforce:
    asked = {"port": 0, "deadline_s": 20, "patience_s": 20} | more
    fields = {"prompts": "p", "steps": 2, "max_tokens": 6, "group_size": 2, "orchestrator": asked}
    return Reinforce.model_validate(fields, strict=False)


def tasks(count: int = 4) -> list[Task]:
    return [
        Task(
            id=f"0-{at}-0", row=at, epoch=0, sample=0, record={"question": "q"}, seed=at,
            messages=[{"role": "user", "content": f"Which gas, {at}?"}],
        )
        for at in range(count)
    ]  # fmt: skip


class ThreeTurns:
    """Answers twice, then ends; the reward is the length of all that was said."""

    def reset(self, row: Mapping[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.turn = 0
        return messages

    def step(self, answer: str) -> Turn:
        self.turn += 1
        if self.turn > len(TOLD):
            return Turn(done=True, rewards={"said": float(len(answer))})
        return Turn(messages=[{"role": "user", "content": TOLD[self.turn - 1]}], rewards={"said": float(len(answer))})

    def close(self) -> Mapping[str, float]:
        return {}


def three_turns(episode: Episode) -> None:
    messages = list(episode.messages)
    for told in [*TOLD, None]:
        answer = episode.chat(messages)
        messages.append(answer)
        episode.reward(float(len(answer["content"])), "said")
        if told is not None:
            messages.append({"role": "user", "content": told})
    episode.finish()


class Driven:
    """A driver with a policy, and a folder; orchestrators are threads."""

    def __init__(self, tokenizer: Any, folder: Path, **more: Any) -> None:
        self.options, self.folder = options(**more), folder
        self.policy = Policy(tiny_model(scale=0.3), tokenizer, temperature=1.0)
        self.driver = OrchestratedDriver(self.policy, self.options, run="test", folder=folder)
        self.client = Run.of_folder(folder, patience_s=1)

    def drive(self, act: Callable[[Episode], None], count: int = 4, concurrency: int = 4) -> Any:
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(self.driver.drive, tasks(count))
            orchestrator = threading.Thread(target=self.client.drive, args=(act,), kwargs={"concurrency": concurrency})
            orchestrator.start()
            try:
                return made.result(60)
            finally:
                self.driver.gateway.desk.finish_all()
                orchestrator.join(10)


@pytest.fixture
def driven(tokenizer: Any, tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def build(**more: Any) -> Driven:
        made.append(Driven(tokenizer, tmp_path / str(len(made)), **{"deadline_s": 60} | more))
        return made[-1]

    yield build
    for one in made:
        one.driver.close()


def test_the_http_path_gives_the_loss_of_the_path_in_this_process(driven: Callable[..., Driven]) -> None:
    """Several turns; the same weights and seeds, so the same tokens, masks, and log-probabilities."""
    far = driven()
    over_http = far.drive(three_turns)
    near = EnvironmentDriver(far.policy, far.options, ThreeTurns)
    in_process = near.drive(tasks())
    losses = []
    for episodes in (over_http, in_process):
        assert [one.turns for one in episodes] == [3] * 4
        for at, one in enumerate(episodes):
            one.advantage = at - 1.5
        model = tiny_model(seed=4, scale=0.3)
        objective = PolicyLoss(far.options.model_copy(update={"kl": 0.0}))
        batch = batch_of([(one, s) for one in episodes for s in one.sequences], mask_truncated=False, pad=1)
        loss = objective.loss(model, model.get_output_embeddings(), batch, objective.counts([batch]))
        losses.append(loss.item())
    for a, b in zip(over_http, in_process, strict=True):
        assert a.sequences[0].tokens == b.sequences[0].tokens
        assert a.posted == b.posted and a.messages == b.messages
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_is_recorded_of_several_turns_is_what_the_model_gives(driven: Callable[..., Driven]) -> None:
    far = driven()
    for episode in far.drive(three_turns):
        (strand,) = episode.sequences
        with torch.no_grad():
            found = far.policy.model(torch.tensor([strand.tokens])).logits[0].log_softmax(-1)
        drawn = [at for at, one in enumerate(strand.logprobs) if one is not None]
        assert len(drawn) <= 18 and strand.logprobs[0] is None
        for at in drawn:
            assert strand.logprobs[at] == pytest.approx(float(found[at - 1, strand.tokens[at]]), abs=2e-5)


def test_a_changed_history_and_a_nested_call_are_sequences_of_their_own(driven: Callable[..., Driven]) -> None:
    def act(episode: Episode) -> None:
        first = episode.chat(episode.messages)
        episode.chat([{"role": "user", "content": "Another matter."}])  # nested
        episode.chat([*episode.messages, {**first, "content": "not what it said"}, {"role": "user", "content": "So?"}])
        episode.chat([*episode.messages, first, {"role": "user", "content": "So?"}])  # goes on with the first
        episode.finish(reward=1.0)

    far = driven()
    (episode,) = far.drive(act, count=1)
    assert episode.turns == 4 and len(episode.sequences) == 3
    assert [one.drawn > 0 for one in episode.sequences] == [True] * 3
    assert sum(one is not None for one in episode.sequences[0].logprobs) > 6  # two answers, one strand
    assert far.driver.gateway.desk.counts.branches == 2


def test_a_call_that_is_sent_again_is_written_once(driven: Callable[..., Driven]) -> None:
    def act(episode: Episode) -> None:
        body = json.dumps({"messages": episode.messages}).encode()
        headers = {"Authorization": f"Bearer {episode.key}", "Idempotency-Key": "the same"}
        said = []
        for _ in range(3):
            request = urllib.request.Request(f"{episode.base_url}/chat/completions", body, headers)
            with urllib.request.urlopen(request, timeout=20) as response:
                said.append(json.loads(response.read())["id"])
        assert len(set(said)) == 1
        episode.finish(reward=1.0)

    (episode,) = driven().drive(act, count=1)
    assert episode.turns == 1 and len(episode.sequences) == 1


def test_openais_own_client_drives_an_episode(driven: Callable[..., Driven]) -> None:
    from openai import OpenAI

    def act(episode: Episode) -> None:
        with OpenAI(base_url=episode.base_url, api_key=episode.key) as client:
            found = client.chat.completions.create(model="policy", messages=episode.messages, max_tokens=3)  # type: ignore[arg-type]
        assert found.usage is not None and found.usage.completion_tokens <= 3
        episode.finish(reward=0.5)

    (episode,) = driven().drive(act, count=1)
    assert episode.drawn <= 3 and episode.posted == {"reward": 0.5}


def test_an_orchestrator_that_fails_gives_its_episode_back_and_too_often_loses_it(
    driven: Callable[..., Driven],
) -> None:
    tried: list[int] = []

    def act(episode: Episode) -> None:
        tried.append(episode.attempt)
        episode.chat(episode.messages)
        if episode.row and episode.id == "0-0-0" and episode.attempt == 0:
            raise ValueError("the simulator fell over")
        if episode.id == "0-1-0":
            raise ValueError("this one never works")
        episode.finish(reward=1.0)

    found = driven().drive(act, count=3)
    assert found[0].dropped == "" and found[2].dropped == ""
    assert "never works" in found[1].dropped and found[1].posted == {}
    assert sorted(tried) == [0, 0, 0, 1, 1]


ORCHESTRATOR = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from training.orchestrator_client import Run
def act(episode):
    messages = list(episode.messages)
    for told in ("And then?", "Are you sure?", None):
        answer = episode.chat(messages)
        messages.append(answer)
        episode.reward(len(answer["content"]) / 100, "said")
        if sys.argv[3] == "hang":
            print("hanging", flush=True)
            time.sleep(600)
        if told:
            messages.append({"role": "user", "content": told})
    episode.finish()
Run.of_folder(sys.argv[2]).drive(act, concurrency=4)
"""


def orchestrator(folder: Path, how: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", ORCHESTRATOR, str(ROOT), str(folder), how]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_a_run_is_trained_by_an_orchestrator_in_a_process_of_its_own_though_one_is_killed_within_an_episode(
    home: Path,  # noqa: F811
) -> None:
    folder = home / "driven"
    rl = {"rewards": [], "include": [], "steps": 2, "max_tokens": 6}
    recipe = make(rl | {"orchestrator": {"port": 0, "deadline_s": 3, "patience_s": 60}})
    with ThreadPoolExecutor(1) as pool, orchestrator(folder, "hang") as killed:
        made = pool.submit(run, recipe, home, folder)
        assert killed.stdout is not None and killed.stdout.readline() == "hanging\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with orchestrator(folder, "work") as second:
            done = made.result(120)
            second.wait(30)
    assert done.steps == 2
    recorded = read_episodes(folder, 0)
    assert recorded is not None
    assert [one.turns for one in recorded[1]] == [3] * 8 and not any(one.dropped for one in recorded[1])
    for one in recorded[1]:  # what the killed one had posted is not in it
        said = [m["content"] for m in one.messages if m["role"] == "assistant"]
        assert one.posted["said"] == pytest.approx(sum(len(text) / 100 for text in said))
    assert not (folder / "orchestrator.json").exists()  # orchestrators see that the run is over


def test_a_run_that_nobody_drives_stops_with_what_to_do(home: Path) -> None:  # noqa: F811
    recipe = make({"rewards": [], "include": [], "orchestrator": {"port": 0, "patience_s": 0.2}})
    with pytest.raises(RunError, match=r"start your orchestrator for http://127\.0\.0\.1"):
        run(recipe, home, home / "alone")


def test_the_example_orchestrator_drives_a_run(home: Path) -> None:  # noqa: F811
    rows = [{"question": f"How much in {i}?", "boxes": {"red": i, "blue": 2}, "answer": i + 2} for i in range(6)]
    (home / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rl = {"prompts": "boxes.jsonl", "rewards": [], "include": [], "steps": 2, "orchestrator": {"port": 0}}
    environment = os.environ | {"PYTHONPATH": ""}
    example = [sys.executable, str(ROOT / "examples" / "tool_orchestrator.py"), str(home / "example")]
    process = subprocess.Popen(example, env=environment, stderr=subprocess.PIPE, text=True)
    run(make(rl), home, home / "example")
    _, said = process.communicate(timeout=60)
    assert said == "16 episodes\n" and process.returncode == 0
    recorded = read_episodes(home / "example", 0)
    assert recorded is not None and set(recorded[1][0].parts) == {"right"}
    assert "open_box" in recorded[1][0].messages[0]["content"] or recorded[1][0].messages[0]["role"] == "user"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def desk(tokenizer: Any) -> tuple[Desk, Clock]:
    clock = Clock()
    made = Desk(Orchestrated(deadline_s=10, attempts=2, max_open=2), Template(tokenizer=tokenizer), clock=clock)
    made.open(tasks(3))
    return made, clock


def speak(desk: Desk, attempt: Any) -> None:
    messages = [*attempt.task.messages]
    talk, _, _ = desk.begin_call(attempt, messages, ())
    desk.end_call(attempt, talk, messages, (), ([5, 1], [-1.0, -0.5], {"role": "assistant", "content": "x"}, False))


def test_no_more_episodes_are_out_than_may_be(desk: tuple[Desk, Clock]) -> None:
    table, _ = desk
    assert len(table.claim(5)) == 2
    assert table.claim(5) == []


def test_a_lost_episode_is_given_out_again_and_its_old_key_is_refused(desk: tuple[Desk, Clock]) -> None:
    table, clock = desk
    first, second = table.claim(2)
    speak(table, first)
    table.reward(first.key, "step", 1.0, "a")
    table.finish(second.key, {}, {}, "")
    clock.now = 11
    with pytest.raises(Refused) as refused:
        table.finish(first.key, {"late": 5.0}, {}, "")
    assert refused.value.status == 410 and "lost" in str(refused.value)
    again = [one for one in table.claim(2) if one.place == 0]
    assert again[0].number == 1 and again[0].posted == {} and again[0].key != first.key
    clock.now = 30
    with pytest.raises(Refused):
        table.attempt(again[0].key)
    assert table.counts.lost == 3  # place 0 twice, and what else was out


def test_a_finish_and_a_reward_that_are_said_twice_count_once(desk: tuple[Desk, Clock]) -> None:
    table, _ = desk
    (one,) = table.claim(1)
    speak(table, one)
    for _ in range(2):
        table.reward(one.key, "step", 0.5, "same")
    table.reward(one.key, "step", 0.5, "another")
    for _ in range(2):
        table.finish(one.key, {"end": 2.0}, {"steps": 3}, "")
    assert table.counts.finished == 1
    (episode,) = table._done.values()
    assert episode.posted == {"step": 1.0, "end": 2.0} and episode.metrics == {"steps": 3.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True])
def test_a_reward_that_is_no_number_is_refused_and_the_episode_goes_on(value: Any, desk: tuple[Desk, Clock]) -> None:
    table, _ = desk
    (one,) = table.claim(1)
    speak(table, one)
    with pytest.raises(Refused, match="no finite number"):
        table.reward(one.key, "step", value, "a")
    with pytest.raises(Refused, match="no finite number"):
        table.finish(one.key, {"end": value}, {}, "")
    table.finish(one.key, {"end": 1.0}, {}, "")


def test_an_episode_cannot_end_while_an_answer_is_written(desk: tuple[Desk, Clock]) -> None:
    table, _ = desk
    (one,) = table.claim(1)
    table.begin_call(one, one.task.messages, ())
    with pytest.raises(Refused, match="still being written"):
        table.finish(one.key, {"end": 1.0}, {}, "")


def test_calls_without_the_right_key_or_shape_are_refused_by_name(driven: Callable[..., Driven]) -> None:
    far = driven()
    assert (far.folder / "orchestrator.json").stat().st_mode & 0o077 == 0
    stranger = Run(far.client.url, "guessed")
    with pytest.raises(Failed, match="wrong_key"):
        stranger.post("/episodes", {"protocol": PROTOCOL}, key="guessed")
    with pytest.raises(Failed, match="unknown_key"):
        stranger.post("/chat/completions", {"messages": []}, key="guessed")
    with pytest.raises(Failed, match="protocol"):
        stranger.post("/episodes", {"protocol": "workbench.rollout/0"}, key=far.client.key)

    def act(episode: Episode) -> None:
        for body, code in (
            ({"messages": []}, "invalid"),
            ({"messages": episode.messages, "n": 2}, "unsupported"),
            ({"messages": [{"role": "user", "content": "long " * 3000}]}, "context_length_exceeded"),
        ):
            with pytest.raises(Failed, match=code):
                far.client.post("/chat/completions", body, key=episode.key)
        episode.chat(episode.messages)
        episode.finish(reward=1.0)
        with pytest.raises(Over):
            episode.chat(episode.messages)

    (episode,) = far.drive(act, count=1)
    assert episode.turns == 1 and episode.dropped == ""


def test_others_cannot_reach_a_gateway_without_a_key_of_the_users_choice(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKBENCH_ROLLOUT_KEY", raising=False)
    with pytest.raises(ConfigError, match="set WORKBENCH_ROLLOUT_KEY"):
        Driven(tokenizer, tmp_path, host="0.0.0.0")


def test_many_episodes_at_once_come_to_their_end(driven: Callable[..., Driven]) -> None:
    far = driven()
    began = time.monotonic()
    found = far.drive(three_turns, count=32, concurrency=32)
    assert time.monotonic() - began < 60
    assert [one.turns for one in found] == [3] * 32 and not any(one.dropped for one in found)
