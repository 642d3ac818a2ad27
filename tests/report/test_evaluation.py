"""An evaluation of a small labelled data set: real images, masks and published results in a folder."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn import metrics as oracle  # type: ignore[import-untyped]

from differnet_ray.archives.manifest import Listing, defects, list_images, select
from differnet_ray.cli.evaluate import metrics_table
from differnet_ray.errors import ConfigError
from differnet_ray.model.metrics import detection_metrics
from differnet_ray.model.pixel_metrics import aupro, pixel_auroc
from differnet_ray.report import evaluation
from differnet_ray.results.publish import publish
from differnet_ray.results.runs import plan_run, read_table, staging, write_manifest
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import SCORES, STAGED, conform

DAY = date(2026, 1, 31)
MODEL = ("20260101T000000Z-aaaaaaaa", "a" * 64)
SPOT = (slice(8, 16), slice(8, 24))  # rows and columns of a defect in an image of 32 rows and 48 columns
SCORE = {"good": 1.0, "crack": 3.0, "stain": 1.6}  # threshold 2, review threshold 1.5
N = {"good": 5, "crack": 3, "stain": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One category in MVTec AD layout: 5 good images, 3 with a crack and 2 with a stain, and their masks."""
    root = tmp_path / "data"
    for kind, n in N.items():
        for i in range(n):
            pixels = np.full((32, 48, 3), 90 + i, dtype=np.uint8)
            mask = np.zeros((32, 48), dtype=np.uint8)
            if kind != "good":
                pixels[SPOT], mask[SPOT] = 240, 255
                folder = root / "plate" / "ground_truth" / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"{i}_mask.png")
            path = root / "plate" / "test" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def gradient_map(kind: str, number: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    """8 x 8 and noisy; of a crack it marks the defect, of a stain it does not."""
    field = np.random.default_rng(number).random((8, 8))
    if kind == "crack":
        field[2:4, 1:4] += 3  # SPOT in cells of 4 rows and 6 columns, about
    return field.astype("<f2")


def published(
    listing: Listing, output: Path, *, maps: str = "all", dt: date = DAY, without_score: str | None = None, worse: float = 0.0
) -> pa.Table:
    """Publishes a run of scores as the scoring job does; returns its rows."""
    run = plan_run(dt=dt, listing_digest="l", models={"plate": MODEL}, options={"maps": maps})
    rows = []
    for number, image in enumerate(listing.table.to_pylist()):
        kind = dict(image["attributes"])["defect"]
        score = SCORE[kind] + 0.1 * (number % 4) - worse
        status = "anomalous" if score >= 2 else "review" if score >= 1.5 else "ok"
        row = {name: image[name] for name in image if name not in ("offset", "size")}
        row |= {"dt": dt, "run_id": run.run_id, "bytes": image["size"]}
        if without_score is not None and image["uri"].endswith(without_score):
            rows.append(row | {"status": "missing", "error": "it is gone"})
            continue
        row |= {
            "status": status,
            "anomaly_score": score,
            "score_std": 0.1,
            "n_transforms": 64,
            "threshold": 2.0,
            "review_threshold": 1.5,
            "p_value": 0.25,
            "width": 48,
            "height": 32,
            "model_version": MODEL[0],
            "model_digest": MODEL[1],
            "scored_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
        }
        if maps == "all" or (maps == "flagged" and status != "ok"):
            row |= {"peak_x": 0.5, "peak_y": 0.5, "area_fraction": 0.1, "map_height": 8, "map_width": 8}
            row["gradient_map"] = gradient_map(kind, number).tobytes()
        rows.append(row)
    folder = Path(staging(canonical(str(output)), run, "rows").removeprefix("file://"))
    folder.mkdir(parents=True)
    pq.write_table(conform(pa.Table.from_pylist(rows, schema=STAGED), STAGED), folder / "0.parquet")
    write_manifest(staging(canonical(str(output)), run, "manifest"), listing.table)
    publish(canonical(str(output)), run, {})
    return read_table(canonical(str(output)), SCORES, dt=dt)


Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Publishes scores of the data set and evaluates them; returns the metrics of its category."""
    monkeypatch.setattr(evaluation, "detection_metrics", partial(detection_metrics, n_resamples=20))  # a thousand take a second

    def publish_and_evaluate(**how: Any) -> dict[str, Any]:
        rows = published(select(list_images([str(data)]), split="test"), tmp_path / "out", **how)
        found = evaluation.evaluate_scores(rows, canonical(str(tmp_path / "out")))
        assert json.loads((tmp_path / "out" / "evaluation" / "metrics.json").read_text()) == found
        return found["plate"]

    return publish_and_evaluate


def test_metrics_of_images_by_category_and_kind(evaluate: Evaluate) -> None:
    found = evaluate(worse=0.05)
    assert (found["n_good"], found["n_anomalous"], found["n_not_scored"]) == (5, 5, 0)
    assert found["auroc"] == found["f1_max"] == found["recall_at_zero_fpr"] == found["recall_at_1_percent_fpr"] == 1.0
    assert found["intervals"]["auroc"] == [1.0, 1.0]
    assert (found["recall_at_threshold"], found["fpr_at_threshold"]) == (0.6, 0.0)
    assert {kind: (of["n"], of["auroc"], of["recall_at_threshold"]) for kind, of in found["by_defect"].items()} == {
        "crack": (3, 1.0, 1.0),
        "stain": (2, 1.0, 0.0),
    }
    assert found["notes"] == []


def test_pixel_metrics_compare_maps_with_masks_at_256_pixels(evaluate: Evaluate, data: Path) -> None:
    found = evaluate()
    images = select(list_images([str(data)]), split="test").table.to_pylist()
    kinds = np.array([dict(image["attributes"])["defect"] for image in images])
    maps = np.stack(
        [
            np.asarray(
                Image.fromarray(gradient_map(kind, number).astype(np.float32)).resize((256, 256), Image.Resampling.BILINEAR)
            )
            for number, kind in enumerate(kinds)
        ]
    )
    masks = np.zeros(maps.shape, dtype=np.bool_)
    masks[kinds != "good", 64:128, 43:128] = True  # SPOT times 8 rows and 5 1/3 columns
    assert found["pixel_auroc"] == pytest.approx(oracle.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert found["aupro"] == pytest.approx(aupro(maps, masks), abs=1e-9)
    for kind in ("crack", "stain"):
        among = (kinds == "good") | (kinds == kind)
        assert found["by_defect"][kind]["pixel_auroc"] == pytest.approx(pixel_auroc(maps[among], masks[among]), abs=1e-9)
        assert found["by_defect"][kind]["aupro"] == pytest.approx(aupro(maps[among], masks[among]), abs=1e-9)
    assert found["by_defect"]["crack"]["aupro"] > 0.8 > 0.4 > found["by_defect"]["stain"]["aupro"]


def test_without_masks_there_are_no_pixel_metrics_and_nothing_to_say(evaluate: Evaluate, data: Path) -> None:
    shutil.rmtree(data / "plate" / "ground_truth")
    found = evaluate()
    assert (found["pixel_auroc"], found["aupro"], found["notes"]) == (None, None, [])
    assert found["by_defect"]["crack"] == {
        "n": 3,
        "auroc": 1.0,
        "recall_at_threshold": 1.0,
        "pixel_auroc": None,
        "aupro": None,
    }


def test_a_lacking_map_or_mask_is_told_and_leaves_no_pixel_metrics(evaluate: Evaluate, data: Path) -> None:
    found = evaluate(maps="flagged")
    assert found["pixel_auroc"] is None
    assert "5 of 10 scored images have no gradient map; `differnet-ray score --maps all`" in found["notes"][0]

    mask = data / "plate" / "ground_truth" / "crack" / "1_mask.png"
    content = mask.read_bytes()
    mask.unlink()
    found = evaluate()
    assert found["aupro"] is found["by_defect"]["stain"]["aupro"] is None
    assert "1 images of defects have no usable mask" in found["notes"][0]
    assert "plate/ground_truth/crack/1_mask.png: no such file" in found["notes"][0]

    mask.write_bytes(content[: len(content) // 2])
    assert "crack/1_mask.png: the mask is damaged" in evaluate()["notes"][0]

    for path in data.glob("plate/ground_truth/*/*.png"):
        Image.new("L", (48, 32)).save(path)
    assert evaluate()["notes"] == ["no pixel metrics: the masks mark no pixels as defect"]


def test_maps_of_another_run_do_not_count(evaluate: Evaluate) -> None:
    assert evaluate()["aupro"] is not None
    found = evaluate(dt=date(2026, 2, 1), maps="none")
    assert "10 of 10 scored images have no gradient map" in found["notes"][0]


def test_an_image_without_score_is_counted_and_left_out(evaluate: Evaluate) -> None:
    found = evaluate(without_score="crack/0.png")
    assert (found["n_anomalous"], found["n_not_scored"]) == (4, 1)
    assert found["by_defect"]["crack"]["n"] == 2
    assert found["aupro"] is not None


def test_a_category_of_one_kind_is_refused(data: Path, tmp_path: Path) -> None:
    good = select(list_images([str(data)]), split="test", defect="good")
    rows = published(good, tmp_path / "out")
    with pytest.raises(ConfigError, match="category 'plate' has 5 scored good images and 0 scored defects"):
        evaluation.evaluate_scores(rows, canonical(str(tmp_path / "out")))


def test_sheet_shows_highest_missed_and_false_alarms(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "SHEET_IMAGES", 3)
    sheets: list[tuple[dict[str, list[evaluation.Tile]], str]] = []
    draw = evaluation.contact_sheet

    def watched(sections: dict[str, list[evaluation.Tile]], title: str) -> bytes:
        sheets.append((sections, title))
        return draw(sections, title)

    monkeypatch.setattr(evaluation, "contact_sheet", watched)
    evaluate(worse=-0.75)
    ((sections, title),) = sheets
    assert "plate: AUROC" in title
    assert "threshold 2" in title
    assert [heading.split(" (")[0] for heading in sections] == [
        "Highest scores",
        "Defects with the lowest scores",
        "Good images with the highest scores",
    ]
    highest, lowest, good = sections.values()
    assert [caption.split("\n")[0].split()[1:] for caption, _, _ in highest] == [["crack", "found"]] * 3
    assert [caption.split("\n")[0].split()[1] for caption, _, _ in lowest] == ["stain", "stain"]
    assert [caption.split("\n")[0].split("  ")[1:] for caption, _, _ in good] == [["good", "FALSE ALARM"]] * 2 + [
        ["good", "for review"]
    ]
    for _, pixels, field in highest:
        assert pixels.shape == (170, 256, 3)  # as wide as high again as the image of 48 x 32
        assert field is not None


def test_an_image_that_is_gone_does_not_stop_the_evaluation(evaluate: Evaluate, data: Path, tmp_path: Path) -> None:
    rows = published(select(list_images([str(data)]), split="test"), tmp_path / "out")
    (data / "plate" / "test" / "crack" / "0.png").unlink()
    (data / "plate" / "test" / "good" / "0.png").write_bytes(b"no image")
    evaluation.evaluate_scores(rows, canonical(str(tmp_path / "out")))
    sheet = Image.open(io.BytesIO((tmp_path / "out" / "evaluation" / "plate" / "sheet.png").read_bytes()))
    assert sheet.width > 1000


def test_the_printed_table_leaves_blank_what_there_is_not(evaluate: Evaluate) -> None:
    found = evaluate()
    header, _, *rows = metrics_table({"plate": found, "lid": {**found, "aupro": None}}).splitlines()
    for name in ("AUROC", "AP", "F1-max", "recall at 1 % FPR", "pixel AUROC", "AUPRO"):
        assert name in header
    assert "1.000 [1.000, 1.000]" in rows[0]
    assert [row[header.index("AUPRO") :].strip() == "" for row in rows] == [False, True, True]
    assert rows[2].startswith("mean")
    assert f"{found['pixel_auroc']:.3f}" in rows[2]


def test_the_labels_of_now_hold_not_those_that_the_images_were_scored_with(data: Path, tmp_path: Path) -> None:
    rows = published(select(list_images([str(data)]), split="test"), tmp_path / "out")
    images = select(list_images([str(data)], good=["Crack"]), split="test").table
    found = evaluation.stored_scores(canonical(str(tmp_path / "out")), images, [MODEL[1]])
    assert found is not None
    assert found.drop_columns("attributes").equals(rows.sort_by("image_id").drop_columns("attributes"))
    assert Counter(defects(found)) == {"good": 8, "stain": 2}
    by_uri = dict(zip(found["uri"].to_pylist(), defects(found), strict=True))
    assert all(kind == ("stain" if "/stain/" in uri else "good") for uri, kind in by_uri.items())


def test_good_images_and_masks_of_btad_are_known(evaluate: Evaluate, data: Path) -> None:
    expected = evaluate()
    (data / "plate" / "test" / "good").rename(data / "plate" / "test" / "ok")
    for mask in sorted(data.glob("plate/ground_truth/*/*_mask.png")):
        Image.open(mask).save(mask.with_name(mask.name.removesuffix("_mask.png") + ".bmp"))
        mask.unlink()
    assert evaluate(dt=date(2026, 2, 1)) == expected
