"""ROOM 2: Arrow and storage. No torch, no Ray."""
