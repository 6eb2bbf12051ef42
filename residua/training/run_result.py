"""Measure the errors of a trained network, and summarise the result of its run."""

from math import isfinite
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.evaluation_results import wilson_interval
from residua.config.image_views import ImageViews
from residua.config.serialize import Json
from residua.data.read import read_split
from residua.data.streamed_images import ImageSet
from residua.net.freeze import list_unfrozen_batchnorms
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine
from residua.training.prepared_run import PreparedRun
from residua.training.progress import TrainingProgress
from residua.training.recalibrate_bn import score_with_recalibrated_bn


def load_evaluation_splits(
    prepared_run: PreparedRun, data: Dataset, data_dir: Path | None, views: ImageViews = "none"
) -> dict[str, ImageSet]:
    """Return the images to evaluate, by split, all at the network's input size.

    For ten crops as `views`, the test images keep the margin around it.  The test images are read
    here, and not before training.
    """
    dev_images = prepared_run.dev_images
    keeps_margin = views == "10"
    test_images = read_split(data, "test", data_dir, keeps_margin=keeps_margin)
    size = data.input[1:] if keeps_margin else test_images.image_size
    return {
        "train": prepared_run.train_images.center_crop(size),
        **({"dev": dev_images} if dev_images is not None else {}),
        "test": test_images,
    }


def measure_errors(
    prepared_run: PreparedRun, splits: dict[str, ImageSet], machine: Machine, test_views: ImageViews
) -> dict[str, float | None]:
    """Measure the error of each split, in [0, 1]; the keys are `train_error`, `dev_error` etc.

    The test error is that of the averaged `test_views`.  The error of a split without images is
    None.
    """
    net, config = prepared_run.net, prepared_run.config
    errors: dict[str, float | None] = dict.fromkeys(["train_error", "dev_error", "test_error"])
    for split, images in splits.items():
        score = evaluate_network(
            net,
            images,
            config.mean,
            config.std,
            machine,
            views=test_views if split == "test" else "none",
            crop_size=config.input[1:],
        )
        errors[f"{split}_error"] = score.error
    return errors


def measure_recalibrated_error(
    prepared_run: PreparedRun, train_images: ImageSet, machine: Machine
) -> dict[str, Json]:
    """Measure the training error and loss with BN statistics recomputed for the final weights.

    The dict is empty if the network has no BN that updates running statistics.  A loss that is not
    finite is left out, because JSON has no such number.
    """
    net, config = prepared_run.net, prepared_run.config
    if not list_unfrozen_batchnorms(net):
        return {}
    score = score_with_recalibrated_bn(net, train_images, config.mean, config.std, machine)
    loss: dict[str, Json] = {"train_loss": score.loss} if isfinite(score.loss) else {}
    return {"train_error_reestimated": score.error} | loss


def summarise_run(
    prepared_run: PreparedRun,
    progress: TrainingProgress,
    errors: dict[str, float | None],
    splits: dict[str, ImageSet],
    machine: Machine,
) -> dict[str, Json]:
    """Summarise the result of a run: steps, time, throughput, memory and errors.

    The errors on the dev and test images come with their 95 % confidence intervals.  What there is
    not, because there are no dev images, is None.
    """
    counts = {split: len(splits[split]) if split in splits else None for split in ("dev", "test")}
    intervals: dict[str, Json] = {}
    for split, count in counts.items():
        error = errors[f"{split}_error"]
        interval: Json = None
        if error is not None and count:
            interval = list(wilson_interval(round(error * count), count))
        intervals[f"{split}_error_interval"] = interval
    return {
        "model": prepared_run.config.network.name,
        "steps": prepared_run.total_steps,
        "seconds": progress.seconds,
        "images_per_second": prepared_run.images_seen / progress.seconds,
        "data_wait": progress.data_wait,
        "peak_memory_bytes": machine.measure_peak_memory(),
        **errors,
        "best_dev_error": progress.best_dev_error,
        **{f"{split}_images": count for split, count in counts.items()},
        **intervals,
    }
