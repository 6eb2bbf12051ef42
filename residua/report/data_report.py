"""The page of a checked photo data set: its problems with pictures, its classes and images."""

from collections import Counter
from collections.abc import Mapping

from residua.config.serialize import Json
from residua.report.format import format_counted_noun
from residua.report.html import render_template

PROBLEM_MEANINGS = {
    "leakage": "The same picture in training and held-out data: the test error would be too low.",
    "two classes": "The same file in two classes: one of the labels is wrong.",
    "missing": "Listed in the table, but not on disk.",
    "unreadable": "The file system refuses to read these files. They are skipped.",
    "truncated": "The image data end too early. These files are skipped in training.",
    "damaged": "These files cannot be decoded, and are skipped in training.",
    "empty": "These files have no content, and are skipped in training.",
    "not an image": "Not JPEG, PNG, WebP, BMP, TIFF or GIF. These files are skipped in training.",
    "too large": "More pixels than the limit, as in a decompression bomb. Skipped in training.",
    "unknown class": "Test images of a class without training images. They are skipped.",
    "empty class": "Folders without images. They are not classes.",
    "tiny class": "Classes with few training images.",
    "alike classes": "Class names that differ only in upper and lower case: perhaps one class.",
    "duplicate": "The same file twice in one class.",
    "near duplicate": "Images that look the same: resized, recompressed or retouched copies.",
    "wrong extension": "The extension does not match the content. These files are used.",
    "link outside": "Links to folders or out of the data set are not followed.",
    "broken link": "Links to files that do not exist.",
    "no class": "Images without a class. They are skipped.",
    "no image": "Labels without an image. They are skipped.",
    "other split": "Splits other than training, validation and test. They are skipped.",
    "no file": "Neither files nor folders.",
    "film": "Images with several frames. The first frame is used.",
    "small image": "Images with few pixels.",
    "one colour": "Images of a single colour.",
    "odd name": "File names that other programs may not be able to read.",
}
"""Explains each kind of problem; the worst kind is first."""

PROBLEM_RANKS = {kind: rank for rank, kind in enumerate(PROBLEM_MEANINGS)}
SPLIT_NAMES = ("images", "train", "dev", "test")  # "images": a data set without splits
MAX_SUMMARY_KINDS = 4
MAX_CLASS_PICTURES = 4


def render_data_report(check_facts: Mapping[str, Json], thumbnail_uris: Mapping[str, str]) -> str:
    """The page as HTML.

    `check_facts` is the content of `check.json`; `thumbnail_uris` maps the path of an image to its
    thumbnail as a data URI.
    """
    problems = list_problems(check_facts)
    counts_by_class = get_split_counts_by_class(check_facts)
    return render_template(
        "check.html.j2",
        title="What is in this data set?",
        subject=str(check_facts["data"]),
        inks={},
        lead=summarize_check(check_facts),
        groups=group_problems(problems, thumbnail_uris),
        classes=make_class_count_rows(counts_by_class, thumbnail_uris),
        splits=list_splits(counts_by_class),
        facts=describe_image_statistics(check_facts),
    )


def list_problems(check_facts: Mapping[str, Json]) -> list[dict[str, str]]:
    """The problems of `check.json`: `path`, `kind` and `detail` of each."""
    problems = check_facts["problems"]
    return [
        {key: str(text) for key, text in problem.items()}
        for problem in (problems if isinstance(problems, list) else [])
        if isinstance(problem, dict)
    ]


def get_split_counts_by_class(check_facts: Mapping[str, Json]) -> dict[str, dict[str, int]]:
    """The number of usable images by class and split."""
    classes = check_facts["classes"]
    return {
        name: {split: int(str(count)) for split, count in counts.items()}
        for name, counts in (classes if isinstance(classes, dict) else {}).items()
        if isinstance(counts, dict)
    }


def group_problems(
    problems: list[dict[str, str]], thumbnail_uris: Mapping[str, str]
) -> list[dict[str, object]]:
    """Group problems by their kind, the worst kind first.

    Each group has the kind, what it means, the number of problems, and one row per problem: path,
    detail and thumbnail.
    """
    counts = Counter(problem["kind"] for problem in problems)
    return [
        {
            "kind": kind,
            "count": counts[kind],
            "meaning": PROBLEM_MEANINGS.get(kind, ""),
            "rows": [
                (problem["path"], problem["detail"], thumbnail_uris.get(problem["path"], ""))
                for problem in problems
                if problem["kind"] == kind
            ],
        }
        for kind in sorted(counts, key=rank_problem_kind)
    ]


def rank_problem_kind(kind: str) -> int:
    """The sort key of a kind of problem: 0 for the worst kind; unknown kinds come last."""
    return PROBLEM_RANKS.get(kind, len(PROBLEM_RANKS))


def summarize_check(check_facts: Mapping[str, Json]) -> str:
    """How many images can be decoded, and how many problems of which kinds there are."""
    class_count = format_counted_noun(
        len(get_split_counts_by_class(check_facts)), "class", "classes"
    )
    image_count = format_counted_noun(int(str(check_facts["images"])), "image")
    summary = f"{image_count} of {class_count} can be decoded"
    counts = Counter(problem["kind"] for problem in list_problems(check_facts))
    if not counts:
        return f"{summary}; no problems were found."
    kinds = sorted(counts, key=rank_problem_kind)
    kinds_text = ", ".join(f"{kind} ({counts[kind]})" for kind in kinds[:MAX_SUMMARY_KINDS])
    other_count = len(kinds) - MAX_SUMMARY_KINDS
    if other_count > 0:
        kinds_text += f" and {format_counted_noun(other_count, 'more kind')}"
    return f"{summary}; {format_counted_noun(counts.total(), 'problem')}: {kinds_text}."


def list_splits(counts_by_class: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The splits that have images, in the order train, dev, test."""
    splits = {split for counts in counts_by_class.values() for split in counts}
    return sorted(splits, key=SPLIT_NAMES.index)


def make_class_count_rows(
    counts_by_class: Mapping[str, Mapping[str, int]], thumbnail_uris: Mapping[str, str]
) -> list[dict[str, object]]:
    """One row per class: its name, its number of images by split, and a few of its pictures."""
    splits = list_splits(counts_by_class)
    rows: list[dict[str, object]] = []
    for name, counts in counts_by_class.items():
        pictures = [uri for path, uri in thumbnail_uris.items() if f"/{name}/" in f"/{path}"]
        rows.append(
            {
                "name": name,
                "counts": [f"{counts.get(split, 0):,}" for split in splits],
                "pictures": pictures[:MAX_CLASS_PICTURES],
            }
        )
    return rows


def describe_image_statistics(check_facts: Mapping[str, Json]) -> dict[str, str]:
    """Range and median of width and height, and mean and standard deviation of each channel."""
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
        if isinstance(values, list):
            descriptions[heading] = ", ".join(
                f"{channel} {value:.3f}"
                for channel, value in zip(("red", "green", "blue"), values, strict=True)
            )
    return descriptions
