"""Nights of an audit: what is new once, what was killed made up, and two at a time refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from said import json_of, run
from webhook_server import receiving

from differnet_ray import cli
from differnet_ray.cli import audit as verb
from differnet_ray.distributed import audit as job
from differnet_ray.report import night_index, night_report, run_report
from differnet_ray.results import audits, scores
from differnet_ray.results.drift_table import drift_before
from differnet_ray.results.ledger import read_ledger, row_groups
from differnet_ray.storage.lease import lease
from differnet_ray.storage.locations import canonical, join

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
OWN_TIMES = ["scored_at"]


def put(factory: Path, archive: Path, name: str, source: str) -> None:
    """Puts an image of the factory, such as `lid/test/good/01.jpg`, into the archive."""
    (archive / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(factory / source, archive / name)


def arguments(archive: Path, models: str, output: Path, night: str) -> list[str]:
    where = [
        "--input",
        archive,
        "--models",
        models,
        "--output",
        output,
        "--date",
        night,
        "--limits",
        output.parent / "quiet.toml",
    ]
    return [*map(str, where), "--path-pattern", "{line}/{date}/{category}/{name}", "--json"]


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All published rows, without what may differ between two audits of the same images."""
    table = scores(str(output)).to_table().drop_columns(OWN_TIMES)
    return sorted(table.to_pylist(), key=lambda row: (row["dt"], row["image_id"]))


def ledger_of(output: Path) -> list[dict[str, Any]]:
    root = canonical(str(output))
    files = read_ledger(root).files.values()
    groups = [group for name in files for group in row_groups(join(root, "audit", "ledger", name))]
    return pa.concat_tables(groups).sort_by("image_id").to_pylist()


def drift_of(output: Path) -> list[dict[str, Any]]:
    return drift_before(canonical(str(output)), date(2027, 1, 1), 1000).to_pylist() if (output / "drift").exists() else []


def totals(record: dict[str, Any]) -> dict[str, int]:
    return {kind: sum(counts.values()) for kind, counts in record["changes"].items() if counts}


class Audits:
    """An archive that grows, and the audits of its nights."""

    def __init__(self, factory: Path, models: str, folder: Path) -> None:
        self.factory, self.models, self.archive, self.output = factory, models, folder / "archive", folder / "results"
        (folder / "quiet.toml").write_text("[[muted]]\n")  # everything: nights of four images are not what this is about

    def put(self, name: str, source: str) -> None:
        put(self.factory, self.archive, name, source)

    def audit(self, night: str, *options: str, exit_code: int = 0) -> list[dict[str, Any]]:
        said = run("audit", *arguments(self.archive, self.models, self.output, night), *options, exit_code=exit_code)
        found: list[dict[str, Any]] = json_of(said)["audits"]
        return found


@pytest.fixture(scope="module")
def first_night(factory: Path, models: str, tmp_path_factory: pytest.TempPathFactory) -> Audits:
    """Four plates, audited."""
    nights = Audits(factory, models, tmp_path_factory.mktemp("nights"))
    for n in range(4):
        nights.put(f"line1/2026-01-30/plate/{n}.jpg", f"plate/test/good/{n:02d}.jpg")
    (record,) = nights.audit("2026-01-30")
    assert (sum(record["counts"].values()), totals(record)) == (4, {"new": 4})
    return nights


@pytest.fixture
def nights(first_night: Audits, factory: Path, models: str, tmp_path: Path) -> Audits:
    """The same, at the same place in the archive's history, to be changed."""
    copy = Audits(factory, models, tmp_path)
    shutil.copytree(first_night.output, copy.output)
    copy.archive = first_night.archive
    return copy


@pytest.fixture(autouse=True)
def _archive_as_it_was(first_night: Audits, tmp_path: Path) -> Iterator[None]:
    """An image has its URI, so all tests share the archive: afterwards it is as it was after the first night."""
    before = tmp_path / "as it was"
    shutil.copytree(first_night.archive, before)
    yield
    shutil.rmtree(first_night.archive)
    shutil.copytree(before, first_night.archive)


