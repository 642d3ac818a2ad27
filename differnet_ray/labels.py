"""Which images are good: one notion of it for every verb."""

from __future__ import annotations

from collections.abc import Collection

GOOD = "good"  # the kind of an image without a defect, as in MVTec AD
GOOD_NAMES = (GOOD, "ok", "normal")  # what data sets call it, in any case


def kind_of(name: str, good: Collection[str] = ()) -> str:
    """The kind of defect that a folder or label names: `GOOD` where it is a name of good images, else the name itself.

    Args:
        name: of the folder or label.
        good: further names of good images, in any case.

    Example:
        >>> kind_of("OK"), kind_of("ko"), kind_of("Gut", good=["gut"])
        ('good', 'ko', 'good')
    """
    return GOOD if name.casefold() in {known.casefold() for known in (*GOOD_NAMES, *good)} else name
