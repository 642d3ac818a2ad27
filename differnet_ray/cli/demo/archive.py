"""A small factory archive of images, drawn from a seed: something to fit and score before the first real photograph.

Three products (`fabric`, `washer`, `board`): good parts that vary as photographs do (pose, light, texture, sensor noise),
and three kinds of planted defects each, with exact masks, in the folder layout of MVTec AD (Bergmann et al., CVPR 2019).

Legend: H x W pixels; a `Plane` is float (H, W), a `Picture` float (3, H, W), RGB in [0, 1]; a `Mask` is bool (H, W), True on
the defect. `rng` draws the scene and `flaw` the defect, so that the same scene exists with and without it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from scipy import ndimage

from differnet_ray.errors import ConfigError
from differnet_ray.labels import GOOD

Plane = NDArray[np.floating[Any]]
Picture = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Foot = tuple[int, int, int, int]  # the middle of a pad (x, y), and the way (x, y) that points outward there

FABRIC, WASHER, BOARD = (512, 512), (560, 560), (540, 720)  # height, width
KINDS: dict[str, tuple[str, ...]] = {
    "fabric": ("hole", "missing_thread", "stain"),
    "washer": ("notch", "rust", "scratch"),
    "board": ("missing_chip", "scratch", "solder_bridge"),
}
CATEGORIES: tuple[str, ...] = tuple(KINDS)


def make_archive(folder: Path, *, seed: int = 0, n_train: int = 40, n_test_good: int = 16, n_test_defect: int = 8) -> None:
    """Writes the demo archive, in the layout of MVTec AD.

        <folder>/<category>/train/good/000.jpg
        <folder>/<category>/test/<good or kind of defect>/000.jpg
        <folder>/<category>/ground_truth/<kind of defect>/000_mask.png    8 bits, 255 on the defect

    Args:
        folder: where to write; files of the same names are replaced.
        seed: 0 or more; an image depends on it and on its own path alone, so a larger archive contains the smaller one.
        n_train: good images of each category to fit on.
        n_test_good: good images of each category to test on.
        n_test_defect: defective images of each of the three kinds of each category.

    Raises:
        ConfigError: a number is negative.
    """
    if min(seed, n_train, n_test_good, n_test_defect) < 0:
        raise ConfigError(f"demo archive: expected 0 or more: {seed=}, {n_train=}, {n_test_good=}, {n_test_defect=}")
    for category, kinds in KINDS.items():
        counts = {"train/good": n_train, "test/good": n_test_good} | {f"test/{kind}": n_test_defect for kind in kinds}
        for part, n in [(part, n) for part, count in counts.items() for n in range(count)]:
            path, kind = folder / category / part / f"{n:03d}.jpg", part.split("/")[1]
            image, mask = _draw_image(category, kind, [seed, *f"{category}/{part}/{n}".encode()])
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=92)
            if kind != GOOD:
                mask_path = folder / category / "ground_truth" / kind / f"{n:03d}_mask.png"
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)


def _draw_image(category: str, kind: str, entropy: Sequence[int]) -> tuple[Image.Image, Mask]:
    """One photograph and its mask; the same `entropy` gives the same scene for every `kind`."""
    rng, flaw, camera = np.random.default_rng(entropy).spawn(3)
    scene, mask = {"fabric": _fabric, "washer": _washer, "board": _board}[category](kind, rng, flaw)
    return _photograph(scene, camera), mask


def _photograph(scene: Picture, rng: Generator) -> Image.Image:
    """What a camera makes of a scene: lens blur, uneven light, white balance, noise, 8 bits."""
    y, x = (2 * axis / axis.size - 1 for axis in _axes(scene.shape[1:]))
    tilt_y, tilt_x = rng.uniform(-0.02, 0.02, 2).astype(np.float32)
    light = rng.uniform(0.98, 1.02) * (1 + tilt_y * y + tilt_x * x - 0.05 * (y * y + x * x))
    seen = ndimage.gaussian_filter(scene, (0, 0.6, 0.6), truncate=2)
    seen *= light * _rgb(*rng.uniform(0.994, 1.006, 3))
    seen += (0.006 + 0.012 * seen) * rng.standard_normal(seen.shape, dtype=np.float32)
    return Image.fromarray((np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _rgb(red: float, green: float, blue: float) -> Picture:
    """One colour (3, 1, 1)."""
    return np.array([[[red]], [[green]], [[blue]]], np.float32)


def _axes(shape: Sequence[int]) -> tuple[Plane, Plane]:
    """Pixel coordinates y (H, 1) and x (1, W)."""
    return np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]


def _clouds(rng: Generator, shape: tuple[int, int], cell: int) -> Plane:
    """Smooth noise of about unit spread whose features are `cell` pixels wide."""
    coarse = rng.standard_normal((shape[0] // cell + 3, shape[1] // cell + 3), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def _blob(rng: Generator, shape: tuple[int, int], y: float, x: float, radius: float, rough: float) -> Plane:
    """A field that is 1 in the middle of an irregular round spot, 0 on its outline and negative outside."""
    rows, columns = _axes(shape)
    bumps = _clouds(rng, shape, int(radius * 0.6) + 1) + 0.4 * _clouds(rng, shape, int(radius * 0.2) + 1)
    return np.asarray(1 - np.hypot(rows - y, columns - x) / radius + rough * bumps)


def _stroke(
    rng: Generator, shape: tuple[int, int], start: Sequence[float], stop: Sequence[float], sag: float, width: float
) -> Plane:
    """How much of each pixel a line from `start` to `stop` (x, y) covers, drawn as by a hand: it sags and trembles."""
    t = np.linspace(0.01, 0.99, 240)
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    aside = (sag * np.sin(np.pi * t) + ndimage.gaussian_filter1d(rng.normal(0, 4, 240), 12)) / np.hypot(dx, dy)
    swell = np.sin(np.pi * t) ** 0.4 * rng.uniform(0.6, 1, 240)  # pointed at both ends, with ragged sides
    big = Image.new("L", (3 * shape[1], 3 * shape[0]))
    draw = ImageDraw.Draw(big)
    for x, y, s in zip(start[0] + dx * t + dy * aside, start[1] + dy * t - dx * aside, swell, strict=True):
        draw.circle((3 * x, 3 * y), 1.5 * width * s, 255)
    return np.asarray(big.reduce(3), np.float32) / 255


def _mix(below: Picture, above: Picture, cover: Plane) -> Picture:
    """`above`, a picture or one colour, laid over `below` where `cover` is 1."""
    return np.asarray(below + (above - below) * cover)


def _fabric(kind: str, rng: Generator, flaw: Generator) -> tuple[Picture, Mask]:
    """Cloth from a loom: threads of uneven tone and thickness, a slack weave, soft folds."""
    y, x = _axes(FABRIC)
    pitch, slant = rng.uniform(12.97, 13.03), rng.uniform(-0.004, 0.004)
    warp = (x + slant * y + 0.7 * _clouds(rng, FABRIC, 80)) / pitch + rng.uniform(8, 12)  # thread number from the left
    weft = (y - slant * x + 0.7 * _clouds(rng, FABRIC, 80)) / pitch + rng.uniform(8, 12)  # thread number from the top
    i, j, u, v = warp.astype(np.int16), weft.astype(np.int16), warp % 1, weft % 1
    step = (i + j) & 3  # a thread runs over two and under two, one further in each row: hence the diagonal
    upright, level = _threads(rng, i, u, (step + v) / 2), _threads(rng, j, v, (((step + 2) & 3) + u) / 2)
    no_warp, no_weft, oil, lint = np.zeros(FABRIC, bool), np.zeros(FABRIC, bool), np.asarray(0.0), np.asarray(0.0)
    if kind == "hole":
        no_warp, no_weft, lint = _hole(flaw, i, j)
    elif kind == "missing_thread":
        no_warp = _missing_thread(flaw, warp, weft)
    elif kind == "stain":
        oil = _stain(flaw)
    warp_shows = no_weft | (~no_warp & (step < 2))
    shade = np.where(warp_shows, upright, level)
    if no_warp.any():  # a thread that is left alone lies over darkness
        shade = np.where(no_warp & no_weft, 0.2, np.where(no_warp | no_weft, 1.0 * shade**2.5, shade))
    indigo, ecru = _rgb(0.18, 0.25, 0.40), _rgb(0.85, 0.80, 0.70)
    cloth = _mix(_mix(ecru, indigo, warp_shows) * (shade * (1 + 0.03 * _clouds(rng, FABRIC, 170))), 0.8 * ecru, lint)
    return cloth * (1 - oil * _rgb(0.42, 0.54, 0.70)), no_warp | no_weft | (lint > 0.3) | (oil > 0.15)


def _threads(rng: Generator, number: NDArray[np.int16], across: Plane, along: Plane) -> Plane:
    """The shade of round threads: `across` runs 0..1 over the width, `along` 0..1 where it is on top and 1..2 below."""
    tone, slim = rng.normal(1, 0.03, (2, 100)).astype(np.float32)
    round_ = np.sqrt(np.clip(1 - np.square((2 * across - 1) * slim[number]), 0.02, 1))
    height = 0.62 + 0.38 * np.sin(np.pi * np.minimum(along, 1))
    twist = 1 + 0.10 * np.sin(2 * np.pi * (along * 3 + across * 1.5))
    return np.asarray(tone[number] * height * twist * (0.25 + 0.75 * round_))


def _hole(rng: Generator, i: NDArray[np.int16], j: NDArray[np.int16]) -> tuple[Mask, Mask, Plane]:
    """Torn threads: each ends where it likes, so that the rim is a fringe, and lint hangs into the hole."""
    y, x = _axes(FABRIC)
    cy, cx, radius = *rng.uniform(110, 400, 2), rng.uniform(38, 50)
    fray = rng.normal(0, 5, (2, 100)).astype(np.float32)
    no_warp = np.hypot(1.3 * (x - cx), y - cy) < radius + fray[0][i]
    no_weft = np.hypot(x - cx, 1.3 * (y - cy)) < radius + fray[1][j]
    lint = []
    for angle, reach in zip(rng.uniform(0, 2 * np.pi, 7), rng.uniform(0.3, 0.8, 7) * radius, strict=True):
        rim, tip = ((cx + r * np.cos(angle), cy + r * np.sin(angle)) for r in (radius, reach))
        lint.append(_stroke(rng, FABRIC, rim, tip, rng.normal(0, 6), 2.5))
    return no_warp, no_weft, np.max(lint, axis=0)


def _missing_thread(rng: Generator, warp: Plane, weft: Plane) -> Mask:
    """Two warp threads broke: from there to the edge, only the weft crosses their lane."""
    first, top = rng.integers(19, 38), rng.uniform(11, 17)
    return (warp >= first) & (warp < first + 2) & (weft > top)


def _stain(rng: Generator) -> Plane:
    """How much machine oil soaked in: most along the drying rim."""
    field = _blob(rng, FABRIC, rng.uniform(120, 390), rng.uniform(120, 390), rng.uniform(54, 72), 0.16)
    return np.asarray(np.clip(field * 3.5, 0, 1) * (0.78 + 0.22 * np.exp(-np.square((field - 0.15) / 0.08))))


def _washer(kind: str, rng: Generator, flaw: Generator) -> tuple[Picture, Mask]:
    """A ring with lathe grooves, which spread the lamp's reflection into fans, and with chamfered rims."""
    y, x = _axes(WASHER)
    cy, cx = WASHER[0] / 2 + rng.uniform(-2.5, 2.5, 2).astype(np.float32)
    radius, angle = np.hypot(y - cy, x - cx), np.arctan2(y - cy, x - cx) - np.float32(rng.uniform(-2.25, -2.15))
    outer, inner = rng.uniform(199.2, 200.8), rng.uniform(91.4, 92.6)
    turned = rng.standard_normal((2, 1000))
    turned = 0.5 * turned + 3 * ndimage.gaussian_filter1d(turned, 5)
    depth, swing = turned.astype(np.float32)[:, (2 * radius).astype(np.int32)]
    fan, side_fan = (np.square(np.cos(angle + 0.03 * swing - at)) for at in (0, 0.9))
    facing = np.cos(angle)  # 1 towards the lamp
    steel: Plane = (0.40 + 0.34 * fan**4 + 0.16 * side_fan**16 + 0.04 * facing) * (1 + 0.03 * depth)
    steel = _mix(steel, 0.46 + 0.40 * facing, np.clip(radius - outer + 7, 0, 1))  # the outer chamfer faces away from
    steel = _mix(steel, 0.44 - 0.36 * facing, np.clip(inner + 6 - radius, 0, 1))  # the center, the inner one faces it
    metal: Picture = steel * _rgb(0.96, 0.99, 1.03)
    cover: Plane = np.clip(outer - radius + 0.5, 0, 1) * np.clip(radius - inner + 0.5, 0, 1)
    gap = np.maximum(radius - outer, inner - radius) + 6 * facing
    floor = _belt(rng) * (1 - 0.62 * np.exp(-np.maximum(gap, 0) / 9))
    mask, ring, at = np.zeros(WASHER, bool), cover > 0.5, flaw.uniform(-np.pi, np.pi)
    if kind == "notch":
        metal, cover, mask = _notch(flaw, metal, cover, cy + outer * np.sin(at), cx + outer * np.cos(at))
    elif kind == "rust":
        metal, mask = _rust(flaw, metal, cy + 146 * np.sin(at), cx + 146 * np.cos(at))
    elif kind == "scratch":
        metal, mask = _deep_scratch(flaw, metal, cy, cx, at)
    return _mix(floor, metal, cover), mask & ring


