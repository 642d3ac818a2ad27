"""The report says what the run file and the rows say, names nothing that it cannot, and lets no name become markup."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import duckdb
import pytest
from made_runs import CATEGORIES, MEMBERS, NAMES, REASONS, SCRIPT, MadeRun, made_run, path_of
from PIL import Image
from staged_runs import a_run, manifest_of, published_run

from differnet_ray.errors import ConfigError, StorageError
from differnet_ray.report import page as pages
from differnet_ray.report import run_report
from differnet_ray.report.page import visible
from differnet_ray.report.run_report import write_run_report
from differnet_ray.storage.locations import canonical


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A run over two categories with a few flagged images each."""
    return made_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(made: MadeRun) -> str:
    """Its report."""
    return made.page()


def table(page: str, name: str) -> str:
    """Returns the body of a table of the page."""
    (found,) = re.findall(rf'<table id="{name}".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    return found


def rows_of(page: str, name: str) -> list[str]:
    """Returns the rows of a table of the page."""
    return re.findall(r"<tr data-category.*?</tr>", table(page, name), re.DOTALL)


def article(page: str, category: str) -> str:
    """Returns the part of a category."""
    parts = re.findall(r"<article.*?</article>", page, re.DOTALL)
    (found,) = [part for part in parts if f"<bdi>{html.escape(category)}</bdi></h3>" in part]
    return found


def values(rows: list[str], label: str) -> list[float]:
    """Returns the sort values of a column."""
    return [float(re.findall(rf'data-label="{label}" data-value="([^"]*)"', row)[0]) for row in rows]


def test_it_is_one_file_below_the_results_or_where_it_is_asked_for(made: MadeRun, tmp_path: Path) -> None:
    usual = write_run_report(made.output, made.run.run_id, max_images=0)
    assert usual == f"{made.output}/reports/{made.run.run_id}.html"
    target = canonical(str(tmp_path / "elsewhere" / "a.html"))
    assert write_run_report(made.output, made.run.run_id, target=target, max_images=0) == target
    assert path_of(target).read_bytes() == path_of(usual).read_bytes()


def test_it_loads_nothing_and_links_nowhere(page: str) -> None:
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"url\(|@import|\bon[a-z]+=\"|style=\"", re.sub(r"<bdi.*?</bdi>", "", page))
    assert re.search(r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/=]+'; script-src 'sha256-[\w+/=]+'", page)


