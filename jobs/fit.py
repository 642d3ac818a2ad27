"""Fit one model per category: ray job submit --working-dir . -- python jobs/fit.py --config jobs/fit.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["fit", *sys.argv[1:]], prog_name="jobs/fit.py")
