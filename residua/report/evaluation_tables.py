"""The tables of an evaluation: rows of its page, CSV files, and the images behind its cells."""

from collections.abc import Sequence
from typing import NamedTuple

from residua.config.evaluation_results import ClassifiedImage, EvaluationResult
from residua.config.serialize import Json
from residua.report.format import (
    format_percent,
    format_percent_number,
    make_percent_nonbreaking,
)
from residua.spreadsheet_cells import format_csv

MAX_MATRIX_CLASSES = 25  # with more classes the page has a map and a list of confusions
MAX_LISTED_CONFUSIONS = 50  # before a class is looked for
MAX_LISTED_LABELS = 48  # doubtful labels on the page; the CSV has more


def format_classes_csv(evaluation: EvaluationResult) -> str:
    """Format a CSV row per class; precision and recall are in [0, 1], or empty if undefined."""
    rows = [
        (
            name,
            evaluation.count_images_of_class(k),
            evaluation.count_predictions_of_class(k),
            evaluation.class_precision(k),
            evaluation.class_recall(k),
        )
        for k, name in enumerate(evaluation.classes)
    ]
    return format_csv([("class", "images", "taken for it", "precision", "recall"), *rows])


def format_confusion_csv(evaluation: EvaluationResult) -> str:
    """Format the confusion matrix as CSV: a row per true class, a column per predicted class."""
    class_names = evaluation.classes
    rows = [(name, *row) for name, row in zip(class_names, evaluation.confusion, strict=True)]
    return format_csv([("", *class_names), *rows])


def format_doubtful_labels_csv(evaluation: EvaluationResult) -> str:
    """Format the labels to check as CSV, the most doubtful first; probabilities are in [0, 1]."""
    rows = [
        (
            doubtful.where,
            evaluation.classes[doubtful.label],
            evaluation.classes[doubtful.guess],
            f"{doubtful.label_probability:.6f}",
            f"{doubtful.probability:.6f}",
        )
        for doubtful in evaluation.labels_to_check
    ]
    head = ("image", "label", "predicted", "probability of the label", "probability of predicted")
    return format_csv([head, *rows])


class ClassRow(NamedTuple):
    """A class in the table of the page; numbers are in percent, and `keys` are for sorting."""

    name: str
    images: str
    recall: str
    interval: str  # of the recall
    precision: str
    taken_for: str  # the class for which its images are most often taken; "" without mistakes
    taken_count: int
    cell: str  # of that confusion, as `truth-guess`
    keys: tuple[int, float | str, float | str]  # images, recall, precision; "" comes last


def make_class_rows(evaluation: EvaluationResult) -> list[ClassRow]:
    """List the classes, lowest recall first; classes without images have none and come last."""
    rows = []
    for k, name in enumerate(evaluation.classes):
        images, recall = evaluation.count_images_of_class(k), evaluation.class_recall(k)
        precision = evaluation.class_precision(k)
        low, high = map(format_percent_number, evaluation.recall_intervals[k])
        mistakes = [(n, -j) for j, n in enumerate(evaluation.confusion[k]) if n and j != k]
        taken_count, guess = max(mistakes, default=(0, 0))
        rows.append(
            ClassRow(
                name=name,
                images=f"{images:,}",
                recall=format_percent_number(recall),
                interval="" if recall is None else f"{low}–{high}",
                precision=format_percent_number(precision),
                taken_for=evaluation.classes[-guess] if taken_count else "",
                taken_count=taken_count,
                cell=f"{k}-{-guess}",
                keys=(
                    images,
                    "" if recall is None else recall,
                    "" if precision is None else precision,
                ),
            )
        )
    return sorted(rows, key=lambda row: 2.0 if row.keys[1] == "" else float(row.keys[1]))


def make_matrix_rows(evaluation: EvaluationResult) -> list[tuple[str, list[tuple[int, float]]]]:
    """Make the rows (class, cells) of the confusion matrix; a cell is (images, share of row)."""
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(evaluation.classes, evaluation.confusion, strict=True)
    ]


