"""The tests of reports publish made runs as those of the results do."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("data", "report"):  # staged_runs, stored_models and made_runs are imported by name
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
