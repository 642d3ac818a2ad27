"""Requests that no well-meaning client sends, each with the statuses that a server may answer with."""

from __future__ import annotations

import io
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
from image_files import png, saved, scene, tiff
from PIL import Image

Statuses = tuple[int, ...]
CLOSED = 0  # the server ended the connection without an answer
JPEG = saved(scene(80, 72), "JPEG")
PNG = {"Content-Type": "image/png"}


def _chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def _huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR" + header) + _chunk(b"IDAT" + zlib.compress(b""))


def _bomb() -> bytes:
    """Returns a PNG of a few kilobytes that is within the limit of pixels, and 49 million of them."""
    sink = io.BytesIO()
    Image.new("L", (7000, 7000)).save(sink, "PNG", compress_level=9)
    return sink.getvalue()


IMAGES: dict[str, tuple[bytes, Statuses]] = {
    "empty": (b"", (422,)),
    "text": (b"not an image", (422,)),
    "zeros": (bytes(5000), (422,)),
    "noise": (np.random.default_rng(0).bytes(5000), (422,)),
    "cut JPEG": (JPEG[: len(JPEG) // 2], (422,)),
    "JPEG of a header": (JPEG[:20], (422,)),
    "JPEG with a flipped middle": (JPEG[:400] + bytes(200) + JPEG[600:], (200, 422)),
    "photoshop": (b"8BPS" + bytes(99), (422,)),
    "GIF": (saved(scene(8, 8), "GIF"), (422,)),
    "PDF": (b"%PDF-1.7\n" + bytes(99), (422,)),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', (422,)),
    "HTML": (b"<html><script>alert(1)</script>", (422,)),
    "zip": (b"PK\x03\x04" + bytes(99), (422,)),
    "gzip bomb": (zlib.compress(bytes(10_000_000)), (422,)),
    "PNG of 60,000 x 60,000": (_huge_png(), (422,)),
    "PNG of 49 million pixels": (_bomb(), (200, 422)),
    "PNG with a broken checksum": (saved(scene(8, 8), "PNG")[:-20] + bytes(20), (422,)),
    "PNG of no width": (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR" + struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0)), (422,)),
    "PNG of 16 bits": (png(np.full((9, 9), 40000), 16, 0), (200,)),
    "TIFF of not a number": (tiff(np.full((9, 9), np.nan, np.float32)), (422,)),
    "TIFF whose directory is itself": (b"II*\0" + struct.pack("<IHI", 8, 0, 8), (422,)),
    "BMP of negative size": (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, -9, -9, 1, 24, 0) + bytes(40), (422,)),
    "WEBP that is none": (b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(40), (422,)),
}


def _raw(address: str, data: bytes, *, wait: float = 20.0, then: Callable[[socket.socket], None] | None = None) -> int:
    """Sends bytes as they are; returns the status of the first answer."""
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=wait) as connection:
        try:
            connection.sendall(data)
            if then is not None:
                then(connection)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the answer may still be there
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            return CLOSED
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else CLOSED


def _head(path: str = "/v1/score?category=plate", *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


def _drip(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.05)


def _endless(connection: socket.socket) -> None:
    part = b"10000\r\n" + bytes(65536) + b"\r\n"
    for _ in range(2000):  # 131 MB
        connection.sendall(part)


def _form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


FILE = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + JPEG
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def hostile(client: httpx.Client) -> Iterator[tuple[str, Statuses, Callable[[], int]]]:
    """Returns name, statuses that are right, and a function that sends the request and returns the status.

    The server knows the category `plate`, and no tokens.
    """
    address = str(client.base_url)

    def ask(method: str = "POST", path: str = "/v1/score", **how: object) -> int:
        return client.request(method, path, **how).status_code  # type: ignore[arg-type]

    def score(content: bytes = JPEG, headers: dict[str, str] = PNG, **params: str) -> int:
        return ask(content=content, headers=headers, params={"category": "plate", **params})

    for name, (data, statuses) in IMAGES.items():
        yield f"image: {name}", statuses, lambda data=data: score(data)  # type: ignore[misc]
    yield "no such path", (404,), lambda: ask("GET", "/admin")
    yield "a path out of the page", (404,), lambda: ask("GET", "/page/..%2fapp.py")
    yield "a path with a null", (404,), lambda: ask("GET", "/page/%00")
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        yield f"method {method}", (405,), lambda method=method: ask(method)  # type: ignore[misc]
    yield "method that is none", (400, 405), lambda: _raw(address, _head(method="BREW"))
    yield "no category", (400,), lambda: ask(content=JPEG, headers=PNG)
    for category in ("../x", "..%2f..%2fetc", "backbones", "nothing", "plate\x00", "💥", "a" * 100, "plate/../lid"):
        yield f"category {category[:20]!r}", (404,), lambda category=category: score(category=category)  # type: ignore[misc]
    yield "category too long", (400,), lambda: score(category="a" * 5000)
    yield "category of the path ../x", (404,), lambda: ask("GET", "/v1/categories/..%2fx")
    yield "map that is none", (400,), lambda: score(map="svg")
    for number in ("0", "-1", "1e3", "9" * 50, "²", "999"):
        yield f"transforms {number[:8]}", (400,), lambda number=number: score(transforms=number)  # type: ignore[misc]
    for text in ("{", "[]", '{"a": 1}', '{"a": "' + "x" * 5000 + '"}', "[" * 4000, '"\\ud800"'):
        yield f"metadata {text[:10]}", (400,), lambda text=text: score(metadata=text)  # type: ignore[misc]
    yield "type text/plain", (415,), lambda: score(headers={"Content-Type": "text/plain"})
    yield "type that is no header", (400, 415), lambda: score(headers={"Content-Type": ";;;\x7f=="})
    yield "no type", (415,), lambda: _raw(address, _head("/v1/score?category=plate", "Content-Length: 2") + b"xx")
    yield "no length", (411,), lambda: _raw(address, _head("/v1/score?category=plate", "Content-Type: image/png"))
    yield (
        "a length of 100 MB",
        (413,),
        lambda: _raw(address, _head("/v1/score?category=plate", "Content-Type: image/png", "Content-Length: 100000000")),
    )
    yield (
        "100 MB",
        (413, CLOSED),
        lambda: _raw(
            address, _head("/v1/score?category=plate", "Content-Type: image/png", "Content-Length: 100000000") + bytes(10**8)
        ),
    )
    yield (
        "a body without end",
        (413, CLOSED),
        lambda: _raw(
            address,
            _head("/v1/score?category=plate", "Content-Type: image/png", "Transfer-Encoding: chunked"),
            then=_endless,
        ),
    )
    yield "a negative length", (400,), lambda: _raw(address, _head("/", "Content-Length: -5"))
    yield "two lengths", (400,), lambda: _raw(address, _head("/", "Content-Length: 5", "Content-Length: 6") + b"xxxxxx")
    yield (
        "a chunk of no size",
        (400, CLOSED),
        lambda: _raw(
            address,
            _head("/v1/score?category=plate", "Content-Type: image/png", "Transfer-Encoding: chunked") + b"zz\r\nxx\r\n",
        ),
    )
    yield (
        "a sender that stops",
        (408, CLOSED),
        lambda: _raw(address, _head("/v1/score?category=plate", "Content-Type: image/png", "Content-Length: 1000") + b"x"),
    )
    yield (
        "a sender that drips",
        (408, CLOSED),
        lambda: _raw(
            address,
            _head("/v1/score?category=plate", "Content-Type: image/png", "Content-Length: 1000"),
            then=_drip,
        ),
    )
    yield (
        "a header in a header",
        (400, 415),
        lambda: _raw(
            address, _head("/v1/score?category=a%0d%0aSet-Cookie:%20x", "Content-Type: x\rSet-Cookie: y", "Content-Length: 0")
        ),
    )
    yield "a request id with a line", (200,), lambda: ask("GET", "/healthz", headers={"X-Request-ID": "a" * 5000})
    yield "not HTTP", (400, CLOSED), lambda: _raw(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    yield "a broken form", (400,), lambda: score(b"--b\r\nContent-Disposition", headers=FORM)
    yield "a form without boundary", (400,), lambda: score(FILE, headers={"Content-Type": "multipart/form-data"})
    yield "a form without a file", (400,), lambda: score(_form(b'Content-Disposition: form-data; name="map"\r\n\r\nnone'), FORM)
    yield "a form without a name", (400,), lambda: score(_form(b"Content-Disposition: form-data\r\n\r\nx"), FORM)
    yield "a form with two files", (400,), lambda: score(_form(FILE, FILE), FORM)
    yield (
        "a form of 100 fields",
        (400,),
        lambda: score(_form(*[b'Content-Disposition: form-data; name="map"\r\n\r\nnone'] * 100), FORM),
    )
    yield (
        "a form with a field of 1 MB",
        (400, 413),
        lambda: score(_form(b'Content-Disposition: form-data; name="metadata"\r\n\r\n' + b"x" * 10**6), FORM),
    )
    yield (
        "a form with another field",
        (400,),
        lambda: score(_form(FILE, b'Content-Disposition: form-data; name="__proto__"\r\n\r\nx'), FORM),
    )
    yield (
        "a field that is said twice",
        (400,),
        lambda: score(_form(FILE, b'Content-Disposition: form-data; name="category"\r\n\r\nlid'), FORM),
    )
    yield "33 files", (400,), lambda: ask(path="/v1/score:batch?category=plate", content=_form(*[FILE] * 33), headers=FORM)
    yield "a batch that is no form", (415,), lambda: ask(path="/v1/score:batch?category=plate", content=JPEG, headers=PNG)
    yield "a client that leaves in the middle", (CLOSED,), lambda: _leave(address)


def _leave(address: str) -> int:
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=5) as connection:
        connection.sendall(_head("/v1/score?category=plate", "Content-Type: image/png", "Content-Length: 1000") + b"x" * 10)
    return CLOSED


def garbage(address: str, n: int) -> list[int]:
    """Returns the statuses of so many requests of noise at the same time."""
    rng = np.random.default_rng(0)
    bodies = [rng.bytes(2000) for _ in range(n)]
    with (
        ThreadPoolExecutor(n) as pool,
        httpx.Client(base_url=address, timeout=60, limits=httpx.Limits(max_connections=n)) as client,
    ):
        how = {"params": {"category": "plate"}, "headers": PNG}
        return [
            answer.status_code
            for answer in pool.map(lambda body: client.post("/v1/score", content=body, **how), bodies)  # type: ignore[arg-type]
        ]
