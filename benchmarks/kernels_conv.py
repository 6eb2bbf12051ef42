"""Microseconds of convolutions in Triton, beside cuDNN's, for a table of launch configurations.

    python -m benchmarks.kernels_conv --json conv.json [--seconds 120]

Prints, for each pass of each shape, cuDNN's time (deterministic bf16, with the casts of fp32
weights that autocast makes) and that of the best configuration, as a line for `MEASURED` in
residua/net/triton_conv_launches.py.  Times are of a CUDA graph with 20 calls on rotating buffers.
With --dry, tiny shapes run in Triton's interpreter on a CPU, to test this script.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

if "--dry" in sys.argv:  # before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.triton_interpreter import mend_triton_interpreter

    mend_triton_interpreter()

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conv_launches import SHAPES, list_launches
from residua.files import write_json
from residua.net.triton_conv import (
    compute_convolution,
    compute_input_gradient,
    compute_weight_gradient,
)
from residua.net.triton_conv_launches import ConvShape, Launch, Pass, choose_launch_by_rule

CALLS, REPLAYS, BUFFERS = 20, 10, 8
PASSES: tuple[Pass, ...] = ("forward", "input_gradient", "weight_gradient")
Tensors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Trial:
    """A pass of a shape with a launch configuration."""

    direction: Pass
    shape: ConvShape
    launch: Launch

    def run(self, tensors: Tensors) -> Tensor:
        x, weight, gradient = tensors
        stride = self.shape.stride
        if self.direction == "forward":
            return compute_convolution(x, weight, stride, self.launch)
        if self.direction == "input_gradient":
            return compute_input_gradient(gradient, weight, x.shape, stride, self.launch)
        return compute_weight_gradient(x, gradient, weight, stride, self.launch)


def list_trials(shapes: list[ConvShape]) -> list[Trial]:
    return [
        Trial(direction, shape, launch)
        for shape in shapes
        for direction in PASSES
        if direction != "input_gradient" or shape.in_channels > 3
        for launch in list_launches(direction, shape)
    ]


@lru_cache(maxsize=32)
def make_tensors(shape: ConvShape, device: str, seed: int = 0) -> Tensors:
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator, device=device)
        return values.contiguous(memory_format=torch.channels_last)

    x = draw(shape.images, shape.in_channels, shape.height, shape.width).bfloat16()
    weight = draw(shape.out_channels, shape.in_channels, shape.kernel, shape.kernel) / 10
    size = (shape.images, shape.out_channels, shape.out_height, shape.out_width)
    return x, weight, draw(*size).bfloat16()


def compute_with_pytorch(direction: Pass, tensors: Tensors, stride: int) -> Tensor:
    """Compute a pass in the precision of the input, with weights cast to it and back."""
    x, weight, gradient = tensors
    padding = weight.shape[2] // 2
    if direction == "forward":
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding)
    wanted = [direction == "input_gradient", direction == "weight_gradient", False]
    rounded = weight.to(x.dtype)  # in a step, the forward pass makes it
    results = torch.ops.aten.convolution_backward(
        gradient, x, rounded, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    return results[0] if wanted[0] else results[1].to(weight.dtype)


def measure_error(trial: Trial, tensors: Tensors, result: Tensor) -> float:
    """Return the largest error relative to the largest value, in comparison with fp32."""
    x, weight, gradient = tensors
    exact_tensors = (x.float(), weight.bfloat16().float(), gradient.float())
    exact = compute_with_pytorch(trial.direction, exact_tensors, trial.shape.stride)
    return float((result.float() - exact).abs().max() / exact.abs().max())


def compile_trial(trial: Trial) -> str:
    """Run a trial once, which leaves its kernel in Triton's cache; returns what went wrong."""
    try:
        trial.run(make_tensors(trial.shape, "cuda"))
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:150]}"
    return ""


def compile_trials(trials: list[Trial], deadline: float) -> dict[Trial, str]:
    """Compile trials in processes side by side, as far as time allows."""
    problems: dict[Trial, str] = {}
    workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    jobs: dict[Future[str], Trial] = {pool.submit(compile_trial, trial): trial for trial in trials}
    pending = set(jobs)
    while pending and time.monotonic() < deadline:
        done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
        for job in done:
            error = job.exception()
            problems[jobs[job]] = f"the process ended: {error}" if error else job.result()
    pool.shutdown(wait=True, cancel_futures=True)
    return problems


def measure_microseconds(call, buffers: list[Tensors]) -> float:
    """Time of one call, from replays of a CUDA graph that makes calls on the buffers in turn."""
    if not torch.cuda.is_available():
        started = time.perf_counter()
        call(buffers[0])
        return (time.perf_counter() - started) * 1e6
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for tensors in buffers[:2]:
            call(tensors)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(CALLS):
            call(buffers[index % len(buffers)])
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        graph.replay()
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / (CALLS * REPLAYS)


def measure_trial(trial: Trial, buffers: list[Tensors]) -> dict[str, object]:
    row: dict[str, object] = {"launch": asdict(trial.launch)}
    try:
        error = measure_error(trial, buffers[0], trial.run(buffers[0]))
        row["error"] = error
        allowed = 3e-4 if trial.direction == "weight_gradient" else 8e-3
        if not error <= allowed:
            row["problem"] = f"wrong by {error:.1e}"
        else:
            row["us"] = measure_microseconds(trial.run, buffers)
    except Exception as error:
        row["problem"] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:150]}"
    return row


