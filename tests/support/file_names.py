"""Names of files that tests of storage write, list and part."""

from __future__ import annotations

from hypothesis import strategies as st

# Any name that a POSIX folder takes: spaces, quotes, percent signs, newlines, and letters of all scripts.
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) <= 200
)
AWKWARD = ["plain.png", "with space.png", "Größe 漢字 🙂.png", 'it\'s "q".png', "100%20.png", "a\nb.png", "#?*[x]&.png"]
