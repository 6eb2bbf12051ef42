"""The program that test_distributed.py starts under torchrun.

distributed_worker.py together FOLDER    compute all cases; each writes a file or a run to FOLDER
distributed_worker.py uneven FOLDER      the same for the cases of shares that differ in size
distributed_worker.py killed ...         run `residua ...`; process 1 is killed at step 12, and
                                         then process 0 in the middle of a checkpoint
"""

import os
import signal
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from residua.cli.main import exit_skipping_rank_cleanup, main
from residua.config.augmentation import Augmentation
from residua.config.dataset import get_dataset
from residua.config.joins import Drop
from residua.config.optimisers import Sgd
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.data.batches import TrainingBatches
from residua.data.read import read_split
from residua.errors import DataError, Interrupted
from residua.net.build import build
from residua.net.freeze import freeze_batchnorm_statistics
from residua.training import checkpoint
from residua.training.batch_share import make_batch_share
from residua.training.distributed import COLLECTIVE_TIMEOUT, join_process_group
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine
from residua.training.progress import TrainingProgress
from residua.training.run import train_run
from residua.training.step import TrainingStep
from residua.training.sync_batchnorm import convert_to_sync_modules
from tests.training.recorded_graphs import steps_recorded_on_a_cpu

LIMIT_SECONDS = 3
DATA, CPU_DEVICE = get_dataset("digits"), torch.device("cpu")
RESNET, PRERESNET, FC_RESNET = [
    network(name, input=(1, 8, 8)) for name in ("cifar-resnet8", "cifar-preresnet8", "fc-resnet10")
]
DROP_PATH_RESNET = replace(RESNET, unit=replace(RESNET.unit, join=Drop(shortcut=0.1, branch=0.3)))
CASES = {  # (network, BN splits of its batch)
    "batch": (RESNET, 1),
    "batch, pre-activation": (PRERESNET, 1),
    "batch, dropped": (DROP_PATH_RESNET, 1),
    "batch, fully connected": (FC_RESNET, 1),
    "half batches, dropped": (DROP_PATH_RESNET, 2),
    "eighths of a batch, dropped": (DROP_PATH_RESNET, 8),
    "batch, fine-tuned": (PRERESNET, 1),
    "half batches, fine-tuned": (RESNET, 2),
    "batch, BN frozen": (RESNET, 1),
}
UNEVEN_CASES = {  # of three processes
    "batch": (RESNET, 1),
    "batch, dropped": (DROP_PATH_RESNET, 1),
    "batch, fully connected": (FC_RESNET, 1),
    "half batches, dropped": (DROP_PATH_RESNET, 2),
    "quarters of a batch, fine-tuned": (PRERESNET, 4),
    "quarters of a batch, recorded": (PRERESNET, 4),
}
ALL_CASES, BATCH_SIZE = {**CASES, **UNEVEN_CASES}, 64
FINE_TUNING = {"layer_decay": 0.5, "clip_norm": 0.5, "ema": 0.5, "may_probe": True}


def ignore_progress(progress, line):
    pass


def never_stop():
    return False


def make_short_run(parts):
    return Run(
        DROP_PATH_RESNET,
        "digits",
        replace(recipe("small"), bn_splits=parts).with_duration(steps=12),
    )


def train_in_float64(case, group, steps=6):
    """Losses, wrong predictions and the state of a network after some steps in float64."""
    (spec, parts), machine = ALL_CASES[case], Machine(CPU_DEVICE, "fp32", group=group)
    share = make_batch_share(BATCH_SIZE, parts, group)
    net = build(spec).double()
    if "BN frozen" in case:
        freeze_batchnorm_statistics(net)
    net = convert_to_sync_modules(net, share, machine).train()
    with steps_recorded_on_a_cpu() if "recorded" in case else nullcontext():
        return take_steps_in_float64(net, case, share, machine, steps)


