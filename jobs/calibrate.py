"""Find new thresholds: ray job submit --working-dir . -- python jobs/calibrate.py --config jobs/calibrate.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["calibrate", *sys.argv[1:]], prog_name="jobs/calibrate.py")
