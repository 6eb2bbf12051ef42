"""Evaluate a model folder: error intervals, confusion matrix, calibration, confident mistakes.

`evaluate_network` only counts errors; this module keeps the log probabilities of every image.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from residua.config.dataset import Dataset
from residua.config.evaluation_results import EvaluationResult
from residua.config.image_views import ImageViews
from residua.config.memory import EVAL_BATCH
from residua.config.model import ModelConfig
from residua.data.image_views import keep_margin_for_views
from residua.data.photo_records import describe_decoders
from residua.data.preprocessed_images import NamedImages, read_preprocessed_split
from residua.data.streamed_images import ImageSet, StreamedImages
from residua.data.summarize import summarize_evaluated_data
from residua.data.summary import DataSummary, ignore_summary
from residua.data.unseen_images import (
    EvaluatedSplit,
    ImageChoice,
    choose_images,
)
from residua.errors import RecordError, ResiduaError
from residua.net.model_folder import (
    check_compatibility,
    find_model_folder,
    fingerprint_model_folder,
    from_pretrained,
    read_compatible_config,
    read_model_config,
)
from residua.training.calibration import FloatArray
from residua.training.doubtful_labels import SecondOpinion
from residua.training.evaluate import predict_own_batches
from residua.training.evaluation_checks import (
    require_allowed_views_of_data,
    require_calibration_images,
    require_unseen_dev_images,
)
from residua.training.evaluation_measures import build_evaluation
from residua.training.machine import Machine
from residua.training.rank_agreement import RankFacts, require_equal_ranks
from residua.training.stored_temperature import (
    remove_stored_temperature,
    store_temperature_if_better,
)


def predict_log_probabilities(
    net: nn.Module,
    images: ImageSet,
    config: ModelConfig,
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    views: ImageViews = "none",
) -> Tensor:
    """Predict log probabilities (n, classes) of uint8 images, in fp32 and in the images' order.

    The ranks of the machine's group share the batches, and every rank returns the log probabilities
    of all images.  `net` runs in evaluation mode, and returns to its previous mode.
    """
    log_probs = torch.zeros(len(images), len(config.classes), device=machine.device)
    for batch_slice, _, batch_log_probs in predict_own_batches(
        *(net, images, config.mean, config.std, machine, batch_size),
        views=views,
        crop_size=config.input[1:],
    ):
        log_probs[batch_slice] = batch_log_probs
    return machine.group.all_reduce_sum(log_probs).cpu()


def evaluate_model_folder(
    folder: Path,
    data: Dataset,
    split: EvaluatedSplit | None,
    machine: Machine,
    data_dir: Path | None = None,
    *,
    on_data: Callable[[DataSummary], None] = ignore_summary,
    views: ImageViews = "none",
    views_option: str = "",
    calibrate: bool = False,
    forget_temperature: bool = False,
) -> EvaluationResult:
    """Evaluate the network in `folder` on a split of a data set.

    `folder` is a model folder, or the folder of a run, whose model folder `last` is then used.
    Without a `split`, the images are those that the model was not trained on (`choose_images`).
    `on_data` is called with a summary of the images before they are classified.  The
    predictions for the `views` of each image are averaged; `views_option` is how the user names
    them.  With `calibrate`, a temperature is first fitted on the dev split, and stored in the
    config if it lowers the loss of images that it was not fitted on; with `forget_temperature`, a
    stored one is removed.

    Raises UsageError if the data set's classes or image shapes differ from the model's, or if the
    images do not allow the `views` or `calibrate`; RecordError if the model folder cannot be read,
    and DataError if the images cannot.
    """
    folder = find_model_folder(folder)
    config = read_compatible_config(data, folder)
    require_unseen_dev_images(data, config, split, calibrate=calibrate)
    choice = choose_images(data, split, config)
    require_allowed_views_of_data(data, config, views, views_option)
    require_calibration_images(data, choice, config, calibrate=calibrate)
    agreed_facts: RankFacts = {
        "command": "evaluate",
        "options": [views, calibrate, forget_temperature],
    }
    if machine.group.world_size > 1:
        agreed_facts["model"] = fingerprint_model_folder(folder)
    net = machine.prepare_model_in_place(from_pretrained(folder))
    predict = partial(
        load_and_predict, net, config, machine, data_dir, on_data, views, agreed_facts
    )
    dev = predict(choose_images(data, "dev", config)) if calibrate else None
    named_images, log_probs = predict(choice)
    source: Literal["dev", "folder"] = "folder"
    note, is_main = "", machine.group.is_main
    if dev is not None:
        config, note, source = store_temperature_if_better(folder, config, *dev, write=is_main)
    elif forget_temperature:
        config, note = remove_stored_temperature(folder, config, write=is_main)
    environment = machine.describe_environment()
    opinion = make_second_opinion(folder, config, named_images.images, machine, views=views)
    return replace(
        build_evaluation(named_images, log_probs, config, source, opinion),
        dataset=data.name,
        split=choice.label,
        environment=tuple((name, str(value)) for name, value in environment.items()),
        temperature_note=note,
    ).with_views(views)


def evaluate_classifier(
    net: nn.Module,
    config: ModelConfig,
    data: Dataset,
    split: EvaluatedSplit | None,
    machine: Machine,
    data_dir: Path | None = None,
    *,
    views: ImageViews = "none",
    views_option: str = "",
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> EvaluationResult:
    """Evaluate a network that is in memory, as `evaluate_model_folder` does."""
    check_compatibility(config, data, config.network.name)
    require_unseen_dev_images(data, config, split, calibrate=False)
    choice = choose_images(data, split, config)
    require_allowed_views_of_data(data, config, views, views_option)
    named_images, log_probs = load_and_predict(
        machine.prepare_model_in_place(deepcopy(net)),
        config,
        machine,
        data_dir,
        on_data,
        views,
        {"command": "evaluate"},
        choice,
    )
    return replace(
        build_evaluation(named_images, log_probs, config),
        dataset=data.name,
        split=choice.label,
    ).with_views(views)


def make_second_opinion(
    folder: Path,
    config: ModelConfig,
    images: ImageSet,
    machine: Machine,
    *,
    views: ImageViews = "none",
) -> SecondOpinion | None:
    """Make a function that predicts some of `images` with the weights of the run's best epoch.

    `folder` is the model folder `last` of a run, and `config` its config.  Returns None for other
    folders, if `best` has the same weights or cannot be read, and for several processes.
    """
    best = folder.parent / "best"
    if folder.name != "last" or machine.group.world_size > 1 or not best.is_dir():
        return None
    try:
        if read_model_config(best).weights == config.weights:
            return None
        net = machine.prepare_model_in_place(from_pretrained(best))
    except (ResiduaError, OSError):
        return None

    def predict_positions(positions: NDArray[np.int64]) -> FloatArray:
        chosen = images[torch.from_numpy(positions)]
        predicted: FloatArray = predict_log_probabilities(
            net, chosen, config, machine, views=views
        ).numpy()
        return predicted

    return predict_positions


def load_and_predict(
    net: nn.Module,
    config: ModelConfig,
    machine: Machine,
    data_dir: Path | None,
    on_data: Callable[[DataSummary], None],
    views: ImageViews,
    agreed_facts: RankFacts,
    choice: ImageChoice,
) -> tuple[NamedImages, FloatArray]:
    """Read the chosen images, and predict their log probabilities (n, classes).

    Before that, `on_data` gets their summary.  All ranks must agree on `agreed_facts` and on the
    images.  Raises RecordError if the network's scores are not finite.
    """
    named_images = machine.group.run_local_rank0_first(
        partial(
            read_preprocessed_split,
            choice.dataset,
            choice.split,
            keep_margin_for_views(config, views) if views == "10" else config,
            data_dir,
        )
    )
    images, problems = named_images.images, named_images.problems
    decoding = describe_decoders() if isinstance(images, StreamedImages) else {}
    require_equal_ranks(
        machine, lambda: agreed_facts | {"images": images.fingerprint, "decoding": decoding}
    )
    labels = images.labels.tolist()
    on_data(summarize_evaluated_data(choice.dataset, choice.label, labels, problems, choice.reason))
    log_probs = predict_log_probabilities(net, images, config, machine, views=views)
    require_finite_scores(log_probs, config)
    return named_images, log_probs.numpy()


def require_finite_scores(log_probs: Tensor, config: ModelConfig) -> None:
    """Raise RecordError if log probabilities (n, classes) of the network are not finite."""
    if bad_count := int(log_probs.isnan().any(1).sum()):
        raise RecordError(
            f"{config.network.name} gives scores that are not finite for {bad_count:,} of "
            f"{len(log_probs):,} images: use other weights, such as those of another epoch"
        )
