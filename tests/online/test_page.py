"""The page at `/` in a real browser: what an operator sees and does, without a word in the browser's console."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from online_models import LocalScorer, local_scorer
from online_server import Served, served, wait_for
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from differnet_ray.online.options import Limits, Options
from differnet_ray.queries import Answer, Query
from differnet_ray.results.overlay import VMAX, blend

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser `chromium` on the PATH")

TOKEN = "token-of-line-3-0123456789"
LIMIT = 30_000  # milliseconds
WIDE = {"viewport": {"width": 1400, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DECISIONS = {"ok": "Looks good", "review": "Look at it again", "anomalous": "Anomalous"}
HOSTILE = "<img src=x onerror='window.ran=1'>.png"
CONTRASTS = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (colour) => {
    paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : colour;
  };
  const hasText = (e) => e.checkVisibility() && [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")].filter(hasText)
    .map((e) => {
      const style = getComputedStyle(e);
      const both = [luminance(e instanceof SVGElement ? style.fill : style.color), luminance(behind(e))];
      return [e.textContent, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
    });
}"""


@dataclass
class Opened:
    """The page, and what the browser had to say of it."""

    page: Page
    said: list[str] = field(default_factory=list)

    def drop(self, data: bytes, name: str = "part.png", kind: str = "image/png") -> None:
        """Drops a file on the page."""
        make = """([data, name, type]) => {
          const held = new DataTransfer();
          held.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
          return held;
        }"""
        held = self.page.evaluate_handle(make, [base64.b64encode(data).decode(), name, kind])
        self.page.dispatch_event("body", "drop", {"dataTransfer": held})

    def decided(self, *decisions: str) -> str:
        """Waits for one of these decisions, and returns it."""
        shown = self.page.locator("#decision")
        states = ", ".join(f'#decision[data-state="{state}"]' for state in decisions or DECISIONS)
        self.page.wait_for_selector(states)
        return shown.inner_text()


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    expect.set_options(timeout=LIMIT)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens pages; in the end the browser must have complained of nothing but the refusals that were expected."""
    contexts: list[Any] = []
    expected: list[tuple[Opened, set[int]]] = []

    def go(address: str, refusals: set[int] | None = None, **options: Any) -> Opened:
        context = browser.new_context(**{**WIDE, **options})
        context.set_default_timeout(LIMIT)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        contexts.append(context)
        expected.append((opened, refusals or set()))
        opened.page.goto(address)
        return opened

    yield go
    for opened, refusals in expected:
        allowed = tuple(f"Failed to load resource: the server responded with a status of {status}" for status in refusals)
        assert [text for text in opened.said if not (allowed and text.startswith(allowed))] == []
        assert opened.page.evaluate("window.ran") is None
    for context in contexts:
        context.close()


@pytest.fixture
def dent(factory: Path) -> bytes:
    """A part with a defect."""
    return next((factory / "plate" / "test" / "dent").iterdir()).read_bytes()


@pytest.fixture
def good(factory: Path) -> bytes:
    """A part without, as JPEG."""
    return next((factory / "plate" / "train" / "good").iterdir()).read_bytes()


def answer_of(endpoint: Served, image: bytes, category: str = "plate") -> dict[str, Any]:
    """What the endpoint says to a program."""
    how: dict[str, Any] = {"params": {"category": category, "map": "array"}, "headers": {"Content-Type": "image/png"}}
    found: dict[str, Any] = endpoint.client.post("/v1/score", content=image, **how).json()
    return found


def test_a_dropped_image_shows_its_decision_its_numbers_and_its_map(endpoint: Served, visit: Open, dent: bytes) -> None:
    opened = visit(f"{endpoint.address}/#plate")
    page = opened.page
    expect(page.locator("#category")).to_have_value("plate")
    expect(page.locator("#untrained")).to_be_visible()
    opened.drop(dent)
    assert opened.decided() == "Anomalous"
    answer = answer_of(endpoint, dent)
    assert "higher than those of all" in page.locator("#reason").inner_text()
    numbers = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert float(numbers["Score"]) == pytest.approx(answer["anomaly_score"], rel=1e-3)
    assert float(numbers["Anomalous from"]) == pytest.approx(answer["threshold"], rel=1e-3)
    assert float(numbers["p-value"]) == pytest.approx(answer["p_value"], rel=1e-3)
    assert numbers["Model version"] == answer["model_version"]
    assert numbers["Time"].endswith(" ms")

    drawn = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, 256, 256).data]"""
    colours = np.array(page.locator("#map").evaluate(drawn), float).reshape(256, 256, 4)
    over_black = blend(np.zeros((256, 256, 3), np.uint8), np.array(answer["map"]["values"], np.float16), VMAX)
    assert np.abs(colours[..., :3] * colours[..., 3:] / 255 - over_black).max() <= 4
    assert over_black.max() > 60  # there is something to see
    boxes = [page.locator(name).bounding_box() for name in ("#image", "#map")]
    assert boxes[0] == boxes[1]
    assert boxes[0] is not None
    assert boxes[0]["width"] / boxes[0]["height"] == pytest.approx(72 / 80, rel=0.02)
    page.locator("#opacity").fill("25")
    assert page.locator("#map").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.25"


