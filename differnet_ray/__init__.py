"""differnet_ray: finds defective parts in archives of images."""

__version__ = "0.1.0"
