"""The HTML page of a data set check: classes, sizes, duplicates and other problems."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from residua.config.serialize import Json
from residua.report.data_bars import (
    SPLIT_NAMES,
    describe_class_balance,
    describe_image_statistics,
    describe_understood_data,
    list_splits,
    make_class_bars,
    make_shape_bars,
    make_side_bars,
)
from residua.report.figures import SERIES_COLORS
from residua.report.format import format_counted_noun
from residua.report.html import render_template

PROBLEM_MEANINGS = {
    "leakage": "The same picture in training and held-out data: the test error would be too low.",
    "split group": "Images of one group to train on and to test: the error would look too low.",
    "two classes": "The same file in two classes: one of the labels is wrong.",
    "missing": "Listed in the table, but not on disk.",
    "unreadable": "The file system refuses to read these files. They are skipped.",
    "truncated": "The image data end too early. These files are skipped in training.",
    "damaged": "These files cannot be decoded, and are skipped in training.",
    "empty": "These files have no content, and are skipped in training.",
    "two labels": "Listed several times, as different classes. The first row is used.",
    "two splits": "Listed both to train on and as held out. They are held out.",
    "two groups": "Listed several times, in different groups. The first row is used.",
    "unused levels": "Nearly black: probably 10, 12 or 14 bits in files of 16. See --white-level.",
    "not an image": "Not in a known format of images. These files are skipped in training.",
    "unsupported": "Images that cannot be read here. They are skipped in training.",
    "not as indexed": "Their bytes are not those that their index states. Skipped in training.",
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
SPLIT_COLORS = {  # of bars
    split: list(SERIES_COLORS)[i] for split, i in zip(SPLIT_NAMES, (1, 1, 2, 0), strict=True)
}
MAX_SUMMARY_KINDS = 4
MAX_LISTED_PROBLEMS = 200  # of one kind; all are in check.json


@dataclass(frozen=True, slots=True)
class UnderstoodData:
    """What a check says of a data set beside `check.json`.

    split_phrase     where the splits come from, as the end of a sentence
    details          sentences on what was left out or guessed
    repair_commands  commands that make a table of the usable images, and train on it
    class_by_image   the name of the class of each image, by the image's name
    """

    split_phrase: str = ""
    details: Sequence[str] = ()
    repair_commands: Sequence[str] = ()
    class_by_image: Mapping[str, str] = field(default_factory=dict)


def render_data_report(
    check_facts: Mapping[str, Json],
    thumbnail_uris: Mapping[str, str],
    understood: UnderstoodData | None = None,
) -> str:
    """Render the report of a data set check as an HTML page.

    `check_facts` is the content of `check.json`.  `thumbnail_uris` maps the path of an image to its
    thumbnail as a data URI.
    """
    problems, understood = list_problems(check_facts), understood or UnderstoodData()
    counts_by_class = get_split_counts_by_class(check_facts)
    number, label = count_problems(check_facts)
    return render_template(
        "check.html.j2",
        title="What is in this data set?",
        subject=str(check_facts["data"]),
        inks={color: SERIES_COLORS[color] for color in SPLIT_COLORS.values()},
        number=number,
        label=label,
        lead=summarize_problems_by_kind(check_facts),
        understood=describe_understood_data(
            check_facts, understood.split_phrase, understood.details
        ),
        commands=list(understood.repair_commands),
        groups=group_problems(problems, thumbnail_uris, get_originals(check_facts)),
        classes=make_class_bars(counts_by_class, thumbnail_uris, understood.class_by_image),
        balance=describe_class_balance(counts_by_class),
        splits=list_splits(counts_by_class),
        colors={split: color[1:] for split, color in SPLIT_COLORS.items()},
        side_bars=make_side_bars(check_facts),
        shape_bars=make_shape_bars(check_facts),
        facts=describe_image_statistics(check_facts),
    )


def list_problems(check_facts: Mapping[str, Json]) -> list[dict[str, str]]:
    """List the problems in `check.json`, each a dict with `path`, `kind` and `detail`."""
    return list_text_dicts(check_facts["problems"])


def list_text_dicts(items: Json) -> list[dict[str, str]]:
    """List the objects in a JSON list, with their values as texts."""
    return [
        {key: str(text) for key, text in item.items()}
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    ]


def get_originals(check_facts: Mapping[str, Json]) -> dict[str, str]:
    """Return the name of the original of each duplicate, by the name of the duplicate."""
    pairs = list_text_dicts(check_facts.get("duplicates"))
    return {pair["path"]: pair["original"] for pair in pairs}


def get_split_counts_by_class(check_facts: Mapping[str, Json]) -> dict[str, dict[str, int]]:
    """Return the number of decodable images, as {class: {split: count}}."""
    classes = check_facts["classes"]
    return {
        name: {split: int(str(count)) for split, count in counts.items()}
        for name, counts in (classes if isinstance(classes, dict) else {}).items()
        if isinstance(counts, dict)
    }


class ProblemRow(NamedTuple):
    """A problem on the page: an image, and beside it its original if it is a duplicate."""

    path: str
    detail: str
    thumbnail: str  # a data URI, or ""
    original: str
    original_thumbnail: str


def group_problems(
    problems: list[dict[str, str]],
    thumbnail_uris: Mapping[str, str],
    originals: Mapping[str, str],
) -> list[dict[str, object]]:
    """Group problems by their kind, the worst kind first.

    Each group is a dict with `kind`, `meaning`, `count`, `rows` and `in_pairs`: whether its rows
    are duplicates.  At most `MAX_LISTED_PROBLEMS` rows are in a group.
    """
    counts = Counter(problem["kind"] for problem in problems)
    groups = []
    for kind in sorted(counts, key=rank_problem_kind):
        rows = [
            make_problem_row(problem, thumbnail_uris, originals)
            for problem in problems
            if problem["kind"] == kind
        ][:MAX_LISTED_PROBLEMS]
        groups.append(
            {
                "kind": kind,
                "count": counts[kind],
                "meaning": PROBLEM_MEANINGS.get(kind, ""),
                "rows": rows,
                "in_pairs": any(row.original for row in rows),
            }
        )
    return groups


def make_problem_row(
    problem: Mapping[str, str], thumbnail_uris: Mapping[str, str], originals: Mapping[str, str]
) -> ProblemRow:
    """Make the row of one problem; only a duplicate has an original."""
    path, detail = problem["path"], problem["detail"]
    original = originals.get(path, "")
    if original not in detail:  # another problem of an image that is a duplicate, too
        original = ""
    return ProblemRow(
        path,
        detail,
        thumbnail_uris.get(path, ""),
        original,
        thumbnail_uris.get(original, ""),
    )


def rank_problem_kind(kind: str) -> int:
    """Return the sort key of a kind of problem: 0 for the worst kind; unknown kinds come last."""
    return PROBLEM_RANKS.get(kind, len(PROBLEM_RANKS))


def count_problems(check_facts: Mapping[str, Json]) -> tuple[str, str]:
    """Count the problems, and the decodable images and their classes, as two texts."""
    images = format_counted_noun(int(str(check_facts["images"])), "image")
    class_count = len(get_split_counts_by_class(check_facts))
    classes = format_counted_noun(class_count, "class", "classes")
    problem_count = len(list_problems(check_facts))
    number = format_counted_noun(problem_count, "problem") if problem_count else "No problems"
    return number, f"{images} of {classes} can be decoded"


def summarize_problems_by_kind(check_facts: Mapping[str, Json]) -> str:
    """Write a sentence with the number of problems of the worst kinds, or that there are none."""
    counts = Counter(problem["kind"] for problem in list_problems(check_facts))
    kinds = sorted(counts, key=rank_problem_kind)
    if not kinds:
        return "Every file was decoded; none is damaged or a duplicate."
    kinds_text = ", ".join(f"{kind} ({counts[kind]:,})" for kind in kinds[:MAX_SUMMARY_KINDS])
    other_count = len(kinds) - MAX_SUMMARY_KINDS
    if other_count > 0:
        kinds_text += f" and {format_counted_noun(other_count, 'more kind')}"
    return f"The worst first: {kinds_text}."
