"""How long does a residual network take to 94 % on CIFAR-10?  Runs of the recipe `record`, timed.

    python experiments/record.py --seeds 10 --out runs/record.json
    python experiments/record.py --arms all --held-out --seeds 3      # every change alone
    python experiments/record.py --set epochs=8 --set-net unit.norm.momentum=0.4

The clock runs as in airbench94 (Jordan 2024): while the images are padded and the stem is whitened,
in all training steps with their augmentation, and in the predictions of the test images.  It stands
still while images are read, weights are drawn, and the GPU's kernels are prepared, in a run before
the first that counts.  The network, its batches and its CUDA graphs are made once; each run writes
other weights into them.

`--held-out` trains without the dev images and measures on them instead of on the test images: that
is how to choose.  `--limit 500` uses 500 images of each, to try the script.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from residua.config.dataset import get_dataset
from residua.config.image_views import ImageViews
from residua.config.network import Network
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPE_NETWORKS, RECIPES, recipe
from residua.config.serialize import Json, apply_override, to_json
from residua.data.augment import normalise_pixels, pad_images
from residua.data.batches import TrainingBatches, make_training_batches
from residua.data.images import Images
from residua.data.read import read_split, read_training_splits
from residua.errors import ResiduaError, describe_os_error, unknown_name_error
from residua.files import require_writable_file, write_json
from residua.net.build import build
from residua.net.whiten import count_start_images, set_stem_from_images
from residua.training.cuda_graph import WARMUP_CALLS
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine, set_up_machine
from residua.training.step import make_training_step

DATA = get_dataset("cifar10")
TEST_BATCH = 2000  # images
VARIANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: changes of the recipe, changes of the network
    "record": ((), ()),
    "random flips": (("augment.alternate_flip=false",), ()),
    "mean-colour padding": (('augment.pad_mode="mean"',), ()),
    "shift 2": (("augment.pad=2",), ()),
    "shift 4": (("augment.pad=4",), ()),
    "cutout 12": (("augment.cut=12",), ()),
    "full size": (("sizes=[]",), ()),
    "no smoothing": (("smoothing=0",), ()),
    "stem learns throughout": (("stem=0",), ()),
    "free weights": (("optimiser.normalise_weights=false",), ()),
    "five rounds": (("optimiser.rounds=5",), ()),
    "one momentum": (("optimiser.others_momentum=null",), ()),
    "no decay": (("optimiser.others_decay=0",), ()),
    "weights averaged": (("ema=0.98",), ()),
    "no shortcuts": ((), ('unit.shortcut="none"',)),
    "no whitening": ((), ('stem={"width": 24}',)),
    "He's weights": ((), ('unit.start="he"',)),
    "scales in BN": ((), ("unit.norm.scale=true",)),
    "ReLU": (
        (),
        (
            'unit.order={"each": "weight bn relu", "last": "weight bn", "after": "relu", '
            '"stem": "weight relu"}',
            *(f"stages[{i}].lead=weight maxpool bn relu" for i in range(3)),
        ),
    ),
    "mean pooling": ((), ('head={"kind": "Head"}',)),
    "head not scaled down": ((), ("head.scale=1",)),
}
"""Each change of the recipe or the network alone."""


@dataclass(frozen=True, slots=True)
class TimedRun:
    """A run of one seed: accuracies in [0, 1], and seconds.

    training_seconds includes padding and whitening, and the others are those of the predictions.
    """

    seed: int
    accuracies: dict[ImageViews, float]
    train_accuracy: float  # in the last epoch, of augmented images
    training_seconds: float
    prediction_seconds: dict[ImageViews, float]


class TimedTraining:
    """Trains a network once for each seed, in the same memory, and measures the time."""

    def __init__(
        self, net: Network, chosen: Recipe, machine: Machine, splits: dict[str, Images]
    ) -> None:
        self.network, self.recipe, self.machine, self.splits = net, chosen, machine, splits
        self.mean, self.std = DATA.mean, DATA.std
        self.total_steps = chosen.total_steps(len(splits["train"]))
        self.net = machine.prepare_model_in_place(build(net)).train()
        self.step = make_training_step(self.net, chosen, machine)
        self.step.graphs.keeps_graphs = True
        self.batches = self.make_batches()

    def make_batches(self) -> TrainingBatches:
        """Make batches whose seed is a tensor, so that a CUDA graph serves for all seeds."""
        batches = make_training_batches(
            self.splits["train"], self.recipe, DATA, self.mean, self.std, 0, None
        )
        seed = torch.zeros((), dtype=torch.int64, device=self.machine.device)
        for holder in (batches, batches.orders, batches.changes):
            holder.seed = seed  # type: ignore[assignment]
        return batches

    def reset(self, seed: int) -> None:
        """Draw new weights, and set the momenta, the averages and the order of images back."""
        fresh = build(self.network, seed)
        self.net.load_state_dict(fresh.state_dict())
        for state in self.step.optimiser.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        self.batches.seed.fill_(seed)  # type: ignore[attr-defined]
        self.batches.orders.epochs_of_rows = [None, None]
        self.step.graphs.prefetched = None
        if self.step.average:
            self.step.average = type(self.step.average)(self.net, self.recipe.ema)

    def prepare_data(self) -> None:
        """Pad all images and whiten the stem."""
        images, pad = self.splits["train"], self.recipe.augment.pad
        if pad:
            mode = self.recipe.augment.pad_mode
            self.batches.pixels.copy_(pad_images(images.pixels, pad, mode, self.mean))
        if count := count_start_images(self.net):
            pixels = images.pixels[:count]
            set_stem_from_images(self.net, normalise_pixels(pixels, self.mean, self.std))

    def take_step(self, step: int) -> torch.Tensor:
        """Train on batch `step`; return the number of images that were wrong before the update."""
        lr = self.recipe.lr_at_step(step, self.total_steps)
        stem_lr = self.recipe.stem_lr_at_step(step, self.total_steps)
        if self.recipe.stem:
            self.step.set_stem_training(stem_lr > 0)
        if self.step.can_assemble(self.batches):
            _, wrong = self.step.train_on_step(self.batches, step, lr, stem_lr)
        else:
            _, wrong = self.step(*self.batches.make_batch(step), lr, stem_lr)
        if self.step.average:
            self.step.average.update(step)
        return wrong

    def warm_up(self) -> None:
        """Capture a CUDA graph of each phase, and predict once, before any clock runs."""
        self.reset(0)
        self.prepare_data()
        for step in self.list_phase_starts():
            for _ in range(WARMUP_CALLS + 1 if self.step.uses_cuda_graph else 1):
                self.take_step(step)
        for views in self.list_views():
            self.predict(views)

    def list_phase_starts(self) -> Iterator[int]:
        """List the first step of each phase: of a size of images, with or without the stem."""
        seen = set()
        for step in range(self.total_steps):
            size = self.recipe.size_at_step(step, self.total_steps)
            phase = size, self.recipe.stem_lr_at_step(step, self.total_steps) > 0
            if phase not in seen:
                seen.add(phase)
                yield step

    def list_views(self) -> list[ImageViews]:
        return ["plain", "mirror", "six"]

    def run(self, seed: int) -> TimedRun:
        """Train with one seed, and predict the held-out images."""
        self.reset(seed)
        self.synchronise()
        started = time.perf_counter()
        self.prepare_data()
        wrong = [self.take_step(step) for step in range(self.total_steps)]
        if self.step.average:
            self.step.average.swap_with_weights()
        self.synchronise()
        seconds = time.perf_counter() - started
        accuracies: dict[ImageViews, float] = {}
        prediction_seconds: dict[ImageViews, float] = {}
        for views in self.list_views():
            started = time.perf_counter()
            accuracies[views] = 1 - self.predict(views)
            self.synchronise()
            prediction_seconds[views] = time.perf_counter() - started
        last = torch.stack(wrong[-max(1, len(self.splits["train"]) // self.recipe.batch_size) :])
        train_accuracy = 1 - last.float().mean().item() / self.recipe.batch_size
        return TimedRun(seed, accuracies, train_accuracy, seconds, prediction_seconds)

    def predict(self, views: ImageViews) -> float:
        """Return the error on the held-out images."""
        return evaluate_network(
            self.net,
            self.splits["test"],
            self.mean,
            self.std,
            self.machine,
            TEST_BATCH,
            views=views,
        ).error

    def synchronise(self) -> None:
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize()


def apply_changes(net: Network, changes: Sequence[str]) -> Network:
    """Apply changes such as `unit.norm.momentum=0.4` to a network; `stages[0].` is a stage's."""
    for change in changes:
        if change.startswith("stages["):
            index = int(change[len("stages[")])
            stage = apply_override(net.stages[index], change.partition("].")[2])
            stages = (*net.stages[:index], stage, *net.stages[index + 1 :])
            net = replace(net, stages=stages)
        else:
            net = apply_override(net, change)
    return net


