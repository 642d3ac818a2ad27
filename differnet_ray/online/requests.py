"""What holds for every request: an id, a line in the log, a count, headers for browsers, and no traceback in an answer."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from differnet_ray.online.metrics import Metrics
from differnet_ray.online.problems import response
from differnet_ray.queries import Problem

CLIENT_LEFT = 499  # in the log and the metrics: nobody was there for an answer
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
logger = logging.getLogger(__name__)


class Requests:
    """Middleware around an application.

    Args:
        app: the application.
        metrics: where requests are counted.
        behind_proxy: the server in front puts the id into the answer.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, behind_proxy: bool) -> None:
        self._app, self._metrics, self._behind_proxy = app, metrics, behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _id_of(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not self._behind_proxy:
                    headers["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request %s failed", request_id)
            if status == CLIENT_LEFT:  # no answer has begun
                await response(Problem(500, "an error that is in the log"), request_id)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status, seconds)
            logger.info("request %s %s %s %d %.0f ms", request_id, scope["method"], route, status, 1000 * seconds)


def _id_of(given: str | None) -> str:
    """The id that a request came with, where it can stand in a log, else a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex
