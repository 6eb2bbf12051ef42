"""The HTML page of a data set check: problems with thumbnails, classes, and image statistics."""

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
    "two labels": "Listed several times, as different classes. The first row is used.",
    "two splits": "Listed both to train on and as held out. They are held out.",
    "unused levels": "Nearly black: probably 10, 12 or 14 bits in files of 16. See --white-level.",
    "not an image": "Not in a known format of images. These files are skipped in training.",
    "unsupported": "Images that cannot be read here. They are skipped in training.",
    "changed": "Files that were changed while they were read. They are skipped in training.",
    "too large": "More pixels than the limit, as in a decompression bomb. Skipped in training.",
    "unknown class": "Test images of a class without training images. They are skipped.",
    "empty class": "Folders without images. They are not classes.",
    "tiny class": "Classes with few training images.",
    "alike classes": "Class names that differ only in upper and lower case: perhaps one class.",
    "duplicate": "The same file twice in one class.",
    "near duplicate": "Images that look the same: resized, recompressed or retouched copies.",
    "wrong extension": "The extension does not match the content. These files are used.",
    "listed twice": "The same file in several rows of the table. It is used once.",
    "left out": "Folders and files that are no part of the data set's layout.",
    "own output": "Folders that residua wrote.",
    "doubled": "Files that a shard holds twice. The second one is skipped.",
    "link loop": "Links to a folder that contains them are not followed.",
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
    """Render the report of a data set check as an HTML page.

    `check_facts` is the content of `check.json`.  `thumbnail_uris` maps the path of an image to its
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
    """List the problems in `check.json`, each a dict with `path`, `kind` and `detail`."""
    problems = check_facts["problems"]
    return [
        {key: str(text) for key, text in problem.items()}
        for problem in (problems if isinstance(problems, list) else [])
        if isinstance(problem, dict)
    ]


def get_split_counts_by_class(check_facts: Mapping[str, Json]) -> dict[str, dict[str, int]]:
    """The number of decodable images, as {class: {split: count}}."""
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

    Each group is a dict with `kind`, `meaning`, `count` and `rows`.  There is one row per problem:
    (path, detail, thumbnail URI).  The URI is empty if the problem has no thumbnail.
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
    """A sentence with the number of decodable images and the number of problems by kind."""
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
    """The splits that have images, in the order train, dev, test.

    A data set without splits has the single split `images`.
    """
    splits = {split for counts in counts_by_class.values() for split in counts}
    return sorted(splits, key=SPLIT_NAMES.index)


def make_class_count_rows(
    counts_by_class: Mapping[str, Mapping[str, int]], thumbnail_uris: Mapping[str, str]
) -> list[dict[str, object]]:
    """One row per class: its name, its image count in each split, and up to four thumbnails."""
    splits = list_splits(counts_by_class)
    rows: list[dict[str, object]] = []
    uris_by_folder: dict[str, list[str]] = {}
    for path, uri in thumbnail_uris.items():
        for folder in set(path.split("/")[:-1]):
            uris_by_folder.setdefault(folder, []).append(uri)
    for name, counts in counts_by_class.items():
        pictures = uris_by_folder.get(name, [])
        rows.append(
            {
                "name": name,
                "counts": [f"{counts.get(split, 0):,}" for split in splits],
                "pictures": pictures[:MAX_CLASS_PICTURES],
            }
        )
    return rows


def describe_image_statistics(check_facts: Mapping[str, Json]) -> dict[str, str]:
    """Text on the range and median of image sizes and each channel's mean and sd, by heading."""
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
