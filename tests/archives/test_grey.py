"""Grey of more than 8 bits: all values reach the resize, and the range is the one that the files or their values give."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from archive_files import listed
from image_files import Array, grey, png, saved, scene, tiff
from PIL import Image

from differnet_ray.archives.decoders import Decoders
from differnet_ray.archives.fetch import FetchImages
from differnet_ray.archives.grey import GreyValues, common_range
from differnet_ray.archives.images import decode
from differnet_ray.config import GreyRange, ImageForm
from differnet_ray.errors import FitError, ImageError
from differnet_ray.tables import GREY_CLIPPED

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every value of 12 bits
TWELVE_BITS = (0.0, 4095.0)
RAMPS = {
    "png": png(RAMP, 16, 0),
    "tiff": tiff(RAMP),
    "big-endian tiff": tiff(RAMP, order=">"),
    "32-bit tiff": tiff(RAMP.astype(np.int32)),
    "float tiff": tiff(RAMP.astype(np.float32)),
}


def packed_tiff(values: Array) -> bytes:
    """Returns a TIFF of 12 bits a sample, two samples in three bytes."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).reshape(len(values), -1)
    file = tiff(packed.astype(np.uint8))
    for tag, kind, written, meant in [(256, 4, packed.shape[1], values.shape[1]), (258, 3, 8, 12)]:
        file = file.replace(struct.pack("<HHII", tag, kind, 1, written), struct.pack("<HHII", tag, kind, 1, meant))
    return file


def stated(data: bytes) -> GreyRange | None:
    found = decode(data, size=8, grey_range=TWELVE_BITS).grey
    assert found is not None
    return found.stated


def with_tags(values: Array, **tags: float) -> bytes:
    numbers = {"min": 280, "max": 281, "smin": 340, "smax": 341}
    return saved(Image.fromarray(values), "TIFF", tiffinfo={numbers[name]: value for name, value in tags.items()})


def found(lowest: float, highest: float, *, floats: bool = False, stated: GreyRange | None = None) -> GreyValues:
    return GreyValues(lowest, highest, 1.0 if floats else 65535.0, stated, 0.0)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", RAMPS.values(), ids=RAMPS)
