"""The page of an evaluation: the answer in words, calibration, classes, confusions and the most confident mistakes."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from residua.errors import RecordError, ResiduaError
from residua.files import write_json, write_text
from residua.report.figures import NARROW, WIDE, in_page, standalone
from residua.report.html import rendered
from residua.report.method import machine_in_words, versions_in_words
from residua.report.page import unbroken
from residua.report.reliability import INKS, reliability_figure
from residua.spec.evaluation import Evaluation
from residua.spec.text import Json, from_json, to_json

PAGE, RECORD = "evaluation.html", "evaluation.json"
READABLE = 25  # classes, in a matrix on a page
LISTED = 12  # confusions


def write(found: Evaluation, folder: Path) -> Path:
    """Write `evaluation.html`, `evaluation.json`, `classes.csv`, `confusion.csv` and the figure; return the page's path."""
    drawn = draw(found)
    write_json(folder / RECORD, to_json(found))
    names = found.classes
    classes = [(name, found.images(k), found.called(k), found.precision(k), found.recall(k)) for k, name in enumerate(names)]
    confusion = [(name, *row) for name, row in zip(names, found.confusion, strict=True)]
    write_text(folder / "classes.csv", csv_of([("class", "images", "taken for it", "precision", "recall"), *classes]))
    write_text(folder / "confusion.csv", csv_of([("", *names), *confusion]))
    write_text(folder / "reliability.svg", standalone(drawn[0]))
    write_text(folder / PAGE, page(found, drawn))
    return folder / PAGE


