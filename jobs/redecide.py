"""Decide stored scores anew: ray job submit --working-dir . -- python jobs/redecide.py --config jobs/redecide.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["redecide", *sys.argv[1:]], prog_name="jobs/redecide.py")
