"""The options that verbs share, and what their values may be. Nothing heavy is imported: `--help` is instant."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from differnet_ray.config import AUTO, POSES, PRESETS, GreyRange
from differnet_ray.errors import ConfigError
from differnet_ray.limits import AlarmLimits

Command = Callable[..., Any]
WEBHOOK_VARIABLE = "DIFFERNET_WEBHOOK"
WEIGHTS_HELP = "Of the backbone (.safetensors, .pth), or the word random; default: what torchvision or timm keep of theirs."
GROUP_BY_HELP = (
    "Images that belong together, such as pictures of one part: held out, cross-fitted and drawn as a whole. auto: similar "
    "images (default of fit); none: each image alone (of reproduce); an attribute; or a regular expression with a group, "
    "such as 'part-([0-9]+)'."
)


def read_config(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Takes the defaults of a verb from a TOML file."""
    if path is None:
        return
    values = _toml(path, f"configuration file {path}")
    names = {option.opts[0].removeprefix("--").replace("-", "_"): str(option.name) for option in ctx.command.params}
    for key in values:
        if key not in names or key == "config":
            known = ", ".join(sorted(set(names) - {"config"}))
            raise ConfigError(f"configuration file {path}: unknown option {key!r}; {ctx.command.name} has: {known}")
    ctx.default_map = {names[key]: value for key, value in values.items()}


def _toml(path: str, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{what}: {error}") from error


def day(ctx: click.Context, option: click.Parameter, value: str | None) -> date:
    """A date, or today."""
    return day_or_none(ctx, option, value) or datetime.now(UTC).date()


def day_or_none(_: click.Context, option: click.Parameter, value: str | None) -> date | None:
    """A date, if one is given."""
    try:
        return date.fromisoformat(value) if value is not None else None
    except ValueError as error:
        raise ConfigError(f"{option.opts[0]} {value!r}: expected YYYY-MM-DD") from error


def actors_between(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """MIN:MAX, or one number for both."""
    if value is None:
        return None
    least, most = value.partition(":")[::2]
    try:
        numbers = int(least), int(most or least)
    except ValueError:
        numbers = 0, 0
    if not 1 <= numbers[0] <= numbers[1]:
        raise ConfigError(f"{option.opts[0]} {value}: expected MIN:MAX, such as 1:8, or one number")
    return numbers


def grey_range_of(_: click.Context, __: click.Parameter, value: str | None) -> GreyRange | None:
    """LOW:HIGH."""
    if value is None:
        return None
    low, _colon, high = value.partition(":")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise ConfigError(f"--grey-range {value}: expected LOW:HIGH, such as 0:4095") from error


def layers_of(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Numbers of feature maps; none if not given."""
    try:
        return tuple(int(number) for number in value.split(",")) if value else ()
    except ValueError as error:
        raise ConfigError(f"--layers {value}: expected numbers of feature maps, such as 3,4") from error


def versions_of(_: click.Context, __: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """Category to version."""
    pairs = [value.partition("=")[::2] for value in values]
    if not all(name and version for name, version in pairs):
        raise ConfigError(f"--model {' '.join(values)}: expected NAME=VERSION")
    return dict(pairs)


def limits_of(path: str | None, false_alarms_per_year: float | None) -> AlarmLimits:
    """When to alarm: what a TOML file says, and the command line, which wins.

    Raises:
        ConfigError: the file cannot be read, or says something that is not allowed.
    """
    values = {} if path is None else _toml(path, f"--limits {path}")
    if false_alarms_per_year is not None:
        values["false_alarms_per_year"] = false_alarms_per_year
    return AlarmLimits.from_dict(values)


CONFIG = click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML file with defaults.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
MODELS = click.option("--models", required=True, help="Model store: a folder or s3:// URI.")
OUTPUT = click.option("--output", required=True, help="Results: a folder or s3:// URI.")
RUN_ID = click.option("--run-id", required=True, help="Of a published run: a name in OUTPUT/runs.")
CATEGORIES = click.option("--category", "categories", multiple=True, metavar="NAME", help="Only this category (repeatable).")
GOOD_NAMES = click.option(
    "--good", multiple=True, metavar="NAME", help="Of good images, beside good, ok and normal in any case (repeatable)."
)
DATA = click.option("--data", required=True, help="Images in the layout <category>/<train|test>/<defect>/<name>.")


def preset_option(default: str) -> Callable[[Command], Command]:
    """Which preset a recipe begins with."""
    return click.option("--preset", "preset_name", type=click.Choice(list(PRESETS)), default=default, show_default=True)


def recipe_options(verb: Command) -> Command:
    """The options that a recipe is made from, beside its preset."""
    for option in reversed(
        [
            click.option("--backbone", metavar="alexnet|timm:NAME", help="Network that features are from; default: alexnet."),
            click.option("--layers", callback=layers_of, metavar="N,N", help="Its feature maps, of timm:NAME; -1: the last."),
            click.option("--backbone-weights", metavar="PATH", help=WEIGHTS_HELP),
            click.option("--epochs", type=int, help="Instead of the preset's."),
            click.option("--learning-rate", type=float, help="Of Adam."),
            click.option("--transforms", "n_transforms", type=int, help="T: transforms that a score is the mean of."),
            click.option("--pose", type=click.Choice([*POSES, AUTO]), help="How parts lie; auto: found out from good images."),
            click.option("--brightness", type=float, help="Half-width of the brightness factors, such as 0.15."),
            click.option("--contrast", type=float, help="Half-width of the contrast factors, such as 0.15."),
            click.option("--image-size", type=int, help="H: pixels a side after resizing."),
            click.option(
                "--grey-range",
                callback=grey_range_of,
                metavar="LOW:HIGH",
                help="Grey values of more than 8 bits that are black and white, such as 0:4095.",
            ),
            click.option("--scales", "n_scales", type=int, help="S: scales that features are taken at."),
            click.option("--blocks", "n_blocks", type=int, help="K: coupling blocks of the flow."),
            click.option("--clamp-alpha", type=float, help="alpha of eq. 2; a smaller one keeps training stable."),
            click.option("--hidden", type=int, help="Width of the flow's networks."),
            click.option("--group-by", metavar="auto|none|ATTRIBUTE|REGEX", help=GROUP_BY_HELP),
            click.option("--fresh-epochs", type=int, help="Epochs with new random transforms; then they repeat."),
        ]
    ):
        verb = option(verb)
    return verb


def webhook_options(verb: Command) -> Command:
    """Who is told of what a verb found."""
    for option in reversed(
        [
            click.option(
                "--webhook",
                "urls",
                multiple=True,
                metavar="URL",
                envvar=WEBHOOK_VARIABLE,
                help=f"Tell this address of alarms (repeatable); better by {WEBHOOK_VARIABLE}, spaces between several.",
            ),
            click.option(
                "--webhook-format",
                "form",
                type=click.Choice(["generic", "slack", "teams"]),
                help="What is sent: the record, or a message; default: what the host takes.",
            ),
            click.option("--webhook-always", "always", is_flag=True, help="Also where nothing alarms and all was scored."),
        ]
    ):
        verb = option(verb)
    return verb
