"""Train a network from Python, on any images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from residua.api.own_errors import name_keywords_in_errors
from residua.api.training_session import (
    ProgressReport,
    TrainingResult,
    TrainingSession,
    make_training_request,
)
from residua.config.memory import RecomputeMode
from residua.config.network import Network
from residua.config.photo_storage import PhotoStorage
from residua.config.recipe import Recipe
from residua.data.user_data import ImagesAndLabels, UserData, resolve_user_data
from residua.data.user_transform import UserTransform
from residua.training.distributed import join_process_group
from residua.training.loggers.make_loggers import make_run_loggers
from residua.training.loggers.run_logger import RunLogger
from residua.training.machine import DeviceChoice, Precision, set_up_machine
from residua.training.run_request import resolve_run


@name_keywords_in_errors
def train(
    model: str | Network | nn.Module | None,
    data: UserData,
    *,
    test: ImagesAndLabels | None = None,
    dev: ImagesAndLabels | None = None,
    classes: Sequence[str] | None = None,
    recipe: str | Recipe | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    from_: str | Path | None = None,
    freeze: bool = False,
    add_class: bool = False,
    balance: bool = False,
    size: int | None = None,
    storage: Literal["auto"] | PhotoStorage = "auto",
    transform: UserTransform | None = None,
    precision: Precision = "auto",
    device: DeviceChoice = "auto",
    recompute: RecomputeMode = "none",
    out: str | Path | None = None,
    resume: bool = False,
    save_every: str = "60s",
    data_dir: str | Path | None = None,
    log: str | RunLogger | Sequence[str | RunLogger] | None = None,
    on_progress: Callable[[ProgressReport], None] | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train a network on images, with the same result, bit by bit, as `residua train`.

    Keywords that are not listed are the options of `residua train`.  Omitted values are chosen to
    suit the data and the machine, and printed on standard error unless `quiet` is set.

    model        name of a network, a `Network`, a module to train in place as it is, or None
    from_        weights to start from, as `residua train --from` takes them; "none": random ones
    data         a data set's name, the path of photographs, (images, labels), a map-style data set
                 of (image, label), or a dict of these by split; see `resolve_user_data`
    test, dev    held-out images, for data in memory; without them, some images are held out
    transform    f(image, rng) -> image, on each training image (h, w, c) uint8, of its own size
    out          folder of the run; if None, nothing is kept, and a stopped run is lost
    log          tensorboard, wandb, mlflow or an object with the methods of `RunLogger`, or a list
    on_progress  called after each step; an error that it raises stops the run, which can be resumed

    Raises UsageError, DataError, TrainingError, RecordError, and Interrupted after Ctrl-C.
    """
    request = make_training_request(
        *(model, from_, size, storage, seed, recipe, epochs, steps, precision),
        resumed=Path(out) if resume and out is not None else None,
        balance=balance,
        freeze=freeze,
        add_class=add_class,
    )
    loggers = make_run_loggers(log)
    session = TrainingSession(out, resume, save_every, data_dir, on_progress, quiet, loggers)
    with join_process_group() as group:
        dataset = resolve_user_data(data, test, dev, classes, data_dir)
        machine = set_up_machine(precision, recompute, group, device)
        module = model if isinstance(model, nn.Module) else None
        return session.train(resolve_run(request, dataset, machine), machine, module, transform)
