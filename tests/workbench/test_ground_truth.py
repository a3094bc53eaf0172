"""What people's labels say of a model, through the queue and the command line: curves, promises, the whole stream."""

import json

import numpy as np
import pytest

from safety.calibration import Binding, Calibrator
from safety.policy import load_policy
from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from workbench.cli import main
from workbench.errors import ConfigError
from workbench.ground_truth import CalibrationRequest, calibrate_queue, estimate_stream
from workbench.moderation import ModerationRequest
from workbench.moderation_queue import QueueRequest, fill_queue
from workbench.pipeline import open_project

OPERATOR = Operator(name="test")
RULE, MODEL, WORDING = "spam", "m" * 64, "moderation/1/text_first"


def stream(folder, name, count, *, seed=0):
    """Posts, and lines as moderation writes them, of a model that is too sure: a text violates with p squared."""
    rng = np.random.default_rng(seed)
    policy = load_policy("communities")
    p = rng.beta(0.6, 0.6, count)
    truth = rng.random(count) < p**2
    posts = [{"id": f"{name}{n}", "text": f"{name} {chr(97 + n % 26)}{chr(97 + n // 26)} post"} for n in range(count)]
    lines = [
        {
            "schema_version": 1, "id": post["id"], "community": "", "action": "hold" if one >= 0.8 else "allow",
            "doubt": 0.5, "policy_hash": policy.hash, "model": MODEL,
            "rules": {RULE: {"value": "uncertain", "probability": float(one), "action": "log", "severity": "medium"}},
        }
        for post, one in zip(posts, p, strict=True)
    ]  # fmt: skip
    for file, rows in ((f"{name}.jsonl", posts), (f"{name}.out.jsonl", lines)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.out.jsonl.run.json").write_text(json.dumps({"prompt_version": WORDING}))
    request = ModerationRequest(
        policy="communities", input=folder / f"{name}.jsonl", output=folder / f"{name}.out.jsonl"
    )
    return request, p, dict(zip([post["text"] for post in posts], truth, strict=True))


def label(queue, name, truth, *, most=10**6):
    """Label what is there as it is; how many."""
    ana = queue.add_member(OPERATOR, "ana", [Grant(role="reviewer")]).member
    done = 0
    while done < most and isinstance(got := queue.claim(ana, name), Claim):
        assert got.view.text is not None
        queue.submit(ana, got.token, Answer(decision="violates" if truth[got.view.text] else "allowed"))
        done += 1
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    with open_project(folder / "project") as project:
        queue = ReviewQueue.open(project)
        for name in ("all", "ranked"):
            queue.configure(
                OPERATOR, name, double_share=0.0, double_severities=(), break_after_severe=10**6, daily_budget=1e12
            )
        request, p, truth = stream(folder, "all", 220)
        # ten times as many as there are: the random sample takes every text
        fill_queue(project, queue, OPERATOR, request, QueueRequest(name="all", size=2200))
        assert label(queue, "all", truth) == 220
        yield folder, project, queue, p, truth


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    return left.value.code or 0, out, err


def test_labels_make_a_curve_that_holds_and_a_promise_on_their_number(home, capsys):
    folder, _, _, p, truth = home
    positives = sum(truth.values())
    code, out, err = run(
        capsys, "review", "calibrate", "--queue", "all", "--policy", "communities", "--out",
        str(folder / "c.json"), "--json", "--project", str(folder / "project"),
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    (rule,), (promise,) = found["rules"], found["promises"]
    assert (rule["category"], rule["how"], rule["n"], rule["positives"]) == (RULE, "platt", 220, positives)
    assert rule["after"]["value"] < rule["before"]["value"] - 0.05  # fitted on the other labels
    policy = load_policy("communities")
    binding = Binding(model=MODEL, policy_hash=policy.hash, prompt_version=WORDING)
    made = Calibrator.load(folder / "c.json", binding)
    assert np.abs(made.apply(RULE, np.array([0.3, 0.5, 0.7])) - np.array([0.09, 0.25, 0.49])).max() < 0.08
    # the promise is the exact binomial's, on the labels themselves
    from scipy.stats import binom

    bad = sorted(one for one, is_bad in zip(p, truth.values(), strict=True) if is_bad)
    k = max(k for k in range(positives) if binom.cdf(k, positives, 0.05) <= 0.05)
    assert promise["feasible"] and promise["below"] == pytest.approx(bad[k])
    assert f"misses at most 5% of violations, 95% confidence, {positives} of them" in promise["sentence"]
    for changed in ({"model": "n" * 64}, {"policy_hash": "q" * 64}, {"prompt_version": "moderation/1/rules_first"}):
        fields = {name: getattr(binding, name) for name in ("model", "policy_hash", "prompt_version")}
        with pytest.raises(ConfigError, match="stale"):
            Calibrator.load(folder / "c.json", Binding(**fields | changed))


def test_a_promise_that_cannot_be_kept_is_refused_aloud_with_what_is_missing(home, capsys):
    folder, _, _, _, truth = home
    code, out, _ = run(
        capsys, "review", "triage", "--queue", "all", "--policy", "communities", "--miss", "0.01",
        "--project", str(folder / "project"),
    )  # fmt: skip
    assert code == 3
    assert f"{299 - sum(truth.values())} more are needed" in out and "everything goes to people" in out


def test_a_ranked_batch_tells_of_the_whole_stream_once_it_is_labelled(home, capsys):
    folder, project, queue, _, _ = home
    request, p, truth = stream(folder, "ranked", 500, seed=3)
    found = fill_queue(project, queue, OPERATOR, request, QueueRequest(name="ranked", size=110))
    label(queue, "ranked", truth, most=60)
    with pytest.raises(ConfigError, match=f"60 of {found.drawn} drawn texts are decided"):
        estimate_stream(queue, OPERATOR, queue="ranked", lines=request.output)
    label(queue, "ranked", truth)
    code, out, err = run(
        capsys, "review", "estimate", str(request.output), "--queue", "ranked", "--json",
        "--project", str(folder / "project"),
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    bad, withheld = np.array(list(truth.values())), p >= 0.8
    real = {
        "precision": bad[withheld].mean(), "recall": withheld[bad].mean(), "missed": (bad & ~withheld).sum(),
        "violations": bad.sum(),
    }  # fmt: skip
    assert (told["texts"], told["decided"]) == (500, found.drawn)
    for name, value in real.items():
        assert told["quality"][name]["low"] <= value <= told["quality"][name]["high"], name


def test_only_the_random_sample_of_one_model_counts(home):
    _, _, queue, _, _ = home
    policy = load_policy("communities")
    with pytest.raises(ConfigError, match="of another model"):
        calibrate_queue(queue, OPERATOR, policy, CalibrationRequest(queue="all", model="n" * 64))
    found = calibrate_queue(queue, OPERATOR, policy, CalibrationRequest(queue="ranked"))
    assert 0 < found.labels < 40  # of 110 drawn, a tenth at random
    assert found.fits[0].how == "none" and not found.calibrator.clear
