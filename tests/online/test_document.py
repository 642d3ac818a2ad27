"""The OpenAPI document is true: generated requests, good and bad ones, are answered as it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from online_models import local_scorer
from online_server import Served, served
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from differnet_ray.online.options import Options

TOKEN = {"Authorization": "Bearer 0123456789abcdef"}
# A request may lack `category` in its query string because its form has it, which a document cannot say
NOT_ALWAYS = [positive_data_acceptance]


@pytest.fixture(scope="module")
def secured(online_models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An endpoint that asks for a token."""
    file = tmp_path_factory.mktemp("secret") / "tokens"
    file.write_text(TOKEN["Authorization"].split()[1])
    with local_scorer(online_models) as scorer, served(online_models, scorer, Options(token_file=str(file))) as endpoint:
        yield endpoint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", GenerationMode)
def test_generated_requests_are_answered_as_the_document_says(mode: GenerationMode, secured: Served) -> None:
    checked = []
    for found in from_asgi("/openapi.json", secured.app).get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (list(operation.iter_parameters()) or list(operation.body)):
            continue  # there is nothing to be wrong

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            case.call_and_validate(headers=TOKEN, excluded_checks=NOT_ALWAYS)

        check()
        checked.append(operation.label)
    assert {"POST /v1/score", "POST /v1/score:batch", "GET /v1/categories/{category}"} <= set(checked)


def test_the_document_has_examples_of_answers(secured: Served) -> None:
    document = secured.client.get("/openapi.json").json()
    assert document["components"]["schemas"]["ScoreAnswer"]["examples"][0]["status"] == "anomalous"
    assert document["paths"]["/v1/score"]["post"]["security"]


def test_people_read_the_same_without_anything_from_elsewhere(secured: Served) -> None:
    answer = secured.client.get("/docs")
    assert answer.status_code == 200
    assert "POST /v1/score:batch" in answer.text
    assert "mean of z^2 over transforms and dimensions" in answer.text  # from the declared table
    assert "20260131T020000Z-1a2b3c4d" in answer.text  # from the example
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "https:" not in answer.text
    assert secured.client.get("/page/docs.css").headers["content-type"].startswith("text/css")
