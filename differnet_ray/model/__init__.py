"""ROOM 1: tensors in, tensors out. No files, no Arrow, no Ray."""
