"""Measure a labelled data set: ray job submit --working-dir . -- python jobs/evaluate.py --config jobs/evaluate.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]], prog_name="jobs/evaluate.py")
