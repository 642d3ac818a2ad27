"""The declared tables: what each column is, and `conform`, through which every row passes before it is stored.

Types are plain (no extension types), so that DuckDB, Polars, pandas, Spark and Trino read them as they are. The columns
of `partition_by` are in the folder names (`dt=2026-01-31/category=screw`), as in every Hive-style table, and not again in
the files: readers that find them twice with different types refuse the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from differnet_ray.errors import ConfigError, TableError
from differnet_ray.table_contract import Table, column

STATUSES = ("ok", "review", "anomalous", "unreadable", "unsupported", "too_large", "missing", "no_model", "failed")
SCORED_STATUSES = ("ok", "review", "anomalous")
LONGEST_FOLDER = 255 - len("category=")  # bytes of a percent-encoded category in the name of its partition
_CATEGORY_NAME = re.compile(r"[^/\\\x00-\x1f=]{1,100}")
_RESERVED = ("backbones",)

GREY_CLIPPED = "grey_clipped"  # attribute of a scored image: share of its pixels outside of the grey range of its model

DAY = "date"  # attribute of an image: of its path, the day when it was taken, where `captured_at` does not say

_ATTRIBUTES = pa.map_(pa.string(), pa.string())
_UTC = pa.timestamp("us", tz="UTC")


_IMAGE = [
    column("image_id", pa.string(), "128-bit hex digest of canonical URI and member; the same image keeps it for ever"),
    column("uri", pa.string(), "canonical URI of the image file, or of the archive that holds it"),
    column("member", pa.string(), "name inside the archive; null for a loose file", null=True),
    column("category", pa.string(), "product category; names the model that scores the image"),
]
_ATTRIBUTE_FIELDS = [
    column("captured_at", _UTC, "when the picture was taken, where that is known", null=True),
    column("attributes", _ATTRIBUTES, "further names from the path, such as line, split or defect"),
]
_ETAG = column("etag", pa.string(), "of the file when it was listed; changes when its content does", null=True)

MANIFEST = Table(
    "manifest",
    1,
    pa.schema(
        [
            *_IMAGE,
            column(
                "offset",
                pa.int64(),
                "where the member begins in the archive; null for a loose file, and in tar.gz and zip",
                null=True,
                unit="bytes",
            ),
            column("size", pa.int64(), "size of the image file or member", null=True, unit="bytes"),
            _ETAG,
            *_ATTRIBUTE_FIELDS,
        ]
    ),
)

_LIGHT = [
    column(
        "brightness",
        pa.float64(),
        "mean grey value as the model sees the image, 0 black; null where it cannot be decoded; since version 3",
        null=True,
        unit="fraction of white",
    ),
    column(
        "contrast",
        pa.float64(),
        "standard deviation of the grey values; since version 3",
        null=True,
        unit="fraction of white",
    ),
    column(
        "sharpness",
        pa.float64(),
        "standard deviation of their Laplacian: falls out of focus; compares within a model; since version 3",
        null=True,
        unit="fraction of white",
    ),
]

SCORES = Table(
    "scores",
    3,
    pa.schema(
        [
            *_IMAGE,
            column("dt", pa.date32(), "the day that the run was asked for"),
            *_ATTRIBUTE_FIELDS,
            column("status", pa.string(), "one of " + ", ".join(STATUSES)),
            column("error", pa.string(), "why the image has no score; null where it has one", null=True),
            column(
                "anomaly_score",
                pa.float64(),
                "mean of z^2 over transforms and dimensions; about 1 for a normal image",
                null=True,
            ),
            column("score_std", pa.float64(), "standard deviation of the score over the transforms", null=True),
            column("n_transforms", pa.int16(), "transforms that the score is the mean of", null=True),
            column("threshold", pa.float64(), "a score at or over it is anomalous", null=True),
            column("review_threshold", pa.float64(), "a score from here to the threshold is for review", null=True),
            column(
                "p_value",
                pa.float64(),
                "conformal: share of unseen good images that score as high",
                null=True,
                unit="1",
            ),
            column(
                "peak_x",
                pa.float64(),
                "where the map is largest, from the left",
                null=True,
                unit="fraction of the width",
            ),
            column(
                "peak_y",
                pa.float64(),
                "where the map is largest, from the top",
                null=True,
                unit="fraction of the height",
            ),
            column(
                "area_fraction",
                pa.float64(),
                "share of the map that is over 1 and over an eighth of its peak",
                null=True,
                unit="fraction of the image",
            ),
            column("width", pa.int32(), "of the image as stored, after EXIF orientation", null=True, unit="pixels"),
            column("height", pa.int32(), "of the image as stored, after EXIF orientation", null=True, unit="pixels"),
            column("bytes", pa.int64(), "size of the image file or member", null=True, unit="bytes"),
            _ETAG,
            column("model_version", pa.string(), "version in the model store; null where there is no model", null=True),
            column("model_digest", pa.string(), "SHA-256 of all in the model that decides scores", null=True),
            column("run_id", pa.string(), "the run that wrote the row: runs/RUN_ID.json"),
            column("scored_at", _UTC, "when the score was computed", null=True),
            column(
                "scored_by",
                pa.string(),
                "the run that computed the score: another one than run_id after `redecide`; since version 2",
                null=True,
            ),
            *_LIGHT,
        ]
    ),
    partition_by=("dt", "category"),
)

_MAP = [
    column("map_height", pa.int16(), "rows of the map", unit="pixels"),
    column("map_width", pa.int16(), "columns of the map", unit="pixels"),
    column(
        "gradient_map",
        pa.binary(),
        "float16, row-major, little-endian; 1 is what 1 % of the pixels of unseen good images exceed",
        unit="map units of the model",
    ),
    column("overlay_png", pa.binary(), "the image with its map over it, where it was asked for", null=True),
    column("map_kind", pa.string(), "activation or gradient (eq. 7), null meaning gradient; since version 2", null=True),
]

MAPS = Table(
    "maps",
    2,
    pa.schema(
        [
            _IMAGE[0],
            column("category", pa.string(), "product category"),
            column("dt", pa.date32(), "the day that the run was asked for"),
            column("run_id", pa.string(), "the run that wrote the row: runs/RUN_ID.json"),
            *_MAP,
        ]
    ),
    partition_by=("dt", "category"),
)

RUNS = Table(
    "runs",
    3,
    pa.schema(
        [
            column("schema_version", pa.int32(), "version of this contract"),
            column("run_id", pa.string(), "name of the run"),
            column("dt", pa.date32(), "the day that the run was asked for"),
            column("fingerprint", pa.string(), "SHA-256 of listing, models and every option that changes a result"),
            column(
                "listing_digest",
                pa.string(),
                "SHA-256 of the images' ids, sizes and etags; of runs after `redecide`",
            ),
            column("options", pa.map_(pa.string(), pa.string()), "the resolved options"),
            column("models", pa.map_(pa.string(), pa.string()), "category to model version"),
            column("model_digests", pa.map_(pa.string(), pa.string()), "category to model digest"),
            column("libraries", pa.map_(pa.string(), pa.string()), "versions of this package and what it computes with"),
            column("n_images", pa.int64(), "images of the manifest"),
            column(
                "skipped",
                pa.map_(pa.string(), pa.int64()),
                "files that are not in the manifest, by reason: hidden, mask, not an image, no category, and others; since "
                "version 2",
                null=True,
            ),
            column("counts", pa.map_(pa.string(), pa.int64()), "images by status; their sum is n_images"),
            column("category_counts", pa.map_(pa.string(), pa.map_(pa.string(), pa.int64())), "the same by category"),
            column("n_maps", pa.int64(), "maps written"),
            column(
                "replaced",
                pa.map_(pa.string(), pa.int64()),
                "run to rows that it lost to this one: of the same images, or with --replace all of the day; since version 3",
                null=True,
            ),
            column("started_at", _UTC, "when the run began"),
            column("finished_at", _UTC, "when it was published"),
        ]
    ),
)

CALIBRATION = Table(
    "calibration",
    2,
    pa.schema(
        [
            _IMAGE[0],
            column("uri", pa.string(), "canonical URI of a good image that the scoring flow had not seen"),
            column("anomaly_score", pa.float64(), "its score"),
            column("score_std", pa.float64(), "standard deviation of its score over the transforms"),
            column("group", pa.int64(), "images of one number were held out together; null in models older than it", null=True),
        ]
    ),
)

REPRODUCTIONS = Table(
    "reproductions",
    1,
    pa.schema(
        [
            column("experiment", pa.string(), "table1, table2, ablation, shots or multimodal"),
            column("row", pa.string(), "row of the paper's table or point of its figure"),
            column("category", pa.string(), "product category that was scored"),
            column("method", pa.string(), "differnet, one_class_svm or nearest_neighbour"),
            column("seed", pa.int64(), "of weights, order and subset"),
            column("n_train", pa.int64(), "good images that were fitted on"),
            column("n_good", pa.int64(), "good test images"),
            column("n_anomalous", pa.int64(), "anomalous test images"),
            column("n_transforms", pa.int16(), "transforms that a score is the mean of"),
            column("auroc", pa.float64(), "area under the ROC curve of images, last epoch", unit="1"),
            column("average_precision", pa.float64(), "area under the precision-recall curve", unit="1"),
            column("f1_max", pa.float64(), "largest F1 over all thresholds", unit="1"),
            column("recall_at_zero_fpr", pa.float64(), "share of defects found without a false alarm", unit="1"),
            column("recall_at_1_percent_fpr", pa.float64(), "share of defects found at 1 % false alarms", unit="1"),
            column(
                "best_epoch_auroc",
                pa.float64(),
                "largest AUROC of the epochs that were evaluated; chosen on the test set, so an overestimate",
                null=True,
                unit="1",
            ),
            column("published_auroc", pa.float64(), "what the paper printed", null=True, unit="1"),
            column("seconds", pa.float64(), "time of the fit and all its readings", unit="s"),
        ]
    ),
)

DRIFT = Table(
    "drift",
    1,
    pa.schema(
        [
            column("dt", pa.date32(), "the night: the day of the rows of scores that it is of"),
            column("category", pa.string(), "product category"),
            column("attribute", pa.string(), "such as line: the row is of images that have a value of it; empty for all"),
            column("attribute_value", pa.string(), "that value, such as B; empty for all"),
            column("measure", pa.string(), "what is watched, such as anomalous_rate or score_median: docs/audit.md"),
            column("n_images", pa.int64(), "images that the measure is of"),
            column("count", pa.int64(), "flagged ones among them, of rates", null=True),
            column("value", pa.float64(), "of the measure"),
            column("std_error", pa.float64(), "of the value as an estimate from these images; of quantiles", null=True),
            column("image_spread", pa.float64(), "robust standard deviation of single images; of quantiles", null=True),
            column("model_version", pa.string(), "that scored, of measures that depend on it", null=True),
            column("reference", pa.float64(), "what the value usually is; null where nothing says it", null=True),
            column("reference_spread", pa.float64(), "standard deviation of a night; a factor, of ratios", null=True),
            column("n_reference", pa.int64(), "healthy nights of the reference; 0 for the calibration set"),
            column("effect", pa.float64(), "ratio of rates and volumes; else shift in image standard deviations", null=True),
            column("p_value", pa.float64(), "probability of a night as unusual, if it is healthy", null=True, unit="1"),
            column("e_value", pa.float64(), "e-detector of slow drift: evidence against all nights being alike", null=True),
            column("drift", pa.float64(), "shift since the likeliest change, in standard deviations of an image", null=True),
            column("verdict", pa.string(), "ok, alarm, muted, elsewhere where a part or the category has it, no_reference"),
            column("alarm", pa.string(), "counts, tonight, drift, limit, with commas between several", null=True),
            column("reason", pa.string(), "why, in words; null where all is well", null=True),
        ]
    ),
    partition_by=("dt",),
)

TABLES = (MANIFEST, SCORES, MAPS, RUNS, CALIBRATION, REPRODUCTIONS, DRIFT)

# What flows between the stages (docs: "what flows"). A finished row never loses its id.
FETCHED = pa.schema(
    [
        *MANIFEST.schema,
        pa.field("status", pa.string()),  # null: not decided yet
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        *_LIGHT,
        pa.field("pixels", pa.binary()),  # uint8 RGB, size x size x 3; null where the image cannot be used
    ]
)
STAGED = pa.schema([*SCORES.schema, *(field.with_nullable(True) for field in _MAP)])
SCORED = pa.schema([*STAGED, pa.field("pixels", pa.binary())])  # pixels only where a gradient map is still to be made


def status_of(anomaly_score: float, threshold: float, review_threshold: float) -> str:
    """The status of a score, eq. 6: at or over the threshold it is anomalous, from the review threshold on for review."""
    if anomaly_score >= threshold:
        return "anomalous"
    return "review" if anomaly_score >= review_threshold else "ok"


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of the schema, in its order and types.

    Raises:
        TableError: a column is missing, unknown, null where it must not be, or of a type that does not cast safely.
    """
    if len(set(table.column_names)) != table.num_columns:
        raise TableError(f"a column name stands twice among {table.column_names}")
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in schema.names]
    if missing or unknown:
        raise TableError(f"columns do not match the schema: missing {missing}, unknown {unknown}")
    columns = []
    for field in schema:
        found = table[field.name]
        if found.null_count and not field.nullable:
            row = pc.index(pc.is_null(found), True).as_py()
            raise TableError(f"column {field.name!r} is null in row {row}, expected a value of type {field.type}")
        try:
            columns.append(found.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"column {field.name!r} has type {found.type}, expected {field.type}: {error}") from error
    return pa.table(columns, schema=schema)


def extend(rows: pa.Table, extra: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows with the schema's further columns, taken from one mapping per row; what a mapping leaves out is null.

    Raises:
        TableError: the result does not have the schema.
    """
    added = pa.schema([schema.field(name).with_nullable(True) for name in schema.names if name not in rows.column_names])
    new = pa.Table.from_pylist(list(extra), schema=added)
    for name in added.names:
        rows = rows.append_column(added.field(name), new[name])
    return conform(rows, schema)


def check_category(name: str) -> None:
    """Refuses names that cannot be a folder of the model store and a partition of the tables.

    Raises:
        ConfigError: the name is empty, too long, reserved, starts with `.` or `_`, or holds a slash, `=` or control character.
    """
    fits = bool(_CATEGORY_NAME.fullmatch(name)) and len(quote(name, safe="")) <= LONGEST_FOLDER
    if not fits or name[0] in "._" or name in _RESERVED:
        raise ConfigError(
            f"category {name!r} is not a usable name: expected 1 to 100 characters without / \\ = or control characters, "
            f"not beginning with . or _, and not {', '.join(_RESERVED)}"
        )
