"""Tables of paths, labels and splits, with every delimiter, encoding and habit of spreadsheets."""

import csv
import io

from tests.fuzz.case import Case
from tests.fuzz.generators.folders import PhotoMaker, choose_commands
from tests.fuzz.seeds import CLASSES as MODEL_CLASSES

SPLIT_CELLS = {
    "train": ("train", "Train", "training", "TRAIN"),
    "test": ("test", "Test", "testing"),
    "dev": ("val", "valid", "validation", "dev"),
}
UNKNOWN_CELLS = ("holdout", "eval", "private", "evaluation", "x", "2", "trian", "unseen")
CLASS_NAMES = ("cat", "dog", "bird", "a cat", "7", "né", "a,b", "=x", "semi;colon", "-1", 'quo"te')
HEADERS = (
    ("path", "label", "split"),
    ("path", "label", "split"),
    ("Path", " Label", "SPLIT "),
    ("label", "path", "split"),
    ("split", "label", "path"),
    ("id", "path", "label", "split"),
)


def make_case(rng, seeds):
    """A table of five to thirty images beside it."""
    photos, files = PhotoMaker(rng), {}
    names = MODEL_CLASSES if rng.random() < 0.3 else CLASS_NAMES
    if rng.random() < 0.35:  # all classes but one are rare
        common, *rare = rng.sample(names, rng.randint(3, min(len(names), 9)))
        labels = [*rare, *[common] * rng.randint(3, 10)]
        photos.add_files(files, "in/table/images", len(labels), 0)
    else:
        photos.add_files(files, "in/table/images", rng.randint(14, 26))
        classes = rng.sample(names, rng.randint(2, 3))
        labels = [rng.choice(classes) for _ in files]
    header = rng.choice(HEADERS)
    style = rng.choice(
        (
            "none",
            "train-test",
            "train-test",
            "train-dev-test",
            "train-dev",
            "blank",
            "unknown",
            "some",
        )
    )
    rows = [
        make_row(rng, header, path.removeprefix("in/table/"), label, style, i)
        for i, (path, label) in enumerate(zip(files, labels, strict=True))
    ]
    if rng.random() < 0.25:
        rows += [rng.choice(rows) for _ in range(3)]
    if rng.random() < 0.1:
        rows.append(make_row(rng, header, "images/missing.png", labels[0], "train-test", 0))
    if rng.random() < 0.1:
        files["in/table/images/torn.png"] = "no image"
        rows.append(make_row(rng, header, "images/torn.png", labels[0], style, 0))
    if style == "none":
        header, rows = (
            [h for h in header if h.strip().lower() != "split"],
            [
                [cell for h, cell in zip(header, row, strict=True) if h.strip().lower() != "split"]
                for row in rows
            ],
        )
    delimiter = rng.choice((",", ",", ",", ";", "\t", "|"))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
    text = format_table(rng, [header, *rows], delimiter)
    files["in/table/t.csv"] = {"text": text, "encoding": encoding}
    case = Case("table", f"{style}, {delimiter!r}, {encoding}", files, [])
    if rng.random() < 0.15:
        return break_table(rng, case, text)
    reading = "utf-8-sig" if encoding.startswith("utf-8") else encoding
    return choose_commands(
        rng, case, "in/table/t.csv", "table", delimiter=delimiter, encoding=reading
    )


def make_row(rng, header, path, label, style, i):
    """The cells of an image, some with blanks around them."""
    role = {
        "none": "",
        "blank": "",
        "train-test": ("train", "train", "test")[i % 3],
        "train-dev": ("train", "train", "dev")[i % 3],
        "unknown": ("train", "train", "other")[i % 3],
        "some": ("train", "")[i % 2],
    }.get(style, ("train", "train", "test", "dev")[i % 4])
    split = (
        rng.choice(UNKNOWN_CELLS)
        if role == "other"
        else rng.choice(SPLIT_CELLS[role])
        if role
        else ""
    )
    cells = {"path": path, "label": label, "split": split, "id": str(i)}
    row = [cells[name.strip().lower()] for name in header]
    return [
        f" {cell}" if rng.random() < 0.1 else f"{cell} " if rng.random() < 0.1 else cell
        for cell in row
    ]


def format_table(rng, rows, delimiter):
    file = io.StringIO()
    ending = rng.choice(("\n", "\r\n"))
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(rows)
    return file.getvalue() + rng.choice(("", "", ending * 2))


def break_table(rng, case, text):
    """Damage the text of a table; nothing is expected of it but order."""
    place = rng.randrange(len(text))
    wrong = rng.choice(
        ('"', "\x00", "\n", ",,,,", "\ufeff", "\r", "\u2028", '"' * 3, "x" * 200_000, ";" * 5)
    )
    case.files["in/table/t.csv"] = text[:place] + wrong + text[place + rng.choice((0, 1, 30)) :]
    case.commands.append(["data", "check", "in/table/t.csv", "--out", "out/check", "--json"])
    return case
