"""Write one shard of a packed data set, with its part of the index."""

import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from residua.config.serialize import Json
from residua.data.checked_arrays import read_checked_arrays, write_checked_arrays
from residua.data.checksums import compute_sha256
from residua.data.decode import decode_image, read_entry_bytes
from residua.data.image_formats import identify_format
from residua.data.pack_plan import (
    PackPlan,
    PlannedShard,
    choose_extension,
    choose_label_texts,
    make_sample_key,
)
from residua.data.photo_records import MAX_JPEG_SIDE
from residua.data.resize import crop_extreme_aspect_ratio, resize_photo, scale_shorter_side
from residua.data.rgb_conversion import DecodedPhoto
from residua.data.sources.listing import DataProblem, ImageEntry
from residua.data.sources.packed import UNFINISHED_FOLDER
from residua.errors import ImageError
from residua.files import atomic_write

PART_ARRAYS = ("positions", "places", "digests", "are_images")


@dataclass(frozen=True, slots=True)
class PackedPart:
    """What one shard holds: arrays as in `PackIndex`, and the positions in the listing."""

    size: int  # of the shard, in bytes
    positions: Any  # (n,) int64
    places: Any  # (n, 2) int64: offset and length
    digests: Any  # (n, 32) uint8
    are_images: Any  # (n,) uint8
    problems: tuple[DataProblem, ...]


def write_planned_shard(
    plan: PackPlan, shard: PlannedShard, out: Path, count_photo: Callable[[], None]
) -> PackedPart:
    """Write one shard and its part of the index, each in one step; count each photo."""
    label_texts = choose_label_texts(plan.listing.classes)
    rows, problems = [], []
    with atomic_write(out / shard.name) as staging, open(staging, "wb") as file:
        for position in shard.positions:
            entry = plan.listing.entries[position]
            try:
                content = read_packed_bytes(entry, plan)
            except ImageError as error:
                problems.append(DataProblem(entry.name, error.kind, error.detail))
            else:
                key = make_sample_key(position, entry)
                extension = choose_extension(entry, plan.options)
                offset = append_member(file, f"{key}.{extension}", content)
                append_member(file, f"{key}.cls", label_texts[entry.label].encode())
                is_image = identify_format(content) != ""
                rows.append((position, offset, len(content), compute_sha256(content), is_image))
            count_photo()
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        size = file.tell()
    digests = np.frombuffer(bytes.fromhex("".join(row[3] for row in rows)), np.uint8)
    part = PackedPart(
        size,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1:3] for row in rows], np.int64).reshape(-1, 2),
        digests.reshape(-1, 32),
        np.array([row[4] for row in rows], np.uint8),
        tuple(problems),
    )
    arrays = {name: getattr(part, name) for name in PART_ARRAYS}
    facts: dict[str, Json] = {"size": size, "problems": [dict(asdict(p)) for p in problems]}
    write_checked_arrays(out / UNFINISHED_FOLDER / f"{shard.name}.part", facts, arrays)
    return part


def read_packed_bytes(entry: ImageEntry, plan: PackPlan) -> bytes:
    """Read the bytes to store for a photo: its own or, with a size, those of a smaller JPEG.

    The smaller photo is upright, its grey levels are as when it is decoded, its ends are cut off
    as in `preprocess_image`, and it is never larger than the original.  An upright JPEG that is
    small enough stays as it is.  Raises ImageError.
    """
    content = read_entry_bytes(entry)
    options, listing = plan.options, plan.listing
    if not options.size:
        return content
    image = decode_image(content, listing.max_pixels, listing.white_level)
    whole_size, image = image.size, crop_extreme_aspect_ratio(image)
    if image.size == whole_size and min(image.size) <= options.size and is_upright_jpeg(content):
        return content
    if min(image.size) > options.size:
        size = scale_shorter_side(image.size, options.size)
        image = resize_photo(DecodedPhoto(image, 0), size, "bilinear")
    require_jpeg_size(image, entry.name)
    stored = BytesIO()
    image.save(stored, "JPEG", quality=options.quality)
    return stored.getvalue()


def require_jpeg_size(image: Image.Image, name: str) -> None:
    """Raise ImageError if an image has a side that is too long for a JPEG file."""
    if max(image.size) > MAX_JPEG_SIDE:
        raise ImageError(
            name,
            "too large",
            f"would be stored with {image.width:,} x {image.height:,} pixels, and a side of a JPEG "
            f"file has at most {MAX_JPEG_SIDE:,}: a smaller --size keeps it",
        )


def is_upright_jpeg(content: bytes) -> bool:
    """Return whether an intact image is a JPEG, grey or RGB, that needs no turning."""
    if identify_format(content) != "JPEG":
        return False
    with Image.open(BytesIO(content), formats=["JPEG"]) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image.mode in ("L", "RGB") and orientation == 1


def append_member(file: IO[bytes], name: str, content: bytes) -> int:
    """Append a file to a tar archive; return the offset of its content.

    Owner and time are fixed, so that the same photos make the same shards.
    """
    header = tarfile.TarInfo(name)
    header.size = len(content)
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = file.tell()
    file.write(content)
    file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return offset


def load_part(out: Path, shard: PlannedShard) -> PackedPart | None:
    """Load the part of the index of a shard that is finished; None if the shard is not."""
    try:
        stored, arrays = read_checked_arrays(out / UNFINISHED_FOLDER / f"{shard.name}.part")
        facts: dict[str, Any] = stored
        if (out / shard.name).stat().st_size != facts["size"]:
            return None
        problems = tuple(DataProblem(**fields) for fields in facts["problems"])
        found = {name: arrays[name] for name in PART_ARRAYS}
        return PackedPart(size=facts["size"], problems=problems, **found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