def read_splits(
    data_dir: Path | None, machine: Machine, held_out: bool, limit: int | None
) -> dict[str, Images]:
    """Read the images to train on, and those to measure on, and move them to the device."""
    train, dev = read_training_splits(DATA, data_dir, holds_out_dev=held_out)
    test = read_split(DATA, "test", data_dir) if dev is None else dev
    splits = {"train": train, "test": test}
    return {name: images[:limit].to(machine.device) for name, images in splits.items()}


def summarise(name: str, runs: Sequence[TimedRun], training: TimedTraining) -> dict[str, Json]:
    """Summarise the runs of a variant: means over seeds, and every run."""
    views = training.list_views()
    summary: dict[str, Json] = {
        "variant": name,
        "network": to_json(training.network),
        "recipe": to_json(training.recipe),
        "parameters": plan(training.network).parameters,
        "multiply_adds": plan(training.network).multiply_adds,
        "steps": training.total_steps,
        "seeds": len(runs),
        "training_seconds": fmean(run.training_seconds for run in runs),
        "train_accuracy": fmean(run.train_accuracy for run in runs),
    }
    for view in views:
        accuracies = [run.accuracies[view] for run in runs]
        summary[f"accuracy_{view}"] = fmean(accuracies)
        summary[f"accuracy_{view}_sd"] = stdev(accuracies) if len(runs) > 1 else None
        summary[f"seconds_{view}"] = fmean(
            run.training_seconds + run.prediction_seconds[view] for run in runs
        )
    summary["runs"] = [
        {
            "seed": run.seed,
            "accuracies": dict(run.accuracies),
            "train_accuracy": run.train_accuracy,
            "training_seconds": run.training_seconds,
            "prediction_seconds": dict(run.prediction_seconds),
        }
        for run in runs
    ]
    return summary


