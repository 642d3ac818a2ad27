"""How often this process read something again, for those that watch. Standard library only."""

from __future__ import annotations

import threading

_lock, _total = threading.Lock(), 0


def note_retry(n: int = 1) -> None:
    """Counts reads that were tried again."""
    global _total
    with _lock:
        _total += n


def n_retries() -> int:
    """Reads that were tried again since this process began."""
    return _total
