"""`differnet-ray doctor`: is this machine ready? One check a line, each with its mend."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from differnet_ray.config import ALEXNET
from differnet_ray.errors import EXIT_FAILED, DifferNetError

FREE_BYTES = 5 * 2**30  # a paper-size model takes 0.7 GB, Ray's object store spills to disk


@dataclass(frozen=True)
class Check:
    """What a check found, and how to mend it where something is to be mended."""

    name: str
    healthy: bool
    found: str
    mend: str = ""


@click.command()
@click.argument("locations", nargs=-1)
@click.option("--backbone", metavar="alexnet|timm:NAME", default=ALEXNET, show_default=True, help="As for fit.")
@click.option("--backbone-weights", metavar="PATH", help="As for fit.")
@click.pass_context
def doctor(ctx: click.Context, locations: tuple[str, ...], backbone: str, backbone_weights: str | None) -> None:
    """Check Python, Ray, GPUs, weights, disk and LOCATIONS; one line each, with the mend."""
    healthy = True
    for check in check_all(locations, backbone, backbone_weights):
        healthy &= check.healthy
        click.echo(
            f"{'ok  ' if check.healthy else 'FAIL'}  {check.name}: {check.found}" + (f" -> {check.mend}" if check.mend else "")
        )
    if not healthy:
        ctx.exit(EXIT_FAILED)


def check_all(locations: Sequence[str], backbone: str, backbone_weights: str | None) -> Iterator[Check]:
    """Runs all checks, cheapest first."""
    from differnet_ray.versions import library_versions

    versions = library_versions()
    yield Check("python", True, platform.python_version())
    yield Check("libraries", True, ", ".join(f"{name} {version}" for name, version in versions.items() if name != "python"))
    yield _gpus()
    yield _ray()
    yield _weights(backbone, backbone_weights)
    yield _disk("temporary files", tempfile.gettempdir())
    for location in locations:
        yield _location(location)


def _gpus() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("gpu", True, "none: fits and scores run on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("gpu", True, ", ".join(names))


def _ray() -> Check:
    from differnet_ray.distributed.resources import cluster, cluster_size

    try:
        with cluster():
            cpus, gpus = cluster_size()
    except Exception as error:  # Ray starts processes: whatever goes wrong here is the finding
        return Check("ray", False, f"no cluster: {error}", "see RAY_ADDRESS, or free memory and ports for a local one")
    address = os.environ.get("RAY_ADDRESS") or "a local cluster"
    return Check("ray", True, f"{address} with {cpus} CPUs and {gpus:g} GPUs")


def _weights(network: str, source: str | None) -> Check:
    from differnet_ray.config import ExtractorConfig
    from differnet_ray.model.extractor import WEIGHTS_VARIABLE, Extractor, load_backbone_weights, with_network

    try:
        config = with_network(ExtractorConfig(), network)
        weights, name = load_backbone_weights(source, config)
        Extractor(config, weights)
    except DifferNetError as error:
        return Check("backbone weights", False, str(error), f"--backbone-weights PATH or {WEIGHTS_VARIABLE}=PATH")
    return Check("backbone weights", True, name)


def _disk(name: str, folder: str) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        name,
        free >= FREE_BYTES,
        f"{folder} has {free / 2**30:.1f} GiB free",
        "" if free >= FREE_BYTES else "free 5 GiB, or set TMPDIR",
    )


def _location(location: str) -> Check:
    from differnet_ray.storage.files import check_writable, list_files
    from differnet_ray.storage.locations import FILE, canonical

    try:
        uri = canonical(location)
        readable = any(True for _ in list_files(uri))
        check_writable(uri)
    except FileNotFoundError:
        return Check(location, False, "does not exist", "create it, or correct the name")
    except DifferNetError as error:
        return Check(location, False, str(error), "check the name, the permissions and the credentials")
    free = f", {shutil.disk_usage(uri.removeprefix(FILE)).free / 2**30:.1f} GiB free" if uri.startswith(FILE) else ""
    return Check(location, True, f"readable ({'has files' if readable else 'empty'}) and writable{free}")