def format_summary(summary: dict[str, Json]) -> str:
    """Format a variant as one line: accuracies in percent with their seconds, and the deviation."""
    texts = [
        f"{view} {100 * summary[f'accuracy_{view}']:.2f} % in {summary[f'seconds_{view}']:.2f} s"  # type: ignore[operator]
        for view in ("plain", "mirror", "six")
    ]
    deviation = summary["accuracy_six_sd"]
    spread = "" if deviation is None else f"  (sd of six {100 * deviation:.2f})"  # type: ignore[operator]
    return f"{summary['variant']!s:24} {', '.join(texts)}{spread}"


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=parse_count, default=3, help="number of runs (default: 3)")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--arms",
        type=parse_arms,
        default="record",
        metavar="NAME,NAME,...",
        help=f"variants, separated by commas, or all (default: record): {', '.join(VARIANTS)}",
    )
    parser.add_argument("--recipe", default="record", choices=RECIPES)
    parser.add_argument("--model", help="name of the network (default: that of the recipe)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--set-net", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--held-out", action="store_true", help="measure on the dev images")
    parser.add_argument("--limit", type=parse_count, help="images of each split (default: all)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    arguments = parser.parse_args(words)
    if arguments.out:
        try:
            require_writable_file(arguments.out)
        except OSError as error:
            parser.error(f"--out cannot be written: {describe_os_error(error)}")
    return arguments


def parse_count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number of 1 or more")
    return int(word)


def parse_arms(words: str) -> list[str]:
    """Return the names of the variants in `words`, which are separated by commas."""
    names = list(VARIANTS) if words == "all" else words.split(",")
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(str(unknown_name_error("variant", name, VARIANTS)))
    return names


def measure(arguments: argparse.Namespace) -> list[dict[str, Json]]:
    """Train all seeds of all variants, and print a line for each run and each variant."""
    machine = set_up_machine(arguments.precision, device_choice=arguments.device)
    splits = read_splits(arguments.data_dir, machine, arguments.held_out, arguments.limit)
    base = recipe(arguments.recipe)
    for change in [*arguments.set, f"dev={json.dumps(arguments.held_out)}"]:
        base = apply_override(base, change)
    base_net = network(arguments.model or RECIPE_NETWORKS.get(base.name, "cifar-resnet20"))
    base_net = apply_changes(base_net, arguments.set_net)
    summaries = []
    for name in arguments.arms:
        recipe_changes, net_changes = VARIANTS[name]
        chosen = base
        for change in recipe_changes:
            chosen = apply_override(chosen, change)
        training = TimedTraining(apply_changes(base_net, net_changes), chosen, machine, splits)
        training.warm_up()
        runs = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            runs.append(training.run(seed))
            print(format_summary(summarise(f"  seed {seed}", runs[-1:], training)), flush=True)
        summaries.append(summarise(name, runs, training))
        print(format_summary(summaries[-1]), flush=True)
        if arguments.out:  # after every variant, because time on a GPU may end
            write_json(arguments.out, make_record(arguments, machine, summaries))
    return summaries


def make_record(
    arguments: argparse.Namespace, machine: Machine, summaries: list[dict[str, Json]]
) -> dict[str, Json]:
    return {
        "question": "How long does a residual network take to 94 % on CIFAR-10?",
        "measured_on": "dev" if arguments.held_out else "test",
        "limit": arguments.limit,
        "environment": machine.describe_environment(),
        "variants": list(summaries),
    }


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(words)
    try:
        measure(arguments)
    except ResiduaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
