"""Verbs as jobs of a real cluster with a token: exit codes arrive, and what is submitted twice runs once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from online_models import fit_models
from ray_head import RayHead, free_ports, running_head

from differnet_ray.config import Recipe
from differnet_ray.results.runs import read_table
from differnet_ray.storage.locations import canonical
from differnet_ray.tables import SCORES

COPIES = 12  # of each image
SECONDS = 500  # where two cores do much else; alone some twenty
SLOW = """
import os, time, PIL.Image, PIL.ImageFile
def slow(load):
    def loaded(self):
        if not os.path.exists({!r}):
            time.sleep(1)
        return load(self)
    return loaded
PIL.ImageFile.ImageFile.load = slow(PIL.ImageFile.ImageFile.load)
"""


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file: without it an image takes a second to decode, so that a job is stopped in the middle."""
    return tmp_path_factory.mktemp("speed") / "fast"


@pytest.fixture(scope="module")
def head(fast: Path) -> Iterator[RayHead]:
    (fast.parent / "sitecustomize.py").write_text(SLOW.format(str(fast)))
    paths = [str(fast.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with running_head(PYTHONPATH=os.pathsep.join(paths)) as head:
        yield head


@pytest.fixture(scope="module")
def fitted(factory: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> str:
    return fit_models(factory, tiny_recipe, tmp_path_factory.mktemp("submit") / "models").removeprefix("file://")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, what was said on stdout, and on stderr."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def until(is_so: Callable[[], object]) -> None:
    late = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < late
        time.sleep(0.2)


def test_what_is_submitted_again_is_followed_and_after_a_stop_it_goes_on(
    head: RayHead, fast: Path, factory: Path, fitted: str, tmp_path: Path
) -> None:
    archive, output = tmp_path / "archive", tmp_path / "results"
    for path in factory.glob("*/test/*/*"):
        for copy in range(COPIES):
            target = archive / path.relative_to(factory).with_stem(f"{path.stem}-{copy}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (archive / "plate" / "test" / "good" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    command = ["submit", "score", "--input", archive, "--models", fitted, "--output", output, "--date", "2026-01-31"]
    first = head.call(*command)
    until(lambda: any(output.glob("_staging/*/rows/*.parquet")) or first.poll() is not None)
    first.kill()  # the job goes on
    assert "submitted" in ended(first)[2]
    again = head.call(*command)
    assert again.stderr is not None
    assert "is running already: following it" in again.stderr.readline()
    again.terminate()
    code, _, err = ended(again)
    assert code == 130
    assert "the same command goes on where it was" in err
    assert not (output / "scores").exists()
    fast.touch()
    code, out, err = ended(head.call(*command))
    assert code == 4, out + err
    assert "-2 submitted" in err
    assert "damaged" not in err
    rows = read_table(canonical(str(output)), SCORES)
    assert rows.num_rows == len(set(rows["image_id"].to_pylist())) == 16 * COPIES + 1


def test_an_alarm_and_a_failure_arrive_and_files_of_here_go_along(
    head: RayHead, fast: Path, factory: Path, fitted: str, tmp_path: Path
) -> None:
    fast.touch()
    (tmp_path / "limits.toml").write_text("[at_least]\nimages = 1000\n")
    config = [f'input = ["{factory / "plate"}"]', f'models = "{fitted}"', f'output = "{tmp_path / "results"}"']
    config += ['path_pattern = "{category}/test/{kind}/{name}"', f'limits = "{tmp_path / "limits.toml"}"']
    (tmp_path / "audit.toml").write_text("\n".join(config))
    code, out, err = ended(head.call("submit", "audit", "--config", tmp_path / "audit.toml"))
    assert code == 3, out + err
    assert "ALARM" in out
    code, out, _ = ended(head.call("submit", "report", "--output", tmp_path / "results", "--run-id", "20260101-none"))
    assert code in (1, 2)
    assert "20260101-none" in out


def test_what_is_wrong_with_the_cluster_is_said(head: RayHead) -> None:
    command = ["submit", "--patience", "1", "doctor"]
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    wrong, none, unreachable = (
        head.call(*command, RAY_AUTH_TOKEN="wrong"),
        head.call(*command, RAY_AUTH_MODE="disabled"),
        head.call(*command, RAY_ADDRESS=nobody),
    )
    for process, code, words in (
        (wrong, 2, "does not take this token: set RAY_AUTH_MODE=token"),
        (none, 2, "asks for a token, and none was sent"),
        (unreachable, 1, f"{nobody} did not answer for 1 s"),
    ):
        found, out, err = ended(process)
        assert found == code, err
        assert words in err
        assert "Traceback" not in out + err
