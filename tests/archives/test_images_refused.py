"""What cannot be decoded is refused with the right status and a reason; any bytes and any number of threads will do."""

from __future__ import annotations

import io
import pickle
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import INDICES, PALETTE, SIXTEEN_BITS, VALID, exif, png, refused, saved, scene, smooth, tiff
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from differnet_ray.archives.images import DecodedImage, decode
from differnet_ray.errors import ImageError


def test_empty_file() -> None:
    error = refused(b"")
    assert error.status == "unreadable"
    assert "empty" in error.reason


@pytest.mark.parametrize("text", [b"This is a text file named part_0001.jpg\n", b"x", b"\0" * 100, b"RIFF1234WAVE"])
def test_what_is_no_image_is_unreadable(text: bytes) -> None:
    error = refused(text)
    assert error.status == "unreadable"
    assert "not an image" in error.reason
    assert repr(text[:12]) in error.reason
    assert "expected JPEG, PNG, BMP, TIFF, WEBP" in error.reason


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", VALID)
def test_truncated_file_is_unreadable(name: str, keep: float) -> None:
    data = saved(scene(32, 32), name)
    assert decode(data, size=8).width == 32
    error = refused(data[: int(len(data) * keep)])
    assert error.status == "unreadable"
    assert f"the {name} file is damaged or incomplete: " in error.reason
    assert isinstance(error.__cause__, Exception)


OTHERS = ["GIF", "ICO", "JPEG2000", "AVIF", "DDS", "ICNS", "QOI", "SGI", "EPS", "PDF"]


@pytest.mark.parametrize("format", OTHERS)
def test_other_formats_are_unsupported(format: str) -> None:
    Image.init()
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    error = refused(saved(scene(64, 64), format))
    assert error.status == "unsupported"
    assert format in error.reason
    assert "expected JPEG, PNG, BMP, TIFF, WEBP, PPM" in error.reason


def test_the_kind_of_netpbm_that_no_reader_knows_is_unsupported() -> None:
    error = refused(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n\0")
    assert (error.status, "of format PAM" in error.reason) == ("unsupported", True)


@pytest.mark.parametrize(
    "data",
    [
        b"P2 is a part",
        b"P5 2 2 255 \0\0\0",
        b"P5 2 2 99999 ",
        b"P5 -2 -2 255 " + bytes(4),
        b"P5 2",
        b"P6 #" + b"x" * 99,
        b"P3 1 1 9 1 2",
    ],
)
def test_a_damaged_netpbm_file_is_unreadable(data: bytes) -> None:
    error = refused(data)
    assert error.status == "unreadable"
    assert "the PPM file is damaged or incomplete: " in error.reason


def test_byte_limit_is_exact_and_comes_first() -> None:
    data = VALID["PNG"]
    assert decode(data, size=8, max_bytes=len(data)).width == 16
    error = refused(data, max_bytes=len(data) - 1)
    assert error.status == "too_large"
    assert f"{len(data):,} bytes" in error.reason
    assert f"{len(data) - 1:,}" in error.reason
    assert refused(b"no image", max_bytes=7).status == "too_large"


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_pixel_limit_is_exact(data: bytes) -> None:
    assert decode(data, size=8, max_pixels=16 * 24).width == 16
    error = refused(data, max_pixels=16 * 24 - 1)
    assert error.status == "too_large"
    assert "16 x 24 = 384 pixels" in error.reason
    assert "limit of 383" in error.reason


@pytest.mark.parametrize("side", [9_500, 12_000, 60_000])  # Pillow warns of the first two and refuses the last
def test_pixel_limit_is_checked_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: PngImageFile) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr(PngImageFile, "load", load)
    data = bytearray(png(scene(1, 1), 8, 2))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = refused(bytes(data), max_pixels=90_000_000)
    assert error.status == "too_large"
    assert f"{side} x {side} = {side * side:,} pixels" in error.reason


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_no_warning_leaks_when_ours_is_above_the_limit_of_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(data)):
        pass  # so the image is one of which Pillow would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, size=8).width == 16


