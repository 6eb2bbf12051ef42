"""Many processes, one run: torchrun starts them and starts them again, here they meet, agree and share a batch."""

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

from residua.config.recipe import Recipe
from residua.errors import ResiduaError, TrainingError, UsageError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import PrefixStore, Store
else:
    from torch.distributed import PrefixStore

JOIN_TIMEOUT = timedelta(minutes=5)  # until all processes have come
COLLECTIVE_TIMEOUT = timedelta(
    minutes=30
)  # with one that has come, e.g. while it fetches a data set
STORE_ERROR_KEY = "residua's error"  # the store's key for what made a process leave
CONNECTION_LOST_PATTERN = re.compile(
    r"gloo|nccl|connection (closed|reset)|timed out|broken pipe", re.IGNORECASE
)

BroadcastT = TypeVar("BroadcastT")


@dataclass(frozen=True, slots=True)
class DataParallelGroup:
    """The processes that train one run, and which of them this is: alone, unless torchrun says otherwise."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine
    restart_count: int = 0  # how often torchrun has started them again, after one of them had died

    @property
    def is_main(self) -> bool:
        """Whether this process writes the record and speaks for all."""
        return self.rank == 0

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum of every process's `x`, in place of it, to the same bits on each."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def broadcast_from_rank0(self, make: Callable[[], BroadcastT]) -> BroadcastT:
        """What the leading process makes, on every process; the others make nothing."""
        if self.world_size == 1:
            return make()
        values: list[BroadcastT | None] = [make() if self.is_main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def true_on_any_rank(self, predicate: Callable[[], bool]) -> Callable[[], bool]:
        """Whether it was asked of any process; all have to call it at the same place."""
        if self.world_size == 1:
            return predicate
        return lambda: bool(self.all_reduce_sum(torch.tensor(int(predicate()))))

    def run_local_rank0_first(self, make: Callable[[], BroadcastT]) -> BroadcastT:
        """What each process makes, one of each machine before the others: it downloads what all of them read."""
        if self.local_rank != 0:
            self.all_reduce_sum(torch.zeros(()))
            return make()
        value = make()
        self.all_reduce_sum(torch.zeros(()))
        return value

    def average_in_place(self, tensors: list[Tensor]) -> None:
        """Replace each by its mean over all processes, in one exchange whose order is the same at every step.

        That of DistributedDataParallel is another at its first step than at all others: runs that go on would end in other bits.
        """
        if self.world_size == 1:
            return
        means = self.all_reduce_sum(torch.cat([x.flatten() for x in tensors])) / self.world_size
        for x, mean in zip(tensors, torch.split(means, [x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))

    def broadcast_weights(self, net: nn.Module) -> None:
        """Give the net of every process the leading one's weights: machines of several kinds draw them alike but for rounding."""
        for x in net.state_dict().values() if self.world_size > 1 else ():
            dist.broadcast(x, src=0)


SINGLE_PROCESS = DataParallelGroup()


def assign_batch_share(recipe: Recipe, group: DataParallelGroup) -> tuple[int, int]:
    """Which share of each batch, of how many equal ones, is this process's; UsageError where they cannot be equal."""
    if max(recipe.bn_splits, group.world_size) % min(recipe.bn_splits, group.world_size):
        divisible_splits = [
            n
            for n in range(1, recipe.bn_splits + group.world_size)
            if max(n, group.world_size) % min(n, group.world_size) == 0
        ]
        below, above = (
            max(n for n in divisible_splits if n < recipe.bn_splits),
            min(n for n in divisible_splits if n > recipe.bn_splits),
        )
        raise UsageError(
            f"{recipe.bn_splits} parts do not divide over {group.world_size} processes: choose parts={below} or parts={above}"
        )
    shares = max(recipe.bn_splits, group.world_size)
    if remainder := recipe.batch_size % shares:
        among = f"over {shares} processes" if shares == group.world_size else f"into {shares} parts"
        nearest = " or ".join(
            f"batch_size={recipe.batch_size - remainder + n}"
            for n in (0, shares)
            if n or recipe.batch_size > remainder
        )
        raise UsageError(
            f"a batch of {recipe.batch_size} does not divide {among}: choose {nearest}"
        )
    return group.rank, group.world_size