def test_every_value_of_12_bits_reaches_the_resize(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    resize, levels = Image.Image.resize, []

    def counting(image: Image.Image, *arguments: object) -> Image.Image:
        levels.append(len(np.unique(np.asarray(image))))
        return resize(image, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", counting)
    image = decode(data, size=16, grey_range=TWELVE_BITS)
    assert levels == [4096]
    assert len(np.unique(image.pixels)) > 17


@pytest.mark.parametrize("data", RAMPS.values(), ids=RAMPS)
@pytest.mark.parametrize("grey_range", [TWELVE_BITS, (1000.0, 3000.0)])
def test_values_are_scaled_by_the_range_and_those_outside_are_clipped_and_counted(data: bytes, grey_range: GreyRange) -> None:
    low, high = grey_range
    image = decode(data, size=64, grey_range=grey_range)
    expected = np.rint((RAMP.clip(low, high) - low) / (high - low) * 255)
    assert (image.pixels == grey(expected)).all()
    assert image.grey is not None
    assert (image.grey.lowest, image.grey.highest) == (0, 4095)
    assert image.grey.outside == ((low > RAMP) | (high < RAMP)).mean()


def test_values_are_rounded_after_the_resize() -> None:
    block = np.tile(np.array([[1613, 1613], [1613, 1622]], np.uint16), (32, 32))  # in steps of 8 bits 100.44 and 101.00
    inner = decode(png(block, 16, 0), size=32, grey_range=TWELVE_BITS).pixels[1:-1, 1:-1]
    assert set(np.unique(inner)) == {101}  # of 100.58; rounded before, the mean would be 100.25


def test_a_hot_pixel_is_white_and_does_not_spread() -> None:
    values = np.full((64, 64), 1000, np.uint16)
    values[32, 32] = 65535
    hot = decode(png(values, 16, 0), size=16, grey_range=TWELVE_BITS)
    values[32, 32] = 4095
    assert (hot.pixels == decode(png(values, 16, 0), size=16, grey_range=TWELVE_BITS).pixels).all()
    assert hot.grey is not None
    assert hot.grey.outside == 1 / 64**2


@pytest.mark.parametrize("data", [png(scene(9, 7), 8, 2), png(scene(9, 7)[..., 0], 8, 0), saved(scene(9, 7), "JPEG")])
def test_images_of_8_bits_have_no_range(data: bytes) -> None:
    plain, ranged = decode(data, size=8), decode(data, size=8, grey_range=(0, 100))
    assert (plain.pixels == ranged.pixels).all()
    assert plain.grey is ranged.grey is None


def test_a_transparent_value_is_white_and_no_value_of_the_image() -> None:
    values = np.where(RAMP < 2048, RAMP, 65535).astype(np.uint16)
    image = decode(png(values, 16, 0, (b"tRNS", struct.pack(">H", 65535))), size=64, grey_range=(0, 2047))
    assert image.grey is not None
    assert (image.grey.highest, image.grey.outside) == (2047, 0)
    assert (image.pixels[32:] == 255).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_range_makes_pixels_of_what_is_no_number(value: float) -> None:
    with pytest.raises(ImageError, match="expected finite numbers") as caught:
        decode(tiff(np.array([[1, value]], np.float32)), size=2, grey_range=TWELVE_BITS)
    assert caught.value.status == "unsupported"


def test_a_child_process_decodes_to_the_same() -> None:
    data = png(RAMP, 16, 0, (b"sBIT", bytes([11])))
    here, beside = decode(data, size=8, grey_range=(100, 2000)), Decoders(1).decode(data, ImageForm(8, (100, 2000)))
    assert (here.pixels == beside.pixels).all()
    assert here.grey == beside.grey == GreyValues(0, 4095, 65535, (0, 2047), here.grey.outside)  # type: ignore[union-attr]


def test_rows_of_clipped_images_say_so(tmp_path: Path) -> None:
    for name, data in {"a": png(RAMP, 16, 0), "b": png(RAMP // 2, 16, 0), "c": png(scene(8, 8), 8, 2)}.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    rows = listed(tmp_path, category="screw").table
    fetched = FetchImages({"screw": ImageForm(8, (0, 2047))})(rows)
    assert [dict(row).get(GREY_CLIPPED) for row in fetched["attributes"].to_pylist()] == ["0.5", None, None]
    assert fetched.drop_columns(["attributes"]).select(["image_id", "uri"]).equals(rows.select(["image_id", "uri"]))


# --- what files state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(with_tags(RAMP, max=4095), (0, 4095), id="MaxSampleValue"),
        pytest.param(with_tags(RAMP, smax=4095.0), (0, 4095), id="SMaxSampleValue"),
        pytest.param(with_tags(RAMP, smax=4095.0, max=3000), (0, 4095), id="both"),
        pytest.param(with_tags(RAMP, min=7, max=4095), (0, 4095), id="darkest value above black"),
        pytest.param(with_tags(RAMP.astype(np.float32), smin=-2.5, smax=2.5), (-2.5, 2.5), id="signed"),
        pytest.param(with_tags(RAMP, max=0), None, id="nonsense"),
        pytest.param(with_tags(RAMP.astype(np.float32), smax=float("nan")), None, id="NaN"),
        pytest.param(tiff(RAMP), None, id="tiff without"),
        pytest.param(packed_tiff(RAMP), (0, 4095), id="12 bits a sample"),
        pytest.param(png(RAMP, 16, 0, (b"sBIT", bytes([12]))), (0, 4095), id="sBIT"),
        pytest.param(png(RAMP, 16, 0, (b"gAMA", bytes(4)), (b"sBIT", bytes([10]))), (0, 1023), id="sBIT after another"),
        pytest.param(png(RAMP, 16, 0, (b"sBIT", bytes([77]))), None, id="sBIT too large"),
        pytest.param(png(RAMP, 16, 0, (b"tEXt", b"c\0sBIT\x0c")), None, id="a comment"),
    ],
)
def test_what_a_file_says_of_its_range(data: bytes, expected: GreyRange | None) -> None:
    assert stated(data) == expected


def test_values_packed_in_12_bits_are_read() -> None:
    assert (decode(packed_tiff(RAMP), size=64, grey_range=TWELVE_BITS).pixels == grey(np.rint(RAMP / 4095 * 255))).all()


# --- the range of a category ------------------------------------------------------------------------------------------


def test_a_statement_that_all_make_and_none_exceeds_is_taken() -> None:
    images = [found(0, highest, stated=(0, 4000)) for highest in (300, 4000, 12)]
    assert common_range(images) == ((0, 4000), "")


@pytest.mark.parametrize(
    ("images", "expected", "words"),
    [
        (
            [found(5, 3987), found(0, 1000)],
            4095,
            ["state no range", "2 with more than 8 bits", "3987", "12 bits", "4095 white"],
        ),
        ([found(0, 3987, stated=(0, 3987)), found(0, 4012, stated=(0, 4012))], 4095, ["differ or do not hold", "12 bits"]),
        ([found(0, 3987, stated=(0, 4095)), found(0, 1000)], 4095, ["differ or do not hold"]),
        ([found(0, 65520, stated=(0, 4095))], 65535, []),  # 12 bits spread over 16, as the standard of PNG wants it
        ([found(0, 32767)], 32767, ["15 bits"]),
        ([found(0, 32768), found(0, 9)], 65535, []),
        ([found(0, 10)], 255, ["8 bits"]),
        ([found(0, 1_000_000)], 2**20 - 1, ["20 bits"]),
        ([found(0.1, 1, floats=True), found(0, 0.5, floats=True)], 1, []),
        ([found(0, 4001.5, floats=True)], 4095, ["12 bits"]),
        ([found(0, 1.5, floats=True)], 3, ["2 bits"]),
        ([found(0, 4001.5, floats=True), found(0, 2100)], 4095, ["4001.5"]),
    ],
)
def test_else_the_largest_value_gives_the_bit_depth_and_people_are_told(
    images: list[GreyValues], expected: float, words: list[str]
) -> None:
    (low, high), note = common_range(images)
    assert (low, high) == (0, expected)
    assert all(word in note for word in words)
    assert ("--grey-range" in note) is bool(words)


def test_integers_and_floats_of_unit_range_have_no_common_range() -> None:
    with pytest.raises(FitError, match="integer grey values up to 4000 and float ones up to 1 have no common range"):
        common_range([found(0, 4000), found(0, 1, floats=True)])
