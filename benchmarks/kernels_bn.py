"""Time of BN with an optional addition and ReLU on a GPU, against PyTorch, for each shape of a net.

Every time is that of one call in a CUDA graph of 20, which take turns on several tensors, so that
large ones do not stay in the cache.  A line gives microseconds of PyTorch's operators in bf16 and
of the Triton kernels, and the bytes per second of these.  When all shapes are done, the best
launches of the kernels are searched for each, and printed as lines of `MEASURED_LAUNCHES` of
`residua/net/triton_batchnorm.py`.

    python benchmarks/kernels_bn.py --json kernels_bn.json [--seconds 40] [--dry]

`--dry` runs tiny tensors in Triton's interpreter, to test the script without a GPU.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

IS_DRY = "--dry" in sys.argv
if IS_DRY:  # before anything imports triton
    os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.triton_interpreter import mend_triton_interpreter

    mend_triton_interpreter()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from residua.net.triton_batchnorm import (  # noqa: E402
    BatchNormLaunches,
    Direction,
    KernelLaunch,
    choose_launches,
    launch_backward,
    launch_forward,
)

DEVICE = torch.device("cpu" if IS_DRY else "cuda")
CALLS = 20
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
PEAK_BYTES_PER_SECOND = 3e12  # of an H100's memory
CACHE_BYTES = 100e6  # the tensors that take turns are larger than twice an H100's cache
RESNET20 = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8)]
RESNET50 = [
    (64, 64, 112, 112),
    (64, 64, 56, 56),
    (64, 256, 56, 56),
    (64, 128, 28, 28),
    (64, 512, 28, 28),
    (64, 256, 14, 14),
    (64, 1024, 14, 14),
    (64, 512, 7, 7),
    (64, 2048, 7, 7),
]
DRY_SHAPES = [(2, 16, 4, 4), (2, 24, 3, 3)]
SUM_BLOCKS, APPLY_BLOCKS = [(4096, 8), (4096, 4)], [(4096, 8), (2048, 4)]  # elements and warps


@dataclasses.dataclass
class Case:
    """A BN and tensors that take turns."""

    norm: nn.BatchNorm2d
    adds: bool
    x: list[Tensor]
    residual: list[Tensor]
    dy: list[Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def get_residual(self, i: int) -> Tensor | None:
        return self.residual[i] if self.adds else None


def make_case(shape: tuple[int, ...], adds: bool) -> Case:
    elements = torch.Size(shape).numel()
    count = 2 if IS_DRY else max(2, min(CALLS, int(CACHE_BYTES / (elements * 2 * 3))))

    def make_images() -> list[Tensor]:
        return [
            torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).to(
                memory_format=torch.channels_last
            )
            for _ in range(count)
        ]

    norm = nn.BatchNorm2d(shape[1], device=DEVICE)
    return Case(norm, adds, make_images(), make_images(), make_images())


def measure_microseconds(work: Callable[[int], object], turns: int) -> float:
    """Microseconds of `work(i)`, the least of several replays of a graph of `CALLS` calls."""
    if IS_DRY:
        started = time.perf_counter()
        work(0)
        return (time.perf_counter() - started) * 1e6
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin()  # torch.cuda.graph would also empty the cache of memory
        for i in range(CALLS):
            work(i % turns)
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(5)]
    graph.replay()
    for event in events:
        event.record()
        graph.replay()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    return min(times) / CALLS * 1e3


def measure_pytorch(case: Case) -> dict[str, float]:
    """Forward alone, and backward as the difference between both and forward alone."""
    for x, residual in zip(case.x, case.residual, strict=True):
        x.requires_grad_(), residual.requires_grad_(case.adds)

    def run_forward(i: int) -> Tensor:
        y = case.norm(case.x[i])
        return F.relu(y + case.residual[i] if case.adds else y)

    def run_forward_and_backward(i: int) -> object:
        inputs = [case.x[i], *case.norm.parameters(), *[case.residual[i]] * case.adds]
        return torch.autograd.grad(run_forward(i), inputs, case.dy[i])

    with torch.no_grad():
        forward = measure_microseconds(run_forward, len(case))
    both = measure_microseconds(run_forward_and_backward, len(case))
    for tensor in (*case.x, *case.residual):
        tensor.requires_grad_(False)
    return {"forward": forward, "backward": both - forward}


def measure_kernels(
    case: Case, direction: Direction, launches: BatchNormLaunches | None = None
) -> float:
    norm = case.norm
    parameters = norm.weight, norm.bias

    def run_forward(i: int) -> object:
        return launch_forward(
            case.x[i], case.get_residual(i), *parameters, norm, True, launches=launches
        )

    with torch.no_grad():
        if direction == "forward":
            return measure_microseconds(run_forward, len(case))
        kept = [
            launch_forward(case.x[i], case.get_residual(i), *parameters, norm, True)
            for i in range(len(case))
        ]

        def run_backward(i: int) -> object:
            y, batch_stats = kept[i]
            kept_y = y if case.adds else None
            return launch_backward(
                case.dy[i], case.x[i], kept_y, *parameters, batch_stats, True, launches=launches
            )

        return measure_microseconds(run_backward, len(case))


def list_launch_changes(launches: BatchNormLaunches) -> list[tuple[str, list[KernelLaunch]]]:
    """What to try for each kernel, one after the other."""
    programs = launches.sums.row_programs
    sums = [
        KernelLaunch(n, elements, warps)
        for n in sorted({max(programs // 2, 1), programs, programs * 2})
        for elements, warps in SUM_BLOCKS
    ]
    apply = [
        KernelLaunch(max(int(launches.apply.row_programs * share), 1), elements, warps)
        for share in (0.5, 1, 2, 4)
        for elements, warps in APPLY_BLOCKS
    ]
    return [("sums", sums[:2] if IS_DRY else sums), ("apply", apply[:2] if IS_DRY else apply)]


def find_best_launches(
    cases: list[Case], direction: Direction
) -> tuple[BatchNormLaunches, float, float]:
    """Change the launch of one kernel, then of the other, and keep what is at least 3 % faster.

    Returns the launches, and the sums of the microseconds of all cases before and after.
    """
    x = cases[0].x[0]
    best = choose_launches(x.numel() // x.shape[1], x.shape[1], direction)
    before = least = sum(measure_kernels(case, direction, best) for case in cases)
    for name, launches in list_launch_changes(best):
        for launch in launches:
            changed = dataclasses.replace(best, **{name: launch})
            microseconds = sum(measure_kernels(case, direction, changed) for case in cases)
            if microseconds < 0.97 * least:
                best, least = changed, microseconds
    return best, before, least


def count_tensor_passes(direction: Direction, adds: bool) -> int:
    """How many tensors the kernels read or write, each x once per kernel that needs it."""
    if direction == "forward":
        return 3 + adds
    return 5 + 2 * adds


def measure_shape(shape: tuple[int, ...]) -> list[dict[str, object]]:
    """Measure PyTorch and the kernels, with and without an addition."""
    records: list[dict[str, object]] = []
    for adds in (True, False):
        case = make_case(shape, adds)
        pytorch = measure_pytorch(case)
        for direction in DIRECTIONS:
            ours = measure_kernels(case, direction)
            size = count_tensor_passes(direction, adds) * case.x[0].numel() * 2
            record: dict[str, object] = {
                "shape": shape,
                "adds": adds,
                "direction": direction,
                "pytorch_us": round(pytorch[direction], 2),
                "kernels_us": round(ours, 2),
                "gb_per_s": round(size / ours / 1e3),
                "share_of_peak": round(size / ours * 1e6 / PEAK_BYTES_PER_SECOND, 3),
            }
            records.append(record)
            print(json.dumps(record), flush=True)
    return records


def search_launches(shape: tuple[int, ...]) -> list[dict[str, object]]:
    """Search the best launches of both passes, and print those that are better than the rule's."""
    records: list[dict[str, object]] = []
    cases = [make_case(shape, adds) for adds in (True, False)]
    rows, channels = torch.Size(shape).numel() // shape[1], shape[1]
    for direction in DIRECTIONS:
        best, before, least = find_best_launches(cases, direction)
        if least < before:
            key = (direction, channels, rows.bit_length())
            print(f"    {key}: {best},  # {before:.1f} -> {least:.1f} us", flush=True)
        sums, apply = dataclasses.asdict(best.sums), dataclasses.asdict(best.apply)
        records.append({"shape": shape, "direction": direction, "sums": sums, "apply": apply})
        records[-1] |= {"before_us": round(before, 2), "best_us": round(least, 2)}
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--seconds", type=float, default=40, help="stop after so many")
    parser.add_argument("--dry", action="store_true", help="run tiny tensors in the interpreter")
    arguments = parser.parse_args()
    started = time.monotonic()
    shapes = DRY_SHAPES if IS_DRY else [*RESNET20, *RESNET50]
    name = "CPU" if IS_DRY else torch.cuda.get_device_name()
    result: dict[str, object] = {"device": name, "torch": torch.__version__}
    for key, measure in (("times", measure_shape), ("launches", search_launches)):
        records: list[dict[str, object]] = []
        for shape in shapes:
            if time.monotonic() - started > arguments.seconds:
                print(f"stopped after {arguments.seconds:g} s, before {key} of {shape}")
                break
            records += measure(shape)
            result[key] = records
            arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
