"""Ground-truth masks of defects, in the layout of MVTec AD: where the mask of an image lies, and its pixels.

<category>/test/<defect>/<name>.png                 the image
<category>/ground_truth/<defect>/<name>_mask.png    its mask: 0 is good, anything above is defect
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from differnet_ray.archives.index import MASK_FOLDER
from differnet_ray.errors import ImageError
from differnet_ray.storage.files import exists, read_bytes
from differnet_ray.storage.locations import join


def mask_uri(uri: str) -> str | None:
    """The URI of an image's mask, whether there is one or not; None where the image does not lie as in MVTec AD.

    Example:
        >>> mask_uri("s3://plant/screw/test/scratch/007.jpg")
        's3://plant/screw/ground_truth/scratch/007_mask.png'
    """
    parts = uri.rsplit("/", 3)
    if len(parts) < 4 or parts[1] != "test":
        return None
    root, _, defect, name = parts
    return join(root, MASK_FOLDER, defect, f"{name.rpartition('.')[0] or name}_mask.png")


def has_masks(uris: Iterable[str]) -> bool:
    """Whether there is a folder of masks for any of the images."""
    folders = {mask.rpartition("/")[0] for mask in map(mask_uri, uris) if mask is not None}
    return any(exists(folder) for folder in sorted(folders))


def read_mask(uri: str, size: int) -> NDArray[np.bool_]:
    """The mask of an image, resized to a square with the nearest pixel, so that it stays sharp.

    Args:
        uri: canonical URI of the mask.
        size: side of the result, in pixels.

    Returns:
        (size, size) bool, True on the defect.

    Raises:
        FileNotFoundError: there is none.
        ImageError: it is not an image.
        StorageError: it cannot be read.
    """
    data = read_bytes(uri)
    try:
        with Image.open(io.BytesIO(data)) as image:
            grey = image if image.mode in ("1", "F") or image.mode.startswith("I") else image.convert("L")
            marked = Image.fromarray((np.asarray(grey) > 0).astype(np.uint8))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: struct.error, KeyError, zlib.error
        raise ImageError("unreadable", f"the mask is damaged or no image: {error}") from error
    return np.asarray(marked.resize((size, size), Image.Resampling.NEAREST)) > 0
