"""The page of a night, and the one over all nights, in a real browser: silent, on every screen, in the dark and on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from plant_nights import LIMITS, Plant, both, only
from playwright.sync_api import Browser, Page, sync_playwright

from differnet_ray.limits import Muted
from differnet_ray.report.page import visible

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser `chromium` on the PATH")

SCRIPT = "<script>window.ran = 'script'</script>"
PLATE, LID, SCREW = "plate <script>ran()", "lid 漢", "a-category-with-a-very-long-name-and-no-space-at-all-in-it-0123456789"
LINES = ("\"><img src=x onerror=window.ran='handler'>", "B\u202e gnp")
SECOND = 1000  # in the milliseconds of Playwright
PAGES = ("night-2026-01-02.html", "index.html")
PROPOSAL = {"category": PLATE, "action": "refit", "reason": "moved", "command": "differnet-ray fit --category " + 40 * "long-"}


@dataclass
class Opened:
    """A page, and all that the browser had to say of it."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=PAGES)
def opened(browser: Browser, folder: str, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Each page, with the `options` of the test; at the end nothing must have been said or asked for."""
    chosen = request.node.callspec.params.get("options", {})
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **chosen})
    context.set_default_timeout(30 * SECOND)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda asked: found.asked.append(asked.url) if not asked.url.startswith("data:") else None)
    found.page.goto(f"{folder}/{request.param}")
    yield found
    assert found.said == []
    assert found.asked == [f"{folder}/{request.param}"]
    assert found.page.evaluate("window.ran") is None
    context.close()


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
    found = opened.page.evaluate(
        """() => {
          const light = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3)
              .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const behind = (node) => {
            for (; node; node = node.parentElement) {
              const colour = getComputedStyle(node).backgroundColor;
              if (!/, 0\\)$/.test(colour)) return colour;
            }
          };
          const kinds = "h1, p, nav a, td, th, th a, caption, .chip, .sign, .mark-of, .note, dt, dd, label, text";
          return [...document.querySelectorAll(kinds)].filter((node) => node.textContent.trim() && node.checkVisibility())
            .map((node) => {
              const style = getComputedStyle(node);
              const [a, b] = [light(node.tagName === "text" ? style.fill : style.color), light(behind(node))];
              return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 80)];
            });
        }"""
    )
    assert len(found) > 20
    assert [(ratio, where) for ratio, where in found if ratio < 4.5] == []  # WCAG 2, level AA
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) < 64) == (options["color_scheme"] == "dark")


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
