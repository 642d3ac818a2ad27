"""Tells chats and programs of an audit: a POST of its record, or of a message made of it.

    record -> message of a bounded size (`webhook_messages.py`) -> POST, tried again for a bounded time -> what went wrong

The path and the query of such an address are a password: what is said or logged names the host alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from differnet_ray.errors import ConfigError
from differnet_ray.webhook_messages import Form, message_of

TRIES = 5
SECONDS, SECONDS_A_TRY = 60.0, 10.0
WAIT = 0.5  # seconds after the first try, twice as long after each other
_HOSTS: Mapping[str, Form] = {  # and those below them
    "hooks.slack.com": "slack",
    "hooks.slack-gov.com": "slack",
    "logic.azure.com": "teams",
    "api.powerplatform.com": "teams",
    "api.powerautomate.com": "teams",
    "webhook.office.com": "teams",
}


@dataclass(frozen=True)
class Webhooks:
    """Who is told of an audit.

    Attributes:
        urls: where to.
        form: of the messages; None: what the host of each takes.
        always: also where nothing alarms and all images could be scored.
        seconds: after which a webhook is given up.

    Raises:
        ConfigError: an address cannot be one.
    """

    urls: tuple[str, ...] = field(default=(), repr=False)
    form: Form | None = None
    always: bool = False
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        for number, url in enumerate(self.urls, 1):
            try:
                parsed = httpx.URL(url)
            except (httpx.InvalidURL, UnicodeError):
                parsed = httpx.URL("")
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise ConfigError(f"--webhook, address {number} of {len(self.urls)} is none: expected https://HOST/PATH")

    def tell(self, record: Mapping[str, Any]) -> list[str]:
        """Sends the record of an audit, or messages of it, to all of them at a time.

        Returns:
            Why webhooks were not told, a sentence for each of those; nothing is raised.
        """
        if not self.urls:
            return []
        with _no_addresses_in_the_log(), ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop
            found = thread.submit(asyncio.run, self._tell(record)).result()
        return [f"webhook {httpx.URL(url).host}: {why}" for url, why in zip(self.urls, found, strict=True) if why is not None]

    async def _tell(self, record: Mapping[str, Any]) -> list[str | None]:
        found = await asyncio.gather(*(self._tell_one(url, record) for url in self.urls), return_exceptions=True)
        # the text of an error may hold the address
        return [type(why).__name__ if isinstance(why, BaseException) else why for why in found]

    async def _tell_one(self, url: str, record: Mapping[str, Any]) -> str | None:
        content = message_of(record, self.form or form_of(httpx.URL(url).host))
        why = "no answer"
        try:
            async with asyncio.timeout(self.seconds) as limit, httpx.AsyncClient(timeout=SECONDS_A_TRY) as client:
                for tried in range(1, TRIES + 1):
                    wait = None
                    try:
                        # the body of the answer is not read, however long it is
                        async with client.stream("POST", url, content=content, headers=_HEADERS) as answer:
                            if answer.is_success:
                                return None
                            why = _said(answer)
                            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and not answer.is_server_error:
                                return why
                            wait = _wait_that_is_asked_for(answer)
                    except httpx.TransportError as error:
                        why = f"not reached ({type(error).__name__})"
                    wait = WAIT * 2 ** (tried - 1) if wait is None else wait
                    left = (limit.when() or 0.0) - asyncio.get_running_loop().time()
                    if tried == TRIES or wait >= left:
                        return f"{why}, tried {tried} time{'s' if tried > 1 else ''}"
                    await asyncio.sleep(wait * random.uniform(1, 1.25))  # noqa: S311  # so that many do not return at once
        except TimeoutError:
            return f"{why}, given up after {self.seconds:g} s"
        return why


_HEADERS = {"Content-Type": "application/json", "User-Agent": "differnet-ray"}


def form_of(host: str) -> Form:
    """What a host takes.

    Example:
        >>> form_of("prod-12.westeurope.logic.azure.com"), form_of("hooks.slack.com"), form_of("ops.example")
        ('teams', 'slack', 'generic')
    """
    host = host.lower()
    return next((form for known, form in _HOSTS.items() if host == known or host.endswith(f".{known}")), "generic")


def _said(answer: httpx.Response) -> str:
    said = f"answered {answer.status_code} {answer.reason_phrase}".rstrip()
    return f"{said}: redirects are not followed" if answer.is_redirect else said


def _wait_that_is_asked_for(answer: httpx.Response) -> float | None:
    """Seconds, by the header Retry-After: a number, or a date (RFC 9110, 10.2.3)."""
    told = answer.headers.get("retry-after", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        moment = parsedate_to_datetime(told)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


@contextmanager
def _no_addresses_in_the_log() -> Iterator[None]:
    """Keeps httpx from logging each request with its URL, whatever level the log has."""
    logger = logging.getLogger("httpx")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False
