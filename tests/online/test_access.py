"""Who may ask, how much at a time, and what is told about the models and the endpoint."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from online_models import LocalScorer, local_scorer
from online_server import Served, served

from differnet_ray.errors import ConfigError
from differnet_ray.online.options import TOKENS_VARIABLE, Limits, Options
from differnet_ray.online.tokens import Tokens
from differnet_ray.queries import Answer, Query
from differnet_ray.store.model_store import ModelStore

PNG = {"Content-Type": "image/png"}
OLD, NEW = "old-token-0123456789", "new-token-0123456789"


class HeldScorer(LocalScorer):
    """A scorer that waits until it is let go."""

    def hold(self) -> None:
        self.go_on = threading.Event()

    async def score(self, query: Query) -> Answer:
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        return await super().score(query)


@pytest.fixture
def image(factory: Path) -> bytes:
    return next((factory / "plate" / "test" / "dent").iterdir()).read_bytes()


def test_a_token_is_asked_for_where_there_are_any(online_models: str, image: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of line 3\n{OLD}\n")
    with local_scorer(online_models) as scorer, served(online_models, scorer, Options(token_file=str(file))) as endpoint:

        def status(token: str | None, path: str = "/v1/categories") -> int:
            return endpoint.client.get(path, headers={} if token is None else {"Authorization": token}).status_code

        assert status(f"Bearer {OLD}") == 200
        for wrong in (None, "", OLD, "Bearer", f"Basic {OLD}", f"Bearer {OLD}x", "Bearer # of line 3"):
            assert status(wrong) == 401
        assert {status(None, path) for path in ("/healthz", "/readyz", "/docs", "/openapi.json")} == {200}
        assert status(None, "/metrics") == 401
        refused = endpoint.client.post("/v1/score", content=image, headers=PNG)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        file.write_text(f"{OLD}\n{NEW}\n")  # one follows the other
        assert status(f"Bearer {NEW}") == status(f"Bearer {OLD}") == 200
        file.write_text(f"{NEW}\n")
        assert (status(f"Bearer {NEW}"), status(f"Bearer {OLD}")) == (200, 401)
        file.unlink()  # a moment of a rotation: the last ones hold
        assert (status(f"Bearer {NEW}"), status(f"Bearer {OLD}")) == (200, 401)
        file.write_text("")
        assert status(f"Bearer {NEW}") == 401


def test_tokens_come_from_a_variable_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not Tokens(None).required
    monkeypatch.setenv(TOKENS_VARIABLE, f"{OLD}, {NEW}")
    tokens = Tokens(None)
    assert tokens.accept(f"bearer {OLD}")
    assert tokens.accept(f"Bearer {NEW}")
    assert not tokens.accept(f"Bearer {OLD},")
    monkeypatch.setenv(TOKENS_VARIABLE, "short")
    with pytest.raises(ConfigError, match="no token of at least 16 characters"):
        Tokens(None)
    with pytest.raises(ConfigError, match="token file"):
        Tokens(str(tmp_path / "nothing"))


def test_what_is_too_much_is_told_so_at_once_and_what_is_late_as_well(online_models: str, image: bytes) -> None:
    limits = Limits(seconds=2.0)
    with local_scorer(online_models) as local:
        scorer = HeldScorer(local.models, limits, 2)
        scorer.hold()
        with served(online_models, scorer, Options(limits, in_flight=3)) as endpoint, ThreadPoolExecutor(10) as pool:

            def ask(_: int) -> tuple[int, float, str | None]:
                began = time.monotonic()
                how = {"params": {"category": "plate"}, "headers": PNG}
                answer = endpoint.client.post("/v1/score", content=image, **how)  # type: ignore[arg-type]
                return answer.status_code, time.monotonic() - began, answer.headers.get("retry-after")

            found = sorted(pool.map(ask, range(10)))
            assert [status for status, _, _ in found] == [429] * 7 + [504] * 3
            assert all(after is not None for _, _, after in found)
            assert max(seconds for status, seconds, _ in found if status == 429) < 1.0
            scorer.go_on.set()
            assert [status for status, _, _ in pool.map(ask, range(3))] == [200] * 3


def test_a_query_that_nobody_waits_for_is_not_computed(online_models: str, image: bytes) -> None:
    with local_scorer(online_models, threads=1) as scorer:
        asked: list[int] = []

        async def go() -> None:
            query = Query(image, "plate")
            waiting = [asyncio.ensure_future(scorer.score(query)) for _ in range(6)]
            await asyncio.sleep(0)
            for task in waiting[2:]:
                task.cancel()
            for done in await asyncio.gather(*waiting, return_exceptions=True):
                asked.append(isinstance(done, Answer))

        while "plate" not in scorer.models.state().in_use:
            time.sleep(0.05)
        asyncio.run(go())
        assert asked == [1, 1, 0, 0, 0, 0]


def test_what_is_told_of_a_category(endpoint: Served, online_models: str) -> None:
    store = ModelStore(online_models)
    assert [found["category"] for found in endpoint.client.get("/v1/categories").json()] == ["lid", "plate"]
    details = endpoint.client.get("/v1/categories/lid").json()
    record = store.record("lid")
    for name in ("threshold", "review_threshold"):
        assert details[name] == record["decision"][name]
    assert (details["version"], details["image_size"], details["map_kind"]) == (record["version"], 64, "gradient")
    assert details["rests_on"] == record["decision"]["statement"]
    assert details["card"].startswith("# lid ")
    scores = store.calibration("lid")["anomaly_score"].to_numpy()
    histogram = details["histogram"]
    counts, _ = np.histogram(scores, bins=histogram["edges"])
    assert counts.tolist() == histogram["counts"]
    assert sum(counts) == len(scores)


def test_what_is_counted(endpoint: Served, image: bytes) -> None:
    def counted() -> dict[str, float]:
        lines = endpoint.client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    before = counted()
    endpoint.client.post("/v1/score", content=image, params={"category": "plate"}, headers=PNG)
    endpoint.client.post("/v1/score", content=b"x", params={"category": "plate"}, headers=PNG)
    after = counted()
    for name in (
        'differnet_serve_requests_total{route="/v1/score",status="200"}',
        'differnet_serve_requests_total{route="/v1/score",status="422"}',
        'differnet_serve_images_total{category="plate",status="anomalous"}',
        'differnet_serve_images_total{category="plate",status="unreadable"}',
    ):
        assert after[name] == before.get(name, 0) + 1, name
    assert after['differnet_serve_stage_seconds_count{stage="decode"}'] >= 2
    assert after['differnet_serve_model_loads{replica="here"}'] == 2
    assert after["differnet_serve_in_flight"] == after["differnet_serve_held_bytes"] == 0


def test_the_page_is_served_under_a_policy_that_lets_nothing_else_in(online_models: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>")
    (tmp_path / "page.js").write_text("1")
    with local_scorer(online_models) as scorer, served(online_models, scorer, Options(), tmp_path) as endpoint:
        for path, kind in (("/", "text/html"), ("/page/page.js", "text/javascript")):
            answer = endpoint.client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert endpoint.client.get("/page/nothing.js").status_code == 404
        for origin in ("https://line3.example",):
            answer = endpoint.client.get("/v1/categories", headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers


def test_other_pages_may_ask_where_they_are_named(online_models: str) -> None:
    options = Options(cors=("https://line3.example",))
    with local_scorer(online_models) as scorer, served(online_models, scorer, options) as endpoint:
        how = {"Origin": "https://line3.example", "Access-Control-Request-Method": "POST"}
        allowed = endpoint.client.options("/v1/score", headers=how)
        assert allowed.headers["access-control-allow-origin"] == "https://line3.example"
        other = endpoint.client.options("/v1/score", headers={**how, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