def read(folder: Path) -> Evaluation:
    """The evaluation that `write` left in a folder; RecordError where there is none, or one that cannot be read."""
    path = folder / RECORD
    try:
        return from_json(Evaluation, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no evaluation: it has no {RECORD}") from None
    except (ValueError, ResiduaError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error


def facts(found: Evaluation) -> dict[str, Json]:
    """An evaluation for scripts: all but its images."""
    per_class: list[Json] = [
        {
            "class": name, "images": found.images(k), "precision": found.precision(k), "recall": found.recall(k),
            "recall_interval": list(found.recall_intervals[k]),
        }
        for k, name in enumerate(found.classes)
    ]  # fmt: skip
    return {
        "count": found.count, "wrong": found.wrong, "error": found.error, "top5_error": found.top5_error, "loss": found.loss,
        "error_interval": list(found.error_interval), "top5_error_interval": list(found.top5_error_interval),
        "ece": found.calibration.ece, "temperature": found.temperature, "temperature_from": found.fitted,
        "scaled_ece": found.scaled.ece, "scaled_loss": found.scaled.loss,
        "classes": per_class, "confusion": to_json(found.confusion), "left_out": len(found.left_out),
    }  # fmt: skip


def summary(found: Evaluation) -> list[str]:
    """The answer and what is behind it, a sentence each."""
    told = [
        f"{found.wrong:,} of {found.count:,} {found.split} images wrong: error {percent(found.error)} (with 95 % between "
        f"{percents(found.error_interval)})"
        + (
            f", top-5 error {percent(found.top5_error)} (between {percents(found.top5_error_interval)})."
            if len(found.classes) > 5
            else "."
        ),
        calibrated(found),
    ]
    known = [(recall, k) for k in range(len(found.classes)) if (recall := found.recall(k)) is not None]
    if len(known) > 1 and found.wrong:
        (low, hardest), (high, easiest) = min(known), max(known)
        names = found.classes[hardest], found.classes[easiest]
        if high > low:
            told.append(
                f"It finds {percent(high, 1)} of the images of {names[1]}, but only {percent(low, 1)} of those of {names[0]}."
            )
    if confusions := found.confusions():
        n, i, j = confusions[0]
        told.append(
            f"Most often it takes {found.classes[i]} for {found.classes[j]}: {n:,} of {found.images(i):,} images, and "
            f"{found.confusion[j][i]:,} of {found.images(j):,} the other way round."
        )
    return told


def left_out(found: Evaluation, most: int = 20) -> list[str]:
    """Which files could not be used, a sentence each."""
    more = len(found.left_out) - most
    return [f"left out: {name}" for name in found.left_out[:most]] + ([f"{more:,} more were left out"] if more > 0 else [])


def calibrated(found: Evaluation) -> str:
    """How true the probabilities are, and what a temperature changes."""
    sure = sum(b.count * b.confidence for b in found.calibration.bins) / found.count
    right, ece, scaled = 1 - found.error, found.calibration.ece, found.scaled.ece
    tends = "over-confident" if sure > right else "under-confident"
    told = f"It is {percent(sure, 1)} sure on average and right in {percent(right, 1)}: " + (
        f"{tends}, by an expected calibration error (ECE) of {percent(ece, 1)}."
        if ece >= 0.01
        else f"well calibrated, with an expected calibration error (ECE) of {percent(ece, 1)}."
    )
    source = {
        "folder": "that of the model folder",
        "dev": "fitted on the dev split",
        "halves": "for each half of the images fitted on the other half",
    }[found.fitted]
    return f"{told} At a temperature of {found.temperature:.2f} ({source}) it is {percent(scaled, 1)}."


def page(found: Evaluation, drawn: tuple[str, str]) -> str:
    """The page as HTML: style, figures and thumbnails inside, nothing fetched."""
    lead, *findings = map(unbroken, summary(found))
    figure = in_page({"reliability": drawn}, {"reliability": "How sure, against how often right"}, INKS)["reliability"]
    names = found.classes
    environment: dict[str, Json] = {name: int(value) if value.isdigit() else value for name, value in found.environment}
    most = max((n / found.images(i) for n, i, _ in found.confusions()), default=1.0)  # of the shares off the diagonal
    return rendered(
        "evaluation.html.j2",
        title=f"How well does {found.model} classify?",
        subject=f"{found.count:,} {found.split} images of {found.dataset}, {len(names)} classes",
        lead=lead,
        findings=findings,
        figure=figure,
        inks=INKS,
        classes=sorted(rows(found), key=lambda row: row[-1]),
        matrix=[(name, shares(row)) for name, row in zip(names, found.confusion, strict=True)] if len(names) <= READABLE else [],
        most=most,
        confusions=[(n, names[i], names[j], found.images(i)) for n, i, j in found.confusions()[:LISTED]],
        mistakes=[
            (m.thumbnail, m.where, names[m.truth], names[m.guess], unbroken(percent(m.probability, 1))) for m in found.mistakes
        ],
        left_out=[sentence.removeprefix("left out: ") for sentence in left_out(found, 100)],
        mirror=found.mirror,
        loss=f"{found.loss:.4f}",
        scaled_loss=f"{found.scaled.loss:.4f}",
        machine=machine_in_words(environment),
        versions=versions_in_words(environment),
    )  # fmt: skip


def draw(found: Evaluation) -> tuple[str, str]:
    """The reliability figure for a desk and for a phone."""
    panels = {"as the network says": found.calibration, f"at temperature {found.temperature:.2f}": found.scaled}
    return reliability_figure(panels, WIDE), reliability_figure(panels, NARROW)


def rows(found: Evaluation) -> list[tuple[str, str, str, str, str, float]]:
    """Class, images, precision, recall, where that lies, in percent; and the recall to sort by."""
    return [
        (
            name, f"{found.images(k):,}", cell(found.precision(k)), cell(recall := found.recall(k)),
            "–".join(f"{100 * limit:.1f}" for limit in found.recall_intervals[k]) if recall is not None else "",
            2.0 if recall is None else recall,
        )
        for k, name in enumerate(found.classes)
    ]  # fmt: skip


def shares(row: tuple[int, ...]) -> list[tuple[int, float]]:
    """Each count with its share of the row."""
    return [(n, n / max(sum(row), 1)) for n in row]


def csv_of(lines: Sequence[tuple[object, ...]]) -> str:
    """Rows as CSV; empty where a share has no images."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def cell(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def percents(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.2f} and {100 * interval[1]:.2f} %"
