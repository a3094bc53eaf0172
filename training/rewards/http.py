"""A reward behind an endpoint of yours: samples out, scores in. Knows HTTP; the contract is in docs/reinforcement.md.

Only hosts that the recipe names are asked. A name is resolved once for each request, every address of it is looked at,
and the connection goes to the one that was looked at, so a name that changes its mind leads nowhere else. Redirects
are not followed, and no proxy of the environment is used.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import random
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import httpx
from pydantic import Field, model_validator

from training.rewards.base import Base, Failed, Sample, Score, Services
from workbench.config import StrictModel
from workbench.errors import ConfigError

PROTOCOL = "workbench.reward/1"
SIGNATURE, REQUEST = "X-Workbench-Signature", "X-Workbench-Request"
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class HttpOptions(StrictModel):
    """Of `http`."""

    url: str
    allow: tuple[str, ...] = ()
    """Hosts that may be asked, at public addresses."""
    allow_private: tuple[str, ...] = ()
    """Hosts that may be asked wherever they are: in your network, or on this machine."""
    secret_env: str = ""
    """Environment variable with the secret that requests are signed by; default: not signed."""
    low: float = 0.0
    high: float = 1.0
    """The range of its scores."""
    batch: int = Field(default=32, ge=1, le=1000)
    """Samples of one request."""
    concurrency: int = Field(default=4, ge=1)
    timeout_s: float = Field(default=30.0, gt=0)
    attempts: int = Field(default=4, ge=1)
    first_wait_s: float = Field(default=0.5, ge=0)
    """Before the second attempt; doubled from attempt to attempt, with jitter."""
    columns: tuple[str, ...] | None = None
    """Columns of the row that are sent; default: all."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    path: str
    private: bool
    """Whether it may be at an address that is not public."""


