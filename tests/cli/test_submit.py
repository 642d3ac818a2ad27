"""What `submit` makes of a verb and its options, before any cluster is asked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from said import run

from differnet_ray.cli.submit import VERBS, checked, prepared
from differnet_ray.distributed.submit import Submission

MAX_BYTES = 2 * 10**6  # of a working directory
ROOT = Path(__file__).parents[2]


def job_of(verb: str, *words: object, code: bool = False, **options: object) -> Submission:
    files, rest = checked(verb, [str(word) for word in words])
    rest_of_it = {"name": None, "requirements": None, "variables": [], **options}
    with prepared(verb, rest, files, code=code, **rest_of_it) as submission:  # type: ignore[arg-type]
        return submission


def score_words(*more: object) -> list[object]:
    return ["--input", "s3://plant/a b", "--models", "s3://plant/models", "--output", "s3://plant/results", *more]


def test_the_entrypoint_is_the_verb_with_its_words() -> None:
    words = score_words("--path-pattern", "{line}/{category}/{name}; rm -r /")
    submission = job_of("score", *words)
    assert shlex.split(submission.entrypoint) == ["exec", "python", "-m", "differnet_ray.cli", "score", *words]
    assert submission.folder is None
    assert set(submission.runtime_env()) == {"env_vars"}


def test_the_name_follows_from_verb_words_and_content_of_files(tmp_path: Path) -> None:
    names = [job_of("score", *score_words()).name for _ in range(2)]
    assert names[0] == names[1]
    names.append(job_of("score", *score_words("--replace")).name)
    for content in ("maps = 'all'", "maps = 'none'"):
        for folder in ("here", "there"):  # where the file lies is no matter
            path = tmp_path / folder / "score.toml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            names.append(job_of("score", *score_words("--config", path)).name)
    assert names[3] == names[4]
    assert names[5] == names[6]
    assert len(set(names)) == 4
    assert all(name.startswith("differnet-score-") for name in names)
    assert job_of("score", *score_words(), name="mine").name == "mine"


def test_files_of_here_and_the_package_go_along_and_nothing_else(tmp_path: Path) -> None:
    limits, config = tmp_path / "mine.toml", tmp_path / "audit.toml"
    limits.write_text("false_alarms_per_year = 1")
    config.write_text(f'input = ["s3://a/b"]\nmodels = "s3://a/m"\noutput = "s3://a/o"\nlimits = "{limits}"')
    files, rest = checked("audit", ["--json", f"--config={config}"])
    with prepared("audit", rest, files, name=None, code=True, requirements=None, variables=[]) as submission:
        assert submission.entrypoint.endswith("audit --config config.toml --limits limits.toml --json")
        folder = Path(str(submission.folder))
        sent = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.relative_to(folder).parts[0] for path in sent} == {"differnet_ray", "config.toml", "limits.toml"}
        assert sum(path.stat().st_size for path in sent) < MAX_BYTES
        assert (folder / "limits.toml").read_text() == limits.read_text()
        assert not list(folder.rglob("*.pyc"))
    assert not folder.exists()


def test_a_file_that_only_the_cluster_has_is_left_to_it() -> None:
    words = ["--models", "s3://a/m", "--output", "s3://a/o", "--run-id", "r", "--confirmed", "s3://a/good.csv"]
    assert checked("calibrate", words) == ({}, words)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"doctor"}))
def test_every_job_file_can_be_submitted(verb: str) -> None:
    assert (ROOT / "jobs" / f"{verb}.py").is_file()
    files, rest = checked(verb, ["--config", str(ROOT / "jobs" / f"{verb}.toml")])
    assert set(files) == {"config"}
    assert rest == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "--inpt", "x"], "No such option"),
        (["score", *score_words("--maps", "some")], "is not one of"),
        (["score", *score_words("--output", "results")], "--output results: a job has a working directory of its own"),
        (["serve", "--models", "s3://a/m"], "is not one of"),
        (["--env", "NO_SUCH_VARIABLE", "score", *score_words()], "--env NO_SUCH_VARIABLE"),
        (["--requirements", "no.lock", "score", *score_words()], "--requirements no.lock"),
        (["score", *score_words()], "no cluster: give --address or RAY_ADDRESS"),
    ],
)
def test_wrong_usage_is_said_before_a_cluster_is_asked(words: list[object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert said in run("submit", *words, exit_code=2).stderr


def test_variables_of_here_are_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    submission = job_of("score", *score_words(), variables=["AWS_ENDPOINT_URL"])
    assert submission.runtime_env()["env_vars"]["AWS_ENDPOINT_URL"] == "http://store:9000"
    assert "store:9000" not in submission.entrypoint
