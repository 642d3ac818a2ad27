"""`differnet-ray serve`: the online endpoint."""

from __future__ import annotations

import ipaddress
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from differnet_ray.cli.options import CONFIG, MODELS, Command, actors_between, versions_of
from differnet_ray.online.options import GIB, MIB, TOKENS_VARIABLE, Limits

if TYPE_CHECKING:
    from differnet_ray.distributed.serve import ServeJob

LIMITS = Limits()
POSITIVE = click.FloatRange(min=0, min_open=True)


def _shown(name: str, kind: click.ParamType[Any], default: float, what: str) -> Callable[[Command], Command]:
    return click.option(name, type=kind, default=default, show_default=True, help=what)


@click.command()
@CONFIG
@MODELS
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--replicas", callback=actors_between, metavar="MIN:MAX", help="Scorers; default: what suits the cluster.")
@click.option("--gpus-per-replica", type=click.FloatRange(min=0), help="Default: a whole GPU where there are any.")
@click.option("--threads", type=click.IntRange(min=1), help="Images that a replica works on at a time; default: by its cores.")
@click.option("--token-file", metavar="PATH", help=f"Bearer tokens, one a line; default: of {TOKENS_VARIABLE}, or none.")
@click.option("--model", "versions", multiple=True, callback=versions_of, metavar="NAME=VERSION", help="Not the latest.")
@_shown("--model-memory", POSITIVE, 3, "GiB of models that a replica keeps loaded.")
@_shown("--look-seconds", POSITIVE, 5, "Between looks at the versions in use.")
@_shown("--queue", click.IntRange(min=0), LIMITS.queue, "Images that wait at a replica; more get 429.")
@_shown("--max-image-mb", POSITIVE, LIMITS.image_bytes / MIB, "MiB of an image file.")
@_shown("--max-pixels", click.IntRange(min=1), LIMITS.pixels, "Of an image, width x height.")
@_shown("--decode-seconds", POSITIVE, LIMITS.decode_seconds, "For an image.")
@_shown("--request-seconds", POSITIVE, LIMITS.seconds, "From the last byte of an image to its answer.")
@_shown("--body-seconds", POSITIVE, LIMITS.body_seconds, "For a request to come in.")
@_shown("--idle-seconds", POSITIVE, LIMITS.idle_seconds, "That a sender may pause.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Whose pages may ask (repeatable); default: this one's alone.")
@click.option("--print-config", is_flag=True, help="Print the configuration for `serve deploy`; start nothing.")
def serve(host: str, port: int, token_file: str | None, print_config: bool, **options: Any) -> None:
    """Answer for single images over HTTP, with the scores that the batch job gives them."""
    from differnet_ray.online.tokens import Tokens

    if print_config:
        from differnet_ray.distributed.serve import deployment_config

        click.echo(deployment_config(serve_job(token_file=token_file, **options), host, port), nl=False)
        return
    if not Tokens(token_file).required and not is_loopback(host):  # what is wrong with tokens is said before any work
        click.echo(f"WARNING: whoever reaches {host} may ask: give --token-file", err=True)
    from differnet_ray.distributed.resources import cluster, cluster_size
    from differnet_ray.distributed.serve import serving

    stdout = sys.stdout  # in the block it is for what Ray prints
    with cluster(), suppress(KeyboardInterrupt):
        job = serve_job(token_file=token_file, size=cluster_size(), **options)
        with serving(job, host, port) as address:
            click.echo(f"{address}/ is the page, {address}/docs says what can be asked; Ctrl-C ends it", file=stdout)
            threading.Event().wait()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve_job(
    *,
    models: str,
    replicas: tuple[int, int] | None,
    gpus_per_replica: float | None,
    threads: int | None,
    token_file: str | None,
    versions: Mapping[str, str],
    model_memory: float,
    look_seconds: float,
    queue: int,
    max_image_mb: float,
    max_pixels: int,
    decode_seconds: float,
    request_seconds: float,
    body_seconds: float,
    idle_seconds: float,
    cors: tuple[str, ...],
    size: tuple[int, float] | None = None,
) -> ServeJob:
    """What the options say, for a cluster of so many CPUs and GPUs; None: of four CPUs for each replica."""
    from differnet_ray.distributed.serve import ServeJob, plan_serve
    from differnet_ray.storage.locations import canonical

    cores, gpus = size or (4 * (replicas or (1, 1))[1], 0)
    return ServeJob(
        models=canonical(models),
        pinned=dict(versions),
        plan=plan_serve(cores, gpus, replicas, gpus_per_replica, threads),
        limits=Limits(
            image_bytes=int(max_image_mb * MIB),
            pixels=max_pixels,
            decode_seconds=decode_seconds,
            seconds=request_seconds,
            body_seconds=body_seconds,
            idle_seconds=idle_seconds,
            queue=queue,
        ),
        token_file=None if token_file is None else os.path.abspath(token_file),
        cors=cors,
        memory=int(model_memory * GIB),
        look_seconds=look_seconds,
    )
