"""The demo: the main job on images that it makes itself."""
