"""A real S3 server on loopback: OpenStack Swift with its S3 API, in the virtual environment that `make s3-server` makes.

One proxy takes the requests; an account, a container and an object server keep the data on disk, one copy, in a folder
that is gone afterwards. The region is none that a client would guess: a request that is signed for another is refused.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ACCESS_KEY, SECRET_KEY, REGION = "test:tester", "testsecret", "eu-test-7"
REPOSITORY = Path(__file__).parents[2]
BIN = REPOSITORY / ".venv-s3" / "bin"
STARTS_WITHIN, STOPS_WITHIN = 60, 10  # seconds
KEEPERS = ("account", "container", "object")

# Swift's rings say which server keeps what: here the only one of its kind.
RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *servers = sys.argv[1:]
for server in servers:
    kind, port = server.split(":")
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""
CLUSTER = """
[swift-hash]
swift_hash_path_prefix = prefix
swift_hash_path_suffix = suffix
[storage-policy:0]
name = one
default = yes
"""
SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_level = WARNING
"""
KEEPER = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors logging listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = {region}
min_segment_size = 5242880
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


class NoExtendedAttributes(Exception):
    """No folder at hand keeps the extended attributes that Swift needs; says which were tried."""


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Starts the server, yields its endpoint, and ends the processes that it started.

    Raises:
        NoExtendedAttributes: there is no place to run it.
        RuntimeError: it is not installed, or did not answer; with what it said.
    """
    if not BIN.exists():
        raise RuntimeError(f"{BIN} is missing: `make s3-server` installs the S3 server that these tests need")
    folder, started = _folder_with_attributes(), []
    try:
        (folder / "devices" / "d1").mkdir(parents=True)
        ports = dict(zip((*KEEPERS, "proxy"), _free_ports(4), strict=True))
        _configure(folder, ports)
        for kind in ports:
            command = [BIN / f"swift-{kind}-server", folder / f"{kind}.conf", "--verbose"]
            with (folder / f"{kind}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "SWIFT_DIR": str(folder)}))
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        _wait_until_it_answers(endpoint, ports, started, folder)
        yield endpoint
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _folder_with_attributes() -> Path:
    tried = []
    for place in (Path(tempfile.gettempdir()), REPOSITORY, Path("/dev/shm")):
        try:
            folder = Path(tempfile.mkdtemp(prefix=".s3-", dir=place))
        except OSError as error:
            tried.append(f"{place}: {error}")
            continue
        try:
            os.setxattr(folder, "user.swift.metadata", b"x" * 1000)
        except OSError as error:
            tried.append(f"{place}: {error}")
            folder.rmdir()
        else:
            return folder
    raise NoExtendedAttributes("the S3 server needs extended attributes of files: " + "; ".join(tried))


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all are held until the last is found, so that no two are the same
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _configure(folder: Path, ports: dict[str, int]) -> None:
    (folder / "swift.conf").write_text(CLUSTER)
    for kind, port in ports.items():
        server = SERVER.format(port=port, user=getpass.getuser(), folder=folder)
        tester = ACCESS_KEY.replace(":", "_")
        pipeline = KEEPER.format(kind=kind) if kind in KEEPERS else PROXY.format(region=REGION, user=tester, secret=SECRET_KEY)
        (folder / f"{kind}.conf").write_text(server + pipeline)
    servers = [f"{kind}:{ports[kind]}" for kind in KEEPERS]
    done = subprocess.run([BIN / "python", "-c", RINGS, folder, *servers], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the S3 server's rings could not be made: {done.stderr}")


def _wait_until_it_answers(endpoint: str, ports: dict[str, int], started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while not (all(map(_listens, ports.values())) and _answers(endpoint)):
        ended = [kind for kind, process in zip(ports, started, strict=True) if process.poll() is not None]
        if ended or time.monotonic() > until:
            logs = "\n".join(f"--- {kind}\n{(folder / f'{kind}.log').read_text(errors='replace')[-3000:]}" for kind in ports)
            why = f"{', '.join(ended)} ended" if ended else f"no answer within {STARTS_WITHIN} s"
            raise RuntimeError(f"the S3 server did not start: {why}\n{logs}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(endpoint, timeout=5)
    except urllib.error.HTTPError as refusal:  # it does not know who asks
        return refusal.code < 500
    except OSError:
        return False
    return True
