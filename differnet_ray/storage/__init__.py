"""ROOM 2a: one way to read, list, write and publish on local disks and S3."""