def compute_max_confusion_share(evaluation: EvaluationResult) -> float:
    """Compute the largest share in [0, 1] of a true class that is classified as one other class.

    The fraction is 1 if there are no mistakes.  The page colors each cell of the confusion matrix
    by the cell's fraction relative to this one.
    """
    shares = [
        count / evaluation.count_images_of_class(truth)
        for count, truth, _ in evaluation.most_frequent_confusions()
    ]
    return max(shares, default=1.0)


class ConfusionRow(NamedTuple):
    """A frequent confusion in a list of them, with its cell as `truth-guess`."""

    cell: str
    truth: str
    guess: str
    images: int
    share: str  # of the images of the true class, in percent


def make_confusion_rows(evaluation: EvaluationResult) -> list[ConfusionRow]:
    """List the most frequent confusions, as many as the page lists before a class is looked for."""
    return [
        ConfusionRow(
            f"{truth}-{guess}",
            evaluation.classes[truth],
            evaluation.classes[guess],
            count,
            format_percent_number(count / evaluation.count_images_of_class(truth)),
        )
        for count, truth, guess in evaluation.most_frequent_confusions()[:MAX_LISTED_CONFUSIONS]
    ]


class PicturedImage(NamedTuple):
    """An image on the page of an evaluation; `number` is its place among all of them."""

    number: int
    thumbnail: str
    where: str
    truth: str
    guess: str
    probability: str

    @property
    def is_small(self) -> bool:
        """Whether its pixels should stay visible when it is enlarged."""
        return self.thumbnail.startswith("data:image/png")


def list_pictured_images(evaluation: EvaluationResult) -> list[PicturedImage]:
    """List all images of an evaluation's page: the mistakes first, then the examples."""
    return [
        picture_classified_image(evaluation, number, image)
        for number, image in enumerate((*evaluation.mistakes, *evaluation.examples))
    ]


def picture_classified_image(
    evaluation: EvaluationResult, number: int, image: ClassifiedImage
) -> PicturedImage:
    """Return an image of an evaluation, with the names of its classes."""
    return PicturedImage(
        number,
        image.thumbnail,
        image.where,
        evaluation.classes[image.truth],
        evaluation.classes[image.guess],
        make_percent_nonbreaking(format_percent(image.probability)),
    )


class DoubtfulRow(NamedTuple):
    """A label to check, with its image if the page has it."""

    image: PicturedImage | None
    where: str
    label: str
    label_probability: str
    guess: str
    probability: str


def make_doubtful_rows(
    evaluation: EvaluationResult, images: Sequence[PicturedImage]
) -> list[DoubtfulRow]:
    """List the first `MAX_LISTED_LABELS` labels to check."""
    image_by_name = {image.where: image for image in images}
    return [
        DoubtfulRow(
            image_by_name.get(doubtful.where),
            doubtful.where,
            evaluation.classes[doubtful.label],
            make_percent_nonbreaking(format_percent(doubtful.label_probability)),
            evaluation.classes[doubtful.guess],
            make_percent_nonbreaking(format_percent(doubtful.probability)),
        )
        for doubtful in evaluation.labels_to_check[:MAX_LISTED_LABELS]
    ]


def make_page_data(
    evaluation: EvaluationResult, images: Sequence[PicturedImage], embedded: set[int]
) -> dict[str, Json]:
    """Collect the data of the page's script: class names, images, counts of all confusions.

    Images are [thumbnail, name, truth, guess, probability].  The thumbnail of an image is null if
    its number is in `embedded`: the page holds it in an element already.
    """
    shown = (*evaluation.mistakes, *evaluation.examples)
    cells = [
        [i, j, n] for i, row in enumerate(evaluation.confusion) for j, n in enumerate(row) if n
    ]
    return {
        "classes": list(evaluation.classes),
        "images": [
            [
                None if picture.number in embedded else picture.thumbnail,
                picture.where,
                image.truth,
                image.guess,
                picture.probability,
            ]
            for picture, image in zip(images, shown, strict=True)
        ],
        "cells": [list[Json](cell) for cell in cells],
    }
