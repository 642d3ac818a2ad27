"""ROOM 2d: runs, their staged rows and what is published of them; and the face that programs read it by.

from differnet_ray import results

rows = results.scores("s3://plant/results", date="2026-01-31", category="screw")
"""

from differnet_ray.results.reading import as_array, gradient_map, maps, n_clipped, run, runs, scores

__all__ = ["as_array", "gradient_map", "maps", "n_clipped", "run", "runs", "scores"]
