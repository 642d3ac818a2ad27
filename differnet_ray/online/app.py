"""The web application: what can be asked for at which path.

    token -> admission -> body -> category -> scorer -> answer, or a problem on the way

What scores is an argument. All limits are of `options.py`; nothing here computes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer

from differnet_ray import __version__, queries
from differnet_ray.online.admission import Admission
from differnet_ray.online.answers import CategoryAnswer, CategoryDetails, Readiness, ScoreAnswer, json_of
from differnet_ray.online.bodies import Bodies, Body, metadata_of
from differnet_ray.online.catalogue import RETRY_AFTER, Catalogue
from differnet_ray.online.described import BATCH, DESCRIPTION, LONGEST_CATEGORY, ONE, TRANSFORMS, BatchAnswer, problems
from differnet_ray.online.metrics import Metrics
from differnet_ray.online.options import MAX_IMAGES, Options
from differnet_ray.online.page_files import add_page
from differnet_ray.online.problems import handle_problems
from differnet_ray.online.requests import Requests
from differnet_ray.online.tokens import Tokens
from differnet_ray.queries import MAP_FORMS, MapForm, Problem
from differnet_ray.tables import SCORED_STATUSES

SIDE_BY_SIDE = 4  # images of a batch that are with the scorers at a time
logger = logging.getLogger(__name__)

Category = Annotated[str | None, Query(description="the model that scores", max_length=LONGEST_CATEGORY, examples=["screw"])]
Map = Annotated[MapForm | None, Query(description="the form in which the map is wanted; default: none")]
Transforms = Annotated[
    str | None, Query(description="the first so many, where the model allows; default: all", pattern=TRANSFORMS)
]
Metadata = Annotated[str | None, Query(description="a JSON object of texts, echoed", examples=['{"line": "3"}'])]


async def _given(
    category: Category = None, map: Map = None, transforms: Transforms = None, metadata: Metadata = None
) -> dict[str, str | None]:
    """What a query string says of its images."""
    return {"category": category, "map": map, "transforms": transforms, "metadata": metadata}


Given = Annotated[dict[str, str | None], Depends(_given)]


def build_app(models: str, scorer: queries.Scorer, options: Options, page: Path | None = None) -> FastAPI:
    """The application; its `state.admission` can be closed.

    Args:
        models: canonical URI of the model store.
        scorer: what answers queries.
        options: limits and access.
        page: folder of the page at `/`; None: the package's own.

    Raises:
        ConfigError: there are to be tokens, and there are none.
    """
    metrics, tokens, bodies = Metrics(), Tokens(options.token_file), Bodies(options.limits)
    admission = Admission(options.in_flight, metrics.in_flight.set)
    catalogue = Catalogue(models, scorer, metrics.models)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(catalogue.follow())
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    app = FastAPI(
        title="differnet_ray", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.admission = admission
    app.add_middleware(Requests, metrics=metrics, behind_proxy=options.behind_proxy)
    if options.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    handle_problems(app)

    async def authorized(request: Request) -> None:
        if not tokens.accept(request.headers.get("authorization")):
            raise Problem(401, "the request needs a token: Authorization: Bearer TOKEN")

    secured: list[Any] = [Depends(authorized), Depends(HTTPBearer(auto_error=False))]

    async def scored(image: bytes, asked: _Asked) -> queries.Answer:
        query = queries.Query(image, asked.category, asked.map, asked.n_transforms, asked.metadata)
        began = time.perf_counter()
        answer = await scorer.score(query)
        answer = replace(answer, milliseconds={**answer.milliseconds, "total": 1000 * (time.perf_counter() - began)})
        catalogue.alive()
        metrics.image(asked.category, str(answer.row["status"]), answer.milliseconds)
        return answer

    @app.post("/v1/score", response_model=ScoreAnswer, dependencies=secured, tags=["scores"], **ONE)
    async def score(request: Request, given: Given) -> Response:
        """Score one image: the row that the nightly job would write."""
        admission.check(1)
        async with bodies.take(request, 1) as body:
            metrics.held_bytes.set(bodies.held)
            asked = _Asked(given, body, catalogue)
            async with admission.enter(1), _in_time(options.limits.seconds):
                answer = await scored(body.images[0][1], asked)
        if answer.row["status"] not in SCORED_STATUSES:
            raise Problem(422, str(answer.row["error"]), image_status=str(answer.row["status"]))
        return JSONResponse(await asyncio.to_thread(json_of, answer, asked.metadata))

    @app.post("/v1/score:batch", response_model=BatchAnswer, dependencies=secured, tags=["scores"], **BATCH)
    async def score_batch(request: Request, given: Given) -> Response:
        """Score up to 32 images of a form: a row for each, in order, also for those that cannot be scored."""
        admission.check(1)
        async with bodies.take(request, MAX_IMAGES) as body:
            metrics.held_bytes.set(bodies.held)
            asked, n = _Asked(given, body, catalogue), len(body.images)
            places = asyncio.Semaphore(SIDE_BY_SIDE)

            async def one(image: bytes) -> dict[str, Any]:
                async with places:
                    return json_of(await scored(image, asked), asked.metadata)

            async with admission.enter(min(n, SIDE_BY_SIDE)), _in_time(options.limits.seconds * n):
                found = await asyncio.gather(*(one(image) for _, image in body.images), return_exceptions=True)
        results = [{"filename": name, **_raised(row)} for (name, _), row in zip(body.images, found, strict=True)]
        return JSONResponse({"results": results})

    @app.get("/v1/categories", dependencies=secured, tags=["models"], responses=problems(401, 503))
    async def categories() -> list[CategoryAnswer]:
        """The models in use."""
        return catalogue.all()

    @app.get("/v1/categories/{category}", dependencies=secured, tags=["models"], responses=problems(400, 401, 404, 503))
    async def category_details(category: str) -> CategoryDetails:
        """The model in use of a category, with its card and the scores that its thresholds were found on."""
        return await catalogue.details(category)

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Alive."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], responses=problems(503))
    async def readyz() -> Readiness:
        """Ready: a backbone is loaded, and the model store answers."""
        why = catalogue.unready()
        if why is not None:
            raise Problem(503, why, RETRY_AFTER)
        state = catalogue.state
        return Readiness(ready=True, models=dict(state.in_use if state else {}), broken=dict(state.broken if state else {}))

    @app.get("/metrics", dependencies=secured, tags=["operation"], response_class=Response, responses=problems(401))
    async def prometheus() -> Response:
        """Counters, for Prometheus."""
        metrics.held_bytes.set(bodies.held)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    add_page(app, page)
    return app


class _Asked:
    """What is wanted of the images of a request: by the query string, or by the fields of its form.

    Raises:
        Problem: something is missing, wrong or said twice, or there is no such category.
    """

    def __init__(self, given: Mapping[str, str | None], body: Body, catalogue: Catalogue) -> None:
        both = sorted(name for name in body.fields if given[name] is not None)
        if both:
            raise Problem(400, f"{', '.join(both)}: both in the query string and in the form")
        values = {name: value for name, value in given.items() if value is not None} | body.fields
        if not values.get("category"):
            raise Problem(400, "category: missing; GET /v1/categories lists them")
        wanted = values.get("map", "none")
        if wanted not in MAP_FORMS:
            raise Problem(400, f"map: expected one of {', '.join(MAP_FORMS)}")
        number = values.get("transforms")
        if number is not None and not (number.isascii() and number.isdecimal() and 0 < len(number) < 5 and int(number)):
            raise Problem(400, "transforms: expected a number from 1 to 9999, at most as many as the model has")
        self.metadata = metadata_of(values.get("metadata"))
        self.category, self.map = values["category"], MAP_FORMS[MAP_FORMS.index(wanted)]
        self.n_transforms = None if number is None else int(number)
        catalogue.in_use(self.category)


def _raised(found: dict[str, Any] | BaseException) -> dict[str, Any]:
    if isinstance(found, BaseException):
        raise found
    return found


@asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Problem(504, f"there was no answer within {seconds:g} s", RETRY_AFTER) from error