def take_steps_in_float64(net, case, share, machine, steps):
    options = FINE_TUNING if "fine-tuned" in case else {}
    step = TrainingStep(net, Sgd(), machine, share.bn_splits, batch_size=BATCH_SIZE, **options)
    batches = TrainingBatches(
        read_split(DATA, "train"),
        BATCH_SIZE,
        Augmentation(pad=1),
        DATA.mean,
        DATA.std,
        0,
        share.images,
    )
    losses_and_wrong = []
    for i in range(steps):
        torch.manual_seed(i)
        images, labels = batches.make_batch(i)
        if options:
            step.set_probing(i < steps // 2)
        losses_and_wrong.append([float(x) for x in step(images.double(), labels, 0.02)])
        if step.average:
            step.average.update(i)
    average = step.average.tensors if step.average else {}
    average = {f"average/{name}": tensor for name, tensor in average.items()}
    return {"seen": torch.tensor(losses_and_wrong), **net.state_dict(), **average}


def evaluate_untrained(group):
    """The score of an untrained network on batches of 50; the last one is partial."""
    net = build(RESNET).train()
    return evaluate_network(
        net,
        read_split(DATA, "test"),
        DATA.mean,
        DATA.std,
        Machine(CPU_DEVICE, "fp32", group=group),
        50,
    )


def run_all_cases(folder, group):
    fp32, bf16 = [Machine(CPU_DEVICE, precision, group=group) for precision in ("fp32", "bf16")]
    for case in CASES:
        torch.save(train_in_float64(case, group), folder / f"{case}.pt")
    score = evaluate_untrained(group)
    torch.save([score.count, score.wrong, score.wrong5, score.loss], folder / "score.pt")
    group.run_local_rank0_first(lambda: append_text(folder / "first", group.rank))
    prepare_longer_than_ranks_wait(folder, group)
    train_run(
        make_short_run(4),
        folder / "bf16 parts",
        bf16,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    train_run(
        make_short_run(1),
        folder / "bf16 batch",
        bf16,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    calls = iter(range(100))
    try:  # only process 1 is asked to stop
        train_run(
            make_short_run(1),
            folder / "stopped",
            fp32,
            on_progress=ignore_progress,
            should_stop=lambda: group.rank == 1 and next(calls) == 5,
        )
    except Interrupted as stopped:
        append_text(folder / "stopped at", f"{stopped}\n")
    train_run(
        make_short_run(1),
        folder / "from one",
        fp32,
        resume=True,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    if group.rank == 1:
        raise DataError("the disk of this machine is gone")
    group.all_reduce_sum(torch.zeros(()))


def prepare_longer_than_ranks_wait(folder, group):
    """Rank 0 prepares data for longer than the limit of other waits, which is short here."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=LIMIT_SECONDS))
    number = group.prepare_on_rank0(lambda: time.sleep(LIMIT_SECONDS + 1) or 7)
    dist.distributed_c10d._set_pg_timeout(COLLECTIVE_TIMEOUT)
    append_text(folder / "prepared", number)


def run_uneven_cases(folder, group):
    """Three processes take over a run of one process, and stop again."""
    for case in UNEVEN_CASES:
        torch.save(train_in_float64(case, group), folder / f"{case}.pt")
    calls = iter(range(100))
    with suppress(Interrupted):
        train_run(
            make_short_run(1),
            folder / "handed over",
            Machine(CPU_DEVICE, "fp32", group=group),
            resume=True,
            on_progress=ignore_progress,
            should_stop=lambda: next(calls) == 3,
        )


def append_text(path, text):
    with open(path, "a") as file:
        file.write(str(text))


def write_half_and_die(tensors, path, metadata):
    path.write_bytes(b"half of a checkpoint")
    (Path(os.environ["HALF_WRITTEN"])).write_text(str(path))
    os.kill(os.getpid(), signal.SIGKILL)


def run_cli_killed_twice(arguments):
    """Run `residua`, kill a process in each of the first two attempts, and print the steps."""
    attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
    if (attempt, rank) == ("1", "0"):
        os.environ["HALF_WRITTEN"] = str(Path(arguments[-1]).with_name("half a checkpoint"))
        checkpoint.save_safetensors = write_half_and_die
    original_add, steps = TrainingProgress.add_step, []

    def add_or_die(progress, loss, wrong):
        steps.append(progress.step)
        original_add(progress, loss, wrong)
        if progress.step == 12 and (attempt, rank) == ("0", "1"):
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingProgress.add_step = add_or_die
    code = main(arguments)
    print(f"steps {steps[0]} to {steps[-1]}")
    return code


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "killed":
        exit_skipping_rank_cleanup(run_cli_killed_twice(rest))
    with join_process_group() as group:
        run_cases = run_uneven_cases if mode == "uneven" else run_all_cases
        run_cases(Path(rest[0]), group)
