"""Fixtures of the data room: a small archive on disk, an empty model store, and the time of publication."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from differnet_ray.data import model_store
from differnet_ray.data.model_store import ModelStore
from differnet_ray.data.storage import canonical

sys.path.insert(0, str(Path(__file__).parent))  # image_files, stored_models and staged_runs are imported by name

Plant = Callable[..., Path]


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
