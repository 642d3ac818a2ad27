"""Who may import whom: read from the source of every module, and seen in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import differnet_ray

PACKAGE = Path(differnet_ray.__file__).parent
MODULES = {
    ".".join(("differnet_ray", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

KNOWS_RAY = ("differnet_ray.distributed",)
LAZY_RAY = ("differnet_ray.cli.doctor",)  # a door: asks inside a function whether Ray starts
FLOOR = (  # the standard library only
    "differnet_ray.errors",
    "differnet_ray.config",
    "differnet_ray.limits",
    "differnet_ray.labels",
    "differnet_ray.threads",
    "differnet_ray.queries",
    "differnet_ray.metric_names",
)
TABLES, CONTRACT = "differnet_ray.tables", "differnet_ray.table_contract"
STORAGE, ARCHIVES = "differnet_ray.storage", "differnet_ray.archives"
STORE, RESULTS = "differnet_ray.store", "differnet_ray.results"
MODEL, PIPELINE, ONLINE = "differnet_ray.model", "differnet_ray.pipeline", "differnet_ray.online"
WEBHOOK, MESSAGES = "differnet_ray.webhook", "differnet_ray.webhook_messages"
CURVES = "differnet_ray.report.fit_curves"  # a picture of the fit, beside its model
DATA_ROOMS = (STORAGE, ARCHIVES, STORE, RESULTS)
ROOMS = {  # the modules of the package that a room may import
    "differnet_ray.errors": (),
    "differnet_ray.config": ("differnet_ray.errors",),
    "differnet_ray.limits": ("differnet_ray.errors",),
    "differnet_ray.labels": (),
    "differnet_ray.threads": (),
    "differnet_ray.queries": (),
    "differnet_ray.metric_names": (),
    "differnet_ray.versions": ("differnet_ray.__version__",),
    CONTRACT: (),
    TABLES: ("differnet_ray.errors", CONTRACT),
    MODEL: (*FLOOR, MODEL),
    STORAGE: (*FLOOR, STORAGE),
    ARCHIVES: (*FLOOR, TABLES, STORAGE, ARCHIVES),
    STORE: (*FLOOR, TABLES, STORAGE, STORE),
    RESULTS: (*FLOOR, CONTRACT, TABLES, STORAGE, RESULTS),
    PIPELINE: (*FLOOR, TABLES, MODEL, *DATA_ROOMS, "differnet_ray.versions", "differnet_ray.__version__", PIPELINE, CURVES),
    "differnet_ray.client": ("differnet_ray.errors", "differnet_ray.queries"),
    WEBHOOK: ("differnet_ray.errors", MESSAGES),
    MESSAGES: (),
    ONLINE: (*FLOOR, TABLES, STORAGE, STORE, "differnet_ray.__version__", ONLINE),
    "differnet_ray.experiments": (
        *FLOOR,
        TABLES,
        MODEL,
        *DATA_ROOMS,
        PIPELINE,
        "differnet_ray.versions",
        "differnet_ray.report",
        "differnet_ray.experiments",
    ),
}
DOORS = {"differnet_ray.cli"}
FORBIDDEN = {  # what must not be in sys.modules once a room and those before it in its line are imported
    "differnet_ray.config": ("ray", "torch", "numpy", "pyarrow", MODEL, *DATA_ROOMS),
    "differnet_ray.cli": ("ray", "torch", "numpy", "pyarrow", "matplotlib", "scipy", MODEL, *DATA_ROOMS),
    STORAGE: ("ray", "torch", "matplotlib", MODEL, ARCHIVES, STORE, RESULTS),
    ARCHIVES: ("ray", "torch", "matplotlib", MODEL, STORE, RESULTS),
    STORE: ("ray", "torch", MODEL, RESULTS),
    RESULTS: ("ray", "torch", MODEL, "differnet_ray.distributed"),
    MODEL: ("ray", "pyarrow", "matplotlib", *DATA_ROOMS, "differnet_ray.distributed"),
    PIPELINE: ("ray", "differnet_ray.distributed"),
    "differnet_ray.client": ("ray", "torch", "numpy", "pyarrow", "fastapi", ONLINE),
    WEBHOOK: ("ray", "torch", "numpy", "pyarrow"),
    ONLINE: ("ray", "torch", "matplotlib", MODEL, RESULTS, PIPELINE, "differnet_ray.distributed"),
    "differnet_ray.experiments": ("ray", "sklearn", "differnet_ray.distributed"),
}
INTERPRETERS = [  # torch is slow to import: the numeric room and the bridge share an interpreter, in this order
    ["differnet_ray.config", "differnet_ray.cli"],
    [STORAGE, ARCHIVES, STORE, RESULTS],
    ["differnet_ray.client", WEBHOOK, ONLINE],
    [MODEL, PIPELINE, "differnet_ray.experiments"],
]


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports(module: str) -> Iterator[str]:
    """All imports of a module, also those inside functions and for type checkers only."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if within(m, *ROOMS)))
def test_a_room_imports_only_the_rooms_below_it(module: str) -> None:
    room = next(room for room in ROOMS if within(module, room))
    inner = [name for name in imports(module) if within(name, "differnet_ray")]
    assert [name for name in inner if not within(name, *ROOMS[room])] == []


@pytest.mark.parametrize("module", [*FLOOR, "differnet_ray.versions"])
def test_the_floor_needs_the_standard_library_only(module: str) -> None:
    outer = {name.split(".")[0] for name in imports(module)} - {"differnet_ray"}
    assert outer <= sys.stdlib_module_names


def test_only_the_distributed_room_imports_ray() -> None:
    knowing = {module for module in MODULES if any(within(name, "ray") for name in imports(module))}
    assert {module for module in knowing if not within(module, *KNOWS_RAY, *LAZY_RAY)} == set()
    assert any(within(module, *KNOWS_RAY) for module in knowing)


@pytest.mark.parametrize("module", LAZY_RAY)
def test_a_door_that_asks_for_ray_does_so_inside_functions(module: str) -> None:
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if within(name, "ray", *KNOWS_RAY)]


def test_the_data_rooms_know_no_torch_and_the_numeric_room_no_arrow() -> None:
    for module in MODULES:
        if within(module, *DATA_ROOMS):
            assert not [name for name in imports(module) if within(name, "torch", "torchvision", "safetensors.torch", "FrEIA")]
        if within(module, MODEL):
            assert not [name for name in imports(module) if within(name, "pyarrow", "fsspec", "s3fs")]


def test_only_doors_import_the_command_line() -> None:
    importers = {module for module in MODULES if any(within(name, "differnet_ray.cli") for name in imports(module))}
    assert not [module for module in importers if not within(module, *DOORS)]


@pytest.mark.parametrize("rooms", INTERPRETERS, ids=" then ".join)
def test_a_fresh_interpreter_that_imports_a_room_loads_nothing_that_the_room_must_not_know(rooms: list[str]) -> None:
    script = "import importlib, sys\n"
    for room in rooms:
        modules = [room] if room in DOORS else sorted(module for module in MODULES if within(module, room))
        script += f"for module in {modules}:\n"
        script += f"    assert importlib.import_module(module) and {room!r} in sys.modules\n"
        script += f"print(*[f'{room} loads {{name}}' for name in {FORBIDDEN[room]} if name in sys.modules])\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
