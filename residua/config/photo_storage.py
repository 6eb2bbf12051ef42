"""The ways to keep photographs for training."""

from typing import Literal, get_args

PhotoStorage = Literal["squares", "raw", "jpeg", "files"]
"""`squares` of the middle, whole photographs as pixels or JPEG, or nothing but their `files`."""

PHOTO_STORAGES: tuple[PhotoStorage, ...] = get_args(PhotoStorage)
AUTO_STORAGE = "auto"  # raw or, if pixels need too much space, jpeg
