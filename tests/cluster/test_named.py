"""What cluster/ and docs/operations.md name is there: files, and commands with their options."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from cluster_files import ROOT, texts

from differnet_ray.cli import main

FILE = re.compile(r"(?<![\w./-])((?:cluster|docs|jobs|tests|benchmarks|schemas|differnet_ray)/[\w./*{},-]*[\w*/])")
COMMAND = re.compile(r"(?:\bdiffernet-ray|jobs/\w+\.py) ([^`\n|;#]*)")
TEXTS = texts()


@pytest.mark.parametrize("path", list(TEXTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path: Path) -> None:
    for name in FILE.findall(TEXTS[path]):
        name = name.rstrip(".,")
        assert "{" in name or any(ROOT.glob(name)) or (ROOT / name).exists(), name


def commands() -> list[tuple[str, list[str]]]:
    """Where a command is named, and its words."""
    found = []
    for path, text in TEXTS.items():
        for line in COMMAND.findall(text.replace("\\\n", " ")):
            words = line.split()
            if any(word in main.commands for word in words[: 2 if words[:1] == ["submit"] else 1]):
                found.append((str(path.relative_to(ROOT)), words))
    return found


def test_options_of_commands_that_are_named_are_theirs() -> None:
    named = commands()
    assert {words[0] for _, words in named} >= {"doctor", "audit", "score", "fit", "serve", "tidy"}
    for where, words in named:
        rest = words[1:] if words[0] == "submit" and len(words) > 1 else words  # submit takes the options of the verb
        command: click.Command = main.commands[rest[0]]
        if isinstance(command, click.Group) and len(rest) > 1:
            command = command.commands[rest[1]]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        if words[0] == "submit" and "submit" in main.commands:
            known |= {name for option in main.commands["submit"].params for name in option.opts}
        given = {word.split("=")[0].rstrip(",.):") for word in rest if word.startswith("--")}
        assert given <= known, f"{where}: {' '.join(words)}"


@pytest.mark.skipif("submit" not in main.commands, reason="there is no verb submit")
def test_submit_is_a_verb() -> None:
    assert any(words[0] == "submit" for _, words in commands())