@pytest.mark.parametrize("defect", [False, True])
def test_the_histogram_shows_where_a_score_lies(defect: bool, endpoint: Served, visit: Open, good: bytes, dent: bytes) -> None:
    opened = visit(f"{endpoint.address}/#plate")
    image = dent if defect else good
    opened.drop(image)
    opened.decided()
    answer, details = answer_of(endpoint, image), endpoint.client.get("/v1/categories/plate").json()
    svg = opened.page.locator("#histogram svg")
    assert svg.locator("rect.bar").count() == sum(count > 0 for count in details["histogram"]["counts"])
    marks = {kind: float(svg.locator(f"line.{kind}").get_attribute("x1") or "") for kind in ("score", "threshold", "review")}
    values = {
        "score": answer["anomaly_score"],
        "threshold": answer["threshold"],
        "review": answer["review_threshold"],
    }
    assert sorted(marks, key=marks.__getitem__) == sorted(values, key=values.__getitem__)
    assert all(0 < x < 420 for x in marks.values())
    edges, bars = details["histogram"]["edges"], svg.locator("rect.bar")
    low, high = (float(bar.get_attribute("x") or "") for bar in (bars.first, bars.last))
    assert (marks["score"] > high) == (answer["anomaly_score"] > edges[-2])
    assert (marks["score"] < low) == (answer["anomaly_score"] < edges[0])
    assert f"{answer['threshold']:.4g}" in (svg.get_attribute("aria-label") or "")
    texts = svg.locator("text:not(.tick)").evaluate_all(
        "(all) => all.map((t) => { const b = t.getBBox(); return [b.x, b.x + b.width]; })"
    )
    assert all(left >= 0 and right <= 420 for left, right in texts)


