"""What `score` says before it scores: a dry run, and the refusal of an archive of which no model knows anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mixed_archive import KINDS, PATTERN, make
from said import json_of

from differnet_ray import cli
from differnet_ray.archives.images import MAX_BYTES
from differnet_ray.storage.locations import canonical
from differnet_ray.store.model_store import ModelStore

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("local_ray")]
PER_KIND, BROKEN = 3, 6  # images of a category in each kind of place


def score(*arguments: object, exit_code: int = 0) -> str:
    """Returns what `score` prints."""
    result = CliRunner().invoke(cli.main, ["score", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output + str(result.exception)
    return result.stderr if exit_code else result.stdout


@pytest.fixture(scope="module")
def archive(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed archive, with an image that is too large."""
    root = tmp_path_factory.mktemp("mixed")
    good = [(factory / "lid" / "test" / "good" / f"0{n}.jpg").read_bytes() for n in range(PER_KIND)]
    make(canonical(str(root)), {"lid": good, "plate": good, "unknown": good}, PER_KIND)
    with (root / "line loose" / "lid" / "vast.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    return root


def test_a_dry_run_counts_what_would_become_of_all_images_and_writes_nothing(
    archive: Path, models: str, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    where = ("--models", models, "--output", output, "--path-pattern", PATTERN, "--dry-run")
    plan = json_of(score("--input", archive, *where, "--json"))
    each = len(KINDS) * (PER_KIND + BROKEN)
    assert plan["category_counts"] == {
        "lid": {"to_score": each, "too_large": 1},
        "plate": {"to_score": each},
        "unknown": {"no_model": len(KINDS) * PER_KIND},
    }
    assert plan["counts"] == {"to_score": 2 * each, "too_large": 1, "no_model": 12}
    assert plan["n_images"] == sum(plan["counts"].values())
    assert plan["skipped"] == {"hidden": 1, "not an image": 1, "no category": 2}
    assert "another stray.png" in plan["no_category"]
    assert plan["models"] == {category: ModelStore(canonical(models)).latest(category) for category in ("lid", "plate")}
    assert [example["category"] for example in plan["examples"]] == ["lid", "plate", "unknown"]
    assert set(plan["examples"][0]["attributes"]) == {"line"}
    assert not output.exists()

    text = score("--input", archive / "line zip.zip", "--input", archive / "line tar.tar", "--limit", 5, *where)
    assert "category   to_score   images" in text
    assert text.split("all")[1].split()[:2] == ["5", "5"]
    assert f"Read by --path-pattern '{PATTERN}':" in text
    assert "category 'lid', line 'tar.tar'" in text
    assert "Nothing was scored." in text
    assert not output.exists()


def test_a_dry_run_of_a_manifest_knows_the_run_that_has_been_published(factory: Path, models: str, tmp_path: Path) -> None:
    lines = [{"uri": str(factory / "lid" / "test" / "good" / f"0{n}.jpg"), "category": "lid"} for n in range(2)]
    manifest = tmp_path / "images.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    where = ("--input", manifest, "--models", models, "--output", tmp_path / "results", "--date", "2026-02-03")
    plan = json_of(score(*where, "--dry-run", "--json"))
    assert (plan["counts"], plan["published_at"]) == ({"to_score": 2}, None)
    record = json_of(score(*where, "--json"))
    assert plan["run_id"] == record["run_id"]
    assert f"run {record['run_id']}, which was published at {record['finished_at']}." in score(*where, "--dry-run")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["score", "dry run"])
def test_an_archive_that_no_model_knows_is_refused_with_what_the_pattern_made_of_its_paths(
    dry: tuple[str, ...], archive: Path, models: str, tmp_path: Path
) -> None:
    where = ("--input", archive / "line loose", "--models", models, "--output", tmp_path, "--path-pattern")
    refusal = score(*where, "{category}/{part}/{name}", *dry, exit_code=2)
    assert "no model of line loose; it has: lid, plate" in refusal
    assert "Read by --path-pattern '{category}/{part}/{name}':" in refusal
    shown = [line for line in refusal.splitlines() if line.startswith("  file://")]
    assert len(shown) == 3
    assert shown[0].endswith("/line loose/lid/0000 ü.jpg: category 'line loose', part 'lid'")
    assert "give --category NAME" in refusal
