"""The Python client, against the endpoint."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import httpx
import pytest
from online_server import Served

from differnet_ray.client import Client, EndpointError
from differnet_ray.errors import ImageError


@pytest.fixture
def image(factory: Path) -> Path:
    return next((factory / "plate" / "test" / "dent").iterdir())


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_it_asks_for_what_the_endpoint_has(endpoint: Served, image: Path) -> None:
    with Client(endpoint.address) as line:
        assert set(line.categories()) == {"plate", "lid"}
        one = line.score(image, "plate", map="array", metadata={"line": "3"})
        assert one.status == "anomalous"
        assert one.map is not None
        assert one.row["metadata"] == {"line": "3"}
        again = line.score(image.read_bytes(), "plate", transforms=2)
        assert again.row["n_transforms"] == 2
        batch = line.score_batch([image, b"not an image"], "plate")
        assert [found.status for found in batch] == ["anomalous", "unreadable"]
        assert batch[0].anomaly_score == one.anomaly_score
        with pytest.raises(ImageError, match="unreadable: the file is not an image"):
            line.score(b"not an image", "plate")
        with pytest.raises(EndpointError, match="404 there is no category 'screw'") as caught:
            line.score(image, "screw")
        assert caught.value.status == 404
        assert caught.value.request_id


def test_it_tries_again_where_the_endpoint_says_so(endpoint: Served, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([429, 503])
    send = httpx.Client.request

    def busy(self: httpx.Client, method: str, path: str, **how: object) -> httpx.Response:
        status = next(refusals, None)
        if status is None:
            return send(self, method, path, **how)  # type: ignore[arg-type]
        return httpx.Response(status, headers={"Retry-After": "0"})

    monkeypatch.setattr(httpx.Client, "request", busy)
    with Client(endpoint.address) as line:
        assert line.score(image, "plate").status == "anomalous"
        refusals = iter([503] * 9)
        with pytest.raises(EndpointError, match="503"):
            line.score(image, "plate")
        assert len(list(refusals)) == 4  # five tries


def test_it_waits_for_an_endpoint_that_is_not_there_yet(free_port: int) -> None:
    with Client(f"http://127.0.0.1:{free_port}", tries=2) as line:
        began = time.monotonic()
        with pytest.raises(EndpointError, match="was not reached"):
            line.categories()
        assert time.monotonic() - began >= 0.5