@pytest.mark.parametrize("format", ["TIFF", "WEBP"])
def test_refusal_by_pillow_is_too_large(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    error = refused(VALID[format])
    assert error.status == "too_large"
    assert isinstance(error.__cause__, Image.DecompressionBombError)


@pytest.mark.parametrize("kind", [OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error, RuntimeError])
def test_any_failure_of_pillow_is_unreadable(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: PngImageFile) -> None:
        raise kind("bad block 17")

    monkeypatch.setattr(PngImageFile, "load", load)
    error = refused(VALID["PNG"])
    assert error.status == "unreadable"
    assert error.reason == "the PNG file is damaged or incomplete: bad block 17"
    assert type(error.__cause__) is kind


def test_lack_of_memory_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: PngImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImageFile, "load", load)
    error = refused(VALID["PNG"])
    assert error.status == "too_large"
    assert error.reason == "the PNG needs too much memory: none is left"
    assert type(error.__cause__) is MemoryError


def test_a_failure_without_words_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: PngImageFile) -> None:
        raise EOFError

    monkeypatch.setattr(PngImageFile, "load", load)
    assert refused(VALID["PNG"]).reason == "the PNG file is damaged or incomplete: EOFError"


@pytest.mark.parametrize("size", [0, -1])
def test_a_wrong_size_is_not_blamed_on_the_image(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        decode(VALID["PNG"], size=size)


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a", VALID["PNG"][:60]])
def test_errors_pickle(data: bytes) -> None:
    error = refused(data)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ImageError
    assert (copy.status, copy.reason, str(copy)) == (error.status, error.reason, str(error))


# --- any bytes, any thread --------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Valid files with some bytes changed, some cut out, and perhaps the end missing."""
    data = bytearray(draw(st.sampled_from(DAMAGED)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[at] = value
    start, length = draw(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 20)))
    del data[start : start + length]
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)) | st.integers(0, len(data)))])


DAMAGED = [
    *VALID.values(),
    saved(smooth(8, 8), "JPEG", exif=b"Exif\0\0" + exif(6), progressive=True),
    png(INDICES, 8, 3, (b"PLTE", PALETTE.tobytes()), (b"tRNS", b"\0\x40\x80"), (b"eXIf", exif(3))),
    png(SIXTEEN_BITS, 16, 0),
    tiff(SIXTEEN_BITS.astype(np.uint16), orientation=5),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of damaged metadata
@settings(max_examples=400, deadline=None)
@given(damaged())
def test_any_bytes_give_an_image_or_an_image_error(data: bytes) -> None:
    try:
        image = decode(data, size=8, max_pixels=4096)
    except ImageError as error:
        refusal = error
    else:
        assert isinstance(image, DecodedImage)
        assert image.pixels.shape == (8, 8, 3)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        assert image.width >= 1
        assert image.height >= 1
        assert image.width * image.height <= 4096
        return
    assert refusal.status in {"unreadable", "unsupported", "too_large"}
    assert not refusal.reason.endswith(": ")


def test_undamaged_files_are_decoded() -> None:
    for data in DAMAGED:  # else the property above would hold for a decoder that refuses everything
        assert decode(data, size=8).pixels.any()


def test_each_thread_has_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # so Pillow would warn, and its warning is silenced
    n_threads, rounds = 8, 60
    together = threading.Barrier(n_threads)
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))

    def verdicts(thread: int) -> set[str]:
        together.wait()
        found = set()
        for turn in range(rounds):
            data = list(VALID.values())[(thread + turn) % len(VALID)]
            try:
                decode(data, size=4, max_pixels=384 - thread % 2)
                found.add("ok")
            except ImageError as error:
                found.add(error.status)
        return found

    with ThreadPoolExecutor(n_threads) as pool:
        assert list(pool.map(verdicts, range(n_threads))) == [{"ok"}, {"too_large"}] * (n_threads // 2)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert before[1] is False