def test_the_token_is_asked_for_until_it_is_right_and_then_no_more(
    online_models: str, visit: Open, dent: bytes, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with local_scorer(online_models) as scorer, served(online_models, scorer, Options(token_file=str(tokens))) as endpoint:
        opened = visit(endpoint.address, refusals={401})
        page, dialog = opened.page, opened.page.locator("#token-dialog")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#decision")).to_have_text("A token is needed")
        page.get_by_role("button", name="Try again").click()
        for wrong in ("wrong-token-0123456789", "no header carries this: \N{SNOWMAN}"):
            page.get_by_label("Token").fill(wrong)
            page.keyboard.press("Enter")
            expect(page.locator("#token-why")).to_contain_text("not accepted")
            expect(page.get_by_label("Token")).to_have_value("")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#category")).to_be_enabled()
        opened.drop(dent)
        opened.decided()
        page.reload()
        expect(page.locator("#category")).to_be_enabled()
        expect(dialog).to_be_hidden()
        tokens.write_text("another-token-0123456789\n")  # rotated while the page is open
        opened.drop(dent)
        expect(page.locator("#token-why")).to_contain_text("not accepted")
        page.get_by_label("Token").fill("another-token-0123456789")
        page.get_by_role("button", name="Continue").click()
        assert opened.decided() == "Anomalous"


def test_files_that_cannot_be_scored_say_why(endpoint: Served, visit: Open, dent: bytes) -> None:
    opened = visit(f"{endpoint.address}/#plate", refusals={422})
    reason = opened.page.locator("#reason")
    opened.drop(dent[: len(dent) // 2], "half.png")
    assert opened.decided("refused") == "This image cannot be scored"
    expect(reason).to_contain_text("damaged or incomplete")
    opened.drop(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "photo.heic", "image/heic")
    expect(reason).to_contain_text("format HEIF")
    opened.page.dispatch_event("body", "drop", {"dataTransfer": opened.page.evaluate_handle("new DataTransfer()")})
    expect(reason).to_contain_text("no file")
    assert opened.page.locator("#tries li").count() == 2
    expect(opened.page.locator("#again")).to_be_hidden()  # it would not help


def test_a_picture_that_the_browser_cannot_show_comes_from_the_endpoint(
    endpoint: Served, visit: Open, dent: bytes, tmp_path: Path
) -> None:
    with Image.open(io.BytesIO(dent)) as image:
        image.save(tmp_path / "part.tiff")
    opened = visit(f"{endpoint.address}/#plate")
    opened.drop((tmp_path / "part.tiff").read_bytes(), "part.tiff", "image/tiff")
    assert opened.decided() == "Anomalous"
    image = opened.page.locator("#image")
    assert (image.get_attribute("src") or "").startswith("data:image/png;base64,")
    assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 64
    box = image.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(72 / 80, rel=0.02)
    expect(opened.page.locator("#map")).to_be_hidden()


def test_all_of_it_works_by_keyboard(endpoint: Served, visit: Open, factory: Path) -> None:
    page = visit(endpoint.address).page
    page.on("filechooser", lambda chooser: None)  # from now on, lest the key be faster than Playwright's asking for it
    expect(page.locator("#category")).to_be_enabled()
    expect(page.locator("#category")).to_have_value("lid")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#category")).to_have_value("plate")
    assert page.url.endswith("#plate")
    page.keyboard.press("Tab")
    ring = page.locator(".button.main").first.evaluate("(label) => getComputedStyle(label).outlineStyle")
    assert ring == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(next((factory / "plate" / "test" / "dent").iterdir()))
    expect(page.locator("#decision")).to_have_text("Anomalous")
    focused = "document.activeElement.id || document.activeElement.className"
    page.keyboard.press("Tab")
    if page.evaluate(focused) == "camera":
        page.keyboard.press("Tab")
    assert page.evaluate(focused) == "opacity"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#map").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.99"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "try"
    page.keyboard.press("Enter")
    expect(page.locator(".try")).to_have_attribute("aria-current", "true")


def test_the_last_ten_tries_can_be_seen_again(endpoint: Served, visit: Open, factory: Path, good: bytes) -> None:
    opened = visit(f"{endpoint.address}/#plate")
    page = opened.page
    dents = sorted((factory / "plate" / "test" / "dent").iterdir())
    paste = """([data, name]) => {
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type: "image/png" }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
    }"""
    for i in range(12):
        name = HOSTILE if i == 3 else f"{i}.png"
        page.evaluate(paste, [base64.b64encode(good if i == 2 else dents[i % 4].read_bytes()).decode(), name])
        expect(page.locator("#tries .fine").first).to_have_text(name)
    names = page.locator("#tries .fine").all_inner_texts()
    assert names == [HOSTILE if i == 3 else f"{i}.png" for i in range(11, 1, -1)]
    opened.decided("anomalous")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator(".try").last.click()
    answer = answer_of(endpoint, good)
    assert opened.decided(answer["status"]) == DECISIONS[answer["status"]]
    expect(page.locator("dd", has_text="2.png")).to_be_visible()
    assert page.locator("#image").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 72
    assert [url for url in requests if not url.startswith("blob:")] == []
    page.locator(".try").nth(-2).click()
    expect(page.locator("dd", has_text=HOSTILE)).to_be_visible()
    page.locator("#category").select_option("lid")
    page.get_by_role("button", name="Score it as lid").click()
    expect(page.locator("#tries span").first).to_contain_text("lid")


class HeldScorer(LocalScorer):
    """A scorer that waits until it is let go."""

    go_on: threading.Event

    async def score(self, query: Query) -> Answer:
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        return await super().score(query)


def test_where_it_is_busy_or_gone_another_try_is_offered(online_models: str, visit: Open, dent: bytes) -> None:
    with local_scorer(online_models) as local, ThreadPoolExecutor(1) as pool:
        scorer = HeldScorer(local.models, Limits(), 2)
        scorer.go_on = threading.Event()
        with served(online_models, scorer, Options(in_flight=1)) as endpoint:
            opened = visit(f"{endpoint.address}/#plate", refusals={429})
            expect(opened.page.locator("#category")).to_be_enabled()
            other = pool.submit(answer_of, endpoint, dent)
            wait_for(lambda: "differnet_serve_in_flight 1.0" in endpoint.client.get("/metrics").text)
            opened.drop(dent)
            assert opened.decided("refused") == "Too busy just now"
            scorer.go_on.set()
            assert other.result()["status"] == "anomalous"
            opened.page.get_by_role("button", name="Try again").click()
            assert opened.decided() == "Anomalous"
            expect(opened.page.locator("#again")).to_be_hidden()
        opened.drop(dent)
        assert opened.decided("refused") == "It did not work"
        expect(opened.page.locator("#reason")).to_contain_text("no connection")
        expect(opened.page.locator("#again")).to_be_visible()
        opened.said[:] = [text for text in opened.said if "ERR_CONNECTION_REFUSED" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_by_day_and_night(
    scheme: str, endpoint: Served, visit: Open, dent: bytes, good: bytes
) -> None:
    opened = visit(f"{endpoint.address}/#plate", refusals={422}, color_scheme=scheme, **PHONE)
    page = opened.page
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 27)") == (scheme == "dark")
    expect(page.get_by_text("Take a photo", exact=True)).to_be_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    for image, decisions in ((good, ("ok", "review", "anomalous")), (dent, ("anomalous",)), (b"nothing", ("refused",))):
        opened.drop(image, "a-long-name-without-any-space-" * 5 + ".png")
        opened.decided(*decisions)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        low = [(text, round(ratio, 2)) for text, ratio in page.evaluate(CONTRASTS) if ratio < 4.5]
        assert low == []
