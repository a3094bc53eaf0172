"""Post JSON to one HTTP endpoint, again where that may help. Knows HTTP, rates and keys; knows no model, no request.

The key is read from the environment, is sent to this endpoint's host alone, and appears in no message.
"""

import ipaddress
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import tenacity

from workbench.engines.outgoing import CheckedTransport, Resolve, is_direct, resolve
from workbench.errors import EngineError, RunError

_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")
"""429 for which waiting does not help."""


class RefusedError(EngineError):
    """The endpoint understood the request and does not serve it (4xx). `status` and `reason` are its answer."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class _TransientError(Exception):
    """Worth another try. `wait_s` is what the endpoint asked for (Retry-After)."""

    def __init__(self, what: str, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class RateLimit:
    """Requests and tokens a minute, shared by threads: each caller is told how long to wait, in the order they came."""

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, tokens: int) -> None:
        """Return when a request of about so many tokens may go out."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + max(self._seconds_per_request, tokens * self._seconds_per_token)
        if start > now:
            self._sleep(start - now)

    def pause(self, seconds: float) -> None:
        """The endpoint is overloaded: nobody goes out for so long."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)


class Endpoint:
    """One base URL (".../v1") and the way to ask it."""

    def __init__(
        self,
        url: str,
        *,
        allowed: Collection[str] = (),
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout_s: float = 120.0,
        attempts: int = 6,
        first_wait_s: float = 0.5,
        resolver: Resolve = resolve,
    ) -> None:
        """
        Args:
            url: base URL; the paths of the API are put behind it.
            allowed: hosts (`host` or `host:port`) that may be asked besides this machine.
            api_key_env: environment variable with the key; none is sent where it is not set.
            concurrency: most open connections.
            requests_per_minute: what the endpoint's contract allows.
            tokens_per_minute: the same for tokens of prompt and answer.
            timeout_s: of connecting, and of each wait for more of an answer.
            attempts: of one request, the first included.
            first_wait_s: before the second attempt; doubled from attempt to attempt, with jitter.
            resolver: from a host's name to its addresses.

        Raises:
            EngineError: the URL is none, its host is not allowed, or the key would travel unprotected.
        """
        self.url = url.rstrip("/")
        local = check_url(self.url, allowed)
        key = os.environ.get(api_key_env, "")
        if key and not local and self.url.startswith("http:"):
            raise EngineError(f"{self.url}: plain http would show {api_key_env} to the network; use https or unset it")
        self.api_key_env = api_key_env
        self._key = key
        self._closed = threading.Event()
        self._rate = RateLimit(requests_per_minute, tokens_per_minute)
        self._attempts, self._first_wait_s = attempts, first_wait_s
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            limits=limits,
            transport=CheckedTransport(limits=limits, resolver=resolver) if is_direct(local=local) else None,
            follow_redirects=False,  # prompts go to the allowed host and no further
            trust_env=not local,  # a proxy of the network is no way to this machine itself
        )

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`. Raises RefusedError, or RunError when no attempt succeeded."""
        return self._retrying(path, lambda: _as_object(self._checked(self._client.get(self.url + path), path)))

    def post(self, path: str, body: Mapping[str, Any], *, tokens: int = 0) -> dict[str, Any]:
        """The JSON answer to `body`. `tokens`: about what it costs, for the rate limit.

        Raises:
            RefusedError: a 4xx that no second attempt would change.
            RunError: no attempt succeeded.
        """

        def ask() -> dict[str, Any]:
            self._rate.wait(tokens)
            return _as_object(self._checked(self._client.post(self.url + path, json=dict(body)), path))

        return self._retrying(path, ask)

    def stream(self, path: str, body: Mapping[str, Any], *, tokens: int = 0) -> Iterator[dict[str, Any]]:
        """The JSON events of a streamed answer. Tried again only as long as no event has come.

        Raises:
            RefusedError: a 4xx that no second attempt would change.
            RunError: no attempt succeeded, or the connection broke in the middle.
        """

        def open_stream() -> tuple[httpx.Response, Iterator[dict[str, Any]], dict[str, Any] | None]:
            self._rate.wait(tokens)
            request = self._client.build_request("POST", self.url + path, json={**body, "stream": True})
            response = self._client.send(request, stream=True)
            try:
                if response.is_error:
                    response.read()
                events = _events(self._checked(response, path))
                return response, events, next(events, None)
            except BaseException:
                response.close()
                raise

        response, events, first = self._retrying(path, open_stream)
        try:
            for event in itertools.chain(() if first is None else (first,), events):
                if event.get("error"):
                    raise httpx.StreamError(self._scrub(str(event["error"]))[:200])
                yield event
        except (httpx.HTTPError, httpx.StreamError, ValueError) as error:
            reason = f"{type(error).__name__}: {self._scrub(str(error))}"
            raise RunError(f"{self.url}{path}: the stream broke off ({reason}); ask again") from error
        finally:
            response.close()

    def close(self) -> None:
        """Close the connections; whoever waits for another attempt gives up."""
        self._closed.set()
        self._client.close()

    def _retrying(self, path: str, ask: Callable[[], Any]) -> Any:
        backoff = tenacity.wait_exponential(multiplier=self._first_wait_s, max=60) + tenacity.wait_random(
            0, self._first_wait_s
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait_s if isinstance(error, _TransientError) else None
            return backoff(state) if asked is None else max(asked, 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TransientError),
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(self._closed),
            sleep=tenacity.sleep_using_event(self._closed),
            wait=wait,
        )
        try:
            return retrying(self._attempt, ask)
        except tenacity.RetryError as error:
            last = error.last_attempt.exception()
            raise RunError(
                f"{self.url}{path}: gave up after {error.last_attempt.attempt_number} attempts, the last: {last}; what "
                "was answered before is kept, run again to go on"
            ) from None

    def _attempt(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except httpx.TimeoutException as error:
            raise _TransientError(f"no answer in time ({type(error).__name__})") from error
        except (httpx.TransportError, ValueError) as error:  # ValueError: an answer that is no JSON
            raise _TransientError(f"{type(error).__name__}: {self._scrub(str(error))}") from error

    def _checked(self, response: httpx.Response, path: str) -> httpx.Response:
        """The response if it is a success."""
        status = response.status_code
        if response.is_success:
            return response
        reason = self._scrub(_reason(response))
        what = f"status {status}" + (f" ({reason})" if reason else "")
        if status == 429 and any(word in reason for word in _SPENT):
            raise RunError(f"{self.url}{path}: {what}; the account is spent, waiting would not help")
        if status in _RETRIED:
            wait_s = _retry_after(response)
            if wait_s is not None:
                self._rate.pause(wait_s)
            raise _TransientError(what, wait_s)
        cure = f"; check the key in {self.api_key_env}" if status in (401, 403) else ""
        raise RefusedError(f"{self.url}{path}: {what}{cure}", status=status, reason=reason)

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def check_url(url: str, allowed: Collection[str]) -> bool:
    """Is it this machine's own? Raises EngineError for a URL that may not be asked."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host:
        raise EngineError(f'endpoint "{url}": expected http(s)://HOST[:PORT]/v1')
    if parts.username or parts.password:
        raise EngineError(
            f"endpoint {host}: its URL holds a user or password; put the key into an environment variable"
        )
    if _is_loopback(host):
        return True
    if not {host, f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"} & set(allowed):
        raise EngineError(
            f"endpoint {host}: prompts may not be sent there; add it to allowed_endpoints in workbench.yaml, or give "
            f"--allow-endpoint {host}"
        )
    return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _as_object(response: httpx.Response) -> dict[str, Any]:
    answer = response.json()
    if not isinstance(answer, dict):
        raise ValueError(f"expected a JSON object, got {type(answer).__name__}")
    return answer


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Server-sent events: `data: {...}` lines up to `data: [DONE]`. A stream without it or a finish is a broken one."""
    finished = False
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        finished = finished or any(choice.get("finish_reason") for choice in event.get("choices") or ())
        yield event
    if not finished:
        raise httpx.RemoteProtocolError("it ended before the answer did")


def _reason(response: httpx.Response) -> str:
    """What the endpoint says, in one line of at most 200 characters."""
    try:
        body = response.json()
        error = body.get("error", body.get("message", "")) if isinstance(body, dict) else ""
        if isinstance(error, dict):
            error = " ".join(str(error[name]) for name in ("code", "message") if error.get(name))
        text = str(error)
    except ValueError:
        text = response.text
    return " ".join(text.split())[:200]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of Retry-After (a number or a date), at most five minutes; None without."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), 300.0)
