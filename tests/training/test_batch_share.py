"""Any number of ranks shares a batch; where sizes differ, the results are still those of one."""

import pytest
import torch

from residua.errors import Interrupted, UsageError
from residua.record import RunRecord
from residua.training.batch_share import make_batch_share
from residua.training.distributed import DataParallelGroup
from residua.training.run import train_run
from tests.training.distributed_worker import (
    UNEVEN_CASES,
    ignore_progress,
    make_short_run,
    never_stop,
    train_in_float64,
)
from tests.training.short_runs import load_last_weights, read_metrics_without_times, stop_after
from tests.training.test_distributed import (
    CPU_FP32,
    WORKER_SCRIPT,
    max_abs_difference,
    read_log,
    start_torchrun,
    wait_for_torchrun,
)


def make_shares(batch_size, parts, world_size):
    return [
        make_batch_share(batch_size, parts, DataParallelGroup(rank, world_size))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_the_shares_of_all_ranks_cover_the_batch_once(parts, world_size):
    shares = make_shares(120, parts, world_size)
    assert [i for share in shares for i in share.images] == list(range(120))
    assert sum(share.image_weight for share in shares) == pytest.approx(world_size)
    assert sum(share.split_weight for share in shares) == pytest.approx(world_size)
    for rank, share in enumerate(shares):
        assert rank in share.ranks
        splits = {i // (120 // parts) for i in share.images}
        assert splits == set(share.splits)
        assert len(share.ranks) == 1 or len(share.splits) == 1
        for other in share.ranks:
            assert (shares[other].ranks, shares[other].splits) == (share.ranks, share.splits)
    sizes = [len(share.images) for share in shares]
    assert max(sizes) - min(sizes) <= 120 // parts


def test_equal_shares_have_weight_1():
    """So that nothing is multiplied, and the bits are those of runs made before."""
    for parts, world_size in ((1, 4), (2, 4), (4, 2), (8, 8), (3, 1)):
        for share in make_shares(48, parts, world_size):
            assert (share.image_weight, share.split_weight) == (1, 1)


def test_two_halves_of_64_on_three_ranks():
    first, second, third = make_shares(64, 2, 3)
    assert (first.images, second.images, third.images) == (
        range(16),
        range(16, 32),
        range(32, 64),
    )
    assert (second.ranks, second.images_in_split) == (range(2), range(16, 32))
    assert (third.ranks, third.images_in_split) == (range(2, 3), range(32))


@pytest.mark.parametrize(
    ("batch_size", "parts", "world_size", "sentence"),
    [
        (
            1,
            1,
            4,
            "a batch of 1 is too small for 4 processes: choose batch_size=4 or more, or start "
            "fewer processes",
        ),
        (
            4,
            2,
            6,
            "a batch of 4, split into 2 parts, is too small for 6 processes: choose batch_size=6 "
            "or more, or start fewer processes",
        ),
        (
            4,
            9999999999,
            1,
            "a batch of 4 cannot be split into 9999999999 parts: choose at most one part for each "
            "image",
        ),
        (
            66,
            4,
            2,
            "a batch of 66 cannot be split evenly into 4 parts: "
            "choose batch_size=64 or batch_size=68",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(batch_size, parts, world_size, sentence):
    with pytest.raises(UsageError) as refused:
        make_batch_share(batch_size, parts, DataParallelGroup(0, world_size))
    assert str(refused.value) == sentence


@pytest.fixture(scope="module")
def uneven_results(tmp_path_factory):
    """What three processes wrote; they took over a run of one process, and stopped again."""
    folder = tmp_path_factory.mktemp("uneven")
    with pytest.raises(Interrupted):
        train_run(
            make_short_run(1),
            folder / "handed over",
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=stop_after(4),
        )
    done, errors = wait_for_torchrun(
        start_torchrun(folder / "logs", WORKER_SCRIPT, "uneven", folder, processes=3)
    )
    assert done, errors + read_log(folder / "logs", 0)
    return folder


@pytest.mark.parametrize("case", UNEVEN_CASES)
def test_three_processes_compute_the_same_as_one_in_float64(uneven_results, case):
    """64 images, in one part, two or four: the shares differ in images or in whole parts.

    Losses are computed in fp32, in which the gradient of a mean over 21 images is rounded.
    """
    ours, theirs = (
        torch.load(uneven_results / f"{case}.pt"),
        train_in_float64(case, DataParallelGroup()),
    )
    torch.testing.assert_close(ours.pop("seen"), theirs.pop("seen"), rtol=1e-6, atol=0)
    assert max_abs_difference(ours, theirs) < 1e-6


def test_a_run_goes_from_one_process_to_three_and_back(uneven_results, tmp_path):
    notes = []
    for folder, resume in ((uneven_results / "handed over", True), (tmp_path / "whole", False)):
        train_run(
            make_short_run(1),
            folder,
            CPU_FP32,
            resume=resume,
            on_progress=lambda progress, line: notes.append((progress.step, progress.note)),
            should_stop=never_stop,
        )
    assert notes[0] == (
        8,
        "started with 3 processes, resuming with 1: "
        "the same batches, and the same results up to rounding",
    )
    ours, theirs = uneven_results / "handed over", tmp_path / "whole"
    environment = RunRecord(ours).read_run_json()["environment"]
    assert environment["resumed"] == [{"step": 4, "processes": 3}, {"step": 7, "processes": 1}]
    assert "resumed" not in RunRecord(theirs).read_run_json()["environment"]
    assert max_abs_difference(load_last_weights(ours), load_last_weights(theirs)) < 1e-4
    for row, expected in zip(
        read_metrics_without_times(ours), read_metrics_without_times(theirs), strict=True
    ):
        assert row["step"] == expected["step"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)
