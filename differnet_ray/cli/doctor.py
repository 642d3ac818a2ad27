"""`differnet-ray doctor`: is this machine ready? One check a line, each with its mend."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata

import click

from differnet_ray.checks import Check, check_machine
from differnet_ray.cli.options import AS_JSON
from differnet_ray.config import ALEXNET
from differnet_ray.errors import EXIT_FAILED, DifferNetError

DISTRIBUTION = "differnet-ray"


@click.command()
@click.argument("locations", nargs=-1)
@click.option("--input", "inputs", multiple=True, metavar="URI", help="Of images, which are only read (repeatable).")
@click.option("--models", metavar="URI", help="Model store.")
@click.option("--output", metavar="URI", help="Results.")
@click.option("--backbone", metavar="alexnet|timm:NAME", default=ALEXNET, show_default=True, help="As for fit.")
@click.option("--backbone-weights", metavar="PATH", help="As for fit.")
@AS_JSON
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    locations: tuple[str, ...],
    inputs: tuple[str, ...],
    models: str | None,
    output: str | None,
    backbone: str,
    backbone_weights: str | None,
    as_json: bool,
) -> None:
    """Check versions, machine, GPUs, Ray, weights and LOCATIONS, which jobs read and write; one line each, with the mend.

    FAIL is where a job would fail; a note is what had better be mended.
    """
    checks = []
    written = [*locations, *filter(None, (models, output))]
    for check in check_all(inputs, written, backbone, backbone_weights):
        checks.append(check)
        if not as_json:
            click.echo(str(check))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    if any(check.state == "FAIL" for check in checks):
        ctx.exit(EXIT_FAILED)


def check_all(inputs: Sequence[str], written: Sequence[str], backbone: str, backbone_weights: str | None) -> Iterator[Check]:
    """Runs all checks, the cheapest first.

    Args:
        inputs: locations that are read.
        written: locations that are read and written.
        backbone: as of `fit`.
        backbone_weights: as of `fit`.
    """
    from differnet_ray.storage.probe import check_location

    yield _versions()
    yield from check_machine(tempfile.gettempdir())
    yield _gpus()
    for location in inputs:
        yield from check_location(location, writes=False)
    for location in written:
        yield from check_location(location)
    yield _weights(backbone, backbone_weights)

    from differnet_ray.distributed.check_cluster import check_cluster

    yield from check_cluster()


def _versions() -> Check:
    from packaging.requirements import Requirement

    from differnet_ray.versions import library_versions

    found = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    try:
        wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:  # code that came along with a job
        return Check("versions", "note", f"{found}; this package is not installed, so that what it needs is not known")
    wrong = []
    for needs in wanted:
        if needs.marker is not None and not needs.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needs.name)
        except metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not needs.specifier.contains(version, prereleases=True):
            wrong.append(f"{needs.name}{needs.specifier} (here: {version})")
    if wrong:
        mend = "pip install --require-hashes -r requirements.lock"
        return Check("versions", "FAIL", f"{found}; needed are {', '.join(wrong)}", mend)
    return Check("versions", "ok", found)


def _gpus() -> Check:
    import torch

    from differnet_ray.checks import gpu_driver

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        return Check("gpu", "ok", f"{', '.join(names)}, by CUDA {torch.version.cuda}")
    if gpu_driver().found != "none":
        mend = "install torch for the CUDA of the driver, and see CUDA_VISIBLE_DEVICES"
        return Check("gpu", "FAIL", f"there is one that torch {torch.__version__} does not see", mend)
    return Check("gpu", "ok", "none: fits and scores run on the CPU")


def _weights(network: str, source: str | None) -> Check:
    from differnet_ray.config import ExtractorConfig
    from differnet_ray.model.extractor import WEIGHTS_VARIABLE, Extractor, load_backbone_weights, with_network

    try:
        config = with_network(ExtractorConfig(), network)
        weights, name = load_backbone_weights(source, config)
        Extractor(config, weights)
    except DifferNetError as error:
        return Check("backbone weights", "FAIL", str(error), f"--backbone-weights PATH or {WEIGHTS_VARIABLE}=PATH")
    return Check("backbone weights", "ok", name)
