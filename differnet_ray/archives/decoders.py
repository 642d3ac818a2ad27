"""Decoding beside this process: an image that kills its decoder is one image that cannot be used, not the end of a job.

So is one that its decoder never gets done with. A few child processes of this one decode, one image at a time each, so that who
crashed on what needs no search. They start with the first image, in a quarter of a second, and end with this process. Only
bytes and JSON pass between them.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from differnet_ray.archives.grey import GreyValues
from differnet_ray.archives.images import MAX_BYTES, MAX_PIXELS, DecodedImage, check_size, decode
from differnet_ray.config import ImageForm
from differnet_ray.errors import ImageError

CHILDREN = min(4, os.cpu_count() or 1)
CHILD_BYTES = 8 * 2**30  # of address space: an image that takes more is too large
SECONDS = 60.0  # for an image, from when a child has it; the largest take a few


class Decoders:
    """A few child processes that decode; jobs share one such pool in each of their processes, `DECODERS`.

    Args:
        n: how many.
        max_bytes, max_pixels: an image of more is refused, as by `images.decode`.
        seconds: for an image, from when a child has it.
    """

    def __init__(
        self, n: int = CHILDREN, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS, seconds: float = SECONDS
    ) -> None:
        self._max_bytes, self._max_pixels, self._seconds = max_bytes, max_pixels, seconds
        self._free: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(n):
            self._free.put(None)  # a child to be started

    def decode(self, data: bytes, form: ImageForm) -> DecodedImage:
        """As `images.decode`, for any thread.

        Raises:
            ImageError: as `images.decode`, and with status `failed` where the image killed its decoder or took too long.
        """
        check_size(len(data), self._max_bytes)
        child = self._free.get() or _Child()
        alive = True
        try:
            return child.decode(data, form, self._max_pixels, self._seconds)
        except TimeoutError as error:
            alive = False
            child.kill()
            raise ImageError(
                "failed", f"the image was not decoded within {self._seconds:g} s; its decoder was ended"
            ) from error
        except (EOFError, OSError) as error:
            alive, exit_code = False, child.end()
            raise ImageError("failed", f"the image killed the process that decoded it (exit code {exit_code})") from error
        finally:
            self._free.put(child if alive else None)


class _Child:
    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"]
        with theirs:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603
        self._process = process
        self.end = weakref.finalize(self, _end, self._pipe, process)  # at the latest when this process ends

    def decode(self, data: bytes, form: ImageForm, max_pixels: int, seconds: float) -> DecodedImage:
        self._pipe.send_bytes(json.dumps([form.size, form.grey_range, max_pixels]).encode())
        self._pipe.send_bytes(data)
        self._pipe.recv_bytes()  # it has the image: a child that is only starting is not late
        if not self._pipe.poll(seconds):
            raise TimeoutError
        answer = json.loads(self._pipe.recv_bytes())
        if "reason" in answer:
            raise ImageError(answer["status"], answer["reason"])
        pixels = np.empty((form.size, form.size, 3), np.uint8)
        self._pipe.recv_bytes_into(pixels.reshape(-1))
        return DecodedImage(pixels, answer["width"], answer["height"], _grey(answer["grey"]))

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self.end()


def _grey(values: Mapping[str, Any] | None) -> GreyValues | None:
    if values is None:
        return None
    return GreyValues(**{**values, "stated": values["stated"] and tuple(values["stated"])})


def _end(pipe: Connection, process: subprocess.Popen[bytes]) -> int:
    """Lets a child go, if it is not gone already; its exit code."""
    pipe.close()
    return process.wait()


def serve(handle: int) -> None:
    """The life of a child: decodes what comes through the pipe of that handle until its parent is gone."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    pipe = Connection(handle)
    while True:
        try:
            (size, grey_range, max_pixels), data = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(b"")
        try:
            image = decode(data, size=size, grey_range=grey_range and tuple(grey_range), max_pixels=max_pixels)
        except ImageError as error:
            pipe.send_bytes(json.dumps({"status": error.status, "reason": error.reason}).encode())
            continue
        grey = None if image.grey is None else asdict(image.grey)
        pipe.send_bytes(json.dumps({"width": image.width, "height": image.height, "grey": grey}).encode())
        pipe.send_bytes(image.pixels.tobytes())


DECODERS = Decoders()