def read_target(url: str, allow: Sequence[str], allow_private: Sequence[str], *, where: str = "http.url") -> Target:
    """Raises ConfigError: no URL, a host that is not named, or plain http to a public one."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise ConfigError(f"{where}: {url!r}: expected https://HOST[:PORT]/PATH") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{where}: {url!r}: expected https://HOST[:PORT]/PATH")
    if parts.username or parts.password or parts.fragment:
        raise ConfigError(f"{where}: {host}: a URL without user, password or fragment is expected; sign by secret_env")
    port = port or (443 if parts.scheme == "https" else 80)
    names = {host, f"{host}:{port}"}
    private = bool(names & set(allow_private))
    if not private and not names & set(allow):
        raise ConfigError(
            f"{where}: {host}: rows would be sent there, and nothing allows it; name it in allow, or in allow_private "
            "if it is in your own network"
        )
    if parts.scheme == "http" and not private:
        raise ConfigError(f"{where}: {host}: plain http shows rows to the network; use https")
    path = parts.path or "/"
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port,
        path=f"{path}?{parts.query}" if parts.query else path,
        private=private,
    )


def is_public(address: str) -> bool:
    """Whether an address is one of the internet at large; IPv4 in IPv6's clothes is looked at as what it is."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host. Raises OSError: it has none."""
    return [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """What a receiver computes too: HMAC-SHA256 over the time, a dot and the body.

    >>> sign("s", 1, b"{}")[:10]
    't=1,v1=b25'
    """
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class HttpEndpoint(Base):
    """What an endpoint of yours gives: a batch of samples for a batch of scores."""

    Options: ClassVar[type[StrictModel]] = HttpOptions

    def __init__(
        self,
        options: HttpOptions,
        services: Services,
        *,
        resolver: Resolve = resolve,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options
        self.low, self.high = options.low, options.high
        self.target = read_target(options.url, options.allow, options.allow_private)
        self._resolve, self._sleep = resolver, sleep
        self._secret = ""
        if options.secret_env:
            self._secret = os.environ.get(options.secret_env, "")
            if not self._secret:
                raise ConfigError(f"http.secret_env: {options.secret_env} is not set; requests could not be signed")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """As in Reward."""
        size = self.options.batch
        batches = [samples[at : at + size] for at in range(0, len(samples), size)]
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            return [score for part in pool.map(self._batch, batches) for score in part]

    def _batch(self, samples: Sequence[Sample]) -> list[Score]:
        """Asked again where that may help: for the whole batch, or for those that it could not score this time."""
        found: dict[str, Score] = {}
        left, request = list(samples), uuid.uuid4().hex
        for attempt in range(self.options.attempts):
            if attempt:
                wait = self.options.first_wait_s * 2 ** (attempt - 1)
                self._sleep(wait * (1 + random.random()))  # noqa: S311  # jitter
            answer = self._ask(left, f"{request}-{len(left)}")
            if isinstance(answer, _Again):
                found |= {one.id: Failed(f"{answer.why} ({self.target.host}, {attempt + 1} attempts)") for one in left}
                continue
            if isinstance(answer, Failed):
                return [found[one.id] if one not in left else answer for one in samples]
            again, told = _read(answer, left)
            found |= told
            left = again
            if not left:
                break
        return [found[one.id] for one in samples]

    def _ask(self, samples: Sequence[Sample], request: str) -> "dict[str, Any] | Failed | _Again":
        body = json.dumps(
            {"protocol": PROTOCOL, "samples": [self._told(one) for one in samples]}, ensure_ascii=False, default=str
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "Host": self.target.host if self.target.port in (80, 443) else f"{self.target.host}:{self.target.port}",
            REQUEST: request,
        }
        if self._secret:
            headers[SIGNATURE] = sign(self._secret, int(time.time()), body)
        try:
            address = self._address()
        except OSError as error:
            return _Again(f"its name cannot be resolved: {error.strerror or error}")
        if isinstance(address, Failed):
            return address
        host = f"[{address}]" if ":" in address else address
        url = f"{self.target.scheme}://{host}:{self.target.port}{self.target.path}"
        try:
            with (
                httpx.Client(
                    timeout=self.options.timeout_s, follow_redirects=False, trust_env=False, verify=_context()
                ) as client,
                client.stream(
                    "POST", url, content=body, headers=headers, extensions={"sni_hostname": self.target.host}
                ) as response,
            ):
                return self._answer(response, most=(1 << 20) + 4096 * len(samples))
        except httpx.TimeoutException:
            return _Again(f"no answer within {self.options.timeout_s:g} s")
        except httpx.HTTPError as error:
            return _Again(f"{type(error).__name__}: {error}"[:200])

    def _answer(self, response: httpx.Response, *, most: int) -> "dict[str, Any] | Failed | _Again":
        if response.status_code in _RETRIED:
            return _Again(f"HTTP {response.status_code}")
        if response.is_redirect:
            return Failed("it redirects, which is not followed; give the URL that answers")
        if response.status_code != 200:
            return Failed(f"HTTP {response.status_code}")
        deadline, text = time.monotonic() + self.options.timeout_s, b""
        for part in response.iter_bytes():
            text += part
            if len(text) > most:
                return Failed(f"its answer is longer than {most:,} bytes")
            if time.monotonic() > deadline:  # a drop at a time is no answer either
                return _Again(f"no whole answer within {self.options.timeout_s:g} s")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return Failed("its answer is no JSON")
        if not isinstance(found, dict) or not isinstance(found.get("scores"), list):
            return Failed('its answer is no {"protocol", "scores": [...]}')
        if found.get("protocol") != PROTOCOL:
            return Failed(f"it speaks {found.get('protocol')!r}, expected {PROTOCOL!r}")
        return found

    def _address(self) -> str | Failed:
        """One to connect to, of which all are allowed. Raises OSError: there is none."""
        found = self._resolve(self.target.host, self.target.port)
        if not self.target.private:
            odd = [one for one in found if not is_public(one)]
            if odd:
                return Failed(
                    f"{self.target.host} leads to {odd[0]}, which is not public; name it in allow_private if it should"
                )
        return found[0]

    def _told(self, sample: Sample) -> dict[str, Any]:
        columns = self.options.columns
        row = {name: value for name, value in sample.row.items() if columns is None or name in columns}
        return {
            "id": sample.id,
            "prompt": sample.prompt,
            "answer": sample.answer,
            "messages": [dict(one) for one in sample.messages],
            "row": row,
            "truncated": sample.truncated,
        }


@dataclass(frozen=True, slots=True)
class _Again:
    """Worth another attempt."""

    why: str


def _read(answer: dict[str, Any], asked: Sequence[Sample]) -> tuple[list[Sample], dict[str, Score]]:
    """(samples to ask for again, what is known of all)."""
    by_id: dict[str, Any] = {}
    for entry in answer["scores"]:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            # two answers to one question are none
            by_id[entry["id"]] = {"error": "scored twice"} if entry["id"] in by_id else entry
    again: list[Sample] = []
    found: dict[str, Score] = {}
    for sample in asked:
        entry = by_id.get(sample.id)
        if entry is None:
            found[sample.id] = Failed("the endpoint left it out")
        elif isinstance(entry.get("score"), int | float) and not isinstance(entry["score"], bool):
            found[sample.id] = float(entry["score"])
        else:
            found[sample.id] = Failed(f"the endpoint says: {str(entry.get('error') or 'no score')[:200]}")
            if entry.get("retry") is True:
                again.append(sample)
    return again, found


def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
