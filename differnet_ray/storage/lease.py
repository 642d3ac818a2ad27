"""A lease on a piece of work: of two drivers of the same run one works, and the other says who does.

A lease is a small file that is created, never written over, by who works, and renewed while he does. Where its process is
gone, or it has not been renewed for a while, another may take it over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from differnet_ray.errors import LeaseError, StorageError
from differnet_ray.storage.files import delete, read_bytes, write_bytes

SECONDS_BETWEEN_BEATS = 10.0
STALE_AFTER = 60.0  # seconds without a beat; clocks of the machines may differ by half of that


@contextmanager
def lease(uri: str) -> Iterator[None]:
    """Holds the lease at a URI while the block runs.

    Raises:
        LeaseError: somebody else works; says who, and from when on the lease can be taken over.
        StorageError: the lease cannot be read or written.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": uuid.uuid4().hex, "since": time.time()}
    _take(uri, mine)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(SECONDS_BETWEEN_BEATS):
            try:
                write_bytes(uri, _content(mine))
            except StorageError:  # the next beat may go through; if none does, another may take over
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(StorageError):  # one that stays is taken over; what ended the block is what people must hear
            delete(uri)


def _take(uri: str, mine: dict[str, Any]) -> None:
    try:
        write_bytes(uri, _content(mine), create_only=True)
        return
    except FileExistsError:
        held = _read(uri)
    if held is not None and not _gone(held):
        wait = max(0.0, STALE_AFTER - (time.time() - held["beat"]))
        raise LeaseError(
            f"process {held['pid']} on {held['host']} has worked on this run since {time.ctime(held['since'])}: let it finish, "
            f"or end it and run the same command again (on another machine than that {wait:.0f} s later); its lease is {uri}"
        )
    delete(uri)
    try:
        write_bytes(uri, _content(mine), create_only=True)
    except FileExistsError as error:
        raise LeaseError(f"another process took over the lease {uri} at the same moment") from error


def _read(uri: str) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = json.loads(read_bytes(uri))
        return held if {"host", "pid", "since", "beat"} <= held.keys() else None
    except (FileNotFoundError, ValueError, AttributeError):  # given back meanwhile, or damaged
        return None


def _gone(held: dict[str, Any]) -> bool:
    if held["host"] == socket.gethostname():
        try:
            os.kill(held["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return bool(time.time() - held["beat"] > STALE_AFTER)


def _content(mine: dict[str, Any]) -> bytes:
    return json.dumps({**mine, "beat": time.time()}).encode()