def test_names_are_text_and_what_is_not_seen_is_written_out(page: str) -> None:
    assert SCRIPT not in page
    assert "<img src=x" not in page
    for name in (*NAMES, *MEMBERS, *CATEGORIES, "<b>option</b>", "<u>value</u>", "<em>in words</em>"):
        assert html.escape(visible(name), quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert "\u202e" not in page
    assert "gnp\\u202e.exe\\n.png" in page
    assert page.count("<script>") == page.count("</script>") == 1


def test_counts_of_the_run_stand_in_the_table(page: str, made: MadeRun) -> None:
    counts = made.record["counts"]
    for status, n in counts.items():
        assert re.search(rf"<strong>{n:,}</strong> <span>{status}</span>", page)
    scored = sum(counts[status] for status in ("ok", "review", "anomalous"))
    total = re.findall(r"<tfoot>(.*?)</tfoot>", page, re.DOTALL)[0]
    assert f"{made.record['n_images']:,}" in total
    assert pages.percent(counts["anomalous"], scored) in total
    assert "<dt>not an image</dt><dd>12</dd>" in page


@pytest.mark.parametrize("reason", ["no category", "several categories"])
def test_images_without_one_category_are_mentioned_with_the_file_that_names_them(reason: str, tmp_path: Path) -> None:
    output, run = canonical(str(tmp_path / "out")), a_run()
    published_run(output, run)
    file = path_of(f"{output}/runs/{run.run_id}.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"skipped": {reason: 7}}))
    text = path_of(write_run_report(output, run.run_id)).read_text()
    assert f"<dt>{reason}</dt><dd>7</dd>" in text
    assert "Images of no category, or of several, are named in" in text
    assert f"{output}/runs/{run.run_id}.no-category.csv" in text


def test_flagged_images_are_listed_the_worst_first(page: str, made: MadeRun) -> None:
    rows = rows_of(page, "flagged-table")
    assert len(rows) == made.record["counts"]["anomalous"] + made.record["counts"]["review"]
    severities = values(rows, "\N{MULTIPLICATION SIGN} threshold")
    assert severities == sorted(severities, reverse=True)
    assert values(rows, "Score") == pytest.approx([2 * severity for severity in severities])


def test_images_without_a_score_are_listed_with_their_reason(page: str) -> None:
    rows = rows_of(page, "not-scored-table")
    assert len(rows) == len(REASONS) * len(CATEGORIES)
    assert all(any(f"{reason}: told why, &lt;em&gt;" in row for row in rows) for reason in REASONS)


def test_a_category_shows_its_scores_its_thresholds_and_the_calibration_set(page: str, made: MadeRun) -> None:
    for category in CATEGORIES:
        part = article(page, category)
        assert "threshold 2</text>" in part
        assert "review 1.5</text>" in part
        assert "60 good images of the calibration set" in part
        assert "5 held-out good images: at most 16.7 %" in part
        assert made.run.models[category][0] in part


def test_pictures_show_the_image_and_its_map_or_why_they_cannot(page: str) -> None:
    part = article(page, CATEGORIES[0])
    assert len(re.findall(r'<img src="data:image/jpeg', part)) == 2 * (len(NAMES) + len(MEMBERS))
    assert re.search(r'width="171" height="256"', part)  # 80 x 120, not the square that is decoded
    assert "can no longer be read: missing: the file was listed, but is no longer there" in part
    assert "peak 38 / 25 % from left / top" in part
    assert part.count("no map") == part.count("can no longer be read")


def test_fewer_pictures_are_made_where_fewer_are_asked_for(made: MadeRun) -> None:
    part = article(made.page(max_images=3), CATEGORIES[1])
    assert part.count("<figcaption><p>") == 3
    assert "The 3 worst of" in part
    assert "<img" not in article(made.page(max_images=0), CATEGORIES[1])


def test_an_image_that_was_replaced_since_is_not_shown_in_place_of_the_scored_one(tmp_path: Path) -> None:
    made = made_run(tmp_path, n_good=2, n_flagged=0)
    path = tmp_path / "archive" / CATEGORIES[0] / NAMES[2]
    Image.new("RGB", (33, 44)).save(path)
    part = article(made.page(), CATEGORIES[0])
    (entry,) = [found for found in re.findall(r"<li><figure>.*?</li>", part, re.DOTALL) if "it&#39;s &#34;quoted" in found]
    assert "can no longer be read" in entry
    assert "<img" not in entry


def test_lineage_is_complete(page: str, made: MadeRun) -> None:
    record = made.record
    expected = [record["fingerprint"], record["listing_digest"], *record["model_digests"].values(), *record["models"].values()]
    for text in (*expected, *record["libraries"].values(), made.models):
        assert html.escape(text) in page


def test_what_is_left_out_is_counted_and_the_query_finds_it(made: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 3
    monkeypatch.setattr(run_report, "LISTED", limit)
    page = made.page(max_images=1)
    counts = made.record["counts"]
    n_flagged, n_not_scored = counts["review"] + counts["anomalous"], len(REASONS) * len(CATEGORIES)
    assert len(rows_of(page, "flagged-table")) == len(rows_of(page, "not-scored-table")) == limit
    assert f"the first {limit} of {n_flagged}; {n_flagged - limit} more are not on this page" in page
    queries = [html.unescape(query) for query in re.findall(r"<code>(.*?)</code>", page, re.DOTALL)]
    answers = [duckdb.connect().execute(query) for query in queries]
    score = [name for name, *_ in answers[0].description].index("anomaly_score")
    found = [answer.fetchall() for answer in answers]
    assert [len(rows) for rows in found] == [n_flagged, n_not_scored]
    assert [row[score] for row in found[0][:limit]] == values(rows_of(page, "flagged-table"), "Score")


def test_thousands_of_flagged_images_make_a_page_of_bounded_size(tmp_path: Path) -> None:
    made = made_run(tmp_path, n_good=100, n_flagged=1500)
    page = made.page(max_images=1)
    assert len(rows_of(page, "flagged-table")) == run_report.LISTED
    assert len(page) < 3_000_000


def test_a_model_that_is_gone_or_damaged_is_said_and_the_report_is_made(tmp_path: Path) -> None:
    made = made_run(tmp_path, n_good=50, n_flagged=0)
    damaged, gone = (path_of(made.models) / category / made.run.models[category][0] for category in CATEGORIES)
    (damaged / "calibration.parquet").write_bytes(b"damaged")
    (gone / "model.json").unlink()
    page = made.page(max_images=0)
    assert "calibration.parquet is damaged" in article(page, CATEGORIES[0])
    assert "no version" in article(page, CATEGORIES[1])
    assert "of the calibration set</span>" not in page


def test_a_model_store_that_is_not_there_is_said_and_the_report_is_made(made: MadeRun, tmp_path: Path) -> None:
    uri = write_run_report(made.output, made.run.run_id, models=canonical(str(tmp_path / "none")), max_images=0)
    assert path_of(uri).read_text(encoding="utf-8").count("The scores of the calibration set are not shown") == len(CATEGORIES)


def test_without_a_model_store_only_the_scores_of_the_run_are_drawn(made: MadeRun) -> None:
    page = path_of(write_run_report(made.output, made.run.run_id, max_images=0)).read_text(encoding="utf-8")
    assert page.count("<svg") == len(CATEGORIES)
    assert "of the calibration set</span>" not in page


def test_rows_that_a_later_run_replaced_are_not_reported_as_those_of_the_run(tmp_path: Path) -> None:
    output = canonical(str(tmp_path / "out"))
    first, second = a_run(), a_run(listing_digest="another", run_id="later-run")
    published_run(output, first, manifest_of(("100% wool", "screw")))
    published_run(output, second, manifest_of(("screw",)), scale=1000.0)
    page = path_of(write_run_report(output, first.run_id)).read_text()
    part = article(page, "screw")
    assert "9 of the 9 rows of this category have since been replaced by the run later-run" in part
    assert "No image of this category has a score." in part
    assert "replaced" not in article(page, "100% wool")
    assert max(values(rows_of(page, "flagged-table"), "Score")) < 1000
    later = path_of(write_run_report(output, "later-run")).read_text()
    assert "replaced" not in later.split("<article")[1]


def test_a_run_whose_rows_were_removed_has_a_report_of_its_counts(tmp_path: Path) -> None:
    output, run = canonical(str(tmp_path / "out")), a_run()
    published_run(output, run)
    for file in path_of(f"{output}/scores").rglob("*.parquet"):
        file.unlink()
    page = path_of(write_run_report(output, run.run_id)).read_text()
    assert "removed from the results" in page
    assert "No image is at or over a review threshold." in page


@pytest.mark.parametrize("run_id", ["other", "../runs/x", ""])
def test_a_run_that_is_not_there_is_named_with_those_that_are(made: MadeRun, run_id: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"there are: {made.run.run_id}")):
        write_run_report(made.output, run_id)


def test_an_empty_place_has_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are: none"):
        write_run_report(canonical(str(tmp_path)), "any")


def test_a_run_file_that_lacks_something_is_damaged(tmp_path: Path) -> None:
    output, run = canonical(str(tmp_path / "out")), a_run()
    published_run(output, run)
    file = path_of(f"{output}/runs/{run.run_id}.json")
    file.write_text(json.dumps({"run_id": run.run_id}))
    with pytest.raises(StorageError, match="lacks schema_version, dt"):
        write_run_report(output, run.run_id)
