"""The views of a test image whose predictions are averaged."""

from typing import Literal

from residua.errors import UsageError, unknown_name_error

ImageViews = Literal["none", "mirror", "10", "six", "plain"]
"""The views of an image whose predictions are averaged.

"none" is the image alone; older records call it "plain".  "mirror" adds its mirror image.  "10" are
ten crops of a photograph: the four corners and the center of the square that evaluation resizes it
to, each with its mirror image (Krizhevsky et al. 2012, section 4.1; the 10-crop testing of He et
al. 2015).  For "mirror" and "10", probabilities are averaged, as by Krizhevsky et al.

"six" are the image and two shifts of it, by a pixel up and left, and down and right, each with its
mirror image.  Their class scores are averaged, with half of the weight on the unshifted ones
(Jordan 2024).
"""
VIEWS_NAMES: tuple[ImageViews, ...] = ("none", "mirror", "10", "six")
FORMER_NAMES: dict[str, ImageViews] = {"plain": "none"}
VIEWS_PHRASES: dict[object, str] = {
    "mirror": " with mirror images",
    "10": " with ten crops",
    "six": " with six views",
}
TEN_CROPS = "ten crops need photographs with a margin around the network's input"


def describe_views(views: object) -> str:
    """Return what follows an accuracy of these views, e.g. ` with six views`.

    It is "" for the images alone, and for records that name no views.
    """
    return VIEWS_PHRASES.get(views, "") if isinstance(views, str) else ""


def parse_views(name: object) -> ImageViews:
    """Return the views that a name stands for, today's name or a former one.

    Raises UsageError for an unknown name.
    """
    text = str(name)
    views = FORMER_NAMES.get(text, text)
    if views not in VIEWS_NAMES:
        raise unknown_name_error("kind of views", text, VIEWS_NAMES)
    return views


def choose_views(views: ImageViews | None, *, mirror: bool) -> ImageViews:
    """Return the views that a user asks for; `mirror` is short for the views "mirror".

    Raises UsageError for unknown views, or if `views` and `mirror` contradict each other.
    """
    chosen = None if views is None else parse_views(views)
    if mirror and chosen not in (None, "mirror"):
        raise UsageError(
            f"--mirror and --views={views} contradict each other: leave one of them out"
        )
    return chosen or ("mirror" if mirror else "none")


def require_usable_views(
    views: ImageViews, option: str, source: str, *, flip_keeps_class: bool, margin: int
) -> None:
    """Raise UsageError if the images of `source` do not allow the `views`.

    `option` is how the user names the views, e.g. `--views=10`, and `margin` by how many pixels
    the images exceed the network's input; it is 0 for all but photographs.
    """
    if views == "none":
        return
    if not flip_keeps_class:
        remedy = (
            f"leave {option} out"
            if option == "--mirror"
            else (f"use {option.removesuffix(views)}none")
        )
        raise UsageError(
            f"{option} cannot be used with {source}, because a mirrored image may belong to "
            f"another class: {remedy}"
        )
    if views == "10" and margin <= 0:
        raise UsageError(
            f"{option} cannot be used with {source}: {TEN_CROPS}, and its images have none: use "
            f"{option.removesuffix(views)}mirror or {option.removesuffix(views)}six"
        )


def name_views_option(views: ImageViews, *, mirror: bool) -> str:
    """Return what a user wrote who asked for these views: `--mirror`, or e.g. `--views=six`."""
    return "--mirror" if mirror else f"--views={views}"
