"""What a request carries, taken in under limits of bytes and time: an image as it is, or a form with images.

Bytes are counted as they come, whatever `Content-Length` says. A sender that is slow, or stops, is cut off.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from differnet_ray.online.options import MAX_METADATA, Limits
from differnet_ray.queries import Problem

IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp", "image/x-portable-anymap")
RAW_TYPES = (*IMAGE_TYPES, "application/octet-stream")
FORM = "multipart/form-data"
FIELDS = ("category", "map", "transforms", "metadata")


@dataclass
class Body:
    """What came in.

    Attributes:
        images: contents of the files, with the names that the sender gave them.
        fields: the other parts of a form.
    """

    images: list[tuple[str, bytes]] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


class _Form(MultiPartParser):
    """Files stay in memory: they are counted, and must not lie on a disk."""

    spool_max_size = 2**40


class Bodies:
    """Takes bodies in; an ingress has one, which holds so many bytes at most."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self.held = limits, 0

    @asynccontextmanager
    async def take(self, request: Request, max_images: int) -> AsyncIterator[Body]:
        """The body of a request, whose bytes count until the block is left.

        Raises:
            Problem: 400 (a broken form), 408 (too slow), 411 (no length), 413 (too large), 415 (another type), 422 (no image)
                or 503 (too much is held).
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        length = request.headers.get("content-length")
        if length is None and "transfer-encoding" not in request.headers:
            raise Problem(411, "the request states no length: give Content-Length, or send it chunked")
        if kind != FORM and (kind not in RAW_TYPES or max_images > 1):
            expected = FORM if max_images > 1 else ", ".join((FORM, *RAW_TYPES))
            raise Problem(415, f"Content-Type is {kind or 'missing'!r}; expected {expected}")
        most = self._limits.body_bytes if max_images > 1 else self._limits.image_bytes
        most += max_images * (MAX_METADATA + 1024) if kind == FORM else 0  # what is around the images
        if length is not None and length.isdecimal() and int(length) > most:
            raise Problem(413, f"the request has {int(length):,} bytes, more than the limit of {most:,}")
        held = _Held(self)
        try:
            chunks = self._chunks(request, most, held)
            if kind == FORM:
                yield await _form(request, chunks, max_images)
            else:
                yield Body([("", b"".join([chunk async for chunk in chunks]))])
        finally:
            self.held -= held.bytes

    async def _chunks(self, request: Request, most: int, held: _Held) -> AsyncGenerator[bytes, None]:
        loop, stream = asyncio.get_running_loop(), request.stream()
        late = loop.time() + self._limits.body_seconds
        while True:
            try:
                async with asyncio.timeout(min(self._limits.idle_seconds, late - loop.time())):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise Problem(408, "the request came in too slowly") from error
            except ClientDisconnect as error:
                raise Problem(400, "the client left before its request was whole") from error
            held.add(len(chunk))
            if held.bytes > most:
                raise Problem(413, f"the request has more than the limit of {most:,} bytes")
            if self.held > self._limits.held_bytes:
                raise Problem(503, "too many large requests at the same time", retry_after=1)
            yield chunk


class _Held:
    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.bytes = bodies, 0

    def add(self, n: int) -> None:
        self.bytes += n
        self._bodies.held += n


async def _form(request: Request, chunks: AsyncGenerator[bytes, None], max_images: int) -> Body:
    parser = _Form(request.headers, chunks, max_files=max_images, max_fields=len(FIELDS), max_part_size=MAX_METADATA)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form is broken: {error.message}") from error
    body = Body()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                body.images.append((value.filename or "", await value.read()))
            elif name in FIELDS:
                body.fields[name] = value
            else:
                raise Problem(400, f"the form has an unknown field {name[:40]!r}; expected files, and {', '.join(FIELDS)}")
    finally:
        await form.close()
    if not body.images:
        raise Problem(400, "the form has no file: send the image as a part with a filename")
    return body


def metadata_of(text: str | None) -> Mapping[str, str]:
    """A JSON object of texts.

    Raises:
        Problem: it is something else, or too long.
    """
    if not text:
        return {}
    found: Any = None
    if len(text.encode("utf-8", "surrogatepass")) <= MAX_METADATA:
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Problem(400, f'metadata: expected a JSON object of texts, as {{"line": "3"}}, of {MAX_METADATA} bytes at most')
    return found
