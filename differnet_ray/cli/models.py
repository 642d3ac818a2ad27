"""`differnet-ray models`: what is in the model store, and which version is in use."""

from __future__ import annotations

import json
from typing import Any

import click

from differnet_ray.cli.options import AS_JSON, MODELS
from differnet_ray.errors import ModelStoreError


@click.group()
def models() -> None:
    """Look at the model store, and choose which version is in use."""


@models.command("list")
@MODELS
@AS_JSON
def models_list(models: str, as_json: bool) -> None:
    """List categories, their versions, and which is in use."""
    from differnet_ray.cli.text_table import table
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.model_store import ModelStore

    store = ModelStore(canonical(models))
    found: list[dict[str, Any]] = [
        {"category": category, "version": version, "in_use": version == store.latest(category)}
        for category in store.categories()
        for version in store.versions(category)
    ]
    rows = [[row["category"], row["version"], "in use" if row["in_use"] else ""] for row in found]
    click.echo(json.dumps(found, indent=2) if as_json else table(["category", "version", ""], rows))


@models.command("show")
@MODELS
@click.argument("category")
@click.argument("version", required=False)
@AS_JSON
def models_show(models: str, category: str, version: str | None, as_json: bool) -> None:
    """Show a model's card: data, recipe, threshold and how sure."""
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.card import card
    from differnet_ray.store.model_store import ModelStore

    record = ModelStore(canonical(models)).record(category, version)
    click.echo(json.dumps(record, indent=2) if as_json else card(record))


@models.command("promote")
@MODELS
@click.argument("category")
@click.argument("version")
def models_promote(models: str, category: str, version: str) -> None:
    """Make a version the one in use, once it has loaded with all digests and as a network."""
    from differnet_ray.pipeline.loaded_models import ModelCache
    from differnet_ray.storage.locations import canonical
    from differnet_ray.store.model_store import ModelStore

    store = ModelStore(canonical(models))
    ModelCache(store.uri, "cpu").get(category, version)
    try:
        before = store.latest(category)
    except ModelStoreError:
        before = "none"
    store.promote(category, version)
    click.echo(f"{category}: {version} is in use; before: {before}")
