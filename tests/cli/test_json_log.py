"""Logs for programs: every line of stderr is an object that says what it is about, and holds no secrets."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from differnet_ray.cli import json_log
from differnet_ray.cli.json_log import JsonLog


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def verb(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "differnet_ray.cli", *map(str, words)]
    known = {"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("how", [{"DIFFERNET_LOG": "json"}, {}])
def test_an_error_is_an_object_with_verb_and_job(how: dict[str, str], tmp_path: Path) -> None:
    config = json.dumps({"metadata": {"job_submission_id": "differnet-audit-0123"}})
    before = [] if how else ["--log-format", "json"]
    done = verb(*before, "report", "--output", tmp_path, "--run-id", 'none"such', RAY_JOB_CONFIG_JSON_ENV_VAR=config, **how)
    (line,) = lines_of(done.stderr)
    assert done.returncode in (1, 2)
    assert (line["level"], line["verb"], line["job"]) == ("error", "report", "differnet-audit-0123")
    assert 'none"such' in line["message"]
    assert line["time"].endswith("+00:00")


def test_another_format_is_refused() -> None:
    done = verb("schemas", DIFFERNET_LOG="xml")
    assert done.returncode == 2
    assert "DIFFERNET_LOG=xml: expected one of text, json" in done.stderr


def test_lines_are_whole_and_have_the_level_that_they_begin_with() -> None:
    target = io.StringIO()
    log = JsonLog(target, {"job": "night"})
    for part in ("WARNING: screw", ": few images\nall", " done\n", "\n", '{"message": "of Ray"}\n', "no end"):
        log.write(part)
    log.bind(run="20260131-0123")
    log.line("screw: 3/4", category="screw", done=3, total=4)
    found = lines_of(target.getvalue())
    assert [line["message"] for line in found] == ["WARNING: screw: few images", "all done", "of Ray", "screw: 3/4"]
    assert [line.get("level") for line in found] == ["warning", "info", None, "info"]
    assert [line.get("run") for line in found] == [None, None, None, "20260131-0123"]
    assert found[3]["category"] == "screw"
    assert found[0]["job"] == "night"


def test_secrets_of_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/XUtnFEMI+K7MDENG")
    monkeypatch.setenv("DIFFERNET_WEBHOOK", "https://chat.example/hook/T0/B1 https://ops.example/secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "")
    target = io.StringIO()
    log = JsonLog(target, {})
    log.write("key wJalr/XUtnFEMI+K7MDENG refused by https://ops.example/secret\n")
    log.line('{"message": "https://chat.example/hook/T0/B1"}')
    text = target.getvalue()
    assert not [secret for secret in ("wJalr", "/secret", "/hook") if secret in text]
    assert lines_of(text)[0]["message"] == "key *** refused by ***"


def test_without_it_lines_are_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    json_log.bind(run="none")
    json_log.line("screw: 3/4", category="screw")
    assert capsys.readouterr().err == "screw: 3/4\n"