def _belt(rng: Generator) -> Picture:
    """A black rubber conveyor with the weave of its carcass."""
    y, x = (np.sin((axis + rng.uniform(0, 12)) * (2 * np.pi / 12)) for axis in _axes(WASHER))
    rubber = 0.135 + 0.018 * y * x + 0.010 * _clouds(rng, WASHER, 3) + 0.006 * _clouds(rng, WASHER, 60)
    return np.asarray(rubber * _rgb(0.97, 1.0, 1.06))


def _notch(rng: Generator, metal: Picture, cover: Plane, y: float, x: float) -> tuple[Picture, Plane, Mask]:
    """A piece broken out of the rim, with a fresh, grainy fracture along the break."""
    field = _blob(rng, WASHER, y, x, rng.uniform(32, 42), 0.10)
    metal = _mix(metal, 0.78 + 0.10 * _clouds(rng, WASHER, 3), 0.85 * np.exp(-np.square(np.minimum(field, 0) / 0.10)))
    return metal, cover * (1 - np.clip(30 * field + 0.5, 0, 1)), field > -0.12


def _rust(rng: Generator, metal: Picture, y: float, x: float) -> tuple[Picture, Mask]:
    """Corrosion: a brown patch with orange bloom that thins out into specks."""
    field = _blob(rng, WASHER, y, x, rng.uniform(40, 54), 0.22) + 0.10 * _clouds(rng, WASHER, 2)
    cover = np.clip(field * 4, 0, 1) * 0.90
    bloom = np.clip(0.45 + 0.22 * _clouds(rng, WASHER, 7) + 0.15 * _clouds(rng, WASHER, 2), 0, 1)
    return _mix(metal, _mix(_rgb(0.27, 0.14, 0.08), _rgb(0.60, 0.33, 0.15), bloom), cover), cover > 0.15


