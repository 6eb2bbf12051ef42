"""Groups of images that belong together: those of one patient, animal or scene.

A network recognises what it has seen of a group, so that an error measured on images of a group
that was trained on looks too low.  Images of one group are therefore kept in one split.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from residua.data.sources.listing import DataProblem, ImageEntry, Split

GROUP_COLUMN = "group"
# Other usual names of a column of groups, of which a table must have only one.  Names that may as
# well be those of a class, such as `animal` or `scene`, are not among them.
OTHER_GROUP_NAMES = (
    *("groups", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id"),
    *("subjectid", "participant", "participant_id", "person_id", "animal_id", "individual_id"),
    *("lesion_id", "scene_id", "video_id"),
)
ALL_GROUP_NAMES = (GROUP_COLUMN, *OTHER_GROUP_NAMES)
SEPARATED_GROUP = "split group"  # the kind of problem


def count_groups(entries: Iterable[ImageEntry]) -> int:
    """Count the groups that the entries name; 0 if they name none."""
    return len({entry.group for entry in entries if entry.group})


def find_separated_groups(entries: Iterable[ImageEntry]) -> dict[str, dict[Split, int]]:
    """Find the groups whose entries state several splits, with the images in each split."""
    counts = Counter((entry.group, entry.split) for entry in entries if entry.group and entry.split)
    images_by_group: dict[str, dict[Split, int]] = {}
    for (group, split), count in sorted(counts.items()):
        assert split
        images_by_group.setdefault(group, {})[split] = count
    return {group: splits for group, splits in images_by_group.items() if len(splits) > 1}


def list_separated_groups(entries: Iterable[ImageEntry]) -> Iterator[DataProblem]:
    """Yield a problem for each group whose entries state several splits."""
    for group, splits in find_separated_groups(entries).items():
        detail = f"is a group with images in several splits: {describe_split_counts(splits)}"
        yield DataProblem(group, SEPARATED_GROUP, detail, sum(splits.values()))


def describe_separated_groups(entries: tuple[ImageEntry, ...]) -> Iterator[str]:
    """Yield a note if the data's own splits separate groups."""
    separated = find_separated_groups(entries)
    if not separated:
        return
    images = sum(sum(splits.values()) for splits in separated.values())
    group, splits = next(iter(separated.items()))
    yield (
        f"{len(separated):,} of its {count_groups(entries):,} groups, with {images:,} images, are "
        f"in several splits, e.g. {group} ({describe_split_counts(splits)}): errors on held-out "
        "images of a group that is trained on look too low; without the splits, whole groups are "
        "held out"
    )


def describe_split_counts(splits: dict[Split, int]) -> str:
    """Describe the number of images in each split: `train 3, test 2`."""
    return ", ".join(f"{split} {count:,}" for split, count in splits.items())
