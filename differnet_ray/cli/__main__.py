"""`python -m differnet_ray.cli`."""

from differnet_ray.cli import main

if __name__ == "__main__":
    main(prog_name="differnet-ray")
