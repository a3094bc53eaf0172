"""`workbench review`, as it is typed."""

import json
import sqlite3

import pytest

from safety.review.queue import Answer, Claim, ReviewQueue
from workbench.cli import main
from workbench.store import Project


def run(capsys, *args):
    with pytest.raises(SystemExit) as left:
        main(["review", *args])
    out = capsys.readouterr()
    return left.value.code or 0, out.out, out.err


@pytest.fixture
def home(tmp_path):
    Project.init(tmp_path / "project").close()
    return str(tmp_path / "project")


def test_texts_become_items_that_a_member_can_claim(capsys, tmp_path, home):
    rows = [
        {"text": "one", "title": "T", "category": "hate", "probability": 0.7, "priority": 2, "pi": 0.5, "draw_seed": 3},
        {"body": "two", "subreddit": "askhistory", "author_karma": 12},
        {"text": "one", "category": "hate"},
    ]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run(capsys, "add", str(tmp_path / "posts.jsonl"), "--project", home, "--json")
    assert (code, json.loads(out)["rows"], json.loads(out)["added"]) == (0, 3, 2), err
    assert run(capsys, "add", str(tmp_path / "posts.jsonl"), "--project", home)[0] == 0
    code, out, err = run(capsys, "members", "add", "ana", "--project", home)
    token = out.strip()
    assert code == 0 and "reviewer in */*" in err
    with Project.find(home) as project:
        queue = ReviewQueue.open(project)
        ana = queue.sign_in(token)
        got = queue.claim(ana)
        assert isinstance(got, Claim)
        assert (got.view.text, got.view.category, got.view.context["title"]) == ("one", "hate", "T")
        assert got.view.rule is not None and got.view.rule.title
        queue.submit(ana, got.token, Answer(decision="violates"))
    code, out, _ = run(capsys, "status", "--project", home, "--json")
    (one,) = json.loads(out)["queues"]
    assert (one["queue"], one["items"], one["labels_last_day"]) == ("default/default", {"decided": 1, "open": 1}, 1)
    assert run(capsys, "status", "--project", home)[0] == 0
    code, out, err = run(capsys, "verify", "--project", home)
    assert (code, "nothing was tampered with" in err) == (0, True), err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x", "category": "hatte"}, 'did you mean "hate"'),
        ({"text": "x", "probability": 1.5}, "probability: 1.5 is not from 0 to 1"),
        ({"text": "x", "stratum": "golden"}, "gold"),
        ({"text": "x", "stratum": "gold"}, "gold: the known decision is needed"),
        ({"title": "x"}, "no text"),
        ({"text": "x", "pi": 0}, "above 0"),
    ],
)
def test_a_faulty_row_is_named_in_one_line(capsys, tmp_path, home, row, said):
    (tmp_path / "posts.jsonl").write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps(row) + "\n")
    code, _, err = run(capsys, "add", str(tmp_path / "posts.jsonl"), "--project", home)
    assert (code, said in err, "Traceback" in err) == (2, True, False), err


def test_verify_says_what_was_tampered_with_and_fails(capsys, tmp_path, home):
    run(capsys, "members", "add", "ana", "--role", "viewer", "--project", home)
    connection = sqlite3.connect(tmp_path / "project" / "workbench.sqlite")
    connection.execute("UPDATE review_grants SET role = 'admin'")
    connection.commit()
    connection.close()
    code, out, _ = run(capsys, "verify", "--project", home, "--json")
    assert code == 1
    assert [fault.split(": ")[1] for fault in json.loads(out)["faults"]] == [
        "nobody granted it",
        "granted, and not there",
    ]


def test_members_come_and_go(capsys, home):
    run(
        capsys,
        "members",
        "add",
        "sam",
        "--role",
        "reviewer",
        "--role",
        "senior",
        "--queue",
        "acme/*",
        "--project",
        home,
    )
    assert run(capsys, "members", "remove", "sam", "--role", "senior", "--project", home)[0] == 0
    (sam,) = json.loads(run(capsys, "members", "ls", "--project", home, "--json")[1])["members"]
    assert sam["grants"] == [{"role": "reviewer", "tenant": "acme", "queue": "*"}]
    assert run(capsys, "members", "remove", "sam", "--project", home)[0] == 0
    assert "removed" in run(capsys, "members", "ls", "--project", home)[1]
    code, _, err = run(capsys, "members", "remove", "sam", "--project", home)
    assert (code, "not here" in err) == (2, True)
    code, _, err = run(capsys, "members", "add", "x y", "--project", home)
    assert (code, "letters" in err) == (2, True)
    code, _, err = run(capsys, "members", "add", "kim", "--role", "seniour", "--project", home)
    assert (code, 'did you mean "senior"' in err) == (2, True)


def test_labels_go_out_texts_come_in_and_a_taxonomy_becomes_a_policy(capsys, tmp_path, home):
    posts = tmp_path / "posts.jsonl"
    posts.write_text(json.dumps({"text": "one", "category": "hate", "probability": 0.7}))
    run(capsys, "add", str(posts), "--project", home)
    with Project.find(home) as project:
        queue = ReviewQueue.open(project)
        ana = queue.local_member("ana")
        got = queue.claim(ana)
        assert isinstance(got, Claim)
        queue.submit(ana, got.token, Answer(decision="violates"))
    listed = json.loads(run(capsys, "ls", "--state", "decided", "--project", home, "--json")[1])["items"]
    assert [(one["labels"], one["category"]) for one in listed] == [(1, "hate")]
    assert "one" not in run(capsys, "ls", "--state", "decided", "--project", home)[1]
    for form in ("argilla", "label-studio"):
        out = tmp_path / f"{form}.json"
        assert run(capsys, "export", str(out), "--format", form, "--project", home)[0] == 0
        assert run(capsys, "export", str(out), "--format", form, "--project", home)[0] == 2
        code, text, err = run(
            capsys, "import", str(out), "--format", form, "--gold", "--queue", form, "--project", home, "--json"
        )
        assert (code, json.loads(text)["added"], json.loads(text)["gold"]) == (0, 1, 1), err
    taxonomy, drafted = tmp_path / "harm_taxonomy.yaml", tmp_path / "ours.yaml"
    assert run(capsys, "export", str(taxonomy), "--format", "roost", "--policy", "default")[0] == 0
    code, _, err = run(capsys, "import", str(taxonomy), "--format", "roost", "--out", str(drafted))
    assert (code, "policy check" in err, drafted.read_text().startswith("schema: policy/v1")) == (0, True, True)
    (tmp_path / "bad.json").write_text("{")
    code, _, err = run(capsys, "import", str(tmp_path / "bad.json"), "--format", "argilla", "--project", home)
    assert (code, "no JSON" in err) == (2, True)


def test_agreement_of_an_empty_queue_says_that_nothing_is_known(capsys, tmp_path, home):
    (tmp_path / "posts.jsonl").write_text(json.dumps({"text": "one"}))
    run(capsys, "add", str(tmp_path / "posts.jsonl"), "--project", home)
    code, _, err = run(capsys, "agreement", "--project", home)
    assert (code, "not known (n=0)" in err) == (0, True)


def test_the_api_is_served_until_it_is_stopped(tmp_path, home):
    import os
    import signal
    import subprocess
    import sys

    import httpx

    command = [sys.executable, "-m", "workbench.cli", "review", "serve", "--port", "0", "--project", home]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.endswith("/v1/review")
    assert httpx.get(f"{url}/me").status_code == 401
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (0, 130)
