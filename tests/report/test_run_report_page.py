"""The page in a real browser: nothing in it runs but its own script, nothing is asked for, and it fits every screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import CATEGORIES, MEMBERS, NAMES, REASONS, MadeRun, made_run, path_of
from playwright.sync_api import Browser, Page
from report_pages import NEEDS_CHROMIUM, Opened, assert_legible, in_silence

from differnet_ray.report.page import visible
from differnet_ray.report.run_report import write_run_report

pytestmark = NEEDS_CHROMIUM

N_FLAGGED = len(CATEGORIES) * (30 + len(NAMES) + len(MEMBERS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A run with a few dozen flagged images."""
    return made_run(tmp_path_factory.mktemp("made"), n_good=300)


@pytest.fixture(scope="module")
def report(made: MadeRun) -> str:
    """The file:// URI of its report, in a folder whose name the browser does not have to decode."""
    return write_run_report(made.output, made.run.run_id, models=made.models, target=f"{made.models}/report.html", max_images=9)


@pytest.fixture
def opened(browser: Browser, report: str, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The report, opened with the options of `request.param`; at the end nothing must have been said or asked for."""
    with in_silence(browser, report, getattr(request, "param", {})) as found:
        yield found


def shown(page: Page, table: str = "flagged-table") -> list[list[str]]:
    """Returns status, category and image of the rows that are to be seen."""
    return page.evaluate(
        """(id) => [...document.getElementById(id).tBodies[0].rows].filter((row) => row.checkVisibility())
        .map((row) => [row.dataset.status, row.dataset.category, row.querySelector(".image").innerText])""",
        table,
    )


def column(page: Page, label: str, table: str = "flagged-table") -> list[str]:
    """Returns the sort values of a column, else its texts, from the top."""
    return page.evaluate(
        """([id, label]) => [...document.querySelectorAll(`#${id} tbody td[data-label="${label}"]`)]
        .map((cell) => cell.dataset.value ?? cell.innerText)""",
        [table, label],
    )


def test_the_page_loads_in_silence_and_its_pictures_are_decoded(opened: Opened) -> None:
    page = opened.page
    sizes = page.evaluate("Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))")
    assert len(sizes) == 2 * len(CATEGORIES) * (len(NAMES) + len(MEMBERS))
    assert all(64 <= size <= 256 for size in sizes)
    assert page.locator("h1").inner_text().startswith("Run 2026")


def test_names_are_shown_as_the_text_that_they_are(opened: Opened) -> None:
    page = opened.page
    places = [image for _, _, image in shown(page)]
    for name in NAMES:
        assert any(visible(name) in place for place in places), name
    assert page.locator("h3 bdi", has_text=CATEGORIES[0]).first.inner_text() == CATEGORIES[0]
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0


def test_a_script_that_got_into_the_page_would_not_run(browser: Browser, report: str, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.html"
    text = path_of(report).read_text(encoding="utf-8")
    spoiled.write_text(text.replace("<h1>", "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><h1>"))
    page = browser.new_page()
    page.goto(f"file://{spoiled}")
    page.wait_for_function("document.querySelector('.controls').hidden === false")  # our own has run
    assert page.evaluate("window.ran") is None
    page.close()


def test_rows_are_filtered_by_category_status_and_text(opened: Opened) -> None:
    page = opened.page
    form = page.locator("form[data-for=flagged-table]")
    everything = shown(page)
    assert len(everything) == N_FLAGGED
    form.get_by_label("Category").select_option(CATEGORIES[1])
    of_category = shown(page)
    assert {row[1] for row in of_category} == {CATEGORIES[1]}
    assert 0 < len(of_category) < len(everything)
    assert form.locator("output").inner_text() == f"{len(of_category):,} of {N_FLAGGED} rows"
    form.get_by_label("Text").fill("  ONERROR=window ")
    assert [row[0] for row in shown(page)] == ["anomalous"]
    form.get_by_label("Status").select_option("review")
    assert shown(page) == []
    assert form.locator("output").inner_text() == f"0 of {N_FLAGGED} rows"
    form.get_by_label("Text").fill("")
    assert {tuple(row[:2]) for row in shown(page)} == {("review", CATEGORIES[1])}
    assert len(shown(page, "not-scored-table")) == len(REASONS) * len(CATEGORIES)  # each table has its own filter


def test_rows_are_sorted_by_mouse(opened: Opened) -> None:
    page = opened.page
    score = page.locator("#flagged-table th", has_text="Score")
    score.get_by_role("button").click()
    assert score.get_attribute("aria-sort") == "descending"
    numbers = [float(value) for value in column(page, "Score")]
    assert numbers == sorted(numbers, reverse=True)
    score.get_by_role("button").click()
    assert score.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(page, "Score")] == numbers[::-1]
    assert page.locator("#flagged-table th[aria-sort]").count() == 1
    page.locator("#flagged-table th", has_text="Area").get_by_role("button").click()
    areas = column(page, "Area")
    known = areas.index("")  # images without a map are last
    assert set(areas[known:]) == {""}
    assert [float(value) for value in areas[:known]] == sorted(map(float, areas[:known]), reverse=True)


def test_rows_are_filtered_and_sorted_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.locator("form[data-for=not-scored-table] select").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the first status
    assert {row[0] for row in shown(page, "not-scored-table")} == {sorted(REASONS)[0]}
    page.keyboard.press("Tab")
    page.keyboard.type("plate")
    assert {row[1] for row in shown(page, "not-scored-table")} == {CATEGORIES[0]}
    page.keyboard.press("Enter")  # sends no form
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").startswith("Reason"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#not-scored-table th", has_text="Reason").get_attribute("aria-sort") == "ascending"
    reasons = column(page, "Reason", "not-scored-table")
    assert reasons == sorted(reasons)
    page.keyboard.press("Space")
    assert column(page, "Reason", "not-scored-table")[0] == reasons[-1]


@pytest.mark.parametrize(
    "opened",
    [{"viewport": {"width": width, "height": 800}} for width in (320, 700, 1400, 2560)],
    indirect=True,
    ids=lambda options: options["viewport"]["width"],
)
def test_the_page_is_no_wider_than_the_screen(opened: Opened) -> None:
    assert opened.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert opened.page.evaluate("getComputedStyle(document.body).overflowX") == "visible"  # nothing was cut off to reach that


@pytest.mark.parametrize(
    "opened", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=lambda options: options["color_scheme"]
)
def test_texts_contrast_with_what_is_behind_them(opened: Opened, request: pytest.FixtureRequest) -> None:
    kinds = "h1, .kind, p, nav a, small, td, th, caption, .chip, .place, .note, dt, dd, .gone, label, select, text"
    dark = request.node.callspec.params["opened"]["color_scheme"] == "dark"
    assert_legible(opened.page, kinds, more_than=500, dark=dark)


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True, ids=["no script"])
def test_without_its_script_the_page_shows_all_and_offers_nothing_that_does_not_work(opened: Opened) -> None:
    page = opened.page
    assert page.locator("#flagged-table tbody tr").count() == N_FLAGGED
    assert not page.locator("form.controls").first.is_visible()
    assert page.locator("th button").count() == 0


def test_it_prints_on_paper_without_its_controls(opened: Opened) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert not opened.page.locator("form.controls").first.is_visible()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(opened.page.pdf(format="A4")) > 10_000


def test_thousands_of_rows_are_filtered_and_sorted(browser: Browser, tmp_path: Path) -> None:
    made = made_run(tmp_path, n_good=10, n_flagged=1100)
    page = browser.new_page()
    page.goto(write_run_report(made.output, made.run.run_id, target=f"{made.models}/report.html", max_images=0))
    assert len(shown(page)) == 2000
    page.evaluate(
        """() => {
          document.querySelector("#flagged-table th:last-child button").click();
          const text = document.querySelector("form[data-for=flagged-table] input");
          text.value = "0001";
          text.dispatchEvent(new Event("input", { bubbles: true }));
        }"""
    )
    rows = shown(page)
    assert 0 < len(rows) < 2000
    assert all("0001" in image for _, _, image in rows)
    page.close()
