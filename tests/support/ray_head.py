"""A head of Ray as `ray start` makes it, with its dashboard, a token, and ports and a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

SECONDS_TO_START = 120
TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class RayHead:
    """Where it is.

    Attributes:
        address: of the dashboard.
        metrics: where Prometheus would ask.
        environment: of a process that uses it.
    """

    address: str
    metrics: str
    environment: dict[str, str]

    def call(self, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        """Starts `differnet-ray` with these arguments, and with changes of the environment."""
        command = [sys.executable, "-m", "differnet_ray.cli", *map(str, arguments)]
        environment = {**self.environment, **changes}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def running_head(cpus: int = 2, **environment: str) -> Iterator[RayHead]:
    """Starts a head with these variables, and stops it and all its processes at the end."""
    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short: the path of a Unix socket has at most 107 characters
    gcs, dashboard, metrics, agent, client = free_ports(5)
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    known |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    known |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    ports += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [*ports, f"--num-cpus={cpus}", f"--temp-dir={folder}/ray", f"--object-store-memory={200 * 2**20}"]
    said = Path(folder, "said")
    with said.open("w") as file:
        process = subprocess.Popen(command, env=known, stdout=file, stderr=file, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        late = time.monotonic() + SECONDS_TO_START
        while not _answers(f"{address}/api/version"):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < late, said.read_text()
            time.sleep(0.5)
        yield RayHead(address, f"http://127.0.0.1:{metrics}/metrics", {**known, "RAY_ADDRESS": address})
    finally:
        process.terminate()  # ends those that it started
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
