"""`differnet-ray serve` as people run it, and its configuration for `serve deploy`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from said import run

from differnet_ray.distributed.serve import ServeJob, plan_serve

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_configuration_for_clusters_is_what_the_command_prints() -> None:
    from ray.serve.schema import ServeDeploySchema

    printed = run("serve", "--config", JOBS / "serve.toml", "--print-config").stdout
    assert printed == (JOBS / "serve.yaml").read_text()
    schema = ServeDeploySchema.model_validate(yaml.safe_load(printed))
    (application,) = schema.applications
    job = ServeJob.from_dict(application.args)
    assert job.models == "s3://plant/models"
    assert job.to_dict() == ServeJob.from_dict(job.to_dict()).to_dict()


@pytest.mark.parametrize(
    ("cluster", "asked", "expected"),
    [
        ((2, 0.0), (None, None, None), ((1, 1), 2, 2, 0)),
        ((2, 0.0), ((2, 2), None, None), ((2, 2), 1, 1, 0)),
        ((2, 0.0), ((1, 4), None, None), ((1, 4), 1, 0.5, 0)),
        ((16, 0.0), (None, None, None), ((1, 4), 4, 4, 0)),
        ((16, 2.0), (None, None, None), ((1, 2), 2, 1, 1)),
        ((16, 2.0), (None, 0.25, 3), ((1, 8), 3, 1, 0.25)),
    ],
)
def test_replicas_fit_the_cluster(
    cluster: tuple[int, float],
    asked: tuple[tuple[int, int] | None, float | None, int | None],
    expected: tuple[tuple[int, int], int, float, float],
) -> None:
    plan = plan_serve(*cluster, *asked)
    assert (plan.replicas, plan.threads, plan.cpus, plan.gpus) == expected


@pytest.mark.filterwarnings("ignore")
def test_it_serves_until_it_is_ended_and_finishes_what_it_has(
    models: str, factory: Path, local_ray: None, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        taken = run("serve", "--models", models, "--port", port, exit_code=2)
        assert "Address already in use" in taken.stderr
    assert "token" in run("serve", "--models", models, "--token-file", tmp_path / "none", exit_code=2).stderr
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "differnet_ray.cli", "serve", "--models", models, "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in said
        image = next((factory / "plate" / "test" / "dent").iterdir()).read_bytes()
        how = {"params": {"category": "plate"}, "headers": {"Content-Type": "image/png"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client, ThreadPoolExecutor(8) as pool:
            late = time.monotonic() + 60
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < late
                time.sleep(0.1)
            sent = [pool.submit(client.post, "/v1/score", content=image, **how) for _ in range(8)]  # type: ignore[arg-type]
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            statuses = {future.result().status_code for future in sent}
        rest = process.communicate(timeout=90)
    assert statuses == {200}, rest
    assert process.returncode == 0, rest
