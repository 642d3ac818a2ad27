"""A page of a report in a real browser: what it says, what it asks for, and how its texts contrast."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no browser `chromium` on the PATH")
SECOND = 1000  # in the milliseconds of Playwright


@dataclass
class Opened:
    """A page, and all that the browser had to say of it."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def in_silence(browser: Browser, uri: str, options: Mapping[str, Any]) -> Iterator[Opened]:
    """Opens a page with options of a browser context; at the end nothing must have been said or asked for."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
    context.set_default_timeout(30 * SECOND)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.said.append(dialog.message), dialog.dismiss()))
    found.page.on("request", lambda asked: found.asked.append(asked.url) if not asked.url.startswith("data:") else None)
    found.page.goto(uri)
    yield found
    assert found.said == []
    assert found.asked == [uri]
    assert found.page.evaluate("window.ran") is None
    context.close()


def assert_legible(page: Page, kinds: str, *, more_than: int, dark: bool) -> None:
    """Asserts that texts contrast with what is behind them (WCAG 2, level AA), and that the page is dark, or is not.

    Args:
        page: the page.
        kinds: selectors of the elements with text.
        more_than: so many of them are to be seen, at least one more.
        dark: its background is.
    """
    found = page.evaluate(
        """(kinds) => {
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
          return [...document.querySelectorAll(kinds)].filter((node) => node.textContent.trim() && node.checkVisibility())
            .map((node) => {
              const style = getComputedStyle(node);
              const [a, b] = [light(node.tagName === "text" ? style.fill : style.color), light(behind(node))];
              return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 80)];
            });
        }""",
        kinds,
    )
    assert len(found) > more_than
    assert [(ratio, where) for ratio, where in found if ratio < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) < 64) == dark