def _deep_scratch(rng: Generator, metal: Picture, y: float, x: float, at: float) -> tuple[Picture, Mask]:
    """A furrow across the grooves and a finer one beside it, with a bright burr on the side of the lamp."""
    turn, furrow = rng.uniform(0.5, 0.9), np.zeros(WASHER, np.float32)
    for angle, width in ((at, 8), (at + 0.14, 4)):
        start, stop = ((x + r * np.cos(a), y + r * np.sin(a)) for r, a in ((104, angle), (193, angle + turn)))
        furrow = np.maximum(furrow, _stroke(rng, WASHER, start, stop, rng.uniform(-8, 8), width))
    burr = np.roll(furrow, (-2, -2), (0, 1))
    metal = _mix(_mix(metal, _rgb(0.93, 0.95, 0.97), 0.8 * burr), _rgb(0.14, 0.14, 0.15), 0.9 * furrow)
    return metal, np.maximum(burr, furrow) > 0.3


class _Part(NamedTuple):
    """A part: center and half the body's size on the canvas; for a chip, pins on each of its sides, and how many sides."""

    label: str
    look: str
    x: int
    y: int
    w: int
    h: int
    pins: int = 0
    sides: int = 0

    def feet(self) -> list[Foot]:
        """The pads that it is soldered to."""
        if not self.pins:
            return [(self.x, self.y + side * (self.h - 4), 0, side) for side in (-1, 1)]
        rows = [round((k - (self.pins - 1) / 2) * (2 * self.h - 16) / self.pins) for k in range(self.pins)]
        ways, out = [(-1, 0), (1, 0), (0, -1), (0, 1)][: self.sides], self.w + 17
        return [(self.x + a * out + b * b * row, self.y + b * out + a * a * row, a, b) for a, b in ways for row in rows]


