"""What all tests share: a small factory, a tiny recipe, one real local Ray, and one real S3 server."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from s3fs import S3FileSystem
from xdist.scheduler import LoadScopeScheduling

from differnet_ray.config import Recipe
from differnet_ray.storage.locations import canonical
from differnet_ray.store import model_store
from differnet_ray.store.model_store import ModelStore

sys.path.insert(0, str(Path(__file__).parent / "support"))  # its modules are imported by name

Plant = Callable[..., Path]
WITH_RAY = ("distributed", "test_main_job.py", "test_cli.py", "test_fit_command.py")  # parts of paths


class RayInOneProcess(LoadScopeScheduling):  # type: ignore[misc]
    """Where several processes share the suite, a file goes to one of them, and all that start Ray to the same one.

    Two clusters on two cores get in each other's way until tests that wait for something give up.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "ray" if set(WITH_RAY) & set(path.split("/")) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tells xdist which tests go together."""
    return RayInOneProcess(config, log)


TINY = {"image_size": 64, "n_scales": 1, "n_transforms": 4, "n_blocks": 2, "hidden": 16, "epochs": 3, "fresh_epochs": 1}


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """64 pixels, one scale, two blocks, 16 wide; holds out single images, however few there are."""
    rates = {"target_fpr": 0.2, "review_fpr": 0.4}
    return Recipe().override(**TINY, first_layer="standardize", folds=0, n_rotations=2, group_by="none", **rates)


def write_part(path: Path, rng: np.random.Generator, *, shade: int, defect: bool) -> Image.Image:
    """A noisy plate of a shade, with a bright square where it has a defect; returns the mask."""
    pixels, mask = rng.normal(shade, 12, size=(80, 72, 3)), np.zeros((80, 72), np.uint8)
    if defect:
        row, column = rng.integers(10, 40, size=2)
        pixels[row : row + 24, column : column + 24] = rng.normal(235, 4, size=(24, 24, 3))
        mask[row : row + 24, column : column + 24] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return Image.fromarray(mask)


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in MVTec AD layout: 12 good images to fit on, 4 good ones and 4 with a dent to score, each."""
    root = tmp_path_factory.mktemp("factory")
    for category, shade in (("plate", 90), ("lid", 140)):
        rng = np.random.default_rng(shade)
        for i in range(12):
            write_part(root / category / "train" / "good" / f"{i:02d}.jpg", rng, shade=shade, defect=False)
        for i in range(4):
            write_part(root / category / "test" / "good" / f"{i:02d}.jpg", rng, shade=shade, defect=False)
            mask = write_part(root / category / "test" / "dent" / f"{i:02d}.png", rng, shade=shade, defect=True)
            path = root / category / "ground_truth" / "dent" / f"{i:02d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
    return root


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray of this session: its own temporary folder and ports, no token file, stopped at the end."""
    import ray

    folder = tempfile.mkdtemp(prefix="dr", dir="/tmp")  # short: the path of a Unix socket has at most 107 characters
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder, logging_level="ERROR")
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The endpoint of a real S3 server of this session, started when the first test asks for it."""
    from s3_server import NoExtendedAttributes, running_server

    with contextlib.ExitStack() as stack:
        try:
            endpoint = stack.enter_context(running_server())
        except NoExtendedAttributes as error:
            pytest.skip(str(error))
        yield endpoint


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a bucket of this module, on the S3 server that the environment names as long as the module runs."""
    from s3_server import ACCESS_KEY, REGION, SECRET_KEY

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", REGION)
        S3FileSystem.clear_instance_cache()  # instances keep the environment that they were made in
        name = request.module.__name__.rsplit(".", 1)[-1].replace("_", "-")
        S3FileSystem(client_kwargs={"region_name": REGION}).mkdir(name)
        yield f"s3://{name}"
        S3FileSystem.clear_instance_cache()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `fsync` return at once; that it is called has a test of its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Returns a function that writes files of these names below a folder (`archive`), each with its own content."""

    def write(*names: str, below: str = "archive") -> Path:
        root = tmp_path / below
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"content of {name}".encode())
        return root

    return write


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty model store."""
    return ModelStore(canonical(str(tmp_path / "models")))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time of publication in the model store, as the one entry of a list, which a test may set."""
    now = [datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now[0].astimezone(tz)

    monkeypatch.setattr(model_store, "datetime", Clock)
    return now


@pytest.fixture
def output(tmp_path: Path) -> str:
    """The URI of an empty place for results."""
    return canonical(str(tmp_path / "output"))
