"""The review queue over HTTP: the same rights, the same answers, and nothing without a token."""

import json

import pytest
from starlette.testclient import TestClient

from safety.review.queue import Grant, ReviewQueue
from tests.safety.review.people import OPERATOR, entry, plain_queue
from workbench.serve.review import create_review_app
from workbench.store.database import Database

P = "p" * 64
HASH = "0" * 64


class Client:
    """One member's view of the server."""

    def __init__(self, http, token):
        self.http, self.token, self.count = http, token, 0

    def __call__(self, method, path, body=None, *, key=None):
        self.count += 1
        headers = {"content-type": "application/json", "idempotency-key": key or f"{self.token[-6:]}-{self.count}"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        content = None if body is None else json.dumps(body)
        return self.http.request(method, f"/v1/review{path}", content=content, headers=headers)


@pytest.fixture
def served(store_url, tmp_path):
    database = Database(store_url, folder=tmp_path)
    queue = ReviewQueue.over(database, tmp_path)
    plain_queue(queue)
    with TestClient(create_review_app(queue, max_bytes=100_000), raise_server_exceptions=False) as http:

        def member(name, *roles, tenant="*"):
            grants = [Grant(role=role, tenant=tenant) for role in roles]
            return Client(http, queue.add_member(OPERATOR, name, grants).token)

        yield queue, http, member
    database.close()


def test_a_day_over_http_from_the_text_to_the_appeal(served):
    _, _, member = served
    ml, ana, sam = member("svc", "ml"), member("ana", "reviewer"), member("sam", "senior")
    bad = "naughty \x00 text <script>"
    items = [{"text": bad, "policy_hash": HASH, "category": "hate", "severity": "high", "context": {"title": "T"}}]
    added = ml("POST", "/queues/default/default/items", {"items": items}).json()
    assert added["added"] == 1
    claim = ana("POST", "/queues/default/default/claim", {}).json()["claim"]
    assert (claim["view"]["text"], claim["view"]["context"]) == (bad, {"title": "T"})
    assert ana("POST", "/leases/heartbeat", {"token": claim["token"]}).status_code == 200
    body = {"token": claim["token"], "decision": "violates", "policy_hash": HASH, "spans": [[0, 4]], "note": "n\x00"}
    first, again = ana("POST", "/labels", body, key="k"), ana("POST", "/labels", body, key="k")
    assert (first.status_code, first.json()["state"], again.json()["label"]) == (200, "decided", first.json()["label"])
    assert again.json()["replayed"]
    assert ana("POST", "/labels", body | {"decision": "allowed"}, key="k").status_code == 409
    back = ana("POST", f"/labels/{first.json()['label']}/undo", key="u")
    assert ana("POST", f"/labels/{first.json()['label']}/undo", key="u").json() == back.json()
    body["token"] = back.json()["claim"]["token"]
    assert ana("POST", "/labels", body).json()["state"] == "decided"
    appeal = ana("POST", f"/items/{added['items'][0]}/appeal", {"reason": "context"})
    assert appeal.status_code == 200
    settled = sam("POST", "/queues/default/default/claim", {"kind": "adjudication"}).json()["claim"]
    assert settled["view"]["opinions"][0]["decision"] == "violates"
    body |= {"token": settled["token"], "decision": "allowed", "spans": []}
    assert sam("POST", "/labels", body).json()["state"] == "decided"
    idle = ana("POST", "/queues/default/default/claim", {}).json()
    assert (idle["claim"], idle["idle"]["reason"]) == (None, "empty")
    kinds = [row["kind"] for row in member("aud", "auditor")("GET", "/audit?limit=1000").json()["rows"]]
    assert [kind for kind in kinds if kind not in ("review.member", "review.settings")] == [
        "review.label", "review.undo", "review.label", "review.appeal", "review.adjudicate",
    ]  # fmt: skip


def test_nothing_but_health_answers_without_a_token(served):
    _, http, _ = served
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method in methods:
            for headers in ({}, {"authorization": "Bearer wbr-guessed"}, {"authorization": "Basic x"}):
                answer = http.request(method, path.replace("{", "").replace("}", ""), headers=headers, json={})
                assert answer.status_code == (200 if path == "/healthz" else 401), (method, path)


def test_each_route_refuses_who_has_no_role_for_it(served):
    queue, _, member = served
    queue.add(OPERATOR, [entry(1)])
    nobody = member("vic", "viewer", tenant="elsewhere")
    item = entry(1).id
    rescore = {"items": [{"item": item, "priority": 1.0}]}
    text = {"items": [{"text": "x", "policy_hash": HASH}]}
    asked = [
        ("POST", "/queues/default/default/items", text),
        ("POST", "/queues/default/default/claim", {}),
        ("GET", "/queues/default/default/stats", None),
        ("GET", "/queues/default/default/progress", None),
        ("GET", f"/items/{item}", None),
        ("POST", f"/items/{item}/appeal", {}),
        ("POST", f"/items/{item}/apply-to-cluster", None),
        ("POST", "/priorities", rescore),
        ("GET", "/audit", None),
        ("GET", "/members", None),
        ("POST", "/members", {"name": "x", "grants": [{"role": "admin", "tenant": "*"}]}),
        ("DELETE", "/members/vic", None),
    ]
    assert [(path, nobody(method, path, body).status_code) for method, path, body in asked] == [
        (path, 403) for _, path, _ in asked
    ]
    assert nobody("GET", "/me").json()["queues"] == []


def test_a_write_without_a_key_a_faulty_and_a_large_body_are_refused_in_one_line(served):
    queue, http, member = served
    queue.add(OPERATOR, [entry(1)])
    ana = member("ana", "reviewer")
    claim = ana("POST", "/queues/default/default/claim", {}).json()["claim"]
    body = {"token": claim["token"], "decision": "violates", "policy_hash": P}
    headers = {"authorization": f"Bearer {ana.token}"}
    bare = http.post("/v1/review/labels", json=body, headers=headers)
    assert (bare.status_code, "Idempotency-Key" in bare.json()["error"]["message"]) == (400, True)
    for wrong in (
        body | {"decision": "maybe"},
        body | {"extra": 1},
        body | {"note": "\ud800"},
        body | {"token": "x" * 99},
        body | {"spans": [[0, 99_999]]},
        body | {"categories": ["a\x00"] * 3, "confidence": 2},
    ):
        assert ana("POST", "/labels", wrong).status_code == 400, wrong
    assert ana("POST", "/labels", body | {"token": "\x00"}).status_code == 409
    assert ana("POST", "/labels", body | {"note": "x" * 200_000}).status_code == 413
    assert ana("GET", "/queues/de%00fault/default/stats").status_code == 400
    assert ana("POST", "/labels", body | {"policy_hash": "q"}).json()["error"]["code"] == "rule_changed"
    assert ana("POST", "/labels", body).status_code == 200