CANVAS = (1600, 1240)  # width, height: twice the photographed scale, with a margin for the pose
PARTS = (  # the three chips first
    _Part("U1", "chip", 600, 610, 155, 155, 14, 4),
    _Part("U2", "chip", 1270, 330, 80, 125, 7, 2),
    _Part("U3", "chip", 1270, 850, 80, 165, 9, 2),
    _Part("C1", "can", 270, 280, 85, 85),
    _Part("Y1", "crystal", 640, 205, 42, 70),
    *(_Part(f"R{k + 1}", "resistor", 170 + 96 * k, 1010, 22, 42) for k in range(6)),
    *(_Part(f"C{k + 2}", "ceramic", 860 + 92 * (k % 2), 1060 - 870 * (k // 2), 24, 42) for k in range(4)),
)


def _around(x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
    """The box around (x, y) that is 2 w wide and 2 h high, as Pillow takes it."""
    return x - w, y - h, x + w, y + h


@functools.cache
def _bare_board() -> tuple[Image.Image, Image.Image]:
    """The board before its parts are placed, and the same with its green lacquer scraped off."""
    traces = Image.new("L", CANVAS)
    draw = ImageDraw.Draw(traces)
    hub, second, third = (chip.feet() for chip in PARTS[:3])
    for k, ((x, y, *_), (to_x, to_y, *_)) in enumerate(zip(hub[14:28], second[:7] + third[:7], strict=True)):
        bend = x + 34 + 13 * min(k, 13 - k)  # staggered, so that the slanted runs keep their distance
        draw.line([(x, y), (bend, y), (bend + abs(to_y - y), to_y), (to_x, to_y)], 255, 8)
    for k, (x, y, *_) in enumerate(hub[:14]):
        draw.line([(x, y), (x - 60 - 9 * k, y), (x - 120 - 9 * k, y + 60), (-9, y + 60)], 255, 8)
    vias: list[tuple[int, int]] = []
    for x, y, a, b in hub[28:] + [foot for part in PARTS[1:] for foot in part.feet()]:
        vias.append((x + 44 * a, y + (70 if len(vias) % 2 else 44) * b))
        draw.line([(x, y), vias[-1]], 255, 10)
    ground = traces.filter(ImageFilter.GaussianBlur(5)).point([255] * 12 + [0] * 244)  # a plane that keeps clear of the traces
    copper = ImageChops.lighter(traces, ground)
    relief = copper.filter(ImageFilter.GaussianBlur(2)).filter(ImageFilter.EMBOSS).point([v // 6 for v in range(256)])
    board = ImageChops.add(ImageOps.colorize(copper, (14, 74, 50), (30, 112, 72)), Image.merge("RGB", [relief] * 3), 1, -21)
    draw = ImageDraw.Draw(board)
    for via in vias:
        draw.circle(via, 13, (20, 24, 20), (216, 180, 96), 7)
    for part in PARTS:
        for x, y, a, _ in part.feet():
            pad = ((23, 8) if a else (8, 23)) if part.pins else (part.w + 4, 22)
            draw.rounded_rectangle(_around(x, y, *pad), 4, (198, 201, 205), (150, 152, 150), 2)
        if part.pins:
            draw.rectangle(_around(part.x, part.y, part.w - 8, part.h - 8), None, (222, 227, 216), 3)
        at = (part.x - part.w - 44, part.y - part.h - 44) if part.pins else (part.x + part.w + 10, part.y - 12)
        draw.text(at, part.label, (222, 227, 216), ImageFont.load_default(30 if part.pins else 24))
    return board, ImageOps.colorize(copper, (176, 178, 132), (205, 138, 92))


@functools.cache
def _sprite(part: _Part) -> Image.Image:
    """A part with its leads and its shadow, RGBA, centered."""
    w, h, x, y = part.w, part.h, part.w + 60, part.h + 60
    draw = ImageDraw.Draw(image := Image.new("RGBA", (2 * x, 2 * y)))
    if part.look == "chip":
        for foot_x, foot_y, a, _ in part._replace(x=x, y=y).feet():
            lead = _around(foot_x, foot_y, *((20, 6) if a else (6, 20)))
            draw.rounded_rectangle(lead, 3, (228, 230, 233), (128, 130, 134))
        draw.rounded_rectangle(_around(x, y, w, h), 6, (42, 42, 46), (72, 72, 78), 3)
        draw.circle((x - w + 28, y - h + 28), 10, (24, 24, 27))
    elif part.look == "can":
        draw.circle((x, y), w, (200, 204, 208), (150, 154, 160), 10)
        draw.chord(_around(x, y, w - 10, h - 10), 130, 230, (45, 45, 52))
    else:
        middle = {"crystal": (188, 192, 196), "resistor": (36, 36, 40), "ceramic": (176, 142, 102)}[part.look]
        draw.rounded_rectangle(_around(x, y, w, h), 4, (216, 218, 220), (150, 150, 150), 3)
        draw.rectangle(_around(x, y, w, h - 18), middle)
    marking = {"chip": f"DR-{part.label}70\n2608", "can": "100\n16V", "resistor": "103"}.get(part.look, "")
    draw.text((x, y), marking, (150, 152, 156), ImageFont.load_default(34 if w > 60 else 22), "mm", align="center")
    shadow = Image.new("RGBA", image.size)
    shadow.paste((0, 0, 0, 150), (7, 9), image.getchannel("A"))
    return Image.alpha_composite(shadow.filter(ImageFilter.GaussianBlur(6)), image)


def _board(kind: str, rng: Generator, flaw: Generator) -> tuple[Picture, Mask]:
    """The populated board: parts placed within the machine's tolerance, photographed a little off center."""
    bare, scraped = _bare_board()
    board, hit, chip = bare.copy(), Image.new("L", CANVAS), PARTS[flaw.integers(3)]
    if kind == "scratch":  # before assembly: the parts lie over it
        ends = (865, flaw.uniform(330, 480)), (1055, flaw.uniform(780, 900))
        hit = Image.fromarray((255 * _stroke(flaw, CANVAS[::-1], *ends, flaw.uniform(-50, 50), 34)).astype(np.uint8))
        board.paste(scraped, mask=hit)
    for part in PARTS:
        sprite, (dx, dy) = _sprite(part), rng.uniform(-1, 1, 2)
        at = (round(part.x - sprite.width / 2 + dx), round(part.y - sprite.height / 2 + dy))
        missing = kind == "missing_chip" and part is chip
        hit.paste(255 * missing, at, sprite)
        if not missing:
            board.paste(sprite, at, sprite)
    turn, (dx, dy) = rng.uniform(-0.001, 0.001), rng.uniform(-1.5, 1.5, 2)
    pose = (2.0, -2 * turn, dx + 80, 2 * turn, 2.0, dy + 80)  # the canvas has two pixels for one of the photograph
    view = BOARD[::-1], Image.Transform.AFFINE, pose, Image.Resampling.BILINEAR
    picture: Picture = np.asarray(board.transform(*view), np.float32).transpose(2, 0, 1) / 255
    mask = np.asarray(hit.transform(*view)) > 40
    if kind == "solder_bridge":
        picture, mask = _solder_bridge(flaw, picture, chip.feet()[flaw.integers(2, 2 * chip.pins - 2)])
    return picture, mask


def _solder_bridge(rng: Generator, board: Picture, foot: Foot) -> tuple[Picture, Mask]:
    """Too much solder: a bright drop that joins neighbouring leads of a chip, and burnt flux around it."""
    field = _blob(rng, BOARD, (foot[1] - 80) / 2, (foot[0] - 80) / 2, rng.uniform(31, 38), 0.09)
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(26 * np.sqrt(np.clip(field, 0, 1)), 4))
    facing = np.clip((0.7 + 0.5 * (slope_x + slope_y)) / np.sqrt(1 + slope_x**2 + slope_y**2), 0, 1)  # the lamp
    solder, flux = 0.24 + 0.50 * facing + 0.26 * facing**16, np.clip(2 * field + 1.4, 0, 0.55)
    return _mix(_mix(board, _rgb(0.36, 0.24, 0.09), flux), solder, np.clip(12 * field, 0, 1)), flux > 0.1
