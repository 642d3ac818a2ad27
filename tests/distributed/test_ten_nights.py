"""Ten nights of a plant on S3: healthy ones are silent, and each trouble raises its alarm for the right parts, and only that.

Magnetic tiles, and four made products, from two lines. Nights differ by a little light; then, product by product:

    fabric   night 8     the camera of line B is darker
    washer   night 8     six images of the night before come late;  night 9: line B sends nothing
    board    night 9     half of the upload of line A is cut off
    tile     night 10    tiles with defects
    ring     night 6 on  the light rises from night to night
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import json_of

from differnet_ray.cli.demo.archive import _draw_image
from differnet_ray.results import scores
from differnet_ray.storage.files import list_files, write_bytes
from differnet_ray.storage.locations import join

DATA = Path(os.environ.get("DIFFERNET_TEST_DATA", "/nowhere"))
TILES, WEIGHTS = DATA / "mtd/magnetic_tile", DATA / "weights/alexnet-imagenet1k-v1-features.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs DIFFERNET_TEST_DATA with tiles and the AlexNet weights"),
    pytest.mark.filterwarnings("ignore"),
]
FIRST, N_NIGHTS = date(2026, 3, 1), 10
MADE, LINES = ("fabric", "washer", "board", "ring"), ("A", "B")
FITTED_ON, PER_LINE = 80, 20
LIGHT = 0.01  # by which the light of a line differs from night to night
DARKER, RISING = 0.8, 0.03


ALARMS = {8: {("fabric", "B")}, 9: {("board", "A"), ("washer", "B")}, 10: {("tile", "")}}  # but of the ring


class Upload:
    """What the plant sends, drawn from a seed."""

    def __init__(self, archive: str) -> None:
        self.archive, self.rng = archive, np.random.default_rng(0)
        self.good = sorted((TILES / "train/good").iterdir()) + sorted((TILES / "test/good").iterdir())
        self.rng.shuffle(self.good)  # type: ignore[arg-type]
        self.defects = sorted((TILES / "test/break").iterdir()) + sorted((TILES / "test/fray").iterdir())
        self.sent = Counter[str]()
        self.drawn = 0

    def image(self, category: str, *, defect: bool = False) -> Image.Image:
        """A new picture of a good part, or of a broken tile."""
        if category == "tile":
            return Image.open((self.defects if defect else self.good).pop()).convert("RGB")
        self.drawn += 1
        made, _ = _draw_image("washer" if category == "ring" else category, "good", [self.drawn])
        return made.transpose(Image.Transpose.TRANSPOSE) if category == "ring" else made

    def send(self, name: str, image: Image.Image, light: float, share: float = 1.0) -> None:
        """Puts a picture into the archive, or the first part of its file."""
        with io.BytesIO() as file:
            pixels = np.asarray(image, dtype=np.float64) * light
            Image.fromarray((pixels.clip(0, 255) + 0.5).astype(np.uint8)).save(file, "JPEG", quality=92)
            data = file.getvalue()
        write_bytes(join(self.archive, name), data[: int(share * len(data))])
        self.sent[name.split("/")[2]] += 1

    def night(self, number: int) -> None:
        """The pictures of a night, 1 to 10."""
        dt = FIRST + timedelta(days=number - 1)
        for line in LINES:
            for category in ("tile", *MADE):
                light = 1 + LIGHT * self.rng.standard_normal()
                if (category, line) == ("fabric", "B") and number == 8:
                    light *= DARKER
                if category == "ring":
                    light *= 1 + RISING * max(number - 5, 0)
                if (category, line, number) == ("washer", "B", 9):
                    continue
                for n in range(PER_LINE):
                    broken = category == "tile" and number == 10 and n % 2 == 0
                    cut_off = (category, line, number) == ("board", "A", 9) and n % 2 == 0
                    name = f"{line}/{dt}/{category}/{n:03d}.jpg"
                    self.send(name, self.image(category, defect=broken), light, 0.5 if cut_off else 1.0)
        if number == 8:
            for n in range(6):
                self.send(f"A/{dt - timedelta(days=1)}/washer/late{n}.jpg", self.image("washer"), 1.0)


def write_good(upload: Upload, folder: Path) -> None:
    """Pictures to fit on, in the layout of MVTec AD."""
    for category in ("tile", *MADE):
        for n in range(FITTED_ON):
            path = folder / category / "train/good" / f"{n:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            upload.image(category).save(path, quality=92)


def command(ray_folder: str, *arguments: object) -> tuple[int, str]:
    """Runs a verb as a process of its own, as a scheduler does; returns its exit code and what it printed."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": ray_folder}
    command = [sys.executable, "-m", "differnet_ray.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 3, 4), done.stderr
    return done.returncode, done.stdout


def test_ten_nights(bucket: str, ray_folder: str, tmp_path: Path) -> None:
    upload, models, output = Upload(f"{bucket}/archive"), f"{bucket}/models", f"{bucket}/results"
    write_good(upload, tmp_path / "good")
    upload.sent.clear()
    command(ray_folder, "fit", "--data", tmp_path / "good", "--models", models, "--backbone-weights", WEIGHTS)
    where = ["audit", "--input", upload.archive, "--models", models, "--output", output, "--report", tmp_path / "reports"]
    where += ["--path-pattern", "{line}/{date}/{category}/{name}", "--json"]
    found: dict[int, set[tuple[str, str]]] = {}
    for number in range(1, N_NIGHTS + 1):
        upload.night(number)
        night = str(FIRST + timedelta(days=number - 1))
        exit_code, said = command(ray_folder, *where, "--date", night)
        (record,) = json_of(said)["audits"]
        print(night, exit_code, record["counts"], *(one["text"] for one in record["alarms"]), sep="\n   ", flush=True)
        found[number] = {(one["category"], one["attribute_value"]) for one in record["alarms"]}
        assert exit_code == (3 if found[number] else 0)
    drifting = [number for number in found if ("ring", "") in found[number]]
    assert drifting
    assert min(drifting) > 6
    assert {number: places - {("ring", "")} for number, places in found.items() if places - {("ring", "")}} == ALARMS
    assert json_of(command(ray_folder, *where, "--date", night)[1])["audits"] == []

    rows = scores(output).to_table(columns=["uri", "category", "status", "dt"]).to_pylist()
    here = {file.uri for file in list_files(upload.archive)}
    assert len(rows) == len(here) == upload.sent.total()
    assert {row["uri"] for row in rows} == here
    assert Counter(row["category"] for row in rows) == upload.sent
    assert {str(row["dt"]) for row in rows if "late" in row["uri"]} == {"2026-03-08"}
    assert Counter(row["status"] for row in rows)["unreadable"] == PER_LINE // 2
