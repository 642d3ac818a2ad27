"""A command in this process, and what it printed."""

from __future__ import annotations

import json
import re
from typing import Any

from click.testing import CliRunner, Result

from differnet_ray import cli


def run(verb: str, *arguments: object, exit_code: int = 0) -> Result:
    """Runs a verb, which must end with the exit code."""
    result = CliRunner().invoke(cli.main, [verb, *map(str, arguments)])
    assert result.exit_code == exit_code, result.output + str(result.exception)
    return result


def json_of(said: Result | str) -> Any:
    """The JSON on stdout, which a verb that runs in this process may share with warnings of Ray."""
    text = said if isinstance(said, str) else said.stdout
    found = re.search(r"^[\[{]", text, re.MULTILINE)
    return json.JSONDecoder().raw_decode(text[found.start() if found else 0 :])[0]
