"""`differnet-ray submit`: a verb as a job of a Ray cluster, followed to its end."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import differnet_ray
from differnet_ray.cli import audit, calibrate, doctor, evaluate, fit, redecide, report, reproduce, score, verify
from differnet_ray.cli.json_log import VARIABLE
from differnet_ray.errors import EXIT_INTERRUPTED, ConfigError

if TYPE_CHECKING:
    from differnet_ray.distributed.submit import Jobs, Submission

VERBS: dict[str, click.Command] = {
    str(verb.name): verb
    for verb in (
        fit.fit,
        score.score,
        audit.audit,
        evaluate.evaluate,
        calibrate.calibrate,
        redecide.redecide,
        verify.verify,
        report.report,
        reproduce.reproduce,
        doctor.doctor,
    )
}
SENT = ("config", "limits", "confirmed")  # options that name a file: one that is here goes along
LOCATIONS = ("data", "manifest", "inputs", "models", "output", "report", "target", "scratch", "locations")  # parameters
PACKAGE = Path(differnet_ray.__file__).parent


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--address", metavar="URL", help="Of the dashboard, such as http://head:8265; default: RAY_ADDRESS.")
@click.option("--submission-id", metavar="NAME", help="Of the job; default: from verb, options and files that they name.")
@click.option("--wait/--no-wait", default=True, help="Follow the job to its end; default, or only say what its id is.")
@click.option("--code/--no-code", default=True, help="Run this very code; default, or the package that the cluster has.")
@click.option("--requirements", metavar="FILE", help="Let Ray install these first, such as requirements.lock.")
@click.option("--env", "variables", multiple=True, metavar="NAME", help="Give the job this variable of here (repeatable).")
@click.option("--patience", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds without an answer.")
@click.argument("verb", type=click.Choice(list(VERBS)), metavar="VERB")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[ITS OPTIONS]...")
@click.pass_context
def submit(
    ctx: click.Context,
    address: str | None,
    submission_id: str | None,
    wait: bool,
    code: bool,
    requirements: str | None,
    variables: Sequence[str],
    patience: float,
    verb: str,
    words: tuple[str, ...],
) -> None:
    """Run VERB as a job of a Ray cluster, follow it, and end with its exit code.

    The same command finds a job that is running, and follows it. Ctrl-C and SIGTERM stop the job.
    """
    files, rest = checked(verb, words)
    before: Any = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with prepared(verb, rest, files, name=submission_id, code=code, requirements=requirements, variables=variables) as what:
            from differnet_ray.distributed.submit import Jobs

            jobs = Jobs(address, patience, lambda text: click.echo(text, err=True))
            job_id, is_there = jobs.submit(what)
        if wait:
            ctx.exit(followed(jobs, job_id, "is running already: following it" if is_there else "submitted"))
        click.echo(job_id)
    finally:
        signal.signal(signal.SIGTERM, before)


def checked(verb: str, words: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Reads the words as the verb will.

    Returns:
        Files of here that go along, by their option, and the other words.

    Raises:
        click.UsageError: the verb does not take them.
        ConfigError: nor their values, or a location is of this machine's working directory.
    """
    ctx = VERBS[verb].make_context(f"differnet-ray {verb}", list(words))
    for option in ctx.command.params:
        values = ctx.params.get(str(option.name)) if option.name in LOCATIONS else None
        for value in [values] if isinstance(values, str) else values or ():
            if "://" not in value and not os.path.isabs(os.path.expanduser(value)):
                raise ConfigError(
                    f"{option.opts[0]} {value}: a job has a working directory of its own; give an s3:// URI, or the absolute "
                    "path of a folder that all nodes of the cluster see"
                )
    files, rest = {}, list(words)
    for option in ctx.command.params:
        name = option.opts[0].removeprefix("--")
        if name not in SENT:
            continue
        given, others = taken_out(rest, option.opts[0])
        value = given or ctx.params.get(str(option.name))  # of a configuration file
        if value and Path(value).is_file():
            files[name], rest = Path(value), others
    return files, rest


def taken_out(words: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of an option, and the words without it.

    >>> taken_out(["--config", "a.toml", "--json", "--config=b.toml"], "--config")
    ('b.toml', ['--json'])
    """
    value, rest, left = None, [], iter(words)
    for word in left:
        if word == option:
            value = next(left, None)
        elif word.startswith(f"{option}="):
            value = word.removeprefix(f"{option}=")
        else:
            rest.append(word)
    return value, rest


@contextmanager
def prepared(
    verb: str,
    words: Sequence[str],
    files: Mapping[str, Path],
    *,
    name: str | None,
    code: bool,
    requirements: str | None,
    variables: Sequence[str],
) -> Iterator[Submission]:
    """The job, and its working directory as long as the block runs: the package and the files, nothing else.

    Args:
        verb: what to run.
        words: its options.
        files: by the option that names them.
        name: of the job; None: from verb, words and content of the files.
        code: whether the package goes along.
        requirements: file of packages.
        variables: names of variables that the job gets.

    Raises:
        ConfigError: one of them is not there.
    """
    from differnet_ray.distributed.submit import Submission

    missing = [variable for variable in variables if variable not in os.environ]
    if missing:
        raise ConfigError(f"--env {missing[0]}: there is no such variable here")
    if requirements is not None and not Path(requirements).is_file():
        raise ConfigError(f"--requirements {requirements}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="differnet-submit-") as folder:
        if code:
            shutil.copytree(PACKAGE, Path(folder, PACKAGE.name), ignore=shutil.ignore_patterns("__pycache__"))
        sent, contents = [], {}
        for option, path in files.items():
            shutil.copyfile(path, Path(folder, option + path.suffix))
            sent += [f"--{option}", option + path.suffix]
            contents[option] = hashlib.sha256(path.read_bytes()).hexdigest()
        digest = hashlib.sha256(json.dumps([verb, list(words), contents]).encode()).hexdigest()[:12]
        yield Submission(
            name=name or f"differnet-{verb}-{digest}",
            entrypoint="exec " + shlex.join(["python", "-m", "differnet_ray.cli", verb, *sent, *words]),
            folder=folder if code or files else None,
            environment={variable: os.environ[variable] for variable in [*variables, *sorted({VARIABLE} & set(os.environ))]},
            requirements=requirements,
        )


def followed(jobs: Jobs, job_id: str, how: str) -> int:
    """The exit code of a job, which an interruption stops."""

    def show(text: str) -> None:
        click.echo(text, nl=False)

    try:
        click.echo(f"job {job_id} {how}", err=True)
        return jobs.follow(job_id, show)
    except KeyboardInterrupt:
        click.echo(f"stopping {job_id}; the same command goes on where it was (interrupt again to leave at once)", err=True)
        jobs.stop(job_id)
        jobs.follow(job_id, show)
        return EXIT_INTERRUPTED
