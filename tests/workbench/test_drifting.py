"""Something new comes into a stream: it is noticed without a label, people get a lane of it, a rule is drafted."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from safety.policy import load_policy
from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.drifting import DriftRequest, note_enforced, read_alarms, watch
from workbench.errors import ConfigError
from workbench.pipeline import open_project, resolve_checkpoint

OPERATOR = Operator(name="test")
WORDS = [
    "the",
    "heart",
    "pumps",
    "blood",
    "and",
    "then",
    "she",
    "said",
    "that",
    "bread",
    "at",
    "home",
    "was",
    "gone",
    "because",
    "it",
    "is",
    "late",
    "in",
    "the",
    "market",
]


def write(path, texts):
    rows = [{"id": f"{path.stem}{n}", "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    save_tiny_checkpoint(folder / "model")
    chance = random.Random(0)
    usual = [" ".join(chance.choices(WORDS, k=14)) for _ in range(700)]
    write(folder / "before.jsonl", usual[:400])
    write(folder / "same.jsonl", usual[400:])
    # a threat in other signs, each time in other ones: no near-duplicates
    strange = ["".join(chance.choices("ZXQ#%~{}[]0123", k=60)) for _ in range(20)]
    write(folder / "threat.jsonl", usual[400:500] + strange)
    campaign = "join our channel now and get free coins every day for all your friends"
    write(folder / "campaign.jsonl", usual[400:500] + [f"{campaign} {word}" for word in WORDS[:12]])
    with open_project(folder / "project") as project:
        yield folder, project, ReviewQueue.open(project)


def looked(home, name, queue):
    folder, project, review = home
    request = DriftRequest(
        input=folder / f"{name}.jsonl", reference=folder / "before.jsonl", policy="communities", queue=queue
    )
    found = resolve_checkpoint(folder / "model", project)
    return watch(found, project=project, review=review, actor=OPERATOR, request=request)


def test_a_stream_like_the_one_before_raises_no_alarm(home):
    found = looked(home, "same", "same")
    assert found.alarm is None and not found.rising and found.texts == 300


def test_a_threat_opens_a_lane_that_holds_it_and_drafts_a_rule_that_withholds_nothing(home, capsys):
    folder, project, review = home
    found = looked(home, "threat", "mods")
    alarm = found.alarm
    assert alarm is not None and alarm.fired_at is not None and 100 < alarm.fired_at <= 120
    assert len(alarm.lane) == 100
    ana = review.add_member(OPERATOR, "ana", [Grant(role="reviewer")]).member
    review.configure(OPERATOR, "mods", break_after_severe=10**6, daily_budget=1e12)
    first = []
    for _ in range(10):
        got = review.claim(ana, "mods")
        assert isinstance(got, Claim) and got.view.text is not None
        first.append(got.view.text)
        review.submit(ana, got.token, Answer(decision="violates", categories=("spam",)))
    assert sum(not set(text) & set("aeiou") for text in first) >= 9  # what is new comes first
    draft = load_policy(alarm.draft, folders=[project.root / "policies"])
    (rule,) = [name for name in draft.categories if name not in load_policy("communities").categories]
    assert draft.action(rule, "content") == "review" and draft.permits(rule, "content")
    assert note_enforced(project, draft) == []
    # somebody words it and gives it an action; it counts from its first use
    worded = folder / "worded.yaml"
    worded.write_text(
        "schema: policy/v1\nid: worded\nversion: 1\nkind: community\nextends: communities@1\n"
        "rules: [{id: signs, text: No texts of signs., severity: high, actions: {content: hold}, judges: [mod]}]\n"
    )
    policy = load_policy(worded)
    later = datetime.fromisoformat(alarm.at) + timedelta(minutes=42)
    (closed,) = note_enforced(project, policy, now=later)
    assert (closed.enforced_rule, closed.minutes) == ("rule.signs", 42.0)
    assert note_enforced(project, policy, now=datetime.now(UTC)) == []  # the first use counts, once
    with pytest.raises(SystemExit) as left:
        main(["review", "alarms", "--json", "--project", str(project.root)])
    (told,) = json.loads(capsys.readouterr().out)["alarms"]
    assert not left.value.code and told["minutes"] == 42.0 and told["lane"]["violates"] >= 8


def test_near_duplicates_that_arrive_faster_are_told(home):
    found = looked(home, "campaign", "clusters")
    (one,) = found.rising
    assert (one.now, one.before) == (12, 0) and found.alarm is not None
    assert len(read_alarms(home[1])) == 2


def test_a_reference_that_is_too_small_is_told(home):
    folder, project, review = home
    write(folder / "few.jsonl", ["one text", "another"])
    request = DriftRequest(input=folder / "same.jsonl", reference=folder / "few.jsonl", policy="communities")
    with pytest.raises(ConfigError, match="200 of before are the fewest"):
        watch(
            resolve_checkpoint(folder / "model", project),
            project=project, review=review, actor=OPERATOR, request=request,
        )  # fmt: skip
