"""DOOR: the command `differnet-ray`, a file for each verb.

Heavy modules are imported inside the verbs, so that `--help` is instant.
"""

from __future__ import annotations

import os
from typing import Any

import click

from differnet_ray import __version__
from differnet_ray.cli import (
    audit,
    calibrate,
    doctor,
    evaluate,
    fit,
    json_log,
    models,
    redecide,
    report,
    reproduce,
    schemas,
    score,
    serve,
    submit,
    tidy,
    verify,
)
from differnet_ray.cli.demo import demo
from differnet_ray.errors import EXIT_INTERRUPTED, DifferNetError


class Door(click.Group):
    """Prints our errors without a traceback and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb."""
        if ctx.params["log_format"] is not None:
            os.environ[json_log.VARIABLE] = ctx.params["log_format"]  # for what the verb starts as well
        try:
            with json_log.json_log():
                return self._invoke(ctx)
        except DifferNetError as error:  # of the variable
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DifferNetError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted: the same command goes on where it was.", err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As of click; the log says which verb it is."""
        found = super().resolve_command(ctx, args)
        json_log.bind(verb=found[0])
        return found


@click.group(cls=Door, context_settings={"max_content_width": 110})
@click.version_option(__version__)
@click.option(
    "--log-format",
    type=click.Choice(json_log.FORMATS),
    help=f"Of stderr; default: what {json_log.VARIABLE} says, or text. json: an object a line, with verb, job, run, category.",
)
def main(log_format: str | None) -> None:
    """Finds parts that look wrong, where, and how sure, from pictures of good parts alone."""


main.add_command(fit.fit)
main.add_command(score.score)
main.add_command(audit.audit)
main.add_command(serve.serve)
main.add_command(evaluate.evaluate)
main.add_command(reproduce.reproduce)
main.add_command(models.models)
main.add_command(schemas.schemas)
main.add_command(doctor.doctor)
main.add_command(demo.demo)
main.add_command(calibrate.calibrate)
main.add_command(redecide.redecide)
main.add_command(verify.verify)
main.add_command(report.report)
main.add_command(tidy.tidy)
main.add_command(submit.submit)
