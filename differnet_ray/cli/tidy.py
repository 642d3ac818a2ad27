"""`differnet-ray tidy`: what lies about beside the results for too long."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from differnet_ray.cli.options import AS_JSON, CONFIG, OUTPUT


@click.command()
@CONFIG
@OUTPUT
@click.option("--keep", "keep_days", type=click.IntRange(min=1), required=True, metavar="DAYS", help="Younger things stay.")
@click.option("--report", metavar="URI", help="Folder of the pages; default: OUTPUT/reports.")
@click.option("--delete", "really", is_flag=True, help="Remove them; default: name them only.")
@AS_JSON
def tidy(output: str, keep_days: int, report: str | None, really: bool, as_json: bool) -> None:
    """Name, and with --delete remove, staged work, cached indexes, pages and files of runs without rows that are old.

    Published rows are never touched. Open multipart uploads are named, and left to the store's own tools.
    """
    from differnet_ray.cli.text_table import table
    from differnet_ray.results.housekeeping import leftovers, remove
    from differnet_ray.storage.locations import canonical

    found = leftovers(canonical(output), keep_days, canonical(report) if report else None)
    removed = [really and remove(leftover) for leftover in found]
    if as_json:
        rows = [asdict(leftover) | {"removed": done} for leftover, done in zip(found, removed, strict=True)]
        click.echo(json.dumps(rows, indent=2))
        return
    for kind in dict.fromkeys(leftover.kind for leftover in found):
        of_kind = [leftover for leftover in found if leftover.kind == kind]
        rows_of_kind = [[leftover.uri, f"{leftover.days:.0f}", f"{leftover.n_bytes:,}"] for leftover in of_kind]
        click.echo(table([kind, "days", "bytes"], rows_of_kind) + "\n")
    n_removed, n_bytes = sum(removed), sum(leftover.n_bytes for leftover in found)
    if really:
        click.echo(f"removed {n_removed} of {len(found)}")
    else:
        click.echo(f"{len(found)} found, {n_bytes:,} bytes; nothing was removed: --delete does it")
