"""The page of a checked folder: what is wrong, with pictures, and what there is."""

from collections import Counter
from collections.abc import Mapping

from residua.config.serialize import Json
from residua.report.html import render_template

DATA_REPORT_COLORS: dict[str, str] = {}
PROBLEM_MEANINGS = {  # the worst first
    "leakage": "The same picture to train on and to test: the test error would be too good.",
    "two classes": "The same bytes in two classes: one of them is wrong.",
    "missing": "In the table, but not on the disk.",
    "unreadable": "The system does not let them be read.",
    "truncated": "Their data end too early. They are left out of training.",
    "damaged": "They cannot be decoded. They are left out of training.",
    "empty": "They hold no bytes. They are left out of training.",
    "not an image": "They are no JPEG, PNG, WebP, BMP, TIFF or GIF. They are left out of training.",
    "too large": "They have more pixels than are decoded, as decompression bombs do. They are left out of training.",
    "unknown class": "Images to test of classes that nothing is trained on: they are left out.",
    "empty class": "Folders without images: no classes.",
    "tiny class": "Few images to learn from.",
    "alike classes": "Names that differ in capitals alone: perhaps one class.",
    "duplicate": "The same bytes twice in one class.",
    "near duplicate": "They look the same: resized, compressed or touched up.",
    "wrong extension": "What a file is, is told by its content: they are used all the same.",
    "link outside": "Links are not followed out of the folder, nor to folders.",
    "broken link": "Links to nothing.",
    "no class": "Files beside the folders of classes: they are left out.",
    "no file": "Neither files nor folders.",
    "film": "Of several frames, the first is taken.",
    "small image": "Few pixels show little.",
    "one colour": "They show nothing.",
    "odd name": "Names that other programs may not read.",
}


def render_data_report(check_facts: Mapping[str, Json], thumbnail_uris: Mapping[str, str]) -> str:
    """The page as HTML; `thumbnails` are data URIs by path."""
    problems = [p for p in check_facts["problems"] or [] if isinstance(p, dict)]  # type: ignore[union-attr]
    problem_counts = Counter(str(p["kind"]) for p in problems)
    groups = [
        {
            "kind": kind,
            "count": count,
            "meaning": PROBLEM_MEANINGS.get(kind, ""),
            "rows": [
                (str(p["path"]), str(p["detail"]), thumbnail_uris.get(str(p["path"]), ""))
                for p in problems
                if p["kind"] == kind
            ],
        }
        for kind, count in sorted(
            problem_counts.items(), key=lambda item: rank_problem_kind(item[0])
        )
    ]
    classes = check_facts["classes"] if isinstance(check_facts["classes"], dict) else {}
    return render_template(
        "check.html.j2",
        title="What is in this folder?",
        subject=str(check_facts["data"]),
        inks=DATA_REPORT_COLORS,
        lead=summarize_check(check_facts, problem_counts),
        groups=groups,
        classes=make_class_count_rows(classes, thumbnail_uris),
        parts=list_splits(classes),
        facts=describe_image_statistics(check_facts),
    )


def summarize_check(check_facts: Mapping[str, Json], problem_counts: Counter[str]) -> str:
    classes = check_facts["classes"] if isinstance(check_facts["classes"], dict) else {}
    usable_text = f"{check_facts['images']:,} images of {len(classes)} classes can be decoded"
    if not problem_counts:
        return f"{usable_text}, and nothing is wrong."
    kinds = ", ".join(
        f"{kind} ({problem_counts[kind]})"
        for kind in sorted(problem_counts, key=rank_problem_kind)[:4]
    )
    remaining_kinds = (
        f" and {len(problem_counts) - 4} kinds more" if len(problem_counts) > 4 else ""
    )
    return f"{usable_text}; {sum(problem_counts.values()):,} problem{'s' * (sum(problem_counts.values()) != 1)}: {kinds}{remaining_kinds}."


def rank_problem_kind(problem_kind: str) -> int:
    """The worst first."""
    return (
        list(PROBLEM_MEANINGS).index(problem_kind)
        if problem_kind in PROBLEM_MEANINGS
        else len(PROBLEM_MEANINGS)
    )


def list_splits(class_counts: Mapping[str, Json]) -> list[str]:
    return sorted(
        {part for held in class_counts.values() if isinstance(held, dict) for part in held},
        key=rank_split,
    )


def rank_split(split: str) -> int:
    return ["images", "train", "dev", "test"].index(split)


def make_class_count_rows(
    class_counts: Mapping[str, Json], thumbnail_uris: Mapping[str, str]
) -> list[dict[str, object]]:
    """Name, counts in each part, and a few pictures of each class."""
    splits = list_splits(class_counts)
    rows: list[dict[str, object]] = []
    for name, split_counts in class_counts.items():
        counts = (
            [split_counts.get(part, 0) for part in splits] if isinstance(split_counts, dict) else []
        )
        pictures = [uri for path, uri in thumbnail_uris.items() if f"/{name}/" in f"/{path}"][:4]
        rows.append({"name": name, "counts": [f"{n:,}" for n in counts], "pictures": pictures})
    return rows


def describe_image_statistics(check_facts: Mapping[str, Json]) -> dict[str, str]:
    descriptions = {}
    for dimension in ("width", "height"):
        if isinstance(values := check_facts[dimension], list) and values:
            size_range = f"{values[0]:,} to {values[2]:,} pixels, half of them up to {values[1]:,}"
            descriptions[dimension.capitalize()] = (
                size_range if values[0] != values[2] else f"{values[0]:,} pixels"
            )
    for name, key in (("Mean", "mean"), ("Deviation", "std")):
        if isinstance(values := check_facts[key], list):
            descriptions[name] = ", ".join(
                f"{value:.3f} {colour}"
                for value, colour in zip(values, ("red", "green", "blue"), strict=True)
            )
    return descriptions
