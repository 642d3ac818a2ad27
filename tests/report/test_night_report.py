"""The page of a night says what the rows and records say, also where there are none, and lets no name become markup."""

from __future__ import annotations

import html
import json
import re
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest
from night_pages import cell, page_at, row_of, rows_of, section, sentence, verdicts, written
from plant_nights import FIRST, LIMITS, Change, Plant, both, only

from differnet_ray.limits import AlarmLimits, Muted
from differnet_ray.report import night_report
from differnet_ray.report.night_index import write_night_index
from differnet_ray.report.night_report import write_night_report
from differnet_ray.report.night_rows import CHARTS_OF_CATEGORY, read_night
from differnet_ray.results.audits import audits_of
from differnet_ray.results.housekeeping import leftovers
from differnet_ray.storage.locations import canonical, join

SCRIPT = "<script>window.ran = 'script'</script>"
PLATE, LID, SCREW = "<i>plate&amp;", "lid 漢", "screw"
LINES = (f"A {SCRIPT}", "B\u202e gnp.'exe")
NEW, UNKNOWN = "hinge (new)", "clip\u2066 no model"
HEALTHY = 8
BAD = FIRST + timedelta(days=HEALTHY)
TOLD = "unreadable: the PNG file is damaged, <em>bad CRC</em>"
MUTES = AlarmLimits(false_alarms_per_year=4, muted=(Muted(SCREW, why="a new <b>supplier</b>"),))
PROPOSALS = [
    {
        "category": PLATE,
        "action": "refit",
        "reason": f"moved for good {SCRIPT}",
        "command": "differnet-ray fit --category '<i>plate&amp;'",
        "manifest": "s3://plant/results/audit/proposals/plate.csv",
    }
]


