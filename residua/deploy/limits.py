"""The limits of a prediction service."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits on requests, memory and time; the defaults are our choice."""

    max_body_bytes: int = 20_000_000
    max_image_pixels: int = 50_000_000
    max_waiting_images: int = 256  # images that are accepted and not answered yet
    timeout_seconds: float = 30.0  # for the body to arrive, and again for the prediction
    max_total_bytes: int = 256_000_000  # bodies of all requests, arriving or not answered yet
    head_timeout_seconds: float = 10.0  # for a request's headers to arrive
