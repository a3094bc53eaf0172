"""What stands before the routes: size of bodies, request ids, metrics, the last resort for errors. Knows ASGI only."""

import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from workbench.serve.faults import ApiError, log
from workbench.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLargeError(Exception):
    """The body is larger than is read here."""


class Border:
    """Outermost middleware. Reads no more of a body than allowed; a streamed one is counted while it comes."""

    def __init__(self, app: App, *, metrics: Metrics, max_bytes: int, keyless: bool = False) -> None:
        """`keyless`: whoever reaches the server may ask, so pages of other sites that a browser shows may not."""
        self.app, self.metrics, self.max_bytes, self.keyless = app, metrics, max_bytes, keyless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        await request.run()


class _Request:
    def __init__(self, border: Border, scope: Scope, receive: Receive, send: Send) -> None:
        self.border, self.scope, self._receive, self._send = border, scope, receive, send
        self.id = f"req-{secrets.token_hex(12)}"
        self.status = 0
        self.read = 0
        self.too_large = False
        scope.setdefault("state", {})["request_id"] = self.id

    async def run(self) -> None:
        start = time.perf_counter()
        try:
            self.too_large = self._declared() > self.border.max_bytes
            if self.border.keyless and not is_own(self.scope):
                message = "a page of another site asks; this server without keys answers programs of this machine"
                await self._answer(ApiError(403, message, code="foreign_origin"))
            elif not self.too_large:
                await self.border.app(self.scope, self.receive, self.send)
        except TooLargeError:
            pass
        except Exception:
            log.exception("request %s failed", self.id)
            message = f"an unexpected fault of the server; its log names it {self.id}"
            await self._answer(ApiError(500, message, code="internal_error"))
        if self.too_large:
            limit = self.border.max_bytes
            message = f"the body is larger than the {limit:,} bytes that are read here; send less"
            self.too_large = False
            await self._answer(ApiError(413, message, code="request_too_large", headers={"connection": "close"}))
        self._count(time.perf_counter() - start)

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.request":
            self.read += len(message.get("body", b""))
            if self.read > self.border.max_bytes:
                self.too_large = True
                raise TooLargeError
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.too_large and not self.status:
            return  # what the application made of the half-read body
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        await self._send(message)

    def _declared(self) -> int:
        for name, value in self.scope.get("headers", ()):
            if name == b"content-length" and value.isdigit():
                return int(value)
        return 0

    async def _answer(self, error: ApiError) -> None:
        if not self.status:  # else the answer has begun, and ends short
            await error.response()(self.scope, self._receive, self.send)

    def _count(self, seconds: float) -> None:
        route = self.scope.get("route")
        path = getattr(route, "path", "other")
        tenant = self.scope["state"].get("tenant", "")
        self.border.metrics.requests.labels(path, str(self.status or 499), tenant).inc()
        self.border.metrics.seconds.labels(path).observe(seconds)


def is_own(scope: Scope) -> bool:
    """Whether a request is of no foreign page: without `Origin` or with our own, and, on a loopback address, under a
    name of this machine, so that a foreign name that was made to lead here leads nowhere.
    """
    headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
    host = headers.get(b"host", "")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    address = (scope.get("server") or ("", 0))[0]
    try:
        is_local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
