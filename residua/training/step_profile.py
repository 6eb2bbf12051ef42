"""Measure where a training step goes, and how near it comes to the limit of the machine."""

import gzip
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.augment import shrink_sides
from residua.data.batches import TrainingBatches, make_training_batches
from residua.data.read import read_training_splits
from residua.data.sources.resolve import resize_for_recipe, resolve_dataset
from residua.data.summarize import summarize_training_data
from residua.data.summary import DataSummary, ignore_summary
from residua.errors import TrainingError, UsageError
from residua.files import atomic_write
from residua.net.model_folder import build_untrained
from residua.training.machine import Machine
from residua.training.memory import require_enough_memory
from residua.training.prepared_network import (
    prepare_network_for_recipe,
    require_recipe_suits_data,
)
from residua.training.product_rate import count_image_operations, measure_product_rate
from residua.training.step import TrainingStep, make_training_step
from residua.training.step_parts import (
    BATCH_RANGE,
    PARTS,
    STEP_RANGE,
    UPDATE_RANGE,
    WAITING,
    TraceEvent,
    sum_cpu_parts,
    sum_gpu_parts,
)

WARMUP_STEPS = {"cpu": 2, "cuda": 6}  # of a CUDA graph, the fourth call is the capture
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 3, 100
TIMED_SECONDS = 1.0  # after which, and the fewest steps, no more are timed
# Of all traced steps together, so that they are soon done and the trace is small; our choice.
MAX_TRACED_STEPS, MAX_TRACED_LAYERS, MAX_TRACED_SECONDS = 5, 1000, 10.0


