"""Data-parallel training: join the processes that torchrun starts, and reduce over them.

torchrun starts the processes and restarts them after a failure.  This module joins them into one
group, gives each rank its share of every batch, and sums or averages tensors over all ranks.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from residua.errors import ResiduaError, TrainingError, UsageError
from residua.training.patient_wait import PatientWait
from residua.training.rank_failures import FailureBoard, leave_after_failure
from residua.training.shared_request import SharedRequest

if TYPE_CHECKING:
    from torch._C._distributed_c10d import PrefixStore, Store
else:
    from torch.distributed import PrefixStore

JOIN_TIMEOUT = timedelta(minutes=5)  # for all processes to arrive
TELL_TIMEOUT = timedelta(seconds=10)  # for them to arrive at a process that has failed before
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # for a joined process
AGENT_STORE_VARIABLE = "TORCHELASTIC_USE_AGENT_STORE"  # "True" if torchrun serves the store

BroadcastT = TypeVar("BroadcastT")


@dataclass(frozen=True, slots=True)
class DataParallelGroup:
    """The processes that train one run together, and the rank of this one among them.

    By default the group has one process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this machine
    restart_count: int = 0  # times that torchrun has restarted the group after a failure

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which alone writes the record and prints."""
        return self.rank == 0

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Sum `x` over all ranks, in place; the result is bit-identical on every rank."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def broadcast_from_rank0(self, make: Callable[[], BroadcastT]) -> BroadcastT:
        """Call `make` on rank 0 alone and return its result on every rank."""
        if self.world_size == 1:
            return make()
        values: list[BroadcastT | None] = [make() if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def gather_from_all_ranks(self, value: BroadcastT) -> list[BroadcastT]:
        """Return the `value` of each rank, in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[BroadcastT | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def true_on_any_rank(
        self, predicate: Callable[[], bool], *, is_streamed: bool = False
    ) -> Callable[[], bool]:
        """Make a predicate that becomes true on all ranks once `predicate` was true on any.

        All ranks must call the returned function equally many times.  Only some of the calls are
        collective operations, fewer steps apart if images are decoded between them (`is_streamed`):
        see `SharedRequest`.
        """
        if self.world_size == 1:
            return predicate
        return SharedRequest(
            predicate, self.all_reduce_sum, is_main=self.is_main, is_streamed=is_streamed
        )

    def run_local_rank0_first(self, make: Callable[[], BroadcastT]) -> BroadcastT:
        """Call `make` on every rank, but first on local rank 0 of each machine.

        That process downloads or caches the files, and the others on its machine then read them.
        They wait for as long as it takes, but not for a process that has ended.
        """
        if self.world_size == 1:
            return make()
        with PatientWait() as patience:
            if self.local_rank != 0:
                patience.wait_for_all_ranks()
                return make()
            value = make()
            patience.wait_for_all_ranks()
            return value

    def prepare_on_rank0(self, make: Callable[[], BroadcastT]) -> BroadcastT:
        """Call `make`, which may take hours, on rank 0 alone; return its result on every rank."""
        if self.world_size == 1:
            return make()
        with PatientWait() as patience:
            value = make() if self.is_main else None
            patience.wait_for_all_ranks()
        return self.broadcast_from_rank0(lambda: value)  # type: ignore[return-value]

    def wait_for_all_ranks(self) -> None:
        """Block until every rank has called this."""
        self.all_reduce_sum(torch.zeros(()))

    def broadcast_weights(self, net: nn.Module) -> None:
        """Copy the weights and buffers of rank 0 into `net` on every rank.

        This is needed because, from one seed, machines of different kinds compute initial weights
        that are equal only up to rounding.
        """
        for x in net.state_dict().values() if self.world_size > 1 else ():
            dist.broadcast(x, src=0)


SINGLE_PROCESS = DataParallelGroup()


@contextmanager
def join_process_group(timeout: timedelta = JOIN_TIMEOUT) -> Iterator[DataParallelGroup]:
    """Join the group that torchrun's environment variables describe, and leave it at the end.

    Without torchrun, the group is this process alone.  Raises TrainingError if the other processes
    do not connect within `timeout`.  If another rank stops, raises RankStoppedError, which quotes
    that rank's error.  An error of this rank itself is raised unchanged.
    """
    group = group_from_environment(os.environ)
    if group.world_size == 1:
        yield group
        return
    store = init_process_group(group, timeout)
    hosts_store = group.is_main and os.environ.get(AGENT_STORE_VARIABLE) != "True"
    board = FailureBoard(store, group.rank, group.local_rank, group.world_size, hosts_store)
    try:
        yield group
        group.wait_for_all_ranks()  # rank 0 may still be writing
    except BaseException as error:
        final_error = leave_after_failure(board, error)
        if final_error is error:
            raise
        raise final_error from error
    dist.destroy_process_group()


def report_failure_before_joining(error_text: str, timeout: timedelta = TELL_TIMEOUT) -> None:
    """Tell the other ranks that this one stops before it has joined them, and why.

    If they do not arrive within `timeout`, nobody is told.
    """
    with suppress(ResiduaError), join_process_group(timeout):
        raise UsageError(error_text)


def group_from_environment(environment: Mapping[str, str]) -> DataParallelGroup:
    """Read the group from torchrun's environment variables.

    If RANK or WORLD_SIZE is not set, the group is this process alone.  Raises UsageError if both
    are set but another variable is missing.
    """
    if not {"RANK", "WORLD_SIZE"} <= set(environment):
        return DataParallelGroup()
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in variables if name not in environment]:
        raise UsageError(
            f"RANK and WORLD_SIZE are set without {', '.join(missing)}: "
            "start with torchrun, or unset both"
        )
    rank, world_size, local_rank, restart_count = (
        parse_count_variable(environment, name)
        for name in (*variables[:3], "TORCHELASTIC_RESTART_COUNT")
    )
    if not rank < world_size:
        raise UsageError(
            f"the environment variables RANK={rank} and WORLD_SIZE={world_size} contradict each "
            "other (ranks count from 0 to WORLD_SIZE - 1): start with torchrun, or unset both"
        )
    return DataParallelGroup(rank, world_size, local_rank, restart_count)


