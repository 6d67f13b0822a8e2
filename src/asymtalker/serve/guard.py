"""What every request passes before anything reads it: who may ask, how often, how much; and what is noted of it."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response

from asymtalker.serve.metrics import Metrics
from asymtalker.serve.settings import Limits, is_loopback

log = logging.getLogger("asymtalker.serve")
COOKIE = "asymtalker"
OPEN = ("/healthz", "/readyz", "/login")
"""Paths that need no token: they tell nothing of anybody."""
TAKING = ("/v1/jobs", "/v1/stream", "/gradio_api/upload")
"""Paths that take uploads when they are posted to."""
MOST_ADDRESSES = 10_000
DRAINED = 3.0  # seconds
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # without any, forms of our own page come from the origin "null"
    (
        b"content-security-policy",  # nothing comes from elsewhere; Gradio's own page has scripts and styles within
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
        b" img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self' ws: wss: data: blob:;"
        b" font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self';"
        b" frame-ancestors 'none'",
    ),
    (b"permissions-policy", b"camera=(self), microphone=(self)"),
)
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class TooMuchError(Exception):
    """A request is longer, or slower, than it may be."""


class BrokenError(Exception):
    """A response ends before its end: the connection has to break, so that nobody takes it for whole."""


class Rate:
    """So many a minute of each address, some of them at once.

    Args:
        a_minute: how many.
        clock: seconds.
    """

    def __init__(self, a_minute: float, clock: Callable[[], float] = time.monotonic):
        self._a_minute, self._clock = a_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds to wait before one more is taken; 0 if it is."""
        now = self._clock()
        left, last = self._left.pop(address, (self._a_minute, now))
        left = min(self._a_minute, left + (now - last) * self._a_minute / 60)
        taken = left >= 1
        self._left[address] = (left - taken, now)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if taken else (1 - left) * 60 / self._a_minute


def cookie_value(token: str) -> str:
    """What a browser keeps of a token: nothing that it could be found out by."""
    return hmac.new(token.encode(), b"asymtalker page", hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware around everything, the page included.

    Args:
        app: what is guarded.
        token: what clients have to know: ``Authorization: Bearer TOKEN``, or the cookie that ``/login`` sets.
        limits: of sizes and rates.
        metrics: counts and times.
        hosts: names that the server may be called by besides addresses of loopback; without a token only those, or a
            page of another site could reach a server on its visitor's own machine.
    """

    def __init__(self, app: Any, *, token: str | None, limits: Limits, metrics: Metrics, hosts: Iterable[str] = ()):
        self._app, self._token, self._limits, self._metrics = app, token, limits, metrics
        self._hosts = set(hosts)
        self._all, self._uploads = Rate(limits.requests_a_minute), Rate(limits.uploads_a_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if scope["type"] == "websocket":
            if refused is None:
                await self._app(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        passing = _Passing(scope, receive, send, self._limits, self._metrics)
        if refused is not None:
            if refused.status_code == 413:
                await passing.drain()
            await refused(scope, receive, passing.send)
            return
        with contextlib.suppress(TooMuchError, BrokenError):  # refused already; broken off by leaving it unfinished
            await self._app(scope, passing.receive, passing.send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address, path = (scope.get("client") or ("unknown", 0))[0], scope["path"]
        if wait := self._all.wait(address):
            return _refused(429, "Too many requests: wait a moment.", {"Retry-After": str(int(wait) + 1)})
        host = headers.get("host", "")
        if self._token is None and not self._is_own(host):
            return _refused(421, "This server answers under localhost alone.")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        origin = headers.get("origin")
        if changes and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _refused(403, "Another site's page may not do this.")
        if self._token is not None and path not in OPEN and not self._knows(self._token, headers):
            if scope["type"] == "http" and "text/html" in headers.get("accept", ""):
                return RedirectResponse("/login", status_code=303)
            return _refused(401, "A token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.request_mb * (1 << 20):
            return _refused(413, _too_long(self._limits), {"Connection": "close"})
        takes = changes and scope["type"] == "http" and path.rstrip("/") in TAKING
        if takes and (wait := self._uploads.wait(address)):
            return _refused(429, "Too many uploads: wait a moment.", {"Retry-After": str(int(wait) + 1)})
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        return is_loopback(name) or name in self._hosts

    def _knows(self, token: str, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return True
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except Exception:  # whatever a stranger calls a cookie
            return False
        return kept is not None and hmac.compare_digest(kept.value.encode(), cookie_value(token).encode())


def _too_long(limits: Limits) -> str:
    return f"A request of over {limits.request_mb:g} MB is not taken."


def _refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": sentence}, status, headers)


class _Passing:
    """One request on its way: its body counted and timed, its response marked and noted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, metrics: Metrics):
        self._scope, self._receive, self._send, self._limits, self._metrics = scope, receive, send, limits, metrics
        self._begin = time.monotonic()
        self._left = limits.request_mb * (1 << 20)
        self._whole = self._answered = self._cut = False

    async def receive(self) -> Message:
        """The next part of the body, as long as there is not too much of it."""
        if self._whole:
            return await self._receive()
        patience = self._limits.request_seconds - (time.monotonic() - self._begin)
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, patience))
        except TimeoutError:
            await self._cut_off(408, "The request did not arrive in time.")
            raise TooMuchError from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                await self._cut_off(413, _too_long(self._limits))
                raise TooMuchError
        return message

    async def drain(self) -> None:
        """Read what still comes, for a moment, and forget it: a client that is sending does not hear an answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAINED):
                while (message := await self._receive())["type"] == "http.request" and message.get("more_body"):
                    pass

    async def _cut_off(self, status: int, sentence: str) -> None:
        if not self._answered:
            if status == 413:
                await self.drain()
            await _refused(status, sentence, {"Connection": "close"})(self._scope, self._receive, self.send)
        self._cut = True

    async def send(self, message: Message) -> None:
        """Send on; what comes after a request was cut off has no reader."""
        if self._cut:
            return
        if message["type"] == "http.response.start":
            self._answered = True
            given = {name for name, _ in message.get("headers", [])}
            more = [(name, value) for name, value in HEADERS if name not in given]
            message = {**message, "headers": [*message.get("headers", []), *more]}
            self._note(message["status"])
        await self._send(message)

    def _note(self, status: int) -> None:
        """By the route's own name: paths hold ids, and addresses are people's."""
        route = getattr(self._scope.get("route"), "path", None) or "other"
        seconds = time.monotonic() - self._begin
        method = self._scope["method"] if self._scope["method"] in ("GET", "POST", "DELETE", "HEAD") else "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.debug("%s %s %d %.3f s", method, route, status, seconds)
