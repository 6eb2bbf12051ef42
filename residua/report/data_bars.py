"""The classes and image sizes of a checked data set, as bars and text for its page."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from residua.config.serialize import Json
from residua.report.format import format_counted_noun

SPLIT_NAMES = ("images", "train", "dev", "test")  # "images": a data set without splits
MAX_CLASS_PICTURES = 4
MAX_NAMED_CLASSES = 10


class ClassBar(NamedTuple):
    """A class with its number of images, as a bar of one part for each split."""

    name: str
    images: str
    counts: list[str]  # by split
    shares: list[float]  # of the largest class, in percent, by split
    pictures: list[str]  # data URIs


class CountBar(NamedTuple):
    """A number of images as a bar; its share is of the longest bar, in percent."""

    label: str
    images: str
    share: float


def describe_understood_data(
    check_facts: Mapping[str, Json], split_phrase: str, details: Sequence[str]
) -> dict[str, str]:
    """Describe a data set by heading: its classes, its splits, and what is skipped or noted.

    `split_phrase` ends a sentence and says where the splits come from.
    """
    classes, splits, skipped = (check_facts.get(name) for name in ("classes", "splits", "skipped"))
    names = list(classes) if isinstance(classes, dict) else []
    more = f" and {len(names) - MAX_NAMED_CLASSES:,} more" if len(names) > MAX_NAMED_CLASSES else ""
    facts = {
        "Classes": f"{len(names):,}: {', '.join(names[:MAX_NAMED_CLASSES])}{more}",
        "Splits": join_counts(splits) + (f", {split_phrase}" if split_phrase else ""),
        "Skipped": join_counts(skipped) or "nothing",
        "Noted": "; ".join(details),
    }
    return {heading: text for heading, text in facts.items() if text}


def join_counts(counts: Json) -> str:
    """Join numbers with their names: `900 train, 100 dev`; "" if there are none."""
    items = counts.items() if isinstance(counts, dict) else ()
    return ", ".join(f"{int(str(count)):,} {name}" for name, count in items)


def list_splits(counts_by_class: Mapping[str, Mapping[str, int]]) -> list[str]:
    """List the splits that have images, in the order train, dev, test.

    A data set without splits has the single split `images`.
    """
    splits = {split for counts in counts_by_class.values() for split in counts}
    return sorted(splits, key=SPLIT_NAMES.index)


def make_class_bars(
    counts_by_class: Mapping[str, Mapping[str, int]],
    thumbnail_uris: Mapping[str, str],
    class_by_image: Mapping[str, str],
) -> list[ClassBar]:
    """Make a bar per class, each with up to four of its images; the last two are by image name."""
    splits = list_splits(counts_by_class)
    uris_by_class: dict[str, list[str]] = {}
    for image_name, uri in thumbnail_uris.items():
        if class_name := class_by_image.get(image_name):
            uris_by_class.setdefault(class_name, []).append(uri)
    largest = max((sum(counts.values()) for counts in counts_by_class.values()), default=0) or 1
    return [
        ClassBar(
            name,
            f"{sum(counts.values()):,}",
            [f"{counts.get(split, 0):,}" for split in splits],
            [100 * counts.get(split, 0) / largest for split in splits],
            uris_by_class.get(name, [])[:MAX_CLASS_PICTURES],
        )
        for name, counts in counts_by_class.items()
    ]


def describe_class_balance(counts_by_class: Mapping[str, Mapping[str, int]]) -> str:
    """Write a sentence on the largest and the smallest class; "" for fewer than two classes."""
    totals = {name: sum(counts.values()) for name, counts in counts_by_class.items()}
    if len(totals) < 2:
        return ""
    largest, smallest = max(totals, key=lambda n: totals[n]), min(totals, key=lambda n: totals[n])
    if totals[largest] == totals[smallest]:
        return f"All classes have {format_counted_noun(totals[largest], 'image')}."
    text = (
        f"The largest class, {largest}, has {format_counted_noun(totals[largest], 'image')}, "
        f"the smallest, {smallest}, {totals[smallest]:,}"
    )
    ratio = f": {totals[largest] / totals[smallest]:.1f} times as many" if totals[smallest] else ""
    return f"{text}{ratio}."


def make_side_bars(check_facts: Mapping[str, Json]) -> list[CountBar]:
    """Make a bar for each doubling of the shorter side of the images."""
    bins = get_size_counts(check_facts, "shorter_sides")
    rows = [
        (f"{int(str(row[0])):,} to {int(str(row[1])) - 1:,}", int(str(row[2])))
        for row in (bins if isinstance(bins, list) else [])
        if isinstance(row, list) and len(row) == 3
    ]
    return scale_bars(rows)


def make_shape_bars(check_facts: Mapping[str, Json]) -> list[CountBar]:
    """Make a bar each for the portrait, square and landscape images."""
    shapes = get_size_counts(check_facts, "shapes")
    items = shapes.items() if isinstance(shapes, dict) else ()
    return scale_bars([(shape, int(str(count))) for shape, count in items])


def get_size_counts(check_facts: Mapping[str, Json], name: str) -> Json:
    """Return a part of `sizes` in `check.json`; None in a record without it."""
    sizes = check_facts.get("sizes")
    return sizes.get(name) if isinstance(sizes, dict) else None


def scale_bars(rows: Sequence[tuple[str, int]]) -> list[CountBar]:
    """Scale bars of (label, count), the longest to 100 percent."""
    longest = max((count for _, count in rows), default=0) or 1
    return [CountBar(label, f"{count:,}", 100 * count / longest) for label, count in rows]


def describe_image_statistics(check_facts: Mapping[str, Json]) -> dict[str, str]:
    """Describe the range and median of image sizes, and each channel's mean and sd, by heading."""
    descriptions = {}
    for dimension in ("width", "height"):
        sizes = check_facts[dimension]
        if isinstance(sizes, list) and sizes:
            smallest, middle, largest = sizes
            descriptions[dimension.capitalize()] = (
                f"{smallest:,} pixels"
                if smallest == largest
                else f"{smallest:,} to {largest:,} pixels, median {middle:,}"
            )
    for heading, key in (("Mean", "mean"), ("Standard deviation", "std")):
        values = check_facts[key]
        if isinstance(values, list) and values:
            descriptions[heading] = ", ".join(
                f"{channel} {value:.3f}"
                for channel, value in zip(("red", "green", "blue"), values, strict=True)
            )
    return descriptions
