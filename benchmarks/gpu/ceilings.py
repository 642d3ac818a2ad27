"""The step `ceilings`: what the machine is, and the two rates that no program passes, measured."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.setting import Results, Setting, timed

DRIVER = Path("/proc/driver/nvidia/version")


def run(setting: Setting) -> None:
    """A large matrix product in each precision, on random data, and a large copy within the device."""
    results = Results(setting.out, "ceilings")
    cuda = setting.device == "cuda"
    results.add(
        "machine",
        device=torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        driver=_driver() if cuda else "none",
        torch=torch.__version__,
        cudnn=torch.backends.cudnn.version() if cuda else None,
        python=platform.python_version(),
        cores=os.cpu_count(),
        memory_gib=torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None,
        multiprocessors=torch.cuda.get_device_properties(0).multi_processor_count if cuda else None,
    )
    n = setting.choose(8192 if cuda else 1024, 256)
    for name in ("bfloat16", "tf32", "float32"):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        a, b = (torch.randn(n, n, device=setting.device, dtype=dtype) for _ in range(2))
        seconds = statistics.median(timed(setting, 10, 3, partial(torch.matmul, a, b)))
        results.add(f"matrix product, {name}", n=n, tflops=2 * n**3 / seconds / 1e12)
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(setting.choose(2**30 if cuda else 2**24, 2**20), device=setting.device)
    target = torch.empty_like(source)
    seconds = statistics.median(timed(setting, 10, 3, lambda: target.copy_(source)))
    results.add("copy within the device, read and written", tb_per_second=2 * source.nbytes / seconds / 1e12)


def _driver() -> str:
    if DRIVER.is_file():
        return DRIVER.read_text().splitlines()[0].removeprefix("NVRM version: ")
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
