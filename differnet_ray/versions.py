"""What the records say about the code that computed them. Standard library only."""

from __future__ import annotations

import platform
from importlib import metadata

from differnet_ray import __version__

LIBRARIES = ("ray", "torch", "torchvision", "FrEIA", "numpy", "scipy", "pyarrow", "Pillow")


def library_versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    return {"differnet_ray": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in LIBRARIES
    }
