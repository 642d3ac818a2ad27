"""Pages that need nothing else: one HTML file each, to be read, printed, sent and kept.

A page loads nothing: pictures are `data:` URIs, and a content security policy names its style and its script by their digests,
so that no text that came from a file name can ever run. Every value is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from differnet_ray.storage.files import write_bytes
from differnet_ray.tables import SCORED_STATUSES

LISTED = 2_000  # rows of a table on the page: a browser still sorts and filters them at once
UNKNOWN = "\N{EN DASH}"
# Characters that are not seen, or reorder what is: a name must not look like another.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def write_page(target: str, template: str, *, more_style: str | None = None, **values: Any) -> None:
    """Renders a template of this folder, with the style and the script that all pages have, and writes the page.

    Args:
        target: canonical URI of the page.
        template: name of its file.
        more_style: name of a file with style of its own.
        values: what the template names.
    """
    folder = Path(__file__).parent
    style, script = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    if more_style is not None:
        style += (folder / more_style).read_text(encoding="utf-8")
    page = (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - as the script, files of this package
            script=Markup(script),  # noqa: S704
            style_digest=_csp_digest(style),
            script_digest=_csp_digest(script),
            **values,
        )
    )
    write_bytes(target, page.encode("utf-8", "backslashreplace"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("differnet_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "when": when}
    environment.globals |= {"scored_statuses": SCORED_STATUSES}
    return environment


def visible(value: Any) -> Any:
    r"""A value of the page; of a text, with escapes for characters that are not seen or reorder what is.

    >>> print(visible("photo\u202egnp.exe"))
    photo\u202egnp.exe
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), value)


def number(value: float | None) -> str:
    """A measurement with four digits, or a dash.

    >>> number(1234567.0), number(0.123456), number(7), number(None)
    ('1,234,567', '0.1235', '7', '–')
    """
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def percent(part: float | None, whole: float = 1) -> str:
    """A share in percent with two digits or more, or a dash where there is no whole.

    >>> percent(1, 3), percent(12345, 12346), percent(0, 5), percent(3, 0)
    ('33.3 %', '99.99 %', '0 %', '–')
    """
    if part is None or not whole:
        return UNKNOWN
    share = 100 * part / whole
    digits = f"{share:.3g}"
    return f"{share:.2f} %" if digits == "100" and part != whole else f"{digits} %"


def when(moment: str) -> str:
    """A moment of ISO 8601, in UTC, to the second."""
    return f"{moment_of(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def moment_of(text: str) -> datetime:
    """The moment of a text of ISO 8601."""
    return datetime.fromisoformat(text)


def duration(seconds: float) -> str:
    """So many seconds, in the units that people take.

    >>> duration(59.6), duration(7265)
    ('1 min 0 s', '2 h 1 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _csp_digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