def local_bn_splits(bn_splits: int, group: DataParallelGroup) -> range:
    """Which of a batch's parts this process computes: some of them whole, or a share of one."""
    first = group.rank * bn_splits // group.world_size
    return range(first, first + max(bn_splits // group.world_size, 1))


@contextmanager
def join_process_group(timeout: timedelta = JOIN_TIMEOUT) -> Iterator[DataParallelGroup]:
    """The group that torchrun's environment names, until all have left; the process alone where it names none.

    Raises TrainingError where the others do not come, or one of them is lost, with its own reason where it gave one.
    """
    group = group_from_environment(os.environ)
    if group.world_size == 1:
        yield group
        return
    store = init_process_group(group, timeout)
    try:
        yield group
        group.all_reduce_sum(
            torch.zeros(())
        )  # nobody leaves before the leading process has written all
    except (ResiduaError, OSError) as error:
        with suppress(RuntimeError):  # the store may have gone with the process that kept it
            store.set(STORE_ERROR_KEY, f"process {group.rank}: {error}")
        raise
    except RuntimeError as error:
        if not CONNECTION_LOST_PATTERN.search(str(error)):
            raise
        raise TrainingError(explain_lost_process(store)) from error
    finally:
        dist.destroy_process_group()


def explain_lost_process(store: "Store") -> str:
    """Why another process has left, in its own words where it left any."""
    with suppress(RuntimeError):
        if store.check([STORE_ERROR_KEY]):
            return store.get(STORE_ERROR_KEY).decode()
    return "another process of the run was killed, or cannot be reached: torchrun --max-restarts, or --resume, goes on"


def group_from_environment(environment: Mapping[str, str]) -> DataParallelGroup:
    """What torchrun says in the environment of a process; UsageError where only a part of it is there."""
    if not {"RANK", "WORLD_SIZE"} <= set(environment):
        return DataParallelGroup()
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in variables if name not in environment]:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}: start by torchrun, or unset them"
        )
    rank, world_size, local_rank = (int(environment[name]) for name in variables[:3])
    return DataParallelGroup(
        rank, world_size, local_rank, int(environment.get("TORCHELASTIC_RESTART_COUNT", 0))
    )


def init_process_group(group: DataParallelGroup, timeout: timedelta) -> "Store":
    """Meet the others; a store that all of them read and write."""
    if torch.cuda.is_available():
        local_world_size, gpu_count = (
            int(os.environ.get("LOCAL_WORLD_SIZE", group.local_rank + 1)),
            torch.cuda.device_count(),
        )
        if local_world_size > gpu_count:
            raise UsageError(
                f"{local_world_size} processes here, but {gpu_count} GPU{'s' * (gpu_count > 1)}: start one for each at most"
            )
        torch.cuda.set_device(group.local_rank)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        rendezvous_store = next(iter(rendezvous("env://", timeout=timeout)))[0]
        store = PrefixStore(
            f"{group.restart_count} of {group.world_size}", rendezvous_store
        )  # torchrun's keeps what those wrote who died
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend,
            store=store,
            rank=group.rank,
            world_size=group.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise TrainingError(
                f"{address} is in use: choose another MASTER_PORT, or start by torchrun --standalone"
            ) from error
        if join_match := re.search(r"(\d+)/\d+ clients joined", str(error)):
            arrival = f"{join_match[1]} of {group.world_size} processes came to {address} within {timeout.seconds} seconds"
            raise TrainingError(f"{arrival}: start the others too, each with its RANK") from error
        raise TrainingError(
            f"the processes did not meet at {address}: {str(error).splitlines()[0]}"
        ) from error
    return store
