"""Find the image files in a folder, and count the files that are passed over."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from residua.data.image_formats import IMAGE_SUFFIXES, identify_file_format
from residua.data.sources.folder_walk import walk_with_loop_guard
from residua.data.sources.listing import list_visible_children

# What stands behind the last dot of a name is taken for a suffix only if it looks like one.
SUFFIX_PATTERN = re.compile(r"\.[a-z][a-z0-9]{0,7}", re.ASCII)
MAX_NAMED_KINDS = 10
UNREADABLE_FOLDER, LOOP = "folder that cannot be read", "link to a folder that contains it"
PLURALS = {
    UNREADABLE_FOLDER: "folders that cannot be read",
    LOOP: "links to folders that contain them",
}


@dataclass(slots=True)
class PassedOverFiles:
    """Counts of the files that are not treated as images, by suffix or by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Format a sentence such as `3 files passed over: 2 .txt, 1 .mp4`; "" if there are none."""
        if not self.counts:
            return ""
        total = self.counts.total()
        by_count = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        named = by_count[:MAX_NAMED_KINDS]
        kinds = [
            f"{count:,} {kind if count == 1 else PLURALS.get(kind, kind)}" for kind, count in named
        ]
        if other_count := total - sum(count for _, count in named):
            kinds.append(f"{other_count:,} of other kinds")
        return f"{total:,} file{'s' * (total != 1)} passed over: {', '.join(kinds)}"


def find_image_files(folder: Path, passed_over: PassedOverFiles | None = None) -> Iterator[Path]:
    """Yield the image files below `folder`, in sorted order, and count the others in `passed_over`.

    A file counts as an image if it has an image suffix, or if it has no suffix and its first bytes
    are those of an image.  Hidden files are left out, and links are followed, except those to a
    folder that contains them.
    """
    counts = (passed_over or PassedOverFiles()).counts

    def list_children(place: Path) -> list[Path]:
        try:
            return list_visible_children(place)
        except OSError:
            counts[UNREADABLE_FOLDER] += 1
            return []

    def count_loop(link: Path) -> None:
        counts[LOOP] += 1

    for path in walk_with_loop_guard(folder, list_children, count_loop):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            yield path
        elif SUFFIX_PATTERN.fullmatch(suffix):
            counts[suffix] += 1
        elif os.path.isfile(path) and identify_file_format(path):
            yield path
        else:
            counts["without a known suffix"] += 1
