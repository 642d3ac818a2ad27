"""What a command printed."""

from __future__ import annotations

import json
import re
from typing import Any

from click.testing import Result


def json_of(said: Result | str) -> Any:
    """The JSON on stdout, which a verb that runs in this process may share with warnings of Ray."""
    text = said if isinstance(said, str) else said.stdout
    found = re.search(r"^[\[{]", text, re.MULTILINE)
    return json.JSONDecoder().raw_decode(text[found.start() if found else 0 :])[0]
