"""What keeps the door: who may come from where, with which key, with how much, how slowly. Plain ASGI, around everything."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openlance.apps.serve.errors import ApiError, api_error
from openlance.apps.serve.metrics import Metrics
from openlance.apps.serve.settings import ServeSettings

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/health",)
KEYED_PATHS = ("/v1", "/metrics")
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "SAMEORIGIN"}


class Keys:
    """API keys, compared in constant time: each as a digest, all of them every time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, key: str) -> str | None:
        """A name for the holder of `key` that does not give it away; None if it is no key. Everyone is one owner when there are no keys."""
        if not self._digests:
            return ""
        given = _digest(key)
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:24] if any(known) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(b"openlance key\0" + key.encode("utf-8", "surrogatepass")).digest()


class Guard:
    """ASGI middleware: host and origin, key, size and time of the body; headers and a count of what went out; the last word on errors."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.keys = Keys(settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self.metrics.responses.labels(scope["method"][:10], str(message["status"])).inc()
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(scope, headers)
            self._check_length(headers)
            await self.app(scope, self._bounded(receive), counted)
        except Exception as error:
            told = api_error(error)
            if started:
                raise
            await told.response()(scope, receive, counted)

    def _check_host(self, headers: Headers) -> None:
        """A page of another site in the user's browser must not reach the server, not even by a name that it points here."""
        host = headers.get("host", "")
        if self.settings.loopback and _hostname(host) not in LOCAL_NAMES:
            names = ", ".join(LOCAL_NAMES)
            raise ApiError(403, f"this server answers to {names} only: start it with --host to serve other names", code="host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, f"requests of pages from {origin[:200]} are not allowed", code="origin")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        scope.setdefault("state", {})["owner"] = ""
        path = scope["path"]
        if not self.keys or path in OPEN_PATHS or not path.startswith(KEYED_PATHS):
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self.keys.owner(key.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            message = "no valid API key: send the header  Authorization: Bearer KEY"
            raise ApiError(401, message, "authentication_error", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        scope["state"]["owner"] = owner

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > self.settings.max_body_bytes:
            raise too_long(self.settings.max_body_bytes)

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that stops a body which is too long or too slow."""
        until = time.monotonic() + self.settings.body_seconds
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                limit = self.settings.body_seconds
                raise ApiError(408, f"the request body had not arrived after {limit:g} s: send it again", code="body_timeout") from error
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if size > self.settings.max_body_bytes:
                    raise too_long(self.settings.max_body_bytes)
            return message

        return bounded


def too_long(limit: int) -> ApiError:
    return ApiError(413, f"the request body is longer than {limit} bytes, the limit: send smaller or fewer media", code="body_too_large")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
