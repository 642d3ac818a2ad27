"""The figures that the paper printed: image AUROC in %. Standard library only.

Source: Rudolph, Wandt, Rosenhahn, "Same Same But DifferNet", WACV 2021: tables 1, 2 and 3, section 4.5. GeoTrans, GANomaly,
DSEBM and ADGAN are quoted by the paper from elsewhere and are not run here.
"""

from __future__ import annotations

TILES = "magnetic_tile"
DIFFERNET, OCSVM, NEIGHBOUR, SHOTS_16 = "DifferNet", "OCSVM", "1-NN", "DifferNet, 16 shots"
_ROWS = (OCSVM, NEIGHBOUR, DIFFERNET, SHOTS_16)

TABLE_1: dict[str, dict[str, float]] = {
    category: dict(zip(_ROWS, figures, strict=True))
    for category, figures in {
        "grid": (41.0, 55.7, 84.0, 65.8),
        "leather": (88.0, 90.3, 97.1, 92.9),
        "tile": (87.6, 96.9, 99.4, 98.9),
        "carpet": (62.7, 81.1, 92.9, 77.0),
        "wood": (95.3, 93.4, 99.8, 99.2),
        "bottle": (99.0, 98.7, 99.0, 98.5),
        "capsule": (54.4, 71.1, 86.9, 61.4),
        "pill": (72.9, 83.7, 88.8, 65.1),
        "transistor": (56.7, 75.6, 91.1, 76.6),
        "zipper": (51.7, 88.6, 95.1, 88.3),
        "cable": (80.3, 88.5, 95.9, 86.4),
        "hazelnut": (91.1, 97.9, 99.3, 97.3),
        "metal_nut": (61.1, 76.7, 96.1, 77.7),
        "screw": (74.7, 67.0, 96.3, 75.9),
        "toothbrush": (61.9, 91.9, 98.6, 92.3),
    }.items()
}
TABLE_2 = {DIFFERNET: 97.7, OCSVM: 58.7, NEIGHBOUR: 80.0}
TABLE_2_QUOTED = {"GeoTrans": 75.5, "GANomaly": 76.6, "DSEBM": 57.2, "ADGAN": 46.4}
TABLE_3 = {"A": 84.4, "B": 90.2, "C": 86.6, "D": 86.5, "E": 91.6, "F": 94.1, "G": 94.9}  # mean over MVTec AD
MULTIMODAL_MEAN = 90.2  # mean over MVTec AD


def published_auroc(experiment: str, row: str, category: str | None) -> float | None:
    """The paper's figure for a row of an experiment on a category (or, for None, on the mean of all), if it has one."""
    if experiment == "table2":
        return TABLE_2.get(row) if category == TILES else None
    if experiment == "ablation":
        return TABLE_3.get(row[:1]) if category is None else None
    if experiment == "multimodal":
        return MULTIMODAL_MEAN if category is None else None
    if experiment == "shots":
        return None  # Fig. 7 has no figures in print
    if category is None:
        known = [figures[row] for figures in TABLE_1.values() if row in figures]
        return round(sum(known) / len(known), 1) if known else None
    return TABLE_1.get(category, {}).get(row)
