"""Answer for single images: python jobs/serve.py --config jobs/serve.toml; on a cluster: serve deploy jobs/serve.yaml."""

import sys

from differnet_ray.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]], prog_name="jobs/serve.py")
