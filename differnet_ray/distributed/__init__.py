"""ROOM 3: the only room that imports ray, one file per use."""
