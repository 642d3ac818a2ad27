"""What the tests of the pages of nights read in them."""

from __future__ import annotations

import html
import re
from datetime import date
from pathlib import Path
from typing import Any

from plant_nights import Plant

from differnet_ray.report.night_report import page_of_night
from differnet_ray.report.page import visible
from differnet_ray.results.drift_table import drift_of
from differnet_ray.tables import DRIFT


def page_at(plant: Plant, dt: date) -> Path:
    return Path(page_of_night(plant.reports, dt).removeprefix("file://"))


def written(text: str) -> str:
    """A text as it is in the page."""
    return html.escape(visible(text)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def section(page: str, name: str) -> str:
    (found,) = re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return found


def rows_of(part: str, table: str) -> list[str]:
    """Rows of a table's body."""
    bodies = re.findall(rf'<table id="{table}".*?<tbody>(.*?)</tbody>', part, re.DOTALL)
    return [row for body in bodies for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]


def row_of(page: str, table: str, category: str) -> str:
    (found,) = [row for row in rows_of(page, table) if f"<bdi>{written(category)}</bdi></th>" in row]
    return found


def cell(row: str, label: str) -> str:
    (found,) = re.findall(rf'data-label="{label}"[^>]*>(.*?)</t[dh]>', row, re.DOTALL)
    return re.sub("<.*?>", "", found)


def sentence(page: str) -> str:
    return html.unescape(re.findall(r"<strong>(.*?)</strong>", page)[0])


def verdicts(plant: Plant, dt: date, verdict: str) -> list[dict[str, Any]]:
    rows = drift_of(plant.output, dt, DRIFT.schema.names).to_pylist()
    return [row for row in rows if row["verdict"] == verdict]
