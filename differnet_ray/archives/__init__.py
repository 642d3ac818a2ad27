"""ROOM 2b: folders, tar, zip, Parquet and manifests of images, to rows and to pixels."""
