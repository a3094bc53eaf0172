"""Whatever is sent to the review queue ends in an answer or a refusal, and the books are right afterwards."""

import json
import random
from collections import Counter

import hypothesis
import schemathesis
from starlette.testclient import TestClient

from safety.review.queue import Answer, Claim, Grant, ReviewQueue
from safety.review.verify import verify
from tests.safety.review.people import OPERATOR, entry, plain_queue
from workbench.serve.review import create_review_app
from workbench.store.database import Database

EACH = 5
"""Requests of each operation."""
ROLES = ("reviewer", "senior", "ml", "auditor", "viewer", "policy_editor", "policy_approver")


def test_no_request_breaks_the_queue_and_none_is_answered_without_a_token(tmp_path):
    database = Database("sqlite:///fuzz.sqlite", folder=tmp_path)
    queue = ReviewQueue.over(database, tmp_path)
    plain_queue(queue)
    joined = queue.add_member(OPERATOR, "all", [Grant(role=role) for role in ROLES])
    other = queue.add_member(OPERATOR, "other", [Grant(role="reviewer")]).member
    queue.add(OPERATOR, [entry(number, cluster="c" if number % 3 else "") for number in range(40)])
    known: dict[str, list[str]] = {"token": [], "label": [], "item": [entry(number).id for number in range(40)]}
    for _ in range(10):
        got = queue.claim(other)
        assert isinstance(got, Claim)
        known["label"].append(queue.submit(other, got.token, Answer(decision="violates")).label)
    statuses: Counter[tuple[str, int]] = Counter()
    chance = random.Random(0)
    app = create_review_app(queue, max_bytes=50_000)
    with TestClient(app, raise_server_exceptions=False) as http:
        schema = schemathesis.openapi.from_dict(http.get("/openapi.json").json())
        for result in schema.get_all_operations():
            operation = result.ok()

            @hypothesis.settings(
                max_examples=EACH,
                database=None,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(case=operation.as_strategy())
            def send(case):
                body = case.body if isinstance(case.body, dict | list) else None
                path = case.path
                for name, value in (case.path_parameters or {}).items():
                    if name in ("tenant", "name") and "/queues/" in path:
                        value = "default"
                    elif chance.random() < 0.7 and known.get(name):
                        value = chance.choice(known[name])
                    path = path.replace(f"{{{name}}}", str(value).replace("/", "%2F").replace("?", "%3F") or "x")
                if isinstance(body, dict) and "token" in body and chance.random() < 0.8:
                    got = queue.claim(joined.member, session=str(chance.randrange(3)))
                    body = body | ({"token": got.token} if isinstance(got, Claim) else {})
                headers = {"content-type": "application/json", "idempotency-key": f"k{chance.randrange(10**9)}"}
                content = json.dumps(body).encode() if body is not None else None
                if chance.random() < 0.2:  # before anything with a right: nothing is told, nothing is done
                    refused = http.request(case.method, path, content=content, headers=headers)
                    assert refused.status_code in (400, 401, 404, 422, 405) or path == "/healthz", refused.text
                headers["authorization"] = f"Bearer {joined.token}"
                answer = http.request(case.method, path, content=content, headers=headers)
                statuses[(case.method, answer.status_code)] += 1
                assert answer.status_code < 500 and "Traceback" not in answer.text, (case.method, path, body)
                if answer.status_code >= 400 and path.startswith("/v1/review/"):
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, answer.text

            send()
    assert verify(database, queue.anchors).faults == ()
    assert sum(count for (_, status), count in statuses.items() if status == 200) >= 20, statuses
    database.close()
