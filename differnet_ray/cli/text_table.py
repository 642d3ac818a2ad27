"""Tables on stdout, as text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table, as wide as it needs to be."""
    made = Table(*headers, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # Text: a name in brackets is not markup
    sink = io.StringIO()
    Console(file=sink, width=10_000).print(made)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())
