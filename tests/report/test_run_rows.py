"""What the report keeps of the rows depends on the rows alone, not on how they lie in files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest
from made_runs import CATEGORIES, made_run
from staged_runs import DAY

from differnet_ray.report.run_rows import RunRows, read_rows
from differnet_ray.results import staged_run


def test_rows_in_many_files_and_row_groups_are_found_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(folder: str) -> RunRows:
        made = made_run(tmp_path / folder / "same", n_good=60, n_flagged=40)
        rows = read_rows(made.output, str(DAY), made.run.run_id, CATEGORIES, worst=5, listed=20)
        for category in CATEGORIES:
            expected = made.rows.filter(pc.field("category") == category)
            assert rows.categories[category].counts == Counter(expected["status"].to_pylist())
            scores = expected.filter(pc.field("anomaly_score").is_valid())["anomaly_score"]
            assert rows.categories[category].cells.total() == len(scores)
            worst = sorted(scores.to_pylist(), reverse=True)[:5]
            assert [row.anomaly_score for row in rows.categories[category].worst] == worst
        all_scores = sorted(made.rows["anomaly_score"].drop_null().to_pylist(), reverse=True)
        assert [row.anomaly_score for row in rows.flagged] == all_scores[:20]
        return rows

    whole = found("whole")
    monkeypatch.setattr(staged_run, "ROWS_PER_GROUP", {"scores": 7, "maps": 7})
    monkeypatch.setitem(staged_run.ROWS_PER_FILE, "scores", 30)
    parts = found("parts")
    assert len(list((tmp_path / "parts").rglob("scores/**/*.parquet"))) > 2 * len(CATEGORIES)
    assert parts.categories[CATEGORIES[0]].cells == whole.categories[CATEGORIES[0]].cells
    assert [row.severity for row in parts.flagged] == [row.severity for row in whole.flagged]
    assert [row.error for row in parts.not_scored] == [row.error for row in whole.not_scored]


def test_rows_of_other_days_and_runs_are_left_out(tmp_path: Path) -> None:
    made = made_run(tmp_path, n_good=5, n_flagged=5)
    for dt, run_id in (("2026-02-01", made.run.run_id), (str(DAY), "another")):
        rows = read_rows(made.output, dt, run_id, CATEGORIES, worst=5, listed=20)
        assert not any(category.counts for category in rows.categories.values())
        assert rows.flagged == rows.not_scored == []
