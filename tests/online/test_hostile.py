"""Requests that no well-meaning client sends: each gets the right status, and the endpoint goes on."""

from __future__ import annotations

from hostile_requests import garbage, hostile
from online_server import Served


def test_hostile_requests_get_the_right_status_and_the_endpoint_goes_on(endpoint: Served) -> None:
    wrong = []
    requests = list(hostile(endpoint.client))
    for name, statuses, send in requests:
        found = send()
        if found not in statuses or endpoint.client.get("/healthz").status_code != 200:
            wrong.append((name, found, statuses))
    assert wrong == []
    assert len(requests) > 60


def test_refusals_are_problems_and_tell_nothing_of_the_inside(endpoint: Served) -> None:
    for answer in (
        endpoint.client.post("/v1/score", content=b"x", params={"category": "nothing"}, headers={"Content-Type": "image/png"}),
        endpoint.client.get("/nothing"),
        endpoint.client.delete("/v1/categories"),
        endpoint.client.post("/v1/score", params={"category": "a" * 101}),
    ):
        said = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (said["status"], said["request_id"]) == (answer.status_code, answer.headers["x-request-id"])
        assert said["title"]
        assert said["detail"]
        assert not any(word in answer.text for word in ("Traceback", "differnet_ray", ".py", "file://", "Error("))


def test_much_noise_at_once_is_refused_and_nothing_more(endpoint: Served) -> None:
    assert set(garbage(endpoint.address, 200)) <= {422, 429}
    assert endpoint.client.get("/readyz").status_code == 200
