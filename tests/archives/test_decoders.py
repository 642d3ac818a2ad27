"""Images are decoded beside the process that asks, and one that kills or holds its decoder is known by name."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from deadly_images import DECODER_FAULT, ENDLESS, POISON
from PIL import Image

from differnet_ray.archives.decoders import Decoders
from differnet_ray.archives.images import decode
from differnet_ray.config import ImageForm
from differnet_ray.errors import ImageError


def jpeg(seed: int, comment: bytes = b"fine") -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (50, 40, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "JPEG", comment=comment)
    return sink.getvalue()


def test_an_image_is_what_it_is_when_decoded_here() -> None:
    decoders = Decoders(2)
    images = [jpeg(seed) for seed in range(20)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: decoders.decode(data, ImageForm(32)), images))
    for data, image in zip(images, found, strict=True):
        expected = decode(data, size=32)
        np.testing.assert_array_equal(image.pixels, expected.pixels)
        assert (image.width, image.height) == (expected.width, expected.height) == (40, 50)


BROKEN = {b"": "unreadable", b"text": "unreadable", jpeg(0)[:300]: "unreadable", b"8BPS" + bytes(99): "unsupported"}


@pytest.mark.parametrize(("data", "status"), BROKEN.items(), ids=["empty", "text", "cut", "photoshop"])
def test_an_image_that_cannot_be_decoded_has_the_same_reason(data: bytes, status: str) -> None:
    with pytest.raises(ImageError) as here:
        decode(data, size=32)
    with pytest.raises(ImageError) as beside:
        Decoders(1).decode(data, ImageForm(32))
    assert (beside.value.status, beside.value.reason) == (here.value.status, here.value.reason)
    assert beside.value.status == status


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders that some images kill or hold."""
    (tmp_path / "sitecustomize.py").write_text(DECODER_FAULT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def reasons(decoders: Decoders, images: list[bytes], threads: int) -> list[str]:
    """Returns what became of images that were decoded side by side."""

    def reason(data: bytes) -> str:
        try:
            decoders.decode(data, ImageForm(16))
        except ImageError as error:
            return str(error)
        return "ok"

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(reason, images))


@pytest.mark.usefixtures("faulty")
def test_an_image_that_kills_its_decoder_is_the_only_one_that_fails() -> None:
    images = [jpeg(seed, POISON if seed in (3, 4, 11) else b"fine") for seed in range(16)]
    dead = "failed: the image killed the process that decoded it (exit code -6)"
    assert reasons(Decoders(2), images, 4) == [dead if seed in (3, 4, 11) else "ok" for seed in range(16)]


@pytest.mark.usefixtures("faulty")
def test_an_image_that_holds_its_decoder_is_the_only_one_that_fails() -> None:
    images = [jpeg(seed, ENDLESS if seed in (2, 7) else b"fine") for seed in range(12)]
    late = "failed: the image was not decoded within 3 s; its decoder was ended"
    assert reasons(Decoders(2, seconds=3.0), images, 2) == [late if seed in (2, 7) else "ok" for seed in range(12)]
