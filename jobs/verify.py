"""Compute random rows of a run again: ray job submit --working-dir . -- python jobs/verify.py --config jobs/verify.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]], prog_name="jobs/verify.py")
