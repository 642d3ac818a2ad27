"""Ground-truth masks of defects: where the mask of an image may lie, and its pixels. 0 is good, anything above is defect.

image                                       mask                                                  as in
<category>/test/<defect>/<name>.png         <category>/ground_truth/<defect>/<name>_mask.png      MVTec AD, MPDD
<category>/test/ko/<name>.bmp               <category>/ground_truth/ko/<name>.png or .bmp         BTAD, VisA of one class
<category>/Data/Images/Anomaly/<name>.JPG   <category>/Data/Masks/Anomaly/<name>.png              VisA
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from differnet_ray.errors import ImageError
from differnet_ray.storage.files import exists, read_bytes
from differnet_ray.storage.locations import join, name_of

_FOLDERS = {"test": "ground_truth", "Images": "Masks"}  # of images, and of their masks
_ENDS = ("_mask.png", ".png", ".bmp", "_mask.bmp")


def mask_uris(uri: str) -> list[str]:
    """The URIs that an image's mask may have, the usual ones first; none where the image does not lie as in such a data set.

    Example:
        >>> mask_uris("s3://plant/screw/test/scratch/007.jpg")[:2]
        ['s3://plant/screw/ground_truth/scratch/007_mask.png', 's3://plant/screw/ground_truth/scratch/007.png']
    """
    parts = uri.rsplit("/", 3)
    if len(parts) < 4 or parts[1] not in _FOLDERS:
        return []
    root, split, defect, name = parts
    return [join(root, _FOLDERS[split], defect, (name.rpartition(".")[0] or name) + end) for end in _ENDS]


def has_masks(uris: Iterable[str]) -> bool:
    """Whether there is a folder of masks for any of the images."""
    folders = {mask.rpartition("/")[0] for uri in uris for mask in mask_uris(uri)}
    return any(exists(folder) for folder in sorted(folders))


def read_mask(uris: Sequence[str], size: int) -> NDArray[np.bool_]:
    """The first mask that there is, resized to a square with the nearest pixel, so that it stays sharp.

    Args:
        uris: canonical URIs that the mask may have, at least one.
        size: side of the result, in pixels.

    Returns:
        (size, size) bool, True on the defect.

    Raises:
        FileNotFoundError: there is none.
        ImageError: it is not an image.
        StorageError: it cannot be read.
    """
    for uri in uris:
        try:
            return _pixels(read_bytes(uri), uri, size)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(f"{uris[0]}: no such file, nor {', '.join(map(name_of, uris[1:]))}")


def _pixels(data: bytes, uri: str, size: int) -> NDArray[np.bool_]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            grey = image if image.mode in ("1", "F") or image.mode.startswith("I") else image.convert("L")
            marked = Image.fromarray((np.asarray(grey) > 0).astype(np.uint8))
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: struct.error, KeyError, zlib.error
        raise ImageError("unreadable", f"{uri}: the mask is damaged or no image: {error}") from error
    return np.asarray(marked.resize((size, size), Image.Resampling.NEAREST)) > 0
