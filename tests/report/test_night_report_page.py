"""The page of a night, and the one over all nights, in a real browser: silent, on every screen, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plant_nights import LIMITS, Plant, both, only
from playwright.sync_api import Browser, Page
from report_pages import NEEDS_CHROMIUM, Opened, assert_legible, in_silence

from differnet_ray.limits import Muted
from differnet_ray.report.page import visible

pytestmark = NEEDS_CHROMIUM

SCRIPT = "<script>window.ran = 'script'</script>"
PLATE, LID, SCREW = "plate <script>ran()", "lid 漢", "a-category-with-a-very-long-name-and-no-space-at-all-in-it-0123456789"
LINES = ("\"><img src=x onerror=window.ran='handler'>", "B\u202e gnp")
PAGES = ("night-2026-01-02.html", "index.html")
PROPOSAL = {"category": PLATE, "action": "refit", "reason": "moved", "command": "differnet-ray fit --category " + 40 * "long-"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file:// URI of the pages of two nights; limits alarm in the second, since it takes more to make a reference."""
    root = tmp_path_factory.mktemp("plant")
    plant = Plant(root, (PLATE, LID, SCREW), n_images=80, archive=root / "archive", lines=LINES)
    plant.audited(0)
    limits = replace(LIMITS, at_most={"anomalous_rate": 0.1, "unreadable_rate": 0.1}, muted=(Muted(SCREW, why=SCRIPT),))
    change = both(
        only(PLATE, "B", score=lambda x: x + 40),
        only(LID, error="unreadable: cut off", share=0.5),
        only(SCREW, score=lambda x: 50),
    )
    plant.audited(1, change, limits, changes={"late": {LID: 3}}, more={"proposals": [PROPOSAL]})
    return plant.reports


@pytest.fixture(params=PAGES)
def opened(browser: Browser, folder: str, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Each page, with the `options` of the test; at the end nothing must have been said or asked for."""
    chosen = request.node.callspec.params.get("options", {})
    with in_silence(browser, f"{folder}/{request.param}", chosen) as found:
        yield found


def test_pictures_are_decoded_and_names_are_text(opened: Opened) -> None:
    page = opened.page
    sizes = page.evaluate("Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))")
    assert all(64 <= size <= 256 for size in sizes)
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    if "Night" in page.locator("h1").inner_text():
        assert PLATE in page.locator(".verdict").inner_text()
        assert all(text in page.locator("main").inner_text() for text in (SCRIPT, LINES[0], visible(LINES[1])))
        assert len(sizes) >= 2 * 6
        assert page.locator(".verdict").inner_text().split("\n")[0].startswith("!")
        assert page.locator("figure svg .night.tonight").count() == page.locator(".alarms figure").count() > 1


@pytest.mark.parametrize("options", [{"viewport": {"width": width, "height": 800}} for width in (320, 390, 720, 1400, 2560)])
def test_the_page_is_no_wider_than_the_screen(opened: Opened, options: dict[str, dict[str, int]]) -> None:
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    if options["viewport"]["width"] <= 390:  # nor is a table to be moved about
        ids = ["matrix", "alarm-table", "category-table", "night-table"]
        sizes = page.evaluate(
            "(ids) => ids.map((id) => document.getElementById(id)?.parentElement)"
            ".filter(Boolean).map((box) => box.scrollWidth - box.clientWidth)",
            ids,
        )
        assert set(sizes) == {0}


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, {"color_scheme": "dark"}])
def test_texts_contrast_with_what_is_behind_them(opened: Opened, options: dict[str, str]) -> None:
    kinds = "h1, p, nav a, td, th, th a, caption, .chip, .sign, .mark-of, .note, dt, dd, label, text"
    assert_legible(opened.page, kinds, more_than=20, dark=options["color_scheme"] == "dark")


def test_it_prints_on_paper_without_its_controls(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 718, "height": 1015})  # A4 between its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("form.controls").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    widths = page.evaluate("[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right)")
    assert max(widths) <= 718
    assert len(page.pdf(format="A4")) > 10_000


def shown(page: Page, table: str) -> int:
    """How many rows are to be seen."""
    return page.locator(f"#{table} tbody tr:visible").count()


def test_tables_are_filtered_by_verdict_and_text_and_nights_lead_to_each_other(browser: Browser, folder: str) -> None:
    page = browser.new_page()
    page.goto(f"{folder}/index.html")
    assert shown(page, "night-table") == 2
    page.get_by_label("Verdict").select_option("alarm")
    assert shown(page, "night-table") == 1
    page.locator("#night-table a:visible").click()
    page.wait_for_url("**/night-2026-01-02.html")
    matrix = page.locator("form[data-for=matrix]")
    matrix.get_by_label("Text").fill("LID")
    assert shown(page, "matrix") == 1
    assert matrix.locator("output").inner_text() == "1 of 3 rows"
    categories = page.locator("form[data-for=category-table]")
    categories.get_by_label("Verdict").select_option("muted")
    assert shown(page, "category-table") == 1
    page.get_by_role("link", name="← Night before").click()
    page.wait_for_url("**/night-2026-01-01.html")
    page.get_by_role("link", name="All nights").click()
    page.wait_for_url("**/index.html")
    page.close()


def test_a_script_that_got_into_the_page_would_not_run(browser: Browser, folder: str, tmp_path: Path) -> None:
    text = Path(f"{folder}/{PAGES[0]}".removeprefix("file://")).read_text(encoding="utf-8")
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(text.replace("<h1>", "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><h1>"))
    page = browser.new_page()
    page.goto(f"file://{spoiled}")
    page.wait_for_function("document.querySelector('.controls').hidden === false")  # our own has run
    assert page.evaluate("window.ran") is None
    page.close()
