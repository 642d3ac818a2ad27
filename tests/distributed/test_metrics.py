"""What jobs count is at the Prometheus port of a real Ray, under the declared names and with their labels."""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from said import run

from differnet_ray import metric_names as names
from differnet_ray.distributed.ledger import Ledger
from differnet_ray.distributed.metrics import ScoreMetrics, tell
from differnet_ray.distributed.resources import beside_driver

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
SAMPLE = re.compile(r"^ray_(differnet_\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
SECONDS = 60  # processes tell of their metrics every ten


def exposed() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Our samples at the port, by name and those labels that are ours; of several processes the sum."""
    node = ray.nodes()[0]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        text = answer.read().decode()
    known = {metric.name: metric.labels for metric in names.JOBS}
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for name, labels, value in SAMPLE.findall(text):
        assert name in known, name
        given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = name, frozenset((label, given[label]) for label in known[name])
        found[key] = found.get(key, 0) + float(value)
    return found


def key(metric: names.Metric, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return metric.name, frozenset(labels.items())


def test_a_night_is_counted(models: str, factory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(factory / "plate" / "test", archive / "plate" / "test")
    (archive / "plate" / "test" / "good" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (tmp_path / "limits.toml").write_text("[at_least]\nimages = 1000\n")
    before = exposed()
    began = time.time()
    words = ["--input", archive, "--models", models, "--output", tmp_path / "results", "--limits", tmp_path / "limits.toml"]
    run("audit", *words, exit_code=3)
    ledger = beside_driver(Ledger)  # no read of this run was tried again
    tell(ledger, names.RETRIES, 2, category="plate")
    counted = ray.get(ledger.counted.remote())

    def more(metric: names.Metric, **labels: str) -> float:
        return now.get(key(metric, **labels), 0) - before.get(key(metric, **labels), 0)

    late = time.monotonic() + SECONDS
    now = exposed()
    while key(names.AUDIT_FINISHED) not in now or more(names.IMAGES, category="plate", status="unreadable") < 1:
        assert time.monotonic() < late, now
        time.sleep(1)
        now = exposed()
    statuses = ("ok", "review", "anomalous", "unreadable")
    assert sum(more(names.IMAGES, category="plate", status=status) for status in statuses) == 9
    assert now[key(names.IMAGES_PLANNED)] == 9
    assert now[key(names.IMAGES_LEFT)] == 0
    size = sum(path.stat().st_size for path in archive.rglob("*.*g") if path.stem != "damaged")
    assert more(names.BYTES_READ) == size
    assert more(names.MODEL_LOADS, category="plate") >= 1
    assert all(more(names.STAGE_SECONDS, stage=stage) > 0 for stage in ("fetch", "score", "map"))
    assert began <= now[key(names.AUDIT_FINISHED)] <= time.time()
    assert now[key(names.AUDIT_ALARMS)] >= 1
    assert now[key(names.AUDIT_ALARM, category="plate")] == 1
    ScoreMetrics(0, {}).look({}, counted)
    while more(names.RETRIES, category="plate") < 2:
        assert time.monotonic() < late
        time.sleep(1)
        now = exposed()
    missing = {metric.name for metric in names.JOBS} - {name for name, _ in now}
    assert missing <= {names.FIT_EPOCH.name, names.FIT_LOSS.name}  # gauges of fits that have ended
