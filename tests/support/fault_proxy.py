"""An HTTP proxy on loopback in front of an S3 server: it answers some requests as a store in trouble does, and notes all.

Requests are passed on as they came: path, query and headers, of which the signature is made, stay what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

Fault = Literal["slow_down", "cut", "reset", "denied"]
SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
LARGEST_BODY = 2**30


@dataclass
class Request:
    """A request that came, `key` being `bucket/key`, and what became of it."""

    method: str
    key: str
    range: str | None
    fault: Fault | None


@dataclass
class FaultProxy:
    """A running proxy; its faults may be changed while it runs.

    Attributes:
        endpoint: its address.
        upstream: that of the server.
        faults: to the share of requests that get it; `cut` only those that read an object.
        always: part of a key to the fault that each reading of such an object gets.
        requests: all that came.
    """

    endpoint: str
    upstream: str
    faults: dict[Fault, float]
    random: random.Random
    always: dict[str, Fault] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def reads(self) -> list[str]:
        """The keys of all objects that were read, once for each request that was answered in full."""
        return [request.key for request in self.requests if request.method == "GET" and not request.fault]

    def fault_of(self, method: str, key: str) -> Fault | None:
        """Draws the fault of a request."""
        reading = method == "GET" and "/" in key
        for part, fault in self.always.items():
            if reading and part in key:
                return fault
        draw = self.random.random()
        for fault, share in self.faults.items():
            if draw < share:
                return fault if reading or fault != "cut" else None
            draw -= share
        return None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        key = unquote(request.raw_path.partition("?")[0]).strip("/")
        fault = self.fault_of(request.method, key)
        noted = Request(request.method, key, request.headers.get("Range"), fault)
        self.requests.append(noted)
        body = await request.read()
        if fault == "slow_down":
            return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
        if fault == "denied":
            return web.Response(status=403, body=DENIED, content_type="application/xml")
        if fault == "reset":
            return self._close(request)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        sent = body if body or request.method in ("PUT", "POST") else None
        async with (
            aiohttp.ClientSession(
                auto_decompress=False, skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding"]
            ) as session,
            session.request(
                request.method, URL(self.upstream + request.raw_path, encoded=True), headers=headers, data=sent
            ) as answer,
        ):
            content = await answer.read()
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if request.method != "HEAD":
                passed["Content-Length"] = str(len(content))
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=passed)
            await response.prepare(request)
            if fault == "cut" and not content:
                fault = noted.fault = None  # there is nothing to cut
            if fault == "cut":
                await response.write(content[: len(content) // 2])
                return self._close(request, response)
            if request.method != "HEAD":
                await response.write(content)
            await response.write_eof()
            return response

    @staticmethod
    def _close(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.close()
        return response or web.Response()


@contextlib.contextmanager
def faulty(
    upstream: str, *, seed: int = 0, slow_down: float = 0.0, cut: float = 0.0, reset: float = 0.0
) -> Iterator[FaultProxy]:
    """Starts a proxy in front of a server, in a thread of its own, and stops it."""
    faults: dict[Fault, float] = {"slow_down": slow_down, "cut": cut, "reset": reset}
    proxy = FaultProxy("", upstream, faults, random.Random(seed))
    loop = asyncio.new_event_loop()
    app = web.Application(client_max_size=LARGEST_BODY)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