def parse_count_variable(environment: Mapping[str, str], name: str) -> int:
    """Return the whole number in an environment variable; 0 if it is not set.

    Raises UsageError if it holds anything else.
    """
    text = environment.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(
            f"{name} is {text!r}, not a whole number: start with torchrun, or unset it"
        )
    return int(text)


def init_process_group(group: DataParallelGroup, timeout: timedelta) -> "Store":
    """Wait for all ranks, initialise torch.distributed, and return the key-value store they share.

    Raises UsageError if there are more processes than GPUs on this machine, and TrainingError if
    the ranks cannot connect.
    """
    if torch.cuda.is_available():
        select_own_gpu(group)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        rendezvous_store = next(iter(rendezvous("env://", timeout=timeout)))[0]
        # torchrun's store outlives a restart: the prefix hides the keys of earlier attempts
        prefix = f"{group.restart_count} of {group.world_size}"
        store = PrefixStore(prefix, rendezvous_store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=group.rank,
            world_size=group.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = explain_failed_rendezvous(str(error), address, group.world_size, timeout)
        raise TrainingError(reason) from error
    return store


def select_own_gpu(group: DataParallelGroup) -> None:
    """Select the GPU of this process's local rank.

    Raises UsageError if this machine has fewer GPUs than processes.
    """
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", group.local_rank + 1))
    gpu_count = torch.cuda.device_count()
    if local_world_size > gpu_count:
        raise UsageError(
            f"{local_world_size} processes were started on this machine, which has {gpu_count} "
            f"GPU{'s' * (gpu_count != 1)}: start at most one process per GPU"
        )
    torch.cuda.set_device(group.local_rank)


def explain_failed_rendezvous(
    error_text: str, address: str, world_size: int, timeout: timedelta
) -> str:
    """Explain torch's error: why the ranks could not connect at `address`, and what to do."""
    if "EADDRINUSE" in error_text:
        return (
            f"{address} is in use: choose another MASTER_PORT, or start with torchrun --standalone"
        )
    if join_match := re.search(r"(\d+)/\d+ clients joined", error_text):
        return (
            f"{join_match[1]} of {world_size} processes arrived at {address} within "
            f"{timeout.seconds} seconds: start the others too, each with its own RANK"
        )
    return f"the processes did not meet at {address}: {error_text.splitlines()[0]}"
