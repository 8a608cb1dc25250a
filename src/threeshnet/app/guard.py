"""What every request passes: the name it calls the server by, its size, its time, and the headers of each answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from ipaddress import ip_address

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",  # pages of others cannot show or count the photos
    "cross-origin-opener-policy": "same-origin",
}
# Who sends on after 413 is cut off, and does not keep a connection; who is too many may come back.
MORE_HEADERS = {status: {"connection": "close"} for status in (413, 421, 504)} | {503: {"retry-after": "2"}}
Observe = Callable[[str, int, float], None]  # path of the route, status, seconds


class Refused(Exception):
    """A request that is answered with this status and sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str) -> JSONResponse:
    """The one form of every error: `{"error": "…"}`."""
    return JSONResponse({"error": message}, status, MORE_HEADERS.get(status))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str:
    """The name in a Host header, without the port.

    >>> name_of("Localhost:8000"), name_of("[::1]:8000"), name_of("::1")
    ('localhost', '::1', '::1')
    """
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


class Guard:
    """The outermost layer of the server.

    `hosts` are the names by which the server may be called, None for any. On loopback a page of somebody else's could
    otherwise read the photos: its own name is made to lead to 127.0.0.1 (DNS rebinding), and the Host header tells.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: frozenset[str] | None, most_bytes: int, seconds: float, observe: Observe
    ) -> None:
        self.app, self.hosts, self.most_bytes, self.seconds, self.observe = app, hosts, most_bytes, seconds, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await (self.app(scope, receive, send) if scope["type"] == "lifespan" else asyncio.sleep(0))
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            self._check(scope)
            async with asyncio.timeout(self.seconds):
                await self.app(scope, self._limited(receive), answer)
        except (Refused, TimeoutError) as error:
            code = error.status if isinstance(error, Refused) else 504
            if not status:
                await refusal(code, str(error) or f"no answer within {self.seconds:g} s")(scope, receive, answer)
        except Exception:  # it was answered by the handler of `server.HANDLERS`
            log.exception("%s %s", scope["method"], scope["path"])
        finally:
            self.observe(getattr(scope.get("route"), "path", "other"), status, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = name_of(headers.get(b"host", b"").decode("latin-1"))
        if self.hosts is not None and host not in self.hosts:
            raise Refused(421, f"called as {host[:100]!r}; this server answers to {', '.join(sorted(self.hosts))}")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """A body without a length, or with a false one, is counted as it comes."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Refused:
        return Refused(413, f"a photo may have {self.most_bytes / 1e6:g} MB at most")
