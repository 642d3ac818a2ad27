"""Where files are: a location is a local path or an `s3://bucket/key` URI, and has one canonical URI.

Endpoint and credentials of S3 come from the usual AWS variables, profiles and roles, never from a URI.
"""

from __future__ import annotations

import os
import re

from fsspec.implementations.local import make_path_posix

from differnet_ray.errors import ConfigError

FILE, S3 = "file://", "s3://"


def canonical(location: str) -> str:
    """The canonical URI of a location: `file:///absolute/path` or `s3://bucket/key`, without a slash at the end.

    Raises:
        ConfigError: another scheme, or credentials inside the URI.
    """
    if location.startswith(S3):
        bucket = location.removeprefix(S3).split("/", 1)[0]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
            raise ConfigError(
                "an s3:// location needs the form s3://bucket/key, without credentials in it: give those by AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, a profile or a role"
            )
        return location.rstrip("/")
    path = location.removeprefix(FILE)
    if not path:
        raise ConfigError("an empty location: expected a local path or s3://bucket/key")
    if "://" in path:
        scheme = path.split("://")[0]
        raise ConfigError(f"location of scheme {scheme!r}: expected a local path or s3://bucket/key")
    absolute = str(make_path_posix(os.path.abspath(os.path.expanduser(path))))
    return FILE + "/" + absolute.strip("/")


def join(uri: str, *parts: str) -> str:
    """The URI of something below another."""
    return "/".join([uri.removesuffix("/"), *parts])


def name_of(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]
