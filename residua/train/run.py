"""Train one run into its folder, from its values alone."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch

from residua.data.batches import batches_of
from residua.data.folder import data_of
from residua.data.gallery import as_json
from residua.data.read import Images, left_out, read, ready
from residua.errors import Interrupted, RecordError, UsageError
from residua.files import alone
from residua.net.build import ResidualNetwork
from residua.net.folder import save_pretrained, untrained
from residua.net.freeze import freeze
from residua.net.vlad import VladNetwork
from residua.record import Record
from residua.spec.dataset import Dataset
from residua.spec.model import ModelConfig
from residua.spec.network import Network
from residua.spec.plan import plan
from residua.spec.run import Run
from residua.spec.text import Json
from residua.train.checkpoint import SAVING, Saving
from residua.train.evaluate import evaluate
from residua.train.loop import Listener, Progress, fit
from residua.train.machine import Machine
from residua.train.memory import refuse_too_large
from residua.train.parallel import share
from residua.train.reestimate import norms, reestimated_score
from residua.train.start import learned
from residua.train.synced import synchronise
from residua.train.vlad import fit_vlad


def train(
    run: Run,
    folder: Path,
    machine: Machine,
    *,
    start: Path | None = None,
    data_dir: Path | None = None,
    resume: bool = False,
    saving: Saving = SAVING,
    tell: Listener,
    stop: Callable[[], bool],
) -> dict[str, Json]:
    """Train `run`, keep its record in `folder`, and return its result; a finished run is returned as it is.

    VLAD is fitted at once: its result has the same keys, with 0 steps; its record has no metrics and no `best`, and `resume`
    begins anew.
    Where the run starts from weights, they are those of the model folder or the file `start`; a folder's mean and std go with them.
    Every process of the machine's group calls it; the leading one writes, and another number of them goes on from a checkpoint
    to the same but for rounding.  What torchrun starts again goes on by itself.
    Raises UsageError where the folder holds another run, RecordError where another process trains it, DataError,
    TrainingError, and Interrupted once `stop()`.
    """
    record, group, exact = Record(folder), machine.group, replace(machine, precision="fp32")
    if run.recipe is None:
        machine = exact
        if group.size > 1:
            raise UsageError(f"{run.network.name} is fitted by one process: start it without torchrun")
    if isinstance(run.network, Network) and not (record.head.exists() and record.result()):
        refuse_too_large(run, plan(run.network), machine)
    job = prepared(run, record, machine, start, data_dir, saving)
    done = group.told(lambda: opened(record, run, job.environment, resume or group.restarts > 0))
    if done is not None:
        return done
    with alone(folder) if group.leads else nullcontext(True) as ours:
        if not ours:
            raise RecordError(f"the run in {folder} is being trained by another process")
        progress = job.learn(tell=tell, stop=group.agreed(stop))
        if progress.step < progress.steps:
            where = f"step {progress.step:,} of {progress.steps:,}"
            raise Interrupted(f"stopped at {where}: add --resume to go on, with --out {folder}")

        splits = {"train": job.images.middle(job.dev.size), "dev": job.dev, "test": read(job.data, "test", data_dir)}
        errors = {
            f"{split}_error": evaluate(job.net, images, job.config.mean, job.config.std, exact).error
            for split, images in splits.items()
        }
        result: dict[str, Json] = {
            "model": run.network.name, "steps": job.steps, "seconds": progress.seconds,
            "images_per_second": job.seen / progress.seconds,
            **errors, "best_dev_error": errors["dev_error"] if progress.best is None else progress.best,
        }  # fmt: skip
        if norms(job.net):
            score = reestimated_score(job.net, splits["train"], job.config.mean, job.config.std, exact)
            result |= {"train_error_reestimated": score.error, "train_loss": score.loss}
        if group.leads:
            config = replace(job.config, test_error=errors["test_error"], test_images=len(splits["test"]))
            save_pretrained(job.net, config, folder / "last")
            record.finish(result)
    return result


class Learn(Protocol):
    """Trains or fits, telling of it, to the end or until `stop()`."""

    def __call__(self, *, tell: Listener, stop: Callable[[], bool]) -> Progress: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is made of, in memory."""

    net: ResidualNetwork | VladNetwork
    config: ModelConfig
    data: Dataset
    images: Images  # to train on
    dev: Images
    learn: Learn
    steps: int
    seen: int  # images in all steps
    environment: dict[str, Json]  # for the record


def prepared(run: Run, record: Record, machine: Machine, start: Path | None, data_dir: Path | None, saving: Saving) -> Job:
    """Data and network of `run`, and how it learns."""
    data, group = data_of(run.dataset, run.network.input), machine.group
    group.first_here(partial(ready, data, data_dir))  # so that a missing test file is said now, not after the training
    images, dev = [read(data, split, data_dir).to(machine.device) for split in ("train", "dev")]
    fingerprint = images.fingerprint
    config = ModelConfig(
        network=run.network, classes=data.classes, mean=data.mean, std=data.std, dataset=data.name,
        recipe=run.recipe.name if run.recipe else "", fingerprint=fingerprint,
        residua=version("residua"), torch=torch.__version__, resize=data.resize,
    )  # fmt: skip
    net = untrained(run.network, run.seed)
    if start is not None and isinstance(run.network, Network):
        weights, mean, std = learned(start, run.network, data)
        net.load_state_dict({**net.state_dict(), **weights})
        config = replace(config, mean=mean, std=std)
    learn: Learn
    if isinstance(net, VladNetwork):
        net, parts, steps, seen, images = machine.place(net), 1, 0, len(images), images.middle(dev.size)
        learn = partial(fit_vlad, net, images, config.mean, config.std, run.seed)
    else:
        recipe = run.recipe_for(net.plan.depth)
        if recipe.freeze:
            freeze(net)
        net, parts = machine.place(synchronise(net, recipe.parts, machine)), recipe.parts
        batches = batches_of(images, recipe, data, config.mean, config.std, run.seed, share(recipe, group))
        steps = recipe.length(len(images))
        seen = steps * recipe.batch_size
        best = partial(save_pretrained, net, config, record.folder / "best") if group.leads else idle
        learn = partial(fit, net, batches, recipe, dev=dev, machine=machine, record=record, saving=saving, keep_best=best)
    environment = machine.describe(parts) | {"images": fingerprint}
    if lost := left_out(data):
        environment["left_out"] = as_json(lost)
    return Job(net, config, data, images, dev, learn, steps, seen, environment)


def opened(record: Record, run: Run, environment: dict[str, Json], resume: bool) -> dict[str, Json] | None:
    """The result that the record holds already; None where the run is still to be trained, and the record is ready for it."""
    record.begin(run, environment, resume)
    return record.result()


def idle() -> None:
    """What the processes do that write nothing."""


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed or SIGTERM sent.  The first time asks to stop after the step at hand, the second stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
