"""What is answered for images: the rows of the scoring job, to the bit."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from online_models import staged_rows
from online_server import Served
from pydantic import BaseModel

from differnet_ray.online.answers import ScoreAnswer
from differnet_ray.tables import SCORES

OWN = ("image_id", "uri", "dt", "run_id", "scored_by", "scored_at", "attributes", "etag")  # columns that no image decides
DECIDED = [name for name in SCORES.schema.names if name not in OWN]
TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@pytest.fixture(scope="session")
def rows(factory: Path, online_models: str) -> dict[str, dict[str, Any]]:
    """Path -> row of the stages, for the images of both categories."""
    found = staged_rows(factory, online_models)
    return {path: row for path, row in found.items() if "/test/" in path}


def ask(client: httpx.Client, path: str, category: str, **params: str) -> dict[str, Any]:
    headers = {"Content-Type": TYPES[Path(path).suffix]}
    answer = client.post("/v1/score", content=Path(path).read_bytes(), headers=headers, params={"category": category, **params})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def assert_same(found: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    assert {name: found[name] for name in DECIDED} == {name: row[name] for name in DECIDED}


def test_answers_are_the_rows_of_the_job_with_their_maps_to_the_bit(endpoint: Served, rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows) == 16
    for path, row in rows.items():
        found = ask(endpoint.client, path, row["category"], map="array")
        assert_same(found, row)
        values = np.array(found["map"]["values"], np.float16)
        assert values.shape == (row["map_height"], row["map_width"]) == (found["map"]["height"], found["map"]["width"])
        assert values.astype("<f2").tobytes() == row["gradient_map"]
        assert found["map"]["kind"] == row["map_kind"]
        png = ask(endpoint.client, path, row["category"], map="png")["map"]["png"]
        assert base64.b64decode(png) == row["overlay_png"]


def test_answers_do_not_depend_on_what_is_scored_beside_them(endpoint: Served, rows: dict[str, dict[str, Any]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        order = [*rows, *reversed(rows)]
        for path, found in zip(order, pool.map(lambda p: ask(endpoint.client, p, rows[p]["category"]), order), strict=True):
            scores = {name: value for name, value in rows[path].items() if name not in ("peak_x", "peak_y", "area_fraction")}
            assert_same({**rows[path], **{k: v for k, v in found.items() if k in scores}}, rows[path])


def test_a_batch_has_a_row_for_each_image_also_for_bad_ones(endpoint: Served, rows: dict[str, dict[str, Any]]) -> None:
    paths = [path for path, row in rows.items() if row["category"] == "plate"]
    files = [("images", (Path(path).name, Path(path).read_bytes())) for path in paths]
    files.insert(2, ("images", ("broken.png", b"not an image")))
    answer = endpoint.client.post("/v1/score:batch", files=files, data={"category": "plate", "map": "array"})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["filename"] for result in results] == [name for _, (name, _) in files]
    broken = results.pop(2)
    assert (broken["status"], broken["anomaly_score"]) == ("unreadable", None)
    assert "not an image" in broken["error"]
    for path, result in zip(paths, results, strict=True):
        assert_same(result, rows[path])


def test_a_form_is_the_same_as_a_raw_body(endpoint: Served, rows: dict[str, dict[str, Any]]) -> None:
    path, row = next(iter(rows.items()))
    files = {"image": ("a.jpg", Path(path).read_bytes())}
    fields = {"category": row["category"], "map": "array", "metadata": '{"line": "3", "ü": "✓"}'}
    answer = endpoint.client.post("/v1/score", files=files, data=fields).json()
    assert_same(answer, row)
    assert answer["metadata"] == answer["attributes"] == {"line": "3", "ü": "✓"}


def test_fewer_transforms_where_the_model_allows(endpoint: Served, rows: dict[str, dict[str, Any]]) -> None:
    path, row = next(iter(rows.items()))
    found = ask(endpoint.client, path, row["category"], transforms="2")
    assert found["n_transforms"] == 2 != row["n_transforms"]
    assert found["anomaly_score"] != row["anomaly_score"]


def test_an_answer_has_the_columns_of_the_table_and_what_its_document_says(endpoint: Served, rows: dict[str, Any]) -> None:
    path, row = next(iter(rows.items()))
    found = ask(endpoint.client, path, row["category"], map="array", metadata=json.dumps({"a": "b"}))
    assert list(found) == [*SCORES.schema.names, "map", "metadata", "milliseconds"]
    model: type[BaseModel] = ScoreAnswer
    model.model_validate(found)
    assert list(found["milliseconds"]) == ["wait", "load", "decode", "score", "map", "total"]
    assert found["uri"].startswith("sha256:")


def test_a_bad_image_has_the_reason_of_its_row(endpoint: Served, factory: Path, online_models: str, tmp_path: Path) -> None:
    good = (factory / "plate" / "test" / "good" / "00.jpg").read_bytes()
    bad = {"empty.jpg": b"", "text.png": b"not an image", "cut.jpg": good[:600], "other.jpg": b"8BPS" + bytes(99)}
    folder = tmp_path / "plate" / "test" / "good"
    folder.mkdir(parents=True)
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    for path, row in staged_rows(tmp_path, online_models).items():
        headers = {"Content-Type": "application/octet-stream"}
        how = {"params": {"category": "plate"}, "headers": headers}
        answer = endpoint.client.post("/v1/score", content=Path(path).read_bytes(), **how)  # type: ignore[arg-type]
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["image_status"], answer.json()["detail"]) == (row["status"], row["error"])
