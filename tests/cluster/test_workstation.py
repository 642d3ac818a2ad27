"""The units of one machine, by systemd's own check."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cluster_files import CLUSTER, ran, tool

from differnet_ray.cli import main

WORKSTATION = CLUSTER / "workstation"
UNITS = sorted([*WORKSTATION.glob("*.service"), *WORKSTATION.glob("*.timer")])
STARTED = re.compile(r"^ExecStart=/opt/differnet/\.venv/bin/(\S+)", re.MULTILINE)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 4
    for unit in UNITS:  # programs are where they will be installed: others stand for them
        (tmp_path / unit.name).write_text(
            STARTED.sub("ExecStart=/bin/true", unit.read_text(encoding="utf-8")), encoding="utf-8"
        )
    analyze = tool("systemd-analyze", "it comes with systemd")
    ran(analyze, "verify", "--man=no", *map(str, sorted(tmp_path.iterdir())), quiet=True)  # it warns of what it does not know


@pytest.mark.parametrize("path", [u for u in UNITS if u.suffix == ".service"], ids=lambda path: path.stem)
def test_services_run_as_a_user_of_their_own_with_little_to_write_to(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert {"User=differnet", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes"} <= set(text.splitlines())
    assert "EnvironmentFile=/etc/differnet/differnet.env" in text
    assert [name for name in STARTED.findall(text) if name in ("ray", "differnet-ray")]


def test_ray_takes_the_options_of_its_unit() -> None:
    from ray.scripts.scripts import start

    text = (WORKSTATION / "differnet-ray-head.service").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    given = {word.split("=")[0] for word in shlex.split(line) if word.startswith("--")}
    assert len(given) > 4
    assert given <= {name for option in start.params for name in option.opts}


def test_the_cron_line_has_five_times_a_user_and_one_audit() -> None:
    line = next(
        line for line in (WORKSTATION / "crontab.example").read_text(encoding="utf-8").splitlines() if line[0].isdigit()
    )
    fields = line.split(maxsplit=6)
    assert all(re.fullmatch(r"\*|\d+", field) for field in fields[:5])
    assert fields[5] == "differnet"
    assert "flock -n" in fields[6]
    assert "%" not in line  # which cron takes for the end of the line
    assert "audit" in main.commands


def test_the_environment_is_read_alike_by_systemd_and_by_a_shell() -> None:
    lines = (WORKSTATION / "differnet.env.example").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[A-Z_]+=[\w./:-]*", line), line
    assert "RAY_AUTH_MODE=token" in lines