def bad_night(category: str = PLATE) -> Change:
    return both(
        only(category, "B", score=lambda x: x * np.e**3),
        only(LID, error=TOLD, share=0.5),
        only(SCREW, score=lambda x: 50.0 + x, share=0.4),
    )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Healthy nights, the last one with a page; then one with alarms, muted ones, a new category and one without a model."""
    root = tmp_path_factory.mktemp("plant")
    plant = Plant(root, (PLATE, LID, SCREW), n_images=80, archive=root / "archive", lines=LINES)
    for day in range(HEALTHY - 1):
        plant.night(day)
    plant.audited(HEALTHY - 1)
    plant.fit(NEW)
    plant.without_model.append(UNKNOWN)
    changes = {"late": {LID: 12}, "changed": {PLATE: 4}, "removed": {"gone": 3, SCREW: 7}}
    plant.audited(HEALTHY, bad_night(), MUTES, changes=changes, more={"proposals": PROPOSALS, "alarms": [{"text": "an alarm"}]})
    return plant


@pytest.fixture(scope="module")
def page(plant: Plant) -> str:
    return page_at(plant, BAD).read_text(encoding="utf-8")


def test_it_loads_nothing_and_links_to_the_pages_beside_it_only(page: str, plant: Plant) -> None:
    links = set(re.findall(r"""(?:src|href)=["'](?!data:|#)(.*?)["'#]""", page))
    assert links >= {f"night-{BAD - timedelta(days=1)}.html", "index.html", f"{plant.run.run_id}.html"}
    assert all((page_at(plant, BAD).parent / link).is_file() for link in links)
    assert not re.findall(r"url\(|@import|\bon[a-z]+=\"|style=\"", re.sub(r"<bdi.*?</bdi>", "", page))
    assert re.search(r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/=]+'; script-src 'sha256-[\w+/=]+'", page)


def test_names_are_text_and_what_is_not_seen_is_written_out(page: str) -> None:
    assert page.count("<script>") == page.count("</script>") == 1
    assert not re.search("[\u202e\u2066]", page)
    for name in (PLATE, LID, *LINES, NEW, UNKNOWN, TOLD, "a new <b>supplier</b>"):
        assert written(name) in page, name
    for raw in ("<b>supplier", "<em>bad", "<i>plate"):
        assert raw not in page


def test_the_verdict_is_one_sentence_that_names_what_alarmed(page: str, plant: Plant) -> None:
    n_alarms, n_muted = len(verdicts(plant, BAD, "alarm")), len(verdicts(plant, BAD, "muted"))
    assert n_alarms > 5 < n_muted
    assert re.fullmatch(rf"{n_alarms} alarms in 2 of 5 categories: .*\.", sentence(page))
    assert {PLATE, LID} == set(sentence(page).split(": ")[1].removesuffix(".").split(", "))
    more = re.findall(r"</p>\s*<p>(.*?)</p>\s*</div>", page)[0]
    assert f"{n_muted} alarms muted." in more
    assert f"1 category without a model: {written(UNKNOWN)}." in more
    quiet = page_at(plant, BAD - timedelta(days=1)).read_text(encoding="utf-8")
    assert sentence(quiet) == "Nothing alarms: 3 categories as usual."


def test_every_alarm_is_there_with_its_reason_and_the_first_of_each_category_are_drawn(page: str, plant: Plant) -> None:
    part, alarms = section(page, "alarms"), verdicts(plant, BAD, "alarm")
    drawn = part.split("Further alarms")[0]
    n_drawn = drawn.count("<figcaption>")
    assert n_drawn == drawn.count('<path class="night tonight" d="M') - 1 == CHARTS_OF_CATEGORY + 1  # one of the legend
    assert len(rows_of(part, "alarm-table")) == len(alarms) - n_drawn
    assert all(written(alarm["reason"]) in part for alarm in alarms)
    (first,) = re.findall(rf"<h3><bdi>{written(PLATE)}</bdi></h3>(.*?)</article>", part, re.DOTALL)
    assert len(set(re.findall(r'<title id="alarm.*?>(.*?) by night', first))) == 4  # different measures
    assert part.count('class="band"') == n_drawn
    assert len(re.findall(r"<circle", drawn)) == n_drawn * HEALTHY


def test_muted_alarms_are_there_with_who_muted_them(page: str, plant: Plant) -> None:
    rows = rows_of(section(page, "alarms"), "muted-table")
    assert len(rows) == len(verdicts(plant, BAD, "muted"))
    assert all("muted: a new &lt;b&gt;supplier&lt;/b&gt;" in cell(row, "Why") for row in rows)


def test_the_matrix_has_each_category_night_by_night(page: str, plant: Plant) -> None:
    states = {c: re.findall(r'<td class="s (\w+)"', row_of(page, "matrix", c)) for c in (PLATE, LID, SCREW, NEW, UNKNOWN)}
    healthy = ["ok"] * HEALTHY
    assert states[PLATE] == states[LID] == [*healthy, "alarm"]
    assert states[SCREW] == [*healthy, "muted"]
    assert states[NEW] == ["no_images"] * HEALTHY + ["ok"]  # the calibration set is its reference
    assert states[UNKNOWN] == ["no_images"] * HEALTHY + ["no_reference"]
    marks = dict(re.findall(r'<i class="mark-of (\w+)">(.)</i>', page))
    assert len(set(marks.values())) == 5  # not by colour alone
    assert f'abbr="{BAD}"' in page


def test_worst_images_have_maps_and_those_of_alarming_categories_are_first(page: str) -> None:
    part = section(page, "images")
    order = [html.unescape(name) for name in re.findall(r"<h3><bdi>(.*?)</bdi>", part)]
    assert order[0] == PLATE
    assert order.index(SCREW) == 1 + (LID in order)  # muted, after those that alarm
    plate = part.split("</article>")[order.index(PLATE)]
    assert plate.count('<img src="data:image/jpeg') == 2 * 6
    assert "The 6 worst of" in plate


def test_what_could_not_be_scored_has_its_reason_and_no_model_is_one_line(page: str, plant: Plant) -> None:
    part = section(page, "not-scored")
    assert plant.record is not None
    rows = rows_of(part, "not-scored-table")
    assert len(rows) == plant.record["counts"]["unreadable"]
    assert all(cell(row, "Reason") == written(TOLD) for row in rows)
    assert re.search(rf"no model of 1 category, whose {plant.counts[UNKNOWN]} images", part)


def test_what_came_is_counted_by_category(page: str, plant: Plant) -> None:
    assert cell(row_of(page, "category-table", LID), "Late") == "12"
    assert cell(row_of(page, "category-table", PLATE), "Changed") == "4"
    assert cell(row_of(page, "category-table", SCREW), "Removed") == "7"
    gone = row_of(page, "category-table", "gone")  # nothing else is known of it
    assert (cell(gone, "Removed"), cell(gone, "Images")) == ("3", "0")
    assert cell(row_of(page, "category-table", UNKNOWN), "Not scored") == str(plant.counts[UNKNOWN])
    assert cell(row_of(page, "category-table", UNKNOWN), "Verdict") == "not judged"
    (total,) = re.findall(r"<tfoot>(<tr data-category=\"all\".*?)</tfoot>", page.replace("\n", ""))
    assert cell(total, "Images") == f"{plant.counts.total():,}"


def test_what_to_do_is_shown_with_the_command(page: str, plant: Plant) -> None:
    part = section(page, "proposals")
    assert f'<pre tabindex="0"><code>{written(PROPOSALS[0]["command"])}</code></pre>' in part
    for key in ("category", "action", "reason", "manifest"):
        assert written(PROPOSALS[0][key]) in part
    assert 'id="proposals"' not in page_at(plant, BAD - timedelta(days=1)).read_text(encoding="utf-8")


def test_lineage_is_complete(page: str, plant: Plant) -> None:
    part = section(page, "lineage")
    assert plant.record is not None
    (audit,) = audits_of(plant.output, BAD)
    digests = [text for pair in plant.models_in_use.values() for text in pair]
    expected = [plant.record["fingerprint"], plant.record["listing_digest"], *plant.record["libraries"].values(), *digests]
    for text in (*expected, audit["audit_id"], *audit["inputs"], plant.output, plant.models):
        assert written(text) in part, text


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A plant with enough nights to be judged."""
    plant = Plant(tmp_path_factory.mktemp("healthy"), (PLATE,), n_images=80)
    for day in range(HEALTHY):
        plant.night(day)
    return plant


@pytest.fixture
def other(healthy: Plant, tmp_path: Path) -> Plant:
    """A copy of it."""
    return healthy.copied(tmp_path)


def test_a_night_without_images_is_the_news(other: Plant) -> None:
    page = other.audited(HEALTHY, lambda *_: None).read_text(encoding="utf-8")
    assert sentence(page).endswith(f"1 alarm in 1 of 1 category: {PLATE}.")
    assert "No images came." in page
    assert "There was no image." in section(page, "not-scored")
    assert "0 images, usually about" in section(page, "alarms")


def test_several_audits_of_a_night_are_one_page(other: Plant) -> None:
    first, n_first = other.audited(HEALTHY), other.counts.total()
    run = other.run.run_id
    second = other.audited(HEALTHY, part="late-")
    assert first == second
    page = second.read_text(encoding="utf-8")
    assert cell(row_of(page, "category-table", PLATE), "Images") == f"{n_first + other.counts.total():,}"
    assert cell(row_of(page, "category-table", PLATE), "New") == f"{n_first + other.counts.total():,}"
    for run_id in (run, other.run.run_id):
        assert f'<h3>Run <a href="{run_id}.html">' in page
    assert section(page, "lineage").count('<tr><th scope="row"') == 2
    index = (second.parent / "index.html").read_text(encoding="utf-8")
    (row,) = rows_of(index, "night-table")
    assert cell(row, "New") == f"{n_first + other.counts.total():,}"


def test_an_old_night_audited_again_has_its_page_written_anew(other: Plant) -> None:
    other.audited(HEALTHY, only(PLATE, error=TOLD, share=0.5))
    other.audited(HEALTHY + 1)
    again = other.audited(HEALTHY - 1, part="late-", more={"alarms": [{"text": "as a text"}]}).read_text(encoding="utf-8")
    assert f"night-{FIRST + timedelta(days=HEALTHY)}.html" not in again  # of nights after it nothing is said
    index = (page_at(other, FIRST).parent / "index.html").read_text(encoding="utf-8")
    rows = rows_of(index, "night-table")
    assert [cell(row, "Night") for row in rows] == [str(FIRST + timedelta(days=HEALTHY + n)) for n in (1, 0, -1)]
    assert [cell(row, "Verdict") for row in rows] == ["ok", "alarm", "alarm"]
    assert cell(rows[2], "The first of them") == "as a text"
    assert "unreadable" in cell(rows[1], "The first of them")


def test_where_nothing_was_ever_published_the_page_says_so(tmp_path: Path) -> None:
    output = canonical(str(tmp_path / "none"))
    target = write_night_report(output, BAD, join(output, "reports"))
    page = Path(target.removeprefix("file://")).read_text(encoding="utf-8")
    assert sentence(page) == "Nothing has ever been published: no night."
    assert "No category is known." in page
    index = write_night_index(output, join(output, "reports"))
    assert "No night has been audited." in Path(index.removeprefix("file://")).read_text(encoding="utf-8")


def test_the_first_night_is_judged_by_the_calibration_sets_alone(tmp_path: Path) -> None:
    plant = Plant(tmp_path, (PLATE,), n_images=80)
    assert sentence(plant.audited(0).read_text(encoding="utf-8")) == "Nothing alarms: 1 category as usual."
    plant.models_in_use.clear()
    plant.without_model.append(UNKNOWN)
    assert sentence(plant.audited(5).read_text(encoding="utf-8")).startswith("Not judged yet")


def test_the_file_of_a_run_that_is_gone_is_said(other: Plant) -> None:
    other.audited(HEALTHY)
    Path(join(other.output, "runs", f"{other.run.run_id}.json").removeprefix("file://")).unlink()
    write_night_report(other.output, other.run.dt, other.reports)
    page = page_at(other, other.run.dt).read_text(encoding="utf-8")
    assert f"The file of the run <bdi>{other.run.run_id}</bdi> is gone" in page


def test_what_is_left_out_is_found_by_the_queries_on_the_page(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(night_report, "LISTED", 3)
    page = Path(write_night_report(plant.output, BAD, canonical(str(tmp_path))).removeprefix("file://")).read_text()
    alarms = section(page, "alarms")
    assert len(rows_of(alarms, "muted-table")) == 3 < len(verdicts(plant, BAD, "muted"))
    queries = [html.unescape(query) for query in re.findall(r"<code>(SELECT.*?)</code>", page, re.DOTALL)]
    found = [len(duckdb.connect().execute(query).fetchall()) for query in queries]
    n_flagged = len(verdicts(plant, BAD, "alarm")) + len(verdicts(plant, BAD, "muted"))
    assert found == [n_flagged, 5]  # alarms and muted ones, categories
    assert len(read_night(plant.output, BAD).verdicts) == 5


def test_the_page_over_all_nights_links_to_pages_that_are_there_and_is_never_tidied_away(
    other: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (HEALTHY, HEALTHY + 1):
        other.audited(day)
    page_at(other, FIRST + timedelta(days=HEALTHY)).unlink()
    index = Path(write_night_index(other.output, other.reports).removeprefix("file://"))
    newest, older = rows_of(index.read_text(encoding="utf-8"), "night-table")
    assert f'href="night-{other.run.dt}.html"' in newest
    assert "href" not in older
    assert cell(newest, "Images") == str(other.counts.total())
    old = {Path(found.uri).name for found in leftovers(other.output, 0) if found.kind == "page"}
    assert page_at(other, other.run.dt).name in old
    assert "index.html" not in old


def test_records_of_older_versions_are_read(other: Plant) -> None:
    page = other.audited(HEALTHY)
    (path,) = (Path(other.output.removeprefix("file://")) / "audit" / "nights").glob("*/*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "verdicts"}))
    before = page.read_text(encoding="utf-8")
    write_night_report(other.output, other.run.dt, other.reports, models=other.models)
    assert page.read_text(encoding="utf-8") == before
    index = Path(write_night_index(other.output, other.reports).removeprefix("file://")).read_text(encoding="utf-8")
    assert [cell(row, "Verdict") for row in rows_of(index, "night-table")] == ["ok"]
    assert LIMITS.fewest_nights < HEALTHY
