"""Bearer tokens: several at a time, so that one can follow another, read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

from differnet_ray.errors import ConfigError
from differnet_ray.online.options import TOKENS_VARIABLE

SHORTEST = 16  # characters
logger = logging.getLogger(__name__)


class Tokens:
    """The tokens that are accepted; without a file and variable every request is.

    Args:
        file: of tokens, one a line; empty lines and those that begin with # count for nothing.

    Raises:
        ConfigError: the file cannot be read, or it or the variable holds no usable token.
    """

    def __init__(self, file: str | None) -> None:
        self._file = None if file is None else Path(file)
        self._seen: tuple[int, int, int] | None = None
        self._digests: list[bytes] = []
        self.required = file is not None or TOKENS_VARIABLE in os.environ
        if self._file is not None:
            try:
                self._read(self._file)
            except OSError as error:
                raise ConfigError(f"token file {file}: {error.strerror or error}") from error
        elif self.required:
            self._digests = _digests(os.environ[TOKENS_VARIABLE].replace(",", " ").split())
        if self.required and not self._digests:
            place = f"token file {file}" if file is not None else f"variable {TOKENS_VARIABLE}"
            raise ConfigError(f"{place} holds no token of at least {SHORTEST} characters; without tokens give neither of them")

    def accept(self, authorization: str | None) -> bool:
        """Whether the header `Authorization` of a request holds one of them; all are compared, whichever fits."""
        if not self.required:
            return True
        self._look()
        scheme, _, token = (authorization or "").partition(" ")
        asked = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        fits = [hmac.compare_digest(asked, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(fits)

    def _look(self) -> None:
        """Reads the file again if it is another one; where it cannot be read the tokens of before hold."""
        if self._file is None:
            return
        try:
            if _stamp(self._file) != self._seen:
                self._read(self._file)
                logger.info("token file %s has changed: %d tokens", self._file, len(self._digests))
        except OSError as error:
            logger.error("token file %s cannot be read, its last tokens hold: %s", self._file, error)

    def _read(self, file: Path) -> None:
        seen = _stamp(file)
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
        self._digests = _digests([line for line in lines if not line.startswith("#")])
        self._seen = seen


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digests(tokens: list[str]) -> list[bytes]:
    """Digests have one length, so that comparing them tells nothing of that of a token."""
    return [hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest() for token in tokens if len(token) >= SHORTEST]
