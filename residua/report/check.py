"""The page of a checked folder: what is wrong, with pictures, and what there is."""

from collections import Counter
from collections.abc import Mapping

from residua.report.html import rendered
from residua.spec.text import Json

INKS: dict[str, str] = {}
MEANING = {  # the worst first
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


def page(facts: Mapping[str, Json], thumbnails: Mapping[str, str]) -> str:
    """The page as HTML; `thumbnails` are data URIs by path."""
    problems = [p for p in facts["problems"] or [] if isinstance(p, dict)]  # type: ignore[union-attr]
    counts = Counter(str(p["kind"]) for p in problems)
    groups = [
        {
            "kind": kind,
            "count": count,
            "meaning": MEANING.get(kind, ""),
            "rows": [(str(p["path"]), str(p["detail"]), thumbnails.get(str(p["path"]), "")) for p in problems if p["kind"] == kind],
        }
        for kind, count in sorted(counts.items(), key=lambda item: rank(item[0]))
    ]
    classes = facts["classes"] if isinstance(facts["classes"], dict) else {}
    return rendered(
        "check.html.j2", title="What is in this folder?", subject=str(facts["data"]), inks=INKS, lead=lead(facts, counts),
        groups=groups, classes=class_rows(classes, thumbnails), parts=parts_of(classes), facts=in_words(facts),
    )  # fmt: skip


def lead(facts: Mapping[str, Json], counts: Counter[str]) -> str:
    classes = facts["classes"] if isinstance(facts["classes"], dict) else {}
    found = f"{facts['images']:,} images of {len(classes)} classes can be decoded"
    if not counts:
        return f"{found}, and nothing is wrong."
    kinds = ", ".join(f"{kind} ({counts[kind]})" for kind in sorted(counts, key=rank)[:4])
    more = f" and {len(counts) - 4} kinds more" if len(counts) > 4 else ""
    return f"{found}; {sum(counts.values()):,} problem{'s' * (sum(counts.values()) != 1)}: {kinds}{more}."


def rank(kind: str) -> int:
    """The worst first."""
    return list(MEANING).index(kind) if kind in MEANING else len(MEANING)


def parts_of(classes: Mapping[str, Json]) -> list[str]:
    return sorted({part for held in classes.values() if isinstance(held, dict) for part in held}, key=order)


def order(part: str) -> int:
    return ["images", "train", "dev", "test"].index(part)


def class_rows(classes: Mapping[str, Json], thumbnails: Mapping[str, str]) -> list[dict[str, object]]:
    """Name, counts in each part, and a few pictures of each class."""
    parts = parts_of(classes)
    rows: list[dict[str, object]] = []
    for name, held in classes.items():
        counts = [held.get(part, 0) for part in parts] if isinstance(held, dict) else []
        pictures = [uri for path, uri in thumbnails.items() if f"/{name}/" in f"/{path}"][:4]
        rows.append({"name": name, "counts": [f"{n:,}" for n in counts], "pictures": pictures})
    return rows


def in_words(facts: Mapping[str, Json]) -> dict[str, str]:
    told = {}
    for side in ("width", "height"):
        if isinstance(values := facts[side], list) and values:
            several = f"{values[0]:,} to {values[2]:,} pixels, half of them up to {values[1]:,}"
            told[side.capitalize()] = several if values[0] != values[2] else f"{values[0]:,} pixels"
    for name, key in (("Mean", "mean"), ("Deviation", "std")):
        if isinstance(values := facts[key], list):
            told[name] = ", ".join(f"{value:.3f} {colour}" for value, colour in zip(values, ("red", "green", "blue"), strict=True))
    return told
