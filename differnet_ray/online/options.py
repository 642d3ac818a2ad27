"""What the endpoint is told: limits and access. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB, GIB = 2**20, 2**30
TOKENS_VARIABLE = "DIFFERNET_SERVE_TOKENS"
MAX_IMAGES = 32  # of a batch
MAX_METADATA = 4096  # bytes of JSON


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
        image_bytes: of an image file; of a whole request four times as much.
        held_bytes: of the bodies of all requests that an ingress holds at a time.
        pixels: width x height of an image.
        decode_seconds: for an image.
        seconds: from a request's last byte to its answer.
        body_seconds, idle_seconds: for the whole body to come in, and between two parts of it.
        queue: images that wait at a replica, beside those that it works on.
    """

    image_bytes: int = 20 * MIB
    held_bytes: int = 512 * MIB
    pixels: int = 50_000_000
    decode_seconds: float = 10.0
    seconds: float = 30.0
    body_seconds: float = 60.0
    idle_seconds: float = 10.0
    queue: int = 32

    @property
    def body_bytes(self) -> int:
        """Of a request with several images."""
        return 4 * self.image_bytes


@dataclass(frozen=True)
class Options:
    """How the web side answers.

    Attributes:
        limits: of requests.
        in_flight: images that may be with the scorers at a time; more get 429.
        token_file: bearer tokens, one a line; None: those of the variable DIFFERNET_SERVE_TOKENS, if it is set.
        cors: origins whose pages may ask.
        behind_proxy: the server in front puts the request id into each answer.
    """

    limits: Limits = field(default_factory=Limits)
    in_flight: int = 34
    token_file: str | None = None
    cors: tuple[str, ...] = ()
    behind_proxy: bool = False
