"""The data of a study: a data set known by name, or photographs."""

from dataclasses import dataclass, field
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPE_SIZES, usual_recipe
from residua.config.study import Study
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing, resolve_dataset
from residua.errors import UsageError
from residua.training.auto_config import choose_config_for_photos, suit_config_to_recipe
from residua.training.machine import DeviceChoice, set_up_machine
from residua.training.run_request import MAX_IMAGE_SIDE, MIN_IMAGE_SIDE


@dataclass(frozen=True, slots=True)
class StudyData:
    """A study's data set with the recipe that suits it, and the reasons of automatic choices.

    `name` and `size` are those of `Study`.
    """

    dataset: Dataset
    name: str
    recipe: Recipe
    size: int = 0
    reasons: dict[str, str] = field(default_factory=dict)  # by the option that overrides each


def choose_study_data(
    name_or_location: str,
    size: int | None,
    device_choice: DeviceChoice,
    data_dir: Path | None = None,
) -> StudyData:
    """Find a study's data; choose the size of photographs, unless given, and a recipe.

    ImageNet by its name has its own recipe and size; `data_dir` is where it is.  All networks of a
    study see photographs of one size.  Raises UsageError for an unknown data set,
    or for a size that is out of range or does not apply.
    """
    dataset = resolve_dataset(name_or_location, data_dir=data_dir)
    if not isinstance(dataset, PhotoDataset):
        if size is not None:
            raise UsageError(f"--size applies only to photographs: leave it out for {dataset.name}")
        return StudyData(dataset, dataset.name, usual_recipe(dataset.name))
    if size is not None and not MIN_IMAGE_SIDE <= size <= MAX_IMAGE_SIDE:
        raise UsageError(f"--size {size} is invalid: give {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE}")
    machine = set_up_machine("auto", device_choice=device_choice)
    usual = usual_recipe(dataset.folder)
    side_of_recipe = RECIPE_SIZES.get(usual.name, 0)
    chosen = choose_config_for_photos(dataset.listing, machine, image_size=size or side_of_recipe)
    if side_of_recipe:
        chosen = suit_config_to_recipe(chosen, usual.name)
    side = chosen.image_size
    settled = {"size"} if size else set()
    return StudyData(
        dataset_from_listing(dataset.listing, (3, side, side)),
        dataset.listing.location,
        chosen.recipe,
        side,
        {name: chosen.reasons[name] for name in ("size", "recipe") if name not in settled},
    )


def resolve_study_dataset(study: Study, data_dir: Path | None = None) -> Dataset:
    """Resolve the data set that a study names; photographs have the study's size."""
    shape = (3, study.size, study.size) if study.size else ()
    return resolve_dataset(study.dataset, shape, data_dir=data_dir)
