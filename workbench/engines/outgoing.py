"""Where a request to an allowed host goes: its name is resolved once, and the address that was looked at is asked.

A name may lead elsewhere the second time it is asked for. Addresses that no endpoint has (of cloud metadata and others
local to the link, none, many) are refused, and so is this machine itself under a foreign name. Private networks are
not: many a model is served there.
"""

import asyncio
import ipaddress
import socket
import urllib.request
from collections.abc import Callable, Sequence

import httpx

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name. Raises OSError: it has none."""
    return [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def why_refused(host: str, address: str) -> str | None:
    """Why a name may not lead to an address; None: it may."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_link_local or found.is_unspecified or found.is_multicast:
        return f"{host} leads to {address}, which is no endpoint's address"
    if found.is_loopback and host != "localhost" and not _is_address(host):
        return f"{host} leads to {address}, which is this machine; write localhost if that is meant"
    return None


def is_direct(*, local: bool) -> bool:
    """Whether we connect ourselves: a proxy of the environment resolves names itself, and for this machine is none."""
    return local or not urllib.request.getproxies()


def aimed(request: httpx.Request, addresses: Sequence[str]) -> httpx.Request:
    """The request to the first address of a name, all of which are allowed; TLS still asks for the name.

    Raises:
        httpx.ConnectError: one of them is not.
    """
    host = request.url.host
    for address in addresses:
        if (why := why_refused(host, address)) is not None:
            raise httpx.ConnectError(why, request=request)
    if not addresses:
        raise httpx.ConnectError(f"{host} has no address", request=request)
    request.extensions = {**request.extensions, "sni_hostname": host}
    request.url = request.url.copy_with(host=addresses[0])  # the Host header was written before
    return request


class CheckedTransport(httpx.HTTPTransport):
    """Asks the address that was looked at."""

    def __init__(self, *, limits: httpx.Limits, resolver: Resolve = resolve) -> None:
        super().__init__(limits=limits)  # certificates of SSL_CERT_FILE included
        self._resolve = resolver

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Resolve, look, ask."""
        if not _is_address(request.url.host):
            try:
                addresses = self._resolve(request.url.host, request.url.port or 443)
            except OSError as error:
                raise httpx.ConnectError(f"{request.url.host}: {error.strerror or error}", request=request) from error
            request = aimed(request, addresses)
        return super().handle_request(request)


class CheckedAsyncTransport(httpx.AsyncHTTPTransport):
    """The same for an event loop."""

    def __init__(self, *, limits: httpx.Limits, resolver: Resolve = resolve) -> None:
        super().__init__(limits=limits)  # certificates of SSL_CERT_FILE included
        self._resolve = resolver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Resolve, look, ask."""
        host = request.url.host
        if not _is_address(host):
            try:
                addresses = await asyncio.to_thread(self._resolve, host, request.url.port or 443)
            except OSError as error:
                raise httpx.ConnectError(f"{host}: {error.strerror or error}", request=request) from error
            request = aimed(request, addresses)
        return await super().handle_async_request(request)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
