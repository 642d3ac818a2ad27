"""Of several that want to do the same work, one does, and a dead one is in nobody's way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from differnet_ray.errors import LeaseError
from differnet_ray.storage import lease as lease_module
from differnet_ray.storage.files import exists
from differnet_ray.storage.lease import lease
from differnet_ray.storage.locations import canonical

HOLD = """
import sys, time
from differnet_ray.storage.lease import lease
with lease(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return canonical(str(tmp_path / "run.lease.json"))


def held_by_another_process(uri: str) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, uri], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mine\n"
    return holder


def test_a_lease_is_held_by_one_and_given_back(uri: str) -> None:
    with lease(uri):
        with pytest.raises(LeaseError, match=r"process \d+ on .* has worked on this run since"), lease(uri):
            pytest.fail("two hold it")
        assert exists(uri)
    assert not exists(uri)
    with lease(uri):
        pass


def test_another_process_is_named_while_it_lives_and_taken_over_from_when_it_was_killed(uri: str) -> None:
    holder = held_by_another_process(uri)
    with pytest.raises(LeaseError, match=f"process {holder.pid} on"), lease(uri):
        pytest.fail("two hold it")
    holder.kill()
    holder.communicate()
    assert exists(uri)
    with lease(uri):
        pass


def test_a_lease_of_another_machine_is_taken_over_when_it_has_not_been_renewed(uri: str) -> None:
    path = Path(uri.removeprefix("file://"))
    held = {"host": "elsewhere", "pid": 1, "nonce": "x", "since": time.time() - 500, "beat": time.time() - 30}
    path.write_text(json.dumps(held))
    with pytest.raises(LeaseError, match=r"process 1 on elsewhere .* \d\d s later"), lease(uri):
        pytest.fail("it is held")
    path.write_text(json.dumps({**held, "beat": time.time() - 90}))
    with lease(uri):
        assert json.loads(path.read_text())["host"] != "elsewhere"


@pytest.mark.parametrize("content", ["", "[]", "{}", "torn"])
def test_a_damaged_lease_is_none(uri: str, content: str) -> None:
    Path(uri.removeprefix("file://")).write_text(content)
    with lease(uri):
        pass


def test_a_lease_is_renewed_while_it_is_held(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "SECONDS_BETWEEN_BEATS", 0.05)
    path = Path(uri.removeprefix("file://"))
    with lease(uri):
        first = json.loads(path.read_text())
        end = time.monotonic() + 20
        while (now := json.loads(path.read_text()))["beat"] == first["beat"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert now["nonce"] == first["nonce"]
        with pytest.raises(LeaseError), lease(uri):
            pytest.fail("two hold it")
    time.sleep(0.2)
    assert not path.exists()
