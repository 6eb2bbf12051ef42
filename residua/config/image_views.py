"""The views of a test image whose predictions are averaged."""

from typing import Literal, get_args

from residua.errors import UsageError, unknown_name_error

ImageViews = Literal["plain", "mirror", "six"]
"""The views of an image whose predictions are averaged.

"plain" is the image alone, and "mirror" adds its mirror image; their probabilities are averaged.
"six" are both of these, and both shifted by a pixel up and left, and down and right.  Their class
scores are averaged, with half of the weight on the unshifted ones (Jordan 2024).
"""
VIEWS_PHRASES: dict[object, str] = {"mirror": " with mirror images", "six": " with six views"}


def describe_views(views: object) -> str:
    """Return what follows an accuracy of these views, e.g. ` with six views`.

    It is "" for the plain images, and for records that name no views.
    """
    return VIEWS_PHRASES.get(views, "") if isinstance(views, str) else ""


def choose_views(views: ImageViews | None, *, mirror: bool) -> ImageViews:
    """Return the views that a user asks for; `mirror` is short for the views "mirror".

    Raises UsageError for unknown views, or if `views` and `mirror` contradict each other.
    """
    if views is not None and views not in get_args(ImageViews):
        raise unknown_name_error("kind of views", str(views), get_args(ImageViews))
    if mirror and views not in (None, "mirror"):
        raise UsageError(
            f"--mirror and --views={views} contradict each other: leave one of them out"
        )
    return views or ("mirror" if mirror else "plain")
