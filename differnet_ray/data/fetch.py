"""The first stage of scoring: manifest rows -> the same rows with decoded pixels, or with the reason why there are none.

It needs no torch, so that the workers that fetch stay small.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from differnet_ray.data.images import decode
from differnet_ray.data.storage import read_bytes
from differnet_ray.data.tables import FETCHED, extend
from differnet_ray.errors import ImageError, StorageError

FETCH_THREADS = 8  # reads wait for storage, and decoding releases the interpreter lock


class FetchImages:
    """Reads and decodes the images that manifest rows name.

    Args:
        image_sizes: category to H of its model; rows of other categories get the status `no_model` and are not read.
    """

    def __init__(self, image_sizes: Mapping[str, int]) -> None:
        self.image_sizes = image_sizes

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of `tables.MANIFEST` -> the same rows of `tables.FETCHED`."""
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            fetched = list(pool.map(self._fetch, rows["uri"].to_pylist(), rows["category"].to_pylist()))
        return extend(rows, fetched, FETCHED)

    def _fetch(self, uri: str, category: str) -> dict[str, Any]:
        size = self.image_sizes.get(category)
        if size is None:
            return {"status": "no_model", "error": f"the model store has no model of category {category!r}"}
        try:
            image = decode(read_bytes(uri), size=size)
        except FileNotFoundError:
            return {"status": "missing", "error": "the file was listed, but is no longer there"}
        except StorageError as error:
            return {"status": "failed", "error": str(error)}
        except ImageError as error:
            return {"status": error.status, "error": error.reason}
        return {"width": image.width, "height": image.height, "pixels": image.pixels.tobytes()}
