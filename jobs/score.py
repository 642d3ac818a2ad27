"""Score an archive: ray job submit --working-dir . -- python jobs/score.py --config jobs/score.toml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]], prog_name="jobs/score.py")
