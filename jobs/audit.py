"""The nightly job: ray job submit --working-dir . -- python jobs/audit.py --config jobs/audit.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["audit", *sys.argv[1:]], prog_name="jobs/audit.py")
