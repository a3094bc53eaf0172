"""A reward endpoint that works, fails in part, is slow, down or wrong; and requests that lead where they may not."""

import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from training.rewards.base import Failed, Sample, Services, checked
from training.rewards.http import PROTOCOL, HttpEndpoint, HttpOptions, is_public, read_target
from workbench.errors import ConfigError

Answer = Callable[[dict[str, Any], BaseHTTPRequestHandler], Any]


@contextlib.contextmanager
def endpoint(answer: Answer) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """A real server; `answer` gives the body, or writes to the handler and gives None."""
    seen: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self)
            found = answer(json.loads(self.body), self)
            if found is None:
                return
            text = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make(url: str, **more: Any) -> HttpEndpoint:
    fields = {"url": url, "allow_private": ["127.0.0.1"], "timeout_s": 2, "first_wait_s": 0.01, "attempts": 3}
    return HttpEndpoint(HttpOptions.model_validate(fields | more, strict=False), Services())


def samples(count: int = 5) -> list[Sample]:
    return [Sample(id=f"s{at}", prompt="?", answer="x" * at, row={"a": at, "b": "secret"}) for at in range(count)]


def by_length(asked: dict[str, Any], _: Any) -> Any:
    return {"protocol": PROTOCOL, "scores": [{"id": s["id"], "score": len(s["answer"]) / 10} for s in asked["samples"]]}


