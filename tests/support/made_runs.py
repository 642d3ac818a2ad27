"""A run over real images on disk, whose names try to run as a script, with its models and its page."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from staged_runs import DAY, publish_staged, stage
from stored_models import a_model

from differnet_ray.archives.index import image_id
from differnet_ray.archives.manifest import list_images, listing_digest
from differnet_ray.report.run_report import write_run_report
from differnet_ray.results.runs import Run, plan_run
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore
from differnet_ray.tables import CALIBRATION, MANIFEST, STAGED, conform

SCRIPT = "<script>window.ran = 'script'</script>"
HANDLER = "\"><img src=x onerror=window.ran='handler'>"
NAMES = (f"{SCRIPT}.png", f"{HANDLER}.png", 'it\'s "quoted" & 100%25.png', "Größe 漢字 🔩.png", "gnp\u202e.exe\n.png")
MEMBERS = (f"a/{SCRIPT}.png", "plain/member.png")
CATEGORIES = ("<i>plate&amp;", "lid 漢")
REASONS = ("unreadable", "unsupported", "too_large", "failed")
THRESHOLD, REVIEW = 2.0, 1.5
SHAPE = (28, 28)


@dataclass(frozen=True)
class MadeRun:
    """A published run, and the locations that belong to it."""

    output: str
    run: Run
    record: dict[str, Any]
    manifest: pa.Table
    rows: pa.Table
    models: str

    def page(self, **how: Any) -> str:
        """Writes the report and returns its text."""
        return path_of(write_run_report(self.output, self.run.run_id, models=self.models, **how)).read_text(encoding="utf-8")


def path_of(uri: str) -> Path:
    """Returns the path of a file:// URI."""
    return Path(uri.removeprefix("file://"))


def made_run(root: Path, *, n_good: int = 400, n_flagged: int = 30, skipped: dict[str, int] | None = None) -> MadeRun:
    """Publishes a run over an archive of two categories below a folder.

    Each category has images on disk for the names above, which are anomalous, in a folder and in a tar; `n_good` good and
    `n_flagged` flagged images that are rows only, their files gone; and one image for each reason not to be scored.
    """
    rng = np.random.default_rng(0)
    for number, category in enumerate(CATEGORIES):
        folder = root / "archive" / category
        for name in NAMES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(_png(rng, size=(120, 80 + 40 * number)))
        with tarfile.open(folder / "more.tar", "w") as tar:
            for member in MEMBERS:
                data = _png(rng, size=(64, 64))
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    listed = [list_images([str(root / "archive" / category)], category=category).table for category in CATEGORIES]
    gone = [_gone(root, category, n) for category in CATEGORIES for n in range(n_good + n_flagged + len(REASONS))]
    manifest = pa.concat_tables([*listed, pa.Table.from_pylist(gone, schema=MANIFEST.schema)])
    store = ModelStore(canonical(str(root / "models")))
    models = {category: _model(store, category, rng) for category in CATEGORIES}
    output = canonical(str(root / "out <put>"))
    run = plan_run(
        dt=DAY,
        listing_digest=listing_digest(manifest),
        models=models,
        options={"n_transforms": "all", "maps": "flagged", "<b>option</b>": "<u>value</u>"},
        skipped=skipped or {"hidden": 3, "not an image": 12},
    )
    rows = _staged(manifest, run, rng, n_good, n_flagged)
    stage(output, run, rows)
    return MadeRun(output, run, publish_staged(output, run, manifest), manifest, rows, store.uri)


def _png(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A grey plate with grain and a bright scratch."""
    height, width = size
    pixels = rng.normal(120, 8, (height, width, 3)) + np.linspace(-30, 30, width)[None, :, None]
    pixels[height // 4 : height // 4 + 4, width // 4 : width // 2] = 240
    sink = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def _gone(root: Path, category: str, n: int) -> dict[str, Any]:
    """The manifest row of an image that is no longer there."""
    uri = f"{canonical(str(root / 'gone' / category))}/{n:06d}.png"
    place = {"image_id": image_id(uri), "uri": uri, "category": category}
    return place | {"size": 1000 + n, "etag": f"etag-{n}", "attributes": []}


def _model(store: ModelStore, category: str, rng: np.random.Generator) -> tuple[str, str]:
    """Publishes a model with the scores of sixty good images; returns its version and digest."""
    uris = [f"s3://plant/good/{n}.png" for n in range(60)]
    scores = rng.lognormal(0, 0.15, len(uris))
    columns = {"image_id": [image_id(uri) for uri in uris], "uri": uris, "anomaly_score": scores, "score_std": scores / 10}
    columns |= {"group": pa.nulls(len(uris), pa.int64())}
    model = a_model(calibration=pa.table(columns, schema=CALIBRATION.schema))
    version = store.publish(replace(model, category=category))
    return version, store.record(category, version)["digest"]


def _staged(manifest: pa.Table, run: Run, rng: np.random.Generator, n_good: int, n_flagged: int) -> pa.Table:
    """A staged row for each image: those on disk anomalous, the others as `made_run` says."""
    images = manifest.to_pylist()
    rows = []
    for image in images:
        row = {name: image[name] for name in image if name not in ("offset", "size")}
        row |= {"dt": run.dt, "run_id": run.run_id, "bytes": image["size"]}
        number = int(Path(image["uri"]).stem) if "/gone/" in image["uri"] else None
        if number is not None and number >= n_good + n_flagged:
            status = REASONS[number - n_good - n_flagged]
            rows.append(row | {"status": status, "error": f"{status}: told why, <em>in words</em>"})
        elif number is None:
            rows.append(row | _scores("anomalous", 40 + rng.uniform(0, 20)) | _map(rng))
        elif number < n_good:
            rows.append(row | _scores("ok", min(rng.lognormal(0, 0.15), 1.49)))
        else:
            low, high = (REVIEW, THRESHOLD) if number % 5 == 0 else (THRESHOLD, 30)
            score = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            rows.append(row | _scores("anomalous" if score >= THRESHOLD else "review", score))
    return conform(pa.Table.from_pylist(rows, schema=STAGED), STAGED)


def _scores(status: str, score: float) -> dict[str, Any]:
    limits = {"threshold": THRESHOLD, "review_threshold": REVIEW, "p_value": 1 / 61, "width": 100, "height": 150}
    return limits | {"status": status, "anomaly_score": score, "score_std": score / 10, "n_transforms": 64}


def _map(rng: np.random.Generator) -> dict[str, Any]:
    """A gradient map that is large where `_png` draws its scratch."""
    field = np.abs(rng.normal(0.4, 0.2, SHAPE))
    field[6:10, 6:15] += 3
    found = {"peak_x": 0.375, "peak_y": 0.25, "area_fraction": float((field > 1).mean())}
    return found | {"map_height": SHAPE[0], "map_width": SHAPE[1], "gradient_map": field.astype("<f2").tobytes()}