def test_a_night_is_what_is_new_changed_late_and_gone(nights: Audits) -> None:
    assert nights.audit("2026-01-30") == []
    for n in range(4):
        nights.put(f"line2/2026-01-31/lid/{n}.jpg", f"lid/test/good/{n:02d}.jpg")
    nights.put("line1/2026-01-29/plate/late.png", "plate/test/dent/00.png")
    nights.put("line1/2026-01-30/plate/0.jpg", "plate/test/good/03.jpg")
    (nights.archive / "line1/2026-01-30/plate/1.jpg").unlink()
    (nights.archive / "line2/2026-01-31/lid/broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
    foreseen = nights.audit("2026-01-31", "--dry-run")
    (record,) = nights.audit("2026-01-31", exit_code=4)
    assert totals(record) == {"new": 6, "changed": 1, "removed": 1, "late": 1}
    assert foreseen[0]["changes"] == record["changes"]
    assert record["changes"]["late"] == {"plate": 1}
    assert audits.audits_of(canonical(str(nights.output)), date(2026, 1, 31)) == [record]
    assert record["counts"].pop("unreadable") == 1
    assert sum(record["counts"].values()) == 6
    pages = nights.output / "reports"
    assert record["report"] == canonical(str(pages / "night-2026-01-31.html"))
    page = (pages / "night-2026-01-31.html").read_text(encoding="utf-8")
    assert f'href="{record["run_id"]}.html"' in page
    assert 'href="night-2026-01-30.html"' in page
    assert "broken.jpg" in page
    assert (pages / f"{record['run_id']}.html").is_file()
    index = (pages / "index.html").read_text(encoding="utf-8")
    assert index.index("night-2026-01-31.html") < index.index("night-2026-01-30.html")
    assert record["n_listed"] == record["n_audited"] == len(ledger_of(nights.output)) == 9
    by_night = Counter(str(row["dt"]) for row in rows_of(nights.output))
    assert by_night == {"2026-01-30": 4, "2026-01-31": 7}
    newest = {row["uri"]: row for row in rows_of(nights.output)}  # sorted by night: the last one stays
    here = {canonical(str(path)) for path in nights.archive.rglob("*.*") if path.is_file()}
    assert here == {uri for uri in newest if not uri.endswith("plate/1.jpg")}
    assert all((newest[uri]["brightness"] is None) == uri.endswith("broken.jpg") for uri in here)
    assert nights.audit("2026-01-31") == []

    assert [totals(record) for record in nights.audit("2026-02-01")] == [{}]  # a night in which nothing came is a night
    assert nights.audit("2026-02-01") == []
    assert nights.audit("2026-02-01", "--since", "2026-02-01") == []
    (again,) = nights.audit("2026-02-01", "--since", "2026-01-31", exit_code=4)
    assert totals(again) == {"again": 7}
    assert nights.audit("2026-02-01", "--since", "2026-01-31") == []
    assert totals(nights.audit("2026-02-02", "--all", "--dry-run")[0]) == {"again": 9}


def test_the_page_over_all_nights_is_written_anew_without_an_audit(nights: Audits) -> None:
    index = nights.output / "reports" / "index.html"
    before = index.read_bytes()
    index.unlink()
    assert run("audit", "--index", "--output", str(nights.output)).output.strip() == canonical(str(index))
    assert index.read_bytes() == before
    for missing, given in (("--input", ["--models", "m"]), ("--models", ["--input", "a"])):
        said = run("audit", "--output", str(nights.output), *given, exit_code=2)
        assert f"Missing option '{missing}'" in said.stderr


def test_images_of_an_unknown_category_alone_are_a_night_too(nights: Audits) -> None:
    nights.put("line1/2026-01-31/new product/0.jpg", "plate/test/good/00.jpg")
    (record,) = nights.audit("2026-01-31", exit_code=4)
    assert record["counts"] == {"no_model": 1}


def test_a_second_one_at_the_same_time_says_who_works_and_fails(nights: Audits) -> None:
    with lease(audits.lease_of_audits(canonical(str(nights.output)))):
        said = run("audit", *arguments(nights.archive, nights.models, nights.output, "2026-01-31"), exit_code=1)
    assert f"process {os.getpid()} on" in said.stderr


STEPS: list[tuple[Any, str]] = [  # of an audit, in order
    (job, "write_plan"),
    (job, "score_archive"),
    (run_report, "write_run_report"),
    (night_report, "write_night_report"),
    (night_index, "write_night_index"),
    (audits, "write_ledger"),
    (audits, "drop_plan"),
]


def test_a_night_that_fails_at_any_step_is_made_up_in_its_own_day(
    nights: Audits, models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.put("line2/2026-01-31/lid/0.jpg", "lid/test/dent/00.png")
    before = ledger_of(nights.output)

    class Killed(BaseException):
        pass

    def dies(*args: object, **options: object) -> None:
        raise Killed

    night = iter(["2026-01-31", "2026-01-31", *[f"2026-02-{n:02d}" for n in range(1, 9)]])
    for module, step in STEPS:
        where = {"models": models, "output": str(nights.output), "dt": date.fromisoformat(next(night))}
        with monkeypatch.context() as patch:
            patch.setattr(module, step, dies)
            with pytest.raises(Killed):
                verb.run_audit([str(nights.archive)], path_pattern="{line}/{date}/{category}/{name}", **where)  # type: ignore[arg-type]
        if step == "score_archive":  # it is planned then, and what comes meanwhile is for later
            nights.put("line2/2026-01-31/lid/1.jpg", "lid/test/dent/01.png")
        if step != "drop_plan":
            assert ledger_of(nights.output) == before
    (record,) = nights.audit("2026-02-09")
    assert totals(record) == {"new": 1}  # the night itself was done when its ledger was written
    found = {row["uri"].rsplit("/", 2)[-1] + f" {row['category']}": str(row["dt"]) for row in rows_of(nights.output)}
    assert len(rows_of(nights.output)) == len(ledger_of(nights.output)) == 6
    assert {name: found[name] for name in ("0.jpg lid", "1.jpg lid")} == {"0.jpg lid": "2026-01-31", "1.jpg lid": "2026-02-09"}
    assert not (nights.output / "audit" / "plan.json").exists()


@pytest.mark.parametrize("n_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_an_audit_that_is_killed_at_random_moments_leaves_what_one_that_is_not_leaves(
    nights: Audits, n_kills: int, ray_folder: str
) -> None:
    rng = random.Random(n_kills)
    undisturbed, killed = nights.output, nights.output.with_name("killed")
    shutil.copytree(undisturbed, killed)
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": ray_folder}
    n_nights = 3 if n_kills > 2 else 1
    kills = Counter(rng.randrange(n_nights) for _ in range(n_kills))

    def audit(night: str, seconds: float) -> int:
        command = [sys.executable, "-m", "differnet_ray.cli", "audit"]
        command += arguments(nights.archive, nights.models, killed, night)
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return driver.wait(seconds)
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            return driver.wait()
        finally:
            end = time.monotonic() + 60
            while subprocess.run(["pgrep", "-f", ray_folder], capture_output=True).stdout:
                assert time.monotonic() < end
                time.sleep(0.1)

    for number in range(n_nights):
        night = f"2026-02-{number + 1:02d}"
        for n in range(40):
            nights.put(f"line{number}/{night}/lid/{n:02d}.jpg", f"lid/train/good/{n % 12:02d}.jpg")
        nights.audit(night)
        for _ in range(kills[number]):
            audit(night, rng.uniform(2, 40))
        assert audit(night, 300) == 0
        assert rows_of(killed) == rows_of(undisturbed)
        assert ledger_of(killed) == ledger_of(undisturbed)
        assert drift_of(killed) == drift_of(undisturbed) != []
    assert [path.name for path in (killed / "_staging").iterdir()] == []


def test_alarms_are_told_and_recorded_before_the_ledger_and_again_where_a_kill_came_between(
    nights: Audits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[at_most]\nimages = 1\n")
    nights.put("line2/2026-01-31/lid/0.jpg", "lid/test/good/00.jpg")
    nights.put("line2/2026-01-31/lid/1.jpg", "lid/test/good/01.jpg")
    before = ledger_of(nights.output)

    class Killed(BaseException):
        pass

    def dies(*args: object, **options: object) -> None:
        raise Killed

    with receiving() as server:
        monkeypatch.setenv("DIFFERNET_WEBHOOK", server.url)
        command = arguments(nights.archive, nights.models, nights.output, "2026-01-31")
        with monkeypatch.context() as patch:
            patch.setattr(audits, "write_ledger", dies)
            with pytest.raises(Killed):
                cli.main.main(["audit", *command, "--limits", str(limits)], standalone_mode=False)
        assert ledger_of(nights.output) == before
        (record,) = nights.audit("2026-01-31", "--limits", str(limits), exit_code=3)
        told = [got["body"] for got in server.received]
    assert [body["audit_id"] for body in told] == [record["audit_id"]] * 2  # at least once
    assert told[1] == record == json.loads((nights.output / "audit" / "audit.json").read_text())
    assert {alarm["measure"] for alarm in record["alarms"]} == {"images"}
    assert record["alarms"][0]["text"].startswith("lid: ")
    assert {proposal["action"] for proposal in record["proposals"]} == {"check upload"}


def test_a_webhook_that_fails_is_a_warning_and_healthy_nights_are_told_where_that_is_asked_for(nights: Audits) -> None:
    nights.put("line2/2026-01-31/lid/0.jpg", "lid/test/good/00.jpg")
    command = arguments(nights.archive, nights.models, nights.output, "2026-01-31")
    with receiving(404) as server:
        said = run("audit", *command, "--webhook", server.url, "--webhook-always")
        assert "WARNING: webhook 127.0.0.1: answered 404 Not Found" in said.stderr
        assert "s3cr3t" not in said.output
        assert [got["body"]["alarms"] for got in server.received] == [[]]
        nights.put("line2/2026-02-01/lid/1.jpg", "lid/test/good/01.jpg")
        command = arguments(nights.archive, nights.models, nights.output, "2026-02-01")
        run("audit", *command, "--webhook", server.url)  # nothing alarms
        assert len(server.received) == 1
        (nights.archive / "line2/2026-02-01/lid/broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
        run("audit", *command, "--webhook", server.url, exit_code=4)
        assert server.received[1]["body"]["counts"] == {"unreadable": 1}
