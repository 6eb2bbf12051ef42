"""The classes of a listing: those that can be trained on, or those that a model knows."""

from collections import Counter
from dataclasses import replace

from residua.config.imagenet_classes import ClassMatcher
from residua.data.decode import has_image_signature
from residua.data.sources.listing import (
    DataProblem,
    ImageListing,
    escape_unprintable,
    index_class_names,
    join_first_names,
)
from residua.errors import DataError, UsageError


def keep_trainable_classes(listing: ImageListing) -> ImageListing:
    """Keep the classes with at least one training image; each other class becomes a problem.

    A file counts as an image if its first bytes are those of an image format.  Raises DataError if
    fewer than two classes are left.
    """
    trainable: set[int] = set()
    for entry in listing.entries:
        is_undecided = entry.split in ("train", "") and entry.label not in trainable
        if is_undecided and has_image_signature(entry):
            trainable.add(entry.label)
    names = [name for label, name in enumerate(listing.classes) if label in trainable]
    if not any(entry.split in ("train", "") for entry in listing.entries):
        raise DataError(
            f"{listing.location} holds only images of held-out splits: add training images, "
            "e.g. train/CLASS/image.jpg"
        )
    if not names:
        files = [entry.name for entry in listing.entries if entry.split in ("train", "")]
        raise DataError(
            f"{listing.location} holds no image to train on: give at least two classes, each a "
            f"folder of its images; these files are none: {join_first_names(files)}"
        )
    if len(names) == 1:
        inner = list_folders_below(listing, names[0])
        folders = f", with the folders {join_first_names(inner)}" if len(inner) > 1 else ""
        way_on = " (if these are the classes, move them up)" if folders else ""
        raise DataError(
            f"{listing.location} holds only one class, {names[0]}{folders}: give at least two "
            f"classes, each a folder of its images{way_on}"
        )
    return keep_only_classes(listing, names)


def list_folders_below(listing: ImageListing, class_name: str) -> list[str]:
    """List the folders in the folders of a class, by the names of its images."""
    parents = (entry.name.split("/")[:-1] for entry in listing.entries)
    below = (parent[parent.index(class_name) + 1 :] for parent in parents if class_name in parent)
    return sorted({folders[0] for folders in below if folders})


def keep_only_classes(listing: ImageListing, class_names: list[str]) -> ImageListing:
    """Return the listing with only the given classes; every other class becomes a problem."""
    label_by_name = index_class_names(listing.classes)
    new_labels = {label_by_name[name]: i for i, name in enumerate(class_names)}
    dropped = Counter(
        (entry.label, entry.split in ("train", ""))
        for entry in listing.entries
        if entry.label not in new_labels
    )
    problems = []
    for label, name in enumerate(listing.classes):
        if label in new_labels:
            continue
        to_train, to_test = dropped[label, True], dropped[label, False]
        if to_train:
            count = to_train + to_test
            files = f"{count:,} file{'s' * (count != 1)}"
            detail = f"holds {files}, but no image to train on, and is skipped"
            problems.append(DataProblem(name, "empty class", detail, count))
        elif to_test:
            detail = f"has images to test, {to_test:,}, but none to train on, and is skipped"
            problems.append(DataProblem(name, "unknown class", detail, to_test))
        else:
            detail = "has no file to train on, and is skipped"
            problems.append(DataProblem(name, "empty class", detail))
    if class_names == list(listing.classes):  # almost always, and there may be millions of entries
        return replace(listing, problems=tuple(sorted(listing.problems)))
    entries = tuple(
        replace(entry, label=new_labels[entry.label])
        for entry in listing.entries
        if entry.label in new_labels
    )
    return replace(
        listing,
        classes=tuple(class_names),
        entries=entries,
        problems=tuple(sorted([*listing.problems, *problems])),
    )


def match_model_classes(
    listing: ImageListing, model_classes: tuple[str, ...], *, skip_unknown: bool
) -> ImageListing:
    """Give every image the label that its class has in a model, matched by the class's name.

    For ImageNet's classes, case, blanks and underscores do not count where no class has exactly
    this name, and a name may be a synset id.  The notes list what is matched by another name.
    Classes of the model without images are allowed.  Raises UsageError for names that may
    mean several classes, and for classes that the model does not know, unless `skip_unknown` is
    set: their images then become problems.
    """
    counts = Counter(entry.label for entry in listing.entries)
    new_labels = find_class_labels(listing, model_classes, counts)
    unknown = [
        label for label in range(len(listing.classes)) if label not in new_labels and counts[label]
    ]
    if unknown and not skip_unknown:
        names = join_first_names((listing.classes[label] for label in unknown), limit=5)
        known = join_first_names(map(escape_unprintable, model_classes), limit=10)
        raise UsageError(
            f"{listing.location} has classes that the model does not know, {names}: rename them "
            f"to the model's classes ({known}), or add --skip-unknown-classes"
        )
    problems = [
        DataProblem(
            listing.classes[label],
            "unknown class",
            f"is not a class of the model, and its {counts[label]:,} images are skipped",
            counts[label],
        )
        for label in unknown
    ]
    entries = tuple(
        replace(entry, label=new_labels[entry.label])
        for entry in listing.entries
        if entry.label in new_labels
    )
    if not entries:
        raise UsageError(
            f"{listing.location} has no image of a class that the model knows: give images of the "
            "model's classes"
        )
    return replace(
        listing,
        classes=model_classes,
        entries=entries,
        problems=tuple(sorted([*listing.problems, *problems])),
        notes=(*listing.notes, *describe_renamed_classes(listing, model_classes, new_labels)),
    )


def find_class_labels(
    listing: ImageListing, model_classes: tuple[str, ...], counts: Counter[int]
) -> dict[int, int]:
    """Map the labels of a listing to those of a model; unknown classes are left out.

    Raises UsageError if a name with images may mean several classes, and if two names with images
    mean the same one.
    """
    matcher = ClassMatcher(model_classes)
    new_labels: dict[int, int] = {}
    for label, name in enumerate(listing.classes):
        found = matcher.find_labels(name)
        if len(found) > 1 and counts[label]:
            choices = " or ".join(model_classes[k] for k in found)
            raise UsageError(
                f"the class {escape_unprintable(name)} of {listing.location} may be {choices}: "
                "give it one of these names"
            )
        if len(found) == 1:
            new_labels[label] = found[0]
    by_class = Counter(k for label, k in new_labels.items() if counts[label])
    if doubled := [k for k, number in by_class.items() if number > 1]:
        names = [listing.classes[i] for i, k in new_labels.items() if k == doubled[0]]
        raise UsageError(
            f"the classes {' and '.join(map(escape_unprintable, names))} of {listing.location} "
            f"are all {model_classes[doubled[0]]} for the model: put their images into one"
        )
    return new_labels


def describe_renamed_classes(
    listing: ImageListing, model_classes: tuple[str, ...], new_labels: dict[int, int]
) -> list[str]:
    """List the classes that have other names in the model, in a sentence; [] if there are none."""
    renamed = [
        f"{listing.classes[label]} = {model_classes[k]}"
        for label, k in new_labels.items()
        if listing.classes[label] != model_classes[k]
    ]
    return [f"classes matched by another name: {', '.join(renamed)}"] if renamed else []
