"""Logs for programs: with `--log-format json` or DIFFERNET_LOG=json each line on stderr is a JSON object.

    {"time": "2026-01-31T02:00:00.000+00:00", "level": "warning", "message": "...", "verb": "score", "job": "...", "run": "..."}

`job` is the submission id of the Ray job, `run` what is in work, `category` what a line is about, where it is about one. What
libraries write on stderr becomes a `message` as well; lines that are JSON already, as Ray's are then, stay what they are.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime
from typing import Any, TextIO

from differnet_ray.errors import ConfigError

VARIABLE, TEXT, JSON = "DIFFERNET_LOG", "text", "json"
FORMATS = (TEXT, JSON)
LEVELS = {"WARNING": "warning", "Error": "error", "NOTICE": "warning"}  # by what a line begins with, before a colon
SECRET = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN", "DIFFERNET_WEBHOOK")
SHORTEST_SECRET = 6  # a shorter one would be found in words
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray tells the driver of a job


def wanted() -> bool:
    """Whether logs are JSON.

    Raises:
        ConfigError: the variable has another value than text or json.
    """
    value = os.environ.get(VARIABLE) or TEXT
    if value not in FORMATS:
        raise ConfigError(f"{VARIABLE}={value}: expected one of {', '.join(FORMATS)}")
    return value == JSON


class JsonLog(io.TextIOBase):
    """A stream that makes JSON of each line.

    Args:
        target: where it goes.
        fields: of every line.
    """

    encoding = "utf-8"

    def __init__(self, target: TextIO, fields: Mapping[str, Any]) -> None:
        self._target, self._fields, self._begun = target, dict(fields), ""
        self._secrets = [word for name in SECRET for word in os.environ.get(name, "").split() if len(word) >= SHORTEST_SECRET]

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """A bar is not for programs."""
        return False

    def fileno(self) -> int:
        """That of the target, for what writes past Python."""
        return self._target.fileno()

    def write(self, text: str) -> int:
        """Takes text; lines go on when they are whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.line(line)
        return len(text)

    def flush(self) -> None:
        """Of the target; a line that is not whole waits."""
        self._target.flush()

    def line(self, message: str, **fields: Any) -> None:
        """Writes a line; fields are of it alone."""
        if not message.strip():
            return
        for secret in self._secrets:
            message = message.replace(secret, "***")
        if not message.startswith("{"):
            level = LEVELS.get(message.split(":")[0], "info")
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            message = json.dumps({"time": now, "level": level, "message": message} | self._fields | fields, ensure_ascii=False)
        self._target.write(message + "\n")
        self._target.flush()

    def bind(self, **fields: Any) -> None:
        """Adds fields to every line from now on."""
        self._fields |= fields


@contextmanager
def json_log() -> Iterator[None]:
    """Makes JSON of stderr while the block runs, where that is wanted."""
    if not wanted():
        yield
        return
    job = submission_id()
    log = JsonLog(sys.stderr, {} if job is None else {"job": job})
    with redirect_stderr(log):
        try:
            yield
        finally:
            log.write("\n")  # what was not whole


def submission_id() -> str | None:
    """Of the Ray job that this process is the driver of, if it is one."""
    metadata = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata") or {}
    found = metadata.get("job_submission_id")
    return str(found) if found else None


def bind(**fields: Any) -> None:
    """Says what is in work, such as a run, from now on."""
    if isinstance(sys.stderr, JsonLog):
        sys.stderr.bind(**fields)


def line(message: str, **fields: Any) -> None:
    """Writes a line on stderr, whose fields programs see."""
    if isinstance(sys.stderr, JsonLog):
        sys.stderr.line(message, **fields)
    else:
        print(message, file=sys.stderr, flush=True)