def measure_pass(
    direction: Pass, shape: ConvShape, trials: list[Trial], problems: dict[Trial, str]
) -> dict[str, object]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    buffers = [make_tensors(shape, device, seed) for seed in range(BUFFERS)]
    rows = []
    for trial in trials:
        problem = problems.get(trial, "was not compiled in time")
        if problem:
            rows.append({"launch": asdict(trial.launch), "problem": problem})
        else:
            rows.append(measure_trial(trial, buffers))
    cudnn = measure_microseconds(
        lambda tensors: compute_with_pytorch(direction, tensors, shape.stride), buffers
    )
    rows.sort(key=lambda row: row.get("us", float("inf")))
    return {"pass": direction, "shape": asdict(shape), "cudnn_us": cudnn, "trials": rows}


def print_pass(result: dict) -> None:
    """Print the best, second and rule's configuration, and what went wrong."""
    shape, best = ConvShape(**result["shape"]), result["trials"][0]
    counts = Counter(row["problem"] for row in result["trials"] if "problem" in row)
    for problem, count in counts.items():
        print(f"    {count} configurations failed: {problem}")
    if "us" not in best:
        print(f"{result['pass']} {shape}: nothing worked")
        return
    key = (result["pass"], shape.in_channels, shape.out_channels, shape.kernel, shape.stride)
    rule = asdict(choose_launch_by_rule(result["pass"], shape))
    by_rule = sum(row.get("us", float("nan")) for row in result["trials"] if row["launch"] == rule)
    others = ", ".join(f"{row['us']:.1f}" for row in result["trials"][1:4] if "us" in row)
    print(
        f"    {key!r}: {Launch(**best['launch'])!r},  # {best['us']:.1f} us,"
        f" cuDNN {result['cudnn_us']:.1f}, by rule {by_rule:.1f}, next {others}",
        flush=True,
    )


def print_sum(results: list[dict]) -> None:
    sums = [0.0, 0.0]
    for result in results:
        count = SHAPES.get(ConvShape(**result["shape"]), 0)
        best = result["trials"][0].get("us", result["cudnn_us"])
        sums[0] += count * result["cudnn_us"]
        sums[1] += count * min(best, result["cudnn_us"])
    print(f"convolutions of a ResNet-20 step: cuDNN {sums[0]:.0f} us, best {sums[1]:.0f} us")


def measure_overlap(shape: ConvShape, results: list[dict]) -> dict[str, object]:
    """Measure both gradients with the best configurations, in turn and side by side."""
    launches = {
        result["pass"]: Launch(**result["trials"][0]["launch"])
        for result in results
        if result["shape"] == asdict(shape) and "us" in result["trials"][0]
    }
    gradients = [Trial(name, shape, launches[name]) for name in PASSES[1:] if name in launches]
    buffers = [make_tensors(shape, "cuda", seed) for seed in range(BUFFERS)]
    side = torch.cuda.Stream()

    def run_in_turn(tensors: Tensors) -> list[Tensor]:
        return [trial.run(tensors) for trial in gradients]

    def run_side_by_side(tensors: Tensors) -> list[Tensor]:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            later = gradients[-1].run(tensors)
        first = gradients[0].run(tensors)
        torch.cuda.current_stream().wait_stream(side)
        return [first, later]

    return {
        "shape": asdict(shape),
        "in_turn_us": measure_microseconds(run_in_turn, buffers),
        "side_by_side_us": measure_microseconds(run_side_by_side, buffers),
    }


def print_overlap(results: list[dict]) -> list[dict]:
    rows = []
    for shape in list(SHAPES)[:5] if torch.cuda.is_available() else []:
        try:
            row = measure_overlap(shape, results)
        except Exception as error:
            print(f"both gradients of {shape}: {error}")
            continue
        rows.append(row)
        print(
            f"both gradients of {shape.in_channels} -> {shape.out_channels}:"
            f" in turn {row['in_turn_us']:.1f} us, side by side {row['side_by_side_us']:.1f} us"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where results are written")
    parser.add_argument("--seconds", type=float, default=120, help="the limit of wall time")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on a CPU, interpreted")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    shapes = list(SHAPES)
    if arguments.dry:
        shapes = [replace(shape, images=1, height=4, width=4) for shape in shapes[:4:3]]
    trials = list_trials(shapes)
    if arguments.dry:
        trials = [trial for index, trial in enumerate(trials) if index % 3 == 0]
    if arguments.dry:
        problems = dict.fromkeys(trials, "")
    else:
        problems = compile_trials(trials, started + 0.6 * arguments.seconds)
        print(f"{len(problems)} of {len(trials)} compiled in {time.monotonic() - started:.0f} s")
    results: list[dict] = []
    for direction, shape in dict.fromkeys((trial.direction, trial.shape) for trial in trials):
        if time.monotonic() > started + arguments.seconds:
            print("out of time")
            break
        mine = [t for t in trials if (t.direction, t.shape) == (direction, shape)]
        try:
            results.append(measure_pass(direction, shape, mine, problems))
        except Exception as error:
            print(f"{direction} {shape}: {type(error).__name__}: {error}")
            continue
        print_pass(results[-1])
        write_json(arguments.json, {"passes": results})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    record = {"device": device, "torch": torch.__version__, "passes": results}
    write_json(arguments.json, record)
    print_sum(results)
    write_json(arguments.json, {**record, "overlap": print_overlap(results)})
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