def profile_run(
    run: Run,
    machine: Machine,
    trace_path: Path,
    data_dir: Path | None = None,
    data: Dataset | None = None,
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> dict[str, Json]:
    """Return the values that `residua train --profile` prints, and write a trace of some steps.

    The steps are those of `run`, in its last phase if it has several, with an untrained network and
    learning rate 0.  `on_data` is called with a summary of the data.  Raises UsageError for a model
    that is not trained by steps, and for more than one process.
    """
    if run.recipe is None or not isinstance(run.network, Network):
        raise UsageError(f"{run.network.name} has no training steps to profile: choose another one")
    if machine.group.world_size > 1:
        raise UsageError("--profile looks at one process: start it without torchrun")
    network_plan = plan(run.network)
    recipe = run.recipe_without_unneeded_warmup(network_plan.depth)
    data = data or resolve_dataset(run.dataset, run.network.input, data_dir=data_dir)
    data = resize_for_recipe(data, run.recipe)
    require_recipe_suits_data(recipe, data)
    require_enough_memory(run, network_plan, data, machine)
    images, dev_images = read_training_splits(data, data_dir, holds_out_dev=recipe.dev)
    on_data(summarize_training_data(data, images, dev_images))
    batches = make_training_batches(
        images.to(machine.device), recipe, data, data.mean, data.std, run.seed, None
    )
    total_steps = recipe.total_steps(len(images))
    recipe.require_probe_step(total_steps)
    with closing(batches):
        steps = LastPhase(run, recipe, batches, machine, total_steps)
        seconds = steps.measure_seconds()
        traced_steps = choose_traced_steps(network_plan.depth, seconds)
        parts = steps.measure_parts(trace_path, traced_steps)
    limit_side, limit = measure_product_rate(machine)
    rate = steps.count_operations() / seconds
    environment = machine.describe_environment()
    shown = {key: environment[key] for key in ("device", "threads", "precision", "recompute")}
    return {
        "model": run.network.name,
        "data": run.dataset,
        "recipe": recipe.name,
        "batch_size": recipe.batch_size,
        **shown,
        "engine": machine.describe_engine(
            steps.training_step.net, recipe.bn_splits, recipe.optimiser
        ),
        "parts": scale_parts(parts, 1e3 * seconds),
        "milliseconds": 1e3 * seconds,
        "images_per_second": recipe.batch_size / seconds,
        "share_of_limit": rate / limit,
        "step_tflops": rate / 1e12,
        "limit_tflops": limit / 1e12,
        "limit_side": limit_side,
        "traced_steps": traced_steps,
        "trace": str(trace_path),
    }


def choose_traced_steps(depth: int, seconds: float) -> int:
    """Choose how many steps are traced, from the depth of the network and the time of a step."""
    limits = MAX_TRACED_STEPS, MAX_TRACED_LAYERS // depth, int(MAX_TRACED_SECONDS / seconds)
    return max(min(limits), 1)


class LastPhase:
    """Steps of the last phase of a run, which trains most layers on the largest images as a rule.

    The network is untrained, and the learning rate is 0.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        batches: TrainingBatches,
        machine: Machine,
        total_steps: int,
    ) -> None:
        assert isinstance(run.network, Network)
        net = prepare_network_for_recipe(
            build_untrained(run.network, run.seed), run, recipe, machine
        )
        self.network, self.recipe, self.machine = run.network, recipe, machine
        self.training_step: TrainingStep = make_training_step(net.train(), recipe, machine)
        self.batches = batches
        self.assembles = self.training_step.can_assemble(batches)
        self.total_steps = total_steps
        sizes = max(len(recipe.sizes), 1)
        self.first_step = max(
            -(-total_steps * (sizes - 1) // sizes), recipe.count_probe_steps(total_steps)
        )
        self.next_step = self.first_step
        self.trains_stem = recipe.count_stem_steps(total_steps) == total_steps
        # also the size of the steps after the last one, if the run is short
        self.size_share = recipe.sizes[-1] if recipe.sizes else 1.0
        if recipe.sizes:
            batches.size_at_step = lambda step: self.size_share
        for method in ("make_batch", "assemble"):
            setattr(batches, method, annotate_calls(getattr(batches, method), BATCH_RANGE))
        for _ in range(WARMUP_STEPS[machine.device.type]):
            self.take_step()
        self.wait_for_device()

    def take_step(self) -> Tensor:
        """Take the next step, as the training loop does; return its loss."""
        step, training_step = self.next_step, self.training_step
        self.next_step += 1
        with record_function(STEP_RANGE):
            torch.manual_seed(step)  # of dropout
            training_step.set_probing(False)
            if self.recipe.stem:
                training_step.set_stem_training(self.trains_stem)
            if self.assembles:
                loss, _ = training_step.train_on_step(self.batches, step, 0.0)
            else:
                loss, _ = training_step(*self.batches.make_batch(step), 0.0)
            if training_step.average:
                with record_function(UPDATE_RANGE):
                    training_step.average.update(step)
        return loss

    def wait_for_device(self) -> None:
        """Wait until a GPU has done what it was given."""
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize()

    def measure_seconds(self) -> float:
        """Measure the mean time of a step, without the profiler."""
        count, start = 0, time.perf_counter()
        while count < MIN_TIMED_STEPS or (
            count < MAX_TIMED_STEPS and time.perf_counter() - start < TIMED_SECONDS
        ):
            self.take_step()
            count += 1
        self.wait_for_device()
        return (time.perf_counter() - start) / count

    def measure_parts(self, trace_path: Path, count: int) -> dict[str, float]:
        """Measure the milliseconds of a step's parts in `count` steps, and write their trace."""
        content = self.trace_steps(count)
        with atomic_write(trace_path) as temporary:
            temporary.write_bytes(gzip.compress(content, mtime=0))
        events = read_trace_events(content)
        if self.machine.device.type == "cpu":
            sums = sum_cpu_parts(events)
        else:
            sums = sum_gpu_parts(events, self.trace_step_without_graph())
            if not any(sums.values()):
                raise TrainingError(
                    "the profiler sees no kernel of the GPU: it needs NVIDIA's CUPTI and the right "
                    "to use it"
                )
        return {part: sums[part] / 1e3 / count for part in PARTS}

    def trace_step_without_graph(self) -> list[TraceEvent]:
        """Return the trace of one step that launches the kernels of the CUDA graph one by one."""
        if not self.training_step.uses_cuda_graph:
            return []
        self.training_step.uses_cuda_graph = False
        self.training_step.graphs.forget()
        self.take_step()
        self.wait_for_device()
        return read_trace_events(self.trace_steps(1))

    def trace_steps(self, count: int) -> bytes:
        """Take steps under the profiler, and return its trace, as JSON that Perfetto opens."""
        activities = [ProfilerActivity.CPU]
        if self.machine.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        prepare_profiler()
        with profile(activities=activities) as profiler:
            for _ in range(count):
                self.take_step()
            self.wait_for_device()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            return path.read_bytes()

    def count_operations(self) -> float:
        """Count the floating-point operations of a step, as `count_image_operations` does."""
        channels, *size = self.network.input
        if size:
            full_size = self.recipe.full_train_size((size[0], size[1]))
            size = list(shrink_sides(full_size, self.size_share))
        shrunk_plan = plan(replace(self.network, input=(channels, *size)))
        operations = count_image_operations(
            shrunk_plan,
            trains_stem=self.trains_stem,
            trains_only_last=self.recipe.freeze,
        )
        return float(self.recipe.batch_size * operations)


def annotate_calls(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function with its calls marked in a trace by a range called `name`."""

    def call_in_range(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return function(*arguments, **options)

    return call_in_range


def prepare_profiler() -> None:
    """Set what the profiler reads from the environment, unless the user has set it.

    It must not print on standard error.  CUDA graphs do not survive it when it gives up its access
    to the GPU after the first of two traces.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")


def read_trace_events(content: bytes) -> list[TraceEvent]:
    """Return the events of a trace; names of kernels in it may have unescaped characters."""
    trace = json.loads(content.decode(errors="replace"), strict=False)
    events: list[TraceEvent] = trace["traceEvents"]
    return events


def scale_parts(parts: dict[str, float], milliseconds: float) -> list[Json]:
    """Make the list of parts, whose sum is the time of a step without the profiler.

    On a CPU, everything is slower under the profiler, so all parts are scaled alike.  A GPU does
    its work as fast, and waits for the rest of the step.
    """
    if not parts[WAITING]:
        parts = parts | {WAITING: max(milliseconds - sum(parts.values()), 0.0)}
    scale = milliseconds / sum(parts.values())
    return [{"name": name, "milliseconds": scale * time} for name, time in parts.items()]
