"""The endpoint in this process: a real web server around a real scorer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from online_models import LocalScorer

from differnet_ray.online.app import build_app
from differnet_ray.online.options import Options


@dataclass(frozen=True)
class Served:
    """An endpoint that runs."""

    address: str
    client: httpx.Client
    app: FastAPI
    scorer: LocalScorer


@contextmanager
def served(models: str, scorer: LocalScorer, options: Options, page: Path | None = None) -> Iterator[Served]:
    """Runs the application on a port of this machine, until the block is left."""
    app = build_app(models, scorer, options, page)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=60) as client:
            wait_for(lambda: server.started and client.get("/readyz").status_code == 200)
            yield Served(address, client, app, scorer)
        server.should_exit = True
        thread.join()


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until a function says true."""
    late = time.monotonic() + seconds
    while not what():
        if time.monotonic() > late:
            raise TimeoutError(f"waited {seconds} s in vain")
        time.sleep(0.05)
