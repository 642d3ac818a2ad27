"""`differnet-ray demo`: the main job, from an archive of images to a query, on images that it makes itself."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--dir", "folder", default="demo", show_default=True, help="Where the demo works; kept afterwards.")
@click.option("--fast", is_flag=True, help="Fewer images to score, and fewer transforms.")
@click.option("--backbone-weights", metavar="PATH", help="As for fit; default: what there is, else random.")
def demo(folder: str, fast: bool, backbone_weights: str | None) -> None:
    """Run the main job on images that it makes itself: archive, fit, score, evaluate, a query."""
    from differnet_ray.cli.demo.steps import run_demo

    run_demo(Path(folder), fast=fast, backbone_weights=backbone_weights)
