"""Loads the example images that a service's page offers to click."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from residua.bounded_json import read_regular_file
from residua.data.decode import HasPreprocessing, decode_image
from residua.data.sources.listing import escape_unprintable
from residua.data.thumbnails import encode_data_uri
from residua.deploy.decoding import DecodingMemory, decode_upload
from residua.deploy.image_files import find_image_files
from residua.deploy.limits import ServerLimits
from residua.errors import ImageError, RecordError, UsageError

MAX_EXAMPLES = 12  # our choice
MAX_EXAMPLE_BYTES = 64_000_000  # of all examples, which stay in memory; our choice
MAX_SEARCHED_FILES = 10_000  # files of the folder that are looked at; our choice
EXAMPLE_THUMBNAIL_SIDE = 192  # pixels; shown at half of it, for screens of high density


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """An image file that the page offers: its name, its bytes, and a small picture of it."""

    name: str
    content: bytes
    thumbnail_uri: str


def load_example_images(
    folder: Path, preprocessing: HasPreprocessing, limits: ServerLimits
) -> tuple[ExampleImage, ...]:
    """Load up to `MAX_EXAMPLES` images from a folder, in turn from each of its subfolders.

    Files that the service would refuse are passed over.  There are fewer images if more would take
    over `MAX_EXAMPLE_BYTES` together.  Raises UsageError if `folder` is not a
    folder, or has no image that the service accepts.
    """
    if not folder.is_dir():
        raise UsageError(f"--examples {folder} is not a folder: give a folder of images")
    chosen: list[ExampleImage] = []
    free_bytes = MAX_EXAMPLE_BYTES
    for example in islice(iter_example_images(folder, preprocessing, limits), MAX_EXAMPLES):
        free_bytes -= len(example.content)
        if chosen and free_bytes < 0:
            break
        chosen.append(example)
    if not chosen:
        raise UsageError(
            f"--examples {folder} has no image that the server accepts: give a folder with images "
            f"of at most {limits.max_body_bytes:,} bytes"
        )
    return tuple(chosen)


def iter_example_images(
    folder: Path, preprocessing: HasPreprocessing, limits: ServerLimits
) -> Iterator[ExampleImage]:
    """Yield the acceptable images of a folder, one of each subfolder before the next of any."""
    paths_by_parent: dict[Path, list[Path]] = {}
    for path in islice(find_image_files(folder), MAX_SEARCHED_FILES):
        paths_by_parent.setdefault(path.parent, []).append(path)
    memory = DecodingMemory(limits.max_image_pixels)
    for paths in zip_longest(*paths_by_parent.values()):
        for path in paths:
            if path is None:
                continue
            try:
                content = read_regular_file(path, limits.max_body_bytes)
                decode_upload(content, preprocessing, limits.max_image_pixels, memory)
                thumbnail = decode_image(content, limits.max_image_pixels)
            except (ImageError, RecordError):
                continue
            thumbnail.thumbnail((EXAMPLE_THUMBNAIL_SIDE, EXAMPLE_THUMBNAIL_SIDE))
            uri = encode_data_uri(thumbnail, "JPEG")
            yield ExampleImage(escape_unprintable(path.name), content, uri)
