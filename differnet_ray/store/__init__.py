"""ROOM 2c: the models that were fitted, and the fits that are not finished."""
