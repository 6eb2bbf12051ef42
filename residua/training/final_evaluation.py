"""Evaluate a finished run on its test images, as they were read at the end of its training."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import nn

from residua.config.dataset import Dataset
from residua.config.evaluation_results import EvaluationResult
from residua.config.image_views import ImageViews
from residua.data.preprocessed_images import NamedImages
from residua.data.read import list_skipped_images, load_photos, read_split
from residua.data.sources.resolve import PhotoDataset, resize_for_recipe
from residua.net.model_folder import from_pretrained, read_model_config
from residua.record import RunRecord
from residua.training.assess import (
    make_second_opinion,
    predict_log_probabilities,
    require_finite_scores,
)
from residua.training.data_settings import keep_data_settings_of_run
from residua.training.distributed import SINGLE_PROCESS
from residua.training.evaluation_measures import build_evaluation
from residua.training.machine import Machine


def evaluate_finished_run(
    folder: Path,
    data: Dataset,
    machine: Machine,
    data_dir: Path | None = None,
    module: nn.Module | None = None,
) -> EvaluationResult:
    """Evaluate the network of the finished run in `folder` on the test split of `data`, in fp32.

    The views of the run's recipe are averaged.  Photographs are taken from the cache that training
    has filled, so that none is decoded again.  This process evaluates alone, even if `machine`
    belongs to a group.  `module` is the trained network if it is a module of the user's own; a copy
    of it is evaluated.  Raises the errors of `evaluate_model_folder`.
    """
    run_recipe = RunRecord(folder).read_run().recipe
    data = keep_data_settings_of_run(resize_for_recipe(data, run_recipe), RunRecord(folder))
    machine = replace(machine, precision="fp32", recompute="none", group=SINGLE_PROCESS)
    config = read_model_config(folder / "last")
    trained = from_pretrained(folder / "last") if module is None else deepcopy(module)
    net = machine.prepare_model_in_place(trained)
    views: ImageViews = run_recipe.views if run_recipe else "none"
    named_images = read_named_test_images(data, data_dir, keeps_margin=views == "10")
    log_probs = predict_log_probabilities(net, named_images.images, config, machine, views=views)
    require_finite_scores(log_probs, config)
    environment = machine.describe_environment()
    opinion = make_second_opinion(
        folder / "last", config, named_images.images, machine, views=views
    )
    return replace(
        build_evaluation(named_images, log_probs.numpy(), config, ask_second_opinion=opinion),
        dataset=data.name,
        split="test",
        environment=tuple((name, str(value)) for name, value in environment.items()),
    ).with_views(views)


def read_named_test_images(
    data: Dataset, data_dir: Path | None, *, keeps_margin: bool = False
) -> NamedImages:
    """Read the test images with the names that `residua evaluate` gives them."""
    images = read_split(data, "test", data_dir, keeps_margin=keeps_margin)
    if not isinstance(data, PhotoDataset):
        return NamedImages(images, [f"test image {i}" for i in range(len(images))])
    decoded = load_photos(data)
    names = list(decoded.names[decoded.split_slice("test")])
    return NamedImages(images, names, list_skipped_images(data))
