"""A client of the online endpoint, for programs at the line.

    with Client("http://127.0.0.1:8000", token=TOKEN) as line:
        answer = line.score(Path("part.jpg"), "screw")
        if answer.status == "anomalous": ...

It tries again where the endpoint has too much to do (429), or is about to be there (503), and waits as long as it is told to.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from differnet_ray.errors import DifferNetError, ImageError
from differnet_ray.queries import MapForm

AGAIN = (429, 503)
LONGEST_WAIT = 30.0  # seconds


class EndpointError(DifferNetError):
    """The endpoint refused a request, or was not reached.

    Args:
        message: for people.
        status: of HTTP; None where there was no answer.
        request_id: names the request in the endpoint's log.
    """

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message, status, request_id)
        self.status, self.request_id = status, request_id

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Score:
    """What the endpoint says of an image.

    Attributes:
        status: ok, review or anomalous; of an image of a batch also why it has no score.
        anomaly_score, threshold, review_threshold, p_value: as in the table `scores`; None without a score.
        error: why there is no score.
        model_version: that scored.
        map: of the answer, where one was asked for.
        row: all of the answer.
    """

    status: str
    anomaly_score: float | None
    threshold: float | None
    review_threshold: float | None
    p_value: float | None
    error: str | None
    model_version: str | None
    map: Mapping[str, Any] | None = field(repr=False)
    row: Mapping[str, Any] = field(repr=False)


class Client:
    """Asks an endpoint; for one thread, or several.

    Args:
        address: such as `http://127.0.0.1:8000`.
        token: where one is needed.
        tries: of a request, in all.
        timeout: seconds for each try.
    """

    def __init__(self, address: str, *, token: str | None = None, tries: int = 5, timeout: float = 60.0) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    def score(
        self,
        image: bytes | Path,
        category: str,
        *,
        map: MapForm = "none",
        transforms: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Score:
        """Scores one image.

        Args:
            image: the content of its file, or where that is.
            category: the model that scores.
            map: the form in which the map is wanted.
            transforms: the first so many, where the model allows.
            metadata: echoed.

        Raises:
            ImageError: the image cannot be used.
            EndpointError: there is no answer.
        """
        return _score(self._ask("/v1/score", [("image", image)], category, map, transforms, metadata).json())

    def score_batch(
        self,
        images: Sequence[bytes | Path],
        category: str,
        *,
        map: MapForm = "none",
        transforms: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Score]:
        """Scores up to 32 images; arguments as of `score`. One that cannot be used has its status and `error`."""
        files = [("images", image) for image in images]
        return [
            _score(row) for row in self._ask("/v1/score:batch", files, category, map, transforms, metadata).json()["results"]
        ]

    def categories(self) -> dict[str, dict[str, Any]]:
        """Category to what the endpoint says of its model."""
        return {model["category"]: model for model in self._send("GET", "/v1/categories").json()}

    def _ask(
        self,
        path: str,
        images: Sequence[tuple[str, bytes | Path]],
        category: str,
        form: MapForm,
        transforms: int | None,
        metadata: Mapping[str, str] | None,
    ) -> httpx.Response:
        files = [
            (name, (image.name, image.read_bytes()) if isinstance(image, Path) else ("image", image)) for name, image in images
        ]
        fields = {"category": category, "map": form}
        if transforms is not None:
            fields["transforms"] = str(transforms)
        if metadata is not None:
            fields["metadata"] = json.dumps(dict(metadata))
        return self._send("POST", path, files=files, data=fields)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        tried = 0
        while True:
            tried += 1
            try:
                answer = self._http.request(method, path, **request)
            except httpx.HTTPError as error:
                problem = EndpointError(f"{self._http.base_url} was not reached: {error}")
                if tried >= self._tries or not isinstance(error, httpx.ConnectError):
                    raise problem from error
                told = None
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in AGAIN or tried >= self._tries:
                    raise _problem(answer)
                told = answer.headers.get("retry-after")
            wait = float(told) if told is not None and told.isdecimal() else 0.25 * 2**tried
            time.sleep(min(wait, LONGEST_WAIT) * random.uniform(1, 1.25))  # noqa: S311  # so that clients do not return at once


def _problem(answer: httpx.Response) -> DifferNetError:
    said: dict[str, Any] = {}
    if answer.headers.get("content-type", "").endswith("json"):
        said = answer.json()
    detail = str(said.get("detail") or answer.reason_phrase)
    if said.get("image_status"):
        return ImageError(said["image_status"], detail)
    return EndpointError(f"{answer.status_code} {detail}", answer.status_code, answer.headers.get("x-request-id"))


def _score(row: Mapping[str, Any]) -> Score:
    own = ("status", "anomaly_score", "threshold", "review_threshold", "p_value", "error", "model_version", "map")
    return Score(**{name: row[name] for name in own}, row=row)
