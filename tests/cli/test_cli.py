"""The door: what it refuses, with which exit code, and that it opens at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import CliRunner, Result

from differnet_ray import cli
from differnet_ray.tables import TABLES


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


@pytest.fixture
def fit_options(factory: Path, tmp_path: Path) -> list[object]:
    return ["fit", "--data", factory, "--models", tmp_path / "models", "--backbone-weights", "random"]


def test_help_imports_nothing_heavy_and_answers_at_once() -> None:
    program = (
        "import sys\nfrom differnet_ray.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'matplotlib', 'rich', 'fsspec'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 5  # 0.2 s where nothing else runs; the imports above are what is tested


@pytest.mark.parametrize(
    "verb", ["fit", "score", "evaluate", "reproduce", "redecide", "verify", "report", "models", "schemas", "doctor", "demo"]
)
def test_every_verb_explains_itself(verb: str) -> None:
    assert run(verb, "--help").exit_code == 0


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    result = run("fit", "--data", tmp_path / "nowhere", "--models", tmp_path / "m", "--backbone-weights", "random")
    refused(result, "nowhere", "no such file or folder")
    assert not (tmp_path / "m").exists()


def test_a_category_without_good_images_is_refused(fit_options: list[object]) -> None:
    refused(run(*fit_options, "--category", "screw"), "screw: no good images", "<category>/train/good")


def test_an_unwritable_output_is_refused(fit_options: list[object], tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    refused(run(*fit_options), "is not writable")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--epochs", "0", ["epochs = 0", "1 to"]),
        ("--image-size", "100", ["image_size = 100", "multiple of"]),
        ("--target-fpr", "1.5", ["target_fpr = 1.5"]),
        ("--seed", "-1", ["seed = -1"]),
        ("--grey-range", "4095", ["--grey-range 4095", "LOW:HIGH"]),
        ("--grey-range", "0:white", ["--grey-range 0:white", "LOW:HIGH"]),
        ("--grey-range", "4095:0", ["grey_range = (4095.0, 0.0)", "LOW < HIGH"]),
        ("--preset", "slow", ["paper", "pooled"]),
        ("--backbone", "resnet18", ["network = 'resnet18'", "alexnet", "timm:NAME"]),
        ("--backbone", "timm:resnet1888", ["no network 'resnet1888'", "timm"]),
        ("--layers", "3,last", ["--layers 3,last", "such as 3,4"]),
        ("--layers", "3,4", ["layers = (3, 4)", "of timm:NAME"]),
    ],
)
def test_values_out_of_range_are_refused(fit_options: list[object], option: str, value: str, words: list[str]) -> None:
    refused(run(*fit_options, option, value), *words)


def test_an_experiment_takes_the_published_recipe_and_one_pose(tmp_path: Path) -> None:
    assert "[default: paper]" in run("reproduce", "--help").output
    where = ["--experiment", "table1", "--data", tmp_path, "--output", tmp_path / "out"]
    refused(run("reproduce", *where, "--pose", "auto"), "one pose for all its fits", "any, quarter, fixed")


def test_weights_of_the_wrong_kind_are_refused(fit_options: list[object], tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"no tensors")
    refused(run(*fit_options, "--backbone-weights", tmp_path / "w.safetensors"), "w.safetensors", "not readable as weights")
    refused(run(*fit_options, "--backbone-weights", tmp_path / "none.pth"), "none.pth", "no such file")


def test_a_backbone_without_weights_says_how_to_get_them(
    fit_options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    without = [option for option in fit_options if option not in ("--backbone-weights", "random")]
    refused(run(*without, "--backbone", "timm:test_resnet"), "no pretrained weights on this machine", "--backbone-weights PATH")
    assert not (tmp_path / "models").exists()


def test_an_unknown_option_in_a_config_file_is_refused_with_the_valid_ones(fit_options: list[object], tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text('epoch = 3\npreset = "demo"\n')
    refused(run(*fit_options, "--config", tmp_path / "fit.toml"), "unknown option 'epoch'", "epochs", "gpus_per_fit")


def test_a_config_file_gives_defaults_and_the_command_line_wins(factory: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text(
        f'data = "{factory}"\nmodels = "{tmp_path}/m"\nepochs = 0\nbackbone_weights = "random"\n'
    )
    refused(run("fit", "--config", tmp_path / "fit.toml"), "epochs = 0")
    refused(run("fit", "--config", tmp_path / "fit.toml", "--epochs", -3), "epochs = -3")


@pytest.mark.parametrize("text", ["epochs = ", "= 3", "\x00"])
def test_a_config_file_that_is_no_toml_is_refused(fit_options: list[object], tmp_path: Path, text: str) -> None:
    (tmp_path / "fit.toml").write_text(text)
    refused(run(*fit_options, "--config", tmp_path / "fit.toml"), "fit.toml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--all", "--since", "2026-01-31"], "give one of them"),
        (["--since", "yesterday"], "--since 'yesterday': expected YYYY-MM-DD"),
        (["--date", "31.1.2026"], "--date '31.1.2026': expected YYYY-MM-DD"),
        (["--input", "nowhere"], "nowhere: no such file or folder"),
        (["--path-pattern", "{line"], "path pattern"),
    ],
)
def test_an_audit_is_refused_before_any_work(factory: Path, tmp_path: Path, options: list[str], said: str) -> None:
    output = tmp_path / "results"
    refused(run("audit", "--input", factory, "--models", tmp_path / "models", "--output", output, *options), said)
    assert not output.exists()


@pytest.mark.parametrize("name", ["fit", "score", "audit", "evaluate", "reproduce"])
def test_the_job_files_and_their_configuration_are_valid(name: str) -> None:
    jobs = Path(__file__).parents[2] / "jobs"
    assert len((jobs / f"{name}.py").read_text().splitlines()) < 20
    result = subprocess.run(
        [sys.executable, jobs / f"{name}.py", "--config", jobs / f"{name}.toml", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: jobs/" in result.stdout


@pytest.mark.usefixtures("local_ray")
def test_score_refuses_what_it_cannot_do(factory: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.jpg").write_bytes((factory / "lid" / "test" / "good" / "00.jpg").read_bytes())
    where = ["--models", tmp_path / "m", "--output", tmp_path / "o"]
    refused(run("score", "--input", factory, *where, "--date", "31.1.2026"), "YYYY-MM-DD")
    refused(run("score", "--input", factory, *where, "--model", "lid"), "NAME=VERSION")
    refused(run("score", "--input", tmp_path / "plain", *where), "1 images have no category", "--path-pattern")
    refused(run("score", "--input", factory, *where), "has no model of lid, plate", "run fit first")
    for actors in ("0:2", "3:2", "many", "1:2:3", ":"):
        refused(
            run("score", "--input", factory, *where, "--score-actors", actors), f"--score-actors {actors}: expected MIN:MAX"
        )


def test_models_list_of_an_empty_store_is_empty_and_show_names_what_is_missing(tmp_path: Path) -> None:
    assert json.loads(run("models", "list", "--models", tmp_path, "--json").output) == []
    result = run("models", "show", "--models", tmp_path, "screw")
    assert result.exit_code == 1
    assert "no model of category 'screw'" in result.output


def test_schemas_prints_and_writes_the_contracts(tmp_path: Path) -> None:
    assert run("schemas").output.count('"table":') == len(TABLES)
    assert run("schemas", "--write", tmp_path).exit_code == 0
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(table.name for table in TABLES)


def test_the_demo_does_not_replace_files_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious").write_text("mine")
    refused(run("demo", "--dir", tmp_path, "--backbone-weights", "random"), "no demo made")
    assert (tmp_path / "models" / "precious").read_text() == "mine"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("local_ray")
def test_doctor_finds_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    result = run("doctor", tmp_path, tmp_path / "nowhere", "--backbone-weights", "random")
    assert result.exit_code == 1
    lines = {line.split(":")[0].split()[-1]: line for line in result.output.splitlines()}
    assert lines["ray"].startswith("ok")
    assert lines[str(tmp_path)].startswith("ok")
    assert lines[str(tmp_path / "nowhere")].startswith("FAIL")
    assert "->" in lines[str(tmp_path / "nowhere")]
    checks = json.loads(run("doctor", "--input", tmp_path, "--backbone-weights", "random", "--json").stdout)
    assert {"versions", "memory", "gpu", "ray", str(tmp_path)} <= {check["name"] for check in checks}
    assert not {f"{tmp_path} writes"} & {check["name"] for check in checks}
    known = {"versions", "gpu", "ray", "backbone weights", str(tmp_path)}  # memory and disk are as they are
    assert {check["state"] for check in checks if check["name"] in known} == {"ok"}