def status(code: int, **headers: str) -> Answer:
    def answer(_: Any, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def test_batches_are_scored_in_order_and_only_the_named_columns_are_sent() -> None:
    with endpoint(by_length) as (url, seen):
        assert checked(make(url, batch=2, columns=["a"]), samples()) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert len(seen) == 3
    told = json.loads(seen[0].body)  # type: ignore[attr-defined]
    assert told["protocol"] == PROTOCOL and all(set(one["row"]) == {"a"} for one in told["samples"])


def test_requests_are_signed_so_that_the_receiver_can_tell_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_SECRET", "between us")
    with endpoint(by_length) as (url, seen):
        checked(make(url, secret_env="REWARD_SECRET"), samples(1))
    stamp, _, digest = seen[0].headers["X-Workbench-Signature"].partition(",")
    said = stamp.removeprefix("t=").encode() + b"." + seen[0].body  # type: ignore[attr-defined]
    assert digest == "v1=" + hmac.new(b"between us", said, hashlib.sha256).hexdigest()
    assert abs(int(stamp.removeprefix("t=")) - time.time()) < 60


def test_an_endpoint_that_recovers_is_asked_again_with_the_same_request() -> None:
    calls: list[str] = []

    def answer(asked: dict[str, Any], handler: BaseHTTPRequestHandler) -> Any:
        calls.append(handler.headers["X-Workbench-Request"])
        return by_length(asked, None) if len(calls) == 3 else status(503)(asked, handler)

    with endpoint(answer) as (url, _):
        assert checked(make(url), samples(3)) == [0.0, 0.1, 0.2]
    assert len(calls) == 3 and len(set(calls)) == 1


def test_what_failed_in_part_is_asked_again_alone_and_the_rest_is_kept() -> None:
    asked_for: list[list[str]] = []

    def answer(asked: dict[str, Any], _: Any) -> Any:
        asked_for.append([one["id"] for one in asked["samples"]])
        found = by_length(asked, None)
        if len(asked_for) == 1:
            found["scores"][1] = {"id": "s1", "error": "busy", "retry": True}
            found["scores"][2] = {"id": "s2", "error": "no such molecule"}
        return found

    with endpoint(answer) as (url, _):
        found = checked(make(url), samples(4))
    assert asked_for == [["s0", "s1", "s2", "s3"], ["s1"]]
    assert [found[0], found[1], found[3]] == [0.0, 0.1, 0.3]
    assert isinstance(found[2], Failed) and "no such molecule" in found[2].why


def slow(asked: Any, handler: Any) -> Any:
    time.sleep(1.5)
    return by_length(asked, handler)


def drip(_: Any, handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        time.sleep(0.05)
        try:
            handler.wfile.write(b" ")
        except OSError:
            return


FAULTS: dict[str, tuple[Answer, str]] = {
    "down": (status(503), "HTTP 503"),
    "refuses": (status(403), "HTTP 403"),
    "redirects": (status(307, Location="http://169.254.169.254/"), "not followed"),
    "slow": (slow, "no answer within"),
    "drips": (drip, "within"),
    "no JSON": (lambda *_: "nothing", "no {"),
    "another version": (lambda *_: {"protocol": "workbench.reward/9", "scores": []}, "speaks"),
    "leaves out": (lambda *_: {"protocol": PROTOCOL, "scores": []}, "left it out"),
    "a bool": (lambda *_: {"protocol": PROTOCOL, "scores": [{"id": "s0", "score": True}]}, "no score"),
    "NaN": (lambda *_: {"protocol": PROTOCOL, "scores": [{"id": "s0", "score": float("nan")}]}, "no number"),
    "outside": (lambda *_: {"protocol": PROTOCOL, "scores": [{"id": "s0", "score": 40}]}, "outside 0 to 1"),
    "twice": (
        lambda *_: {"protocol": PROTOCOL, "scores": [{"id": "s0", "score": 1}, {"id": "s0", "score": 0}]},
        "twice",
    ),
    "too long": (lambda *_: {"protocol": PROTOCOL, "scores": [], "x": "y" * 2_000_000}, "longer than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoint_that_fails_gives_failures_with_their_reason_and_never_a_zero(fault: str) -> None:
    answer, said = FAULTS[fault]
    with endpoint(answer) as (url, _):
        (found,) = checked(make(url, timeout_s=0.6, attempts=2), samples(1))
    assert isinstance(found, Failed) and said in found.why


def test_nobody_listening_is_a_failure_too() -> None:
    (found,) = checked(make("http://127.0.0.1:9/score"), samples(1))
    assert isinstance(found, Failed) and "3 attempts" in found.why


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://elsewhere.example/score", "nothing allows it"),
        ("http://grader.example/score", "plain http"),
        ("https://user:pass@grader.example/score", "without user, password"),
        ("ftp://grader.example/", "expected https"),
        ("https://169.254.169.254/latest", "nothing allows it"),
        ("https://[::1]/", "nothing allows it"),
    ],
)
def test_a_url_that_may_not_be_asked_is_refused_before_a_run(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_target(url, ["grader.example"], [])


@pytest.mark.parametrize(
    "address", ["10.0.0.8", "127.0.0.1", "169.254.169.254", "192.168.1.4", "::1", "fd00::1", "::ffff:10.0.0.1",
                "64:ff9b::a00:1", "2002:a00:1::", "0.0.0.0", "100.64.0.1", "224.0.0.1"],
)  # fmt: skip
def test_a_name_that_leads_into_a_private_network_is_not_asked(address: str) -> None:
    """As after DNS rebinding: the name was allowed, where it leads was not."""
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.215.14", address]  # one good address does not excuse the other

    options = HttpOptions(url="https://grader.example/score", allow=("grader.example",))
    (found,) = checked(HttpEndpoint(options, Services(), resolver=resolver), samples(1))
    assert isinstance(found, Failed) and "not public" in found.why and asked == ["grader.example"]
    assert is_public("93.184.215.14") and not is_public(address)


def test_the_connection_goes_to_the_address_that_was_looked_at_under_the_name_that_was_allowed() -> None:
    with endpoint(by_length) as (url, seen):
        port = url.rsplit(":", 1)[1].split("/")[0]
        options = HttpOptions(url=f"http://grader.example:{port}/score", allow_private=("grader.example",))
        found = checked(HttpEndpoint(options, Services(), resolver=lambda *_: ["127.0.0.1"]), samples(1))
    assert found == [0.0]
    assert seen[0].headers["Host"] == f"grader.example:{port}"


def test_a_secret_that_is_not_set_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        make("http://127.0.0.1:9/", secret_env="NOT_SET")
