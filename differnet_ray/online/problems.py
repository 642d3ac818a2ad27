"""Errors as `application/problem+json` (RFC 9457). Nothing internal is in them: what is unexpected goes to the log."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from differnet_ray.queries import Problem

CLOSING = (408, 411, 413)  # what is left of the body is not waited for


class ProblemDetails(BaseModel):
    """Why a request was refused."""

    title: str = Field(description="the name of the status")
    status: int = Field(description="the status of HTTP")
    detail: str = Field(description="what is wrong, and what to do")
    request_id: str = Field(description="names the request in the log")
    image_status: str | None = Field(None, description="where the image is at fault: the status of its row")


def response(problem: Problem, request_id: str) -> JSONResponse:
    """The answer that a problem is."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="differnet"'
    if problem.status in CLOSING:
        headers["Connection"] = "close"
    content: dict[str, Any] = {
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.image_status is not None:
        content["image_status"] = problem.image_status
    return JSONResponse(content, problem.status, headers, media_type="application/problem+json")


def handle_problems(app: FastAPI) -> None:
    """Makes all refusals of an application problems, also those of the framework."""

    async def of_us(request: Request, error: Exception) -> JSONResponse:
        return response(error if isinstance(error, Problem) else Problem(500, "an error"), request.state.request_id)

    async def of_parameters(request: Request, error: Exception) -> JSONResponse:
        wrong = error.errors() if isinstance(error, RequestValidationError) else []
        said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in wrong)
        return response(Problem(400, said or "a parameter is wrong"), request.state.request_id)

    async def of_the_framework(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        details = {404: "there is nothing at this path", 405: "this path does not take this method"}
        answer = response(Problem(status, details.get(status, HTTPStatus(status).phrase)), request.state.request_id)
        answer.headers.update(getattr(error, "headers", None) or {})
        return answer

    app.add_exception_handler(Problem, of_us)
    app.add_exception_handler(RequestValidationError, of_parameters)
    app.add_exception_handler(HTTPException, of_the_framework)
