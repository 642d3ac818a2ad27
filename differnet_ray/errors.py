"""Everything that can go wrong, on one page.

    DifferNetError                 exit code 1: the job failed
    ├── ConfigError                exit code 2: wrong usage or configuration, said before any work
    │   └── WeightsError           weights of the backbone cannot be found, or do not fit it
    ├── StorageError               a location cannot be listed, read or written
    │   ├── ReplacedError          a file is another one than was listed
    │   └── UnavailableError       the storage as a whole does not answer, or refuses us
    ├── ModelStoreError            a stored model is missing, incomplete or damaged
    ├── TableError                 a table does not have its declared schema
    ├── ImageError                 one image cannot be used; carries the `status` of its row
    ├── FitError                   a category could not be fitted
    ├── LeaseError                 another process works on the same run
    └── ReconciliationError        the rows of a run are not the images of its manifest

Every exception carries one message for people: what, where, what was expected, what to do.
All of them pickle, because they travel from Ray workers to the driver.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_FAILED, EXIT_ALARM, EXIT_NOT_ALL_SCORED, EXIT_INTERRUPTED = 1, 3, 4, 130


class DifferNetError(Exception):
    """Base of all errors of this package; the CLI prints its message and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class ConfigError(DifferNetError):
    """Wrong usage or configuration, found before any work was done."""

    exit_code: ClassVar[int] = 2


class WeightsError(ConfigError):
    """There is no such backbone, or its weights cannot be found, or do not fit it."""


class StorageError(DifferNetError):
    """A location cannot be listed, read or written."""


class ReplacedError(StorageError):
    """A file is another one than was listed."""


class UnavailableError(StorageError):
    """The storage as a whole does not answer, or refuses us: no use in trying the next file."""


class ModelStoreError(DifferNetError):
    """A stored model is missing, incomplete or damaged."""


class TableError(DifferNetError):
    """A table does not have its declared schema."""


class ImageError(DifferNetError):
    """One image cannot be used.

    Args:
        status: the `status` of the image's row: `unreadable`, `unsupported`, `too_large`, `missing` or `failed`.
        reason: one sentence for people; becomes the `error` of the row.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class FitError(DifferNetError):
    """A category could not be fitted."""


class LeaseError(DifferNetError):
    """Another process works on the same run."""


class ReconciliationError(DifferNetError):
    """The rows of a run are not exactly the images of its manifest."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Refuses the value of a setting.

    Raises:
        ConfigError: the condition does not hold; names the key, the value and what is allowed.
    """
    if not condition:
        raise ConfigError(f"{key} = {value!r} is not allowed: expected {allowed}")
