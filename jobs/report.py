"""Write the report of a run: ray job submit --working-dir . -- python jobs/report.py --config jobs/report.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]], prog_name="jobs/report.py")
