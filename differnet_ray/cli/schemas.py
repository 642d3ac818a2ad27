"""`differnet-ray schemas`: the published contracts of the tables."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--write", "folder", metavar="DIR", help="Write one JSON file per table.")
def schemas(folder: str | None) -> None:
    """Print or write the published contracts of the tables."""
    from differnet_ray.storage.files import write_bytes
    from differnet_ray.storage.locations import canonical, join
    from differnet_ray.tables import TABLES

    for table in TABLES:
        text = json.dumps(table.contract(), indent=2) + "\n"
        if folder is None:
            click.echo(text, nl=False)
        else:
            write_bytes(join(canonical(folder), f"{table.name}.json"), text.encode())
