"""BRIDGE, where Arrow meets tensors: what is done to rows of images, and to a category."""
