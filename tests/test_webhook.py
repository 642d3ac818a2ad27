"""Webhooks: a real server on loopback that refuses, hangs, sends elsewhere, or is not there."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from audit_records import a_record, an_alarm
from webhook_server import HANG, SECRET, receiving

from differnet_ray import webhook
from differnet_ray.errors import ConfigError
from differnet_ray.webhook import TRIES, Webhooks, form_of

RECORD = a_record([an_alarm()])


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAIT", 0.02)


def test_it_is_sent_the_record_once() -> None:
    with receiving() as server:
        assert Webhooks((server.url,)).tell(RECORD) == []
        assert [got["body"] for got in server.received] == [RECORD]
        assert server.received[0]["type"] == "application/json"
        assert server.received[0]["path"].startswith(SECRET)


def test_it_tries_again_where_the_server_fails() -> None:
    with receiving(500, 503) as server:
        assert Webhooks((server.url,)).tell(RECORD) == []
        assert len({got["body"]["audit_id"] for got in server.received}) == 1
        assert len(server.received) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_it_waits_as_long_as_it_is_asked_to(form: str) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # of whole seconds
    with receiving((429, {"Retry-After": "1" if form == "seconds" else soon})) as server:
        began = time.monotonic()
        assert Webhooks((server.url,)).tell(RECORD) == []
        assert 0.9 <= time.monotonic() - began < 10
        assert len(server.received) == 2


@pytest.mark.parametrize("told", ["3600", "nonsense", ""])
def test_it_gives_up_at_once_where_it_would_wait_too_long_and_ignores_what_is_no_time(told: str) -> None:
    with receiving(*[(429, {"Retry-After": told})] * TRIES) as server:
        (why,) = Webhooks((server.url,), seconds=20).tell(RECORD)
        assert "answered 429 Too Many Requests" in why
        assert len(server.received) == (1 if told == "3600" else TRIES)


def test_a_server_that_always_fails_is_given_up() -> None:
    with receiving(*[500] * 99) as server:
        (why,) = Webhooks((server.url,)).tell(RECORD)
        assert why == "webhook 127.0.0.1: answered 500 Internal Server Error, tried 5 times"
        assert len(server.received) == TRIES


def test_a_refusal_is_not_tried_again() -> None:
    with receiving(404) as server:
        assert Webhooks((server.url,)).tell(RECORD) == ["webhook 127.0.0.1: answered 404 Not Found"]
        assert len(server.received) == 1


def test_a_server_that_hangs_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(HANG) as server:
        began = time.monotonic()
        (why,) = Webhooks((server.url,), seconds=0.5).tell(RECORD)
        assert 0.5 <= time.monotonic() - began < 5
        assert why == "webhook 127.0.0.1: no answer, given up after 0.5 s"
    monkeypatch.setattr(webhook, "SECONDS_A_TRY", 0.2)
    with receiving(HANG) as server:
        assert Webhooks((server.url,)).tell(RECORD) == []
        assert len(server.received) == 2


def test_it_does_not_follow_redirects() -> None:
    with receiving() as other, receiving((307, {"Location": other.url})) as server:
        (why,) = Webhooks((server.url,)).tell(RECORD)
        assert why == "webhook 127.0.0.1: answered 307 Temporary Redirect: redirects are not followed"
        assert (len(server.received), len(other.received)) == (1, 0)


def test_what_is_not_there_does_not_keep_others_from_being_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}{SECRET}"
    with receiving() as server:
        (why,) = Webhooks((gone, server.url), seconds=1).tell(RECORD)
        assert why.startswith("webhook 127.0.0.1: not reached (ConnectError)")
        assert len(server.received) == 1


def test_it_tells_from_within_an_event_loop() -> None:
    async def inside(url: str) -> list[str]:
        return Webhooks((url,)).tell(RECORD)

    with receiving() as server:
        assert asyncio.run(inside(server.url)) == []


def test_whatever_goes_wrong_is_said_without_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://127.0.0.1:1/s3cr3t")
    assert Webhooks(("http://ops.example/s3cr3t",)).tell(RECORD) == ["webhook ops.example: ValueError"]


def test_neither_the_log_nor_the_object_shows_the_address(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), receiving(500, (307, {"Location": "/elsewhere"})) as server:
        webhooks = Webhooks((server.url,))
        (why,) = webhooks.tell(RECORD)
        assert caplog.records  # that something was logged at all
        for said in (caplog.text, why, repr(webhooks)):
            assert "s3cr3t" not in said
            assert "hidden" not in said
    logging.getLogger("httpx").warning("of others")
    assert "of others" in caplog.text


@pytest.mark.parametrize(
    "url", ["hooks.slack.com/s3cr3t", "ftp://host/s3cr3t", "https:///s3cr3t", "https://host:port/s3cr3t", ""]
)
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="address 2 of 2") as caught:
        Webhooks(("https://ops.example/x", url))
    assert "s3cr3t" not in str(caught.value)


def test_the_host_says_what_it_takes() -> None:
    hosts = {
        "hooks.slack.com": "slack",
        "HOOKS.SLACK.COM": "slack",
        "prod-1.westeurope.logic.azure.com": "teams",
        "default1.2.environment.api.powerplatform.com": "teams",
        "plant.webhook.office.com": "teams",
        "hooks.slack.com.evil.example": "generic",
        "myhooks.slack.com": "generic",
    }
    assert {host: form_of(host) for host in hosts} == hosts
