"""The summary of a data set, which a command prints before it works on it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from residua.config.serialize import Json
from residua.data.sources.groups import SEPARATED_GROUP
from residua.data.sources.listing import DataProblem, SplitSource, join_first_names

MAX_NAMED_CLASSES = 10
MAX_DETAILS = 10  # folders and classes that are left out, each with its sentence
SOURCE_PHRASES: dict[SplitSource, str] = {
    "folders": "by the folders' names",
    "column": "by the table's column split",
    "shards": "by the shards' names",
    "dataset": "by the data set's own splits",
    "content": "by the images' content, as nothing else names them",
    "published": "as published",
    "given": "as given",
}
# Problems that concern a whole folder or class: each is said in full.
DETAILED_KINDS = ("left out", "own output", "unknown class", "empty class", "other split")
# Problems of images that are used all the same.
NOTED_KINDS = ("unused levels", "two labels", "two splits", "two groups", SEPARATED_GROUP)
USED_KINDS = ("tiny class", *NOTED_KINDS)


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The classes, the splits and the skipped items of a data set, as a command uses it."""

    location: str
    classes: dict[str, int]  # training images, or for an evaluation all images that are used
    splits: dict[str, int]  # images of train, dev, test, or all that are evaluated
    split_source: SplitSource
    skipped: dict[str, int]  # files or images, by the kind of the problem
    details: tuple[str, ...] = ()  # sentences about what was left out as a whole
    notes: tuple[str, ...] = ()
    counted: str = "training images"  # what `classes` counts
    groups: int = 0  # that a table's column names; 0 without such a column

    @property
    def json(self) -> dict[str, Json]:
        """The summary as printed by --json."""
        return {
            "classes": dict(self.classes),
            "splits": dict(self.splits),
            "split_from": self.split_source,
            "skipped": dict(self.skipped),
            "groups": self.groups,
        }

    @property
    def has_labels(self) -> bool:
        """Whether the images are of classes; those of a folder without class folders are not."""
        return set(self.classes) != {""}

    @property
    def split_phrase(self) -> str:
        """What names the split of an image: `by the table's column split`."""
        if not self.groups:
            return SOURCE_PHRASES[self.split_source]
        if self.split_source == "content":
            return f"{self.groups:,} groups, each in one split, as nothing else names them"
        return f"{SOURCE_PHRASES[self.split_source]}, with {self.groups:,} groups"

    def describe(self) -> Iterator[str]:
        """Yield the lines of the block that commands print."""
        image_count = sum(self.splits.values())
        noun = "file" if self.counted == "files" else "image"  # files that nobody opened yet
        images = f"{image_count:,} {noun}{'s' * (image_count != 1)}"
        if self.has_labels:
            classes = f"{len(self.classes):,} class{'es' * (len(self.classes) != 1)}"
            yield f"data {self.location}: {images} in {classes}"
            named = [f"{name} {count:,}" for name, count in self.classes.items()]
            yield f"  classes   {self.counted}: {join_first_names(named, MAX_NAMED_CLASSES)}"
        else:
            yield f"data {self.location}: {images} without labels"
        splits = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        source = f" ({self.split_phrase})" if "all" not in self.splits else ""
        yield f"  splits    {splits}{source}"
        if self.skipped:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.items())
            yield f"  skipped   {kinds}"
        for detail in self.details[:MAX_DETAILS]:
            yield f"  left out  {detail}"
        if len(self.details) > MAX_DETAILS:
            yield f"  left out  {len(self.details) - MAX_DETAILS:,} more folders or classes"
        for note in self.notes:
            yield f"  note      {note}"


def list_white_level_notes(problems: Iterable[DataProblem]) -> Iterator[str]:
    """Yield the sentences about images whose white level seems to differ from the assumed one."""
    yield from (problem.detail for problem in problems if problem.kind == "unused levels")


def ignore_summary(summary: DataSummary) -> None:
    """Do nothing with a summary; for callers that do not print it."""


def summarize_problems(
    problems: Iterable[DataProblem],
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Count the skipped items of each kind, and make a sentence per folder or class left out."""
    counts: Counter[str] = Counter()
    details = []
    for problem in problems:
        if problem.kind in USED_KINDS:
            continue
        counts[problem.kind] += problem.count
        if problem.kind in DETAILED_KINDS:
            files = f" ({problem.count:,} files)" if problem.count > 1 else ""
            details.append(f"{problem.path} {problem.detail}{files}")
    return dict(counts), tuple(details)
