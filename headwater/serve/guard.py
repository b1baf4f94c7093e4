"""Who may ask, and what may be asked: checks before a request is answered, and headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from hashlib import blake2b
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(?:(?P<name>[\w.-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::\d+)?")
COOKIE = "headwater_token"
HEADER = b"x-headwater-token"
SAFE = ("GET", "HEAD")
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
JSON_BYTES = 1 << 20
"""Most bytes of the body of a request that holds no image."""


UPLOADING = 16
"""Most images that may arrive at once: their bytes are in memory."""
BODY_SECONDS = 120.0
"""Seconds within which the body of a request must have arrived."""


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware that refuses requests of other sites, of people without the token, and of absurd size.

    Parameters
    ----------
    app
        What answers.
    hosts
        Names that the ``Host`` header may give: a page elsewhere may bind its own name to this address.
    token
        What a request must bring, in a header or a cookie; None if only this machine can reach the server.
    max_bytes
        Most bytes of an uploaded image.
    secure
        Whether cookies are for encrypted connections only.
    """

    def __init__(self, app: App, *, hosts: Sequence[str], token: str | None, max_bytes: int, secure: bool) -> None:
        self._app, self._hosts, self._token, self._max_bytes = app, {h.lower() for h in hosts}, token, max_bytes
        self._secure = secure
        self._uploading = 0
        # cookies are sent to every port of a machine: servers on it must not take each other's
        self._cookie = f"{COOKIE}_{blake2b((token or '').encode(), digest_size=4).hexdigest()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        guarded = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(guarded, *refusal)
            return
        if self._token is not None:
            asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
            if scope["path"] == "/" and asked:
                await self._welcome(guarded, asked[0])
                return
            if not self._has_token(headers):
                await _answer(guarded, 401, "the token is missing or wrong: open the address that the server printed.")
                return
        limit = self._max_bytes if scope["path"] == "/api/uploads" else JSON_BYTES
        declared = headers.get(b"content-length")
        if declared is not None and (not declared.isdigit() or len(declared) > 18 or int(declared) > limit):
            await _answer(guarded, 413, f"the request has more than {limit:,} bytes.")
            return
        uploads = limit == self._max_bytes and scope["method"] not in SAFE
        if uploads and self._uploading >= UPLOADING:
            await _answer(guarded, 503, "too many images arrive at this moment. Try again in a few seconds.")
            return
        body = _Body(receive, limit, guarded)
        self._uploading += uploads
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if not (body.exceeded or body.left):
                raise
        finally:
            self._uploading -= uploads

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        """Return why a request is refused, before its token is looked at."""
        host = headers.get(b"host", b"").decode("latin-1")
        name = _HOST.fullmatch(host)
        if name is None or (name["name"] or name["v6"]).lower() not in self._hosts:
            return 400, "this server does not answer to that name. Use the address that it printed, or --allow-host."
        if scope["method"] in SAFE:
            return None
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower():
            return 403, "requests of other sites are refused."
        if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
            return 403, "requests of other sites are refused."
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        plain = (b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data")
        if kind in plain:  # what a page elsewhere could send without being asked for consent
            return 415, "the content type must be application/json, or for uploads image/* or application/octet-stream."
        return None

    def _has_token(self, headers: Mapping[bytes, bytes]) -> bool:
        wanted = str(self._token).encode()
        given = headers.get(HEADER)
        if given is not None:
            return hmac.compare_digest(given, wanted)
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        held = cookies.get(self._cookie)
        return held is not None and hmac.compare_digest(held.value.encode("latin-1", "replace"), wanted)

    async def _welcome(self, send: Send, given: str) -> None:
        """Put the token of the first address into a cookie, so that it leaves the address bar."""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), str(self._token).encode()):
            await _answer(send, 401, "the token is wrong: open the address that the server printed.")
            return
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if self._secure else ''}"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class _Body:
    """The body of a request, which is cut off, and answered with 413 or 408, after so many bytes or seconds."""

    def __init__(self, receive: Receive, limit: int, send: Send) -> None:
        self._receive, self._limit, self._send = receive, limit, send
        self._taken, self._answered, self.exceeded, self.left = 0, False, False, False
        self._whole, self._until = False, time.monotonic() + BODY_SECONDS

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next part of the body."""
        if self._whole:  # what comes now tells that the other side has gone
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(self._until - time.monotonic(), 0))
        except TimeoutError:
            return await self._cut(408, "the request did not arrive in time.")
        self.left = message["type"] == "http.disconnect"  # before all of the body had come: nobody waits for an answer
        self._taken += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._taken <= self._limit:
            return message
        return await self._cut(413, f"the request has more than {self._limit:,} bytes.")

    async def _cut(self, status: int, words: str) -> MutableMapping[str, Any]:
        if not self._answered:
            self.exceeded = True
            await _answer(self._send, status, words)
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer, unless there is one already."""
        if not self.exceeded:
            self._answered = True
            await self._send(message)


def _with_headers(send: Send) -> Send:
    extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", [])}
            message = {**message, "headers": [*message.get("headers", []), *(h for h in extra if h[0] not in own)]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"error": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Timed:
    """ASGI middleware that counts requests and takes their time, by route."""

    def __init__(self, app: App, timings: Timings) -> None:
        self._app, self._timings = app, timings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note how long it took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._timings.now(), 500

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._timings.add(route, status, self._timings.now() - began)


class Timings:
    """How many requests were answered, and how quickly: by route, never by what was asked."""

    KEPT = 2048  # latest times of a route

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._counts[route, status] = self._counts.get((route, status), 0) + 1
        self._times.setdefault(route, deque(maxlen=self.KEPT)).append(seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return counts by route and status, and the median and 99th percentile of seconds by route."""
        out: dict[str, Any] = {}
        for (route, status), count in sorted(self._counts.items()):
            out.setdefault(route, {"counts": {}})["counts"][str(status)] = count
        for route, times in self._times.items():
            ordered = sorted(times)
            most = len(ordered) - 1
            out[route] |= {f"p{share}": ordered[min(most, len(ordered) * share // 100)] for share in (50, 99)}
        return out

    @staticmethod
    def now() -> float:
        """Return seconds of a clock that only goes forward."""
        return time.perf_counter()
