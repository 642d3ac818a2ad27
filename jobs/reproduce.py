"""Re-run a table of the paper: ray job submit --working-dir . -- python jobs/reproduce.py --config jobs/reproduce.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]], prog_name="jobs/reproduce.py")
