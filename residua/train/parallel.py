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

from residua.errors import ResiduaError, TrainingError, UsageError
from residua.spec.recipe import Recipe

if TYPE_CHECKING:
    from torch._C._distributed_c10d import PrefixStore, Store
else:
    from torch.distributed import PrefixStore

WAIT = timedelta(minutes=5)  # until all processes have come
PATIENCE = timedelta(minutes=30)  # with one that has come, e.g. while it fetches a data set
ERROR = "residua's error"  # the store's key for what made a process leave
LOST = re.compile(r"gloo|nccl|connection (closed|reset)|timed out|broken pipe", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train one run, and which of them this is: alone, unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine
    restarts: int = 0  # how often torchrun has started them again, after one of them had died

    @property
    def leads(self) -> bool:
        """Whether this process writes the record and speaks for all."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every process's `x`, in place of it, to the same bits on each."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def told(self, make: Callable[[], T]) -> T:
        """What the leading process makes, on every process; the others make nothing."""
        if self.size == 1:
            return make()
        made: list[T | None] = [make() if self.leads else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def agreed(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Whether it was asked of any process; all have to call it at the same place."""
        if self.size == 1:
            return asked
        return lambda: bool(self.sum(torch.tensor(int(asked()))))

    def first_here(self, make: Callable[[], T]) -> T:
        """What each process makes, one of each machine before the others: it downloads what all of them read."""
        if self.local_rank != 0:
            self.sum(torch.zeros(()))
            return make()
        made = make()
        self.sum(torch.zeros(()))
        return made

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each by its mean over all processes, in one exchange whose order is the same at every step.

        That of DistributedDataParallel is another at its first step than at all others: runs that go on would end in other bits.
        """
        if self.size == 1:
            return
        means = self.sum(torch.cat([x.flatten() for x in tensors])) / self.size
        for x, mean in zip(tensors, torch.split(means, [x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))

    def begin_alike(self, net: nn.Module) -> None:
        """Give the net of every process the leading one's weights: machines of several kinds draw them alike but for rounding."""
        for x in net.state_dict().values() if self.size > 1 else ():
            dist.broadcast(x, src=0)


ALONE = Group()


def share(recipe: Recipe, group: Group) -> tuple[int, int]:
    """Which share of each batch, of how many equal ones, is this process's; UsageError where they cannot be equal."""
    if max(recipe.parts, group.size) % min(recipe.parts, group.size):
        divides = [n for n in range(1, recipe.parts + group.size) if max(n, group.size) % min(n, group.size) == 0]
        below, above = max(n for n in divides if n < recipe.parts), min(n for n in divides if n > recipe.parts)
        raise UsageError(f"{recipe.parts} parts do not divide over {group.size} processes: choose parts={below} or parts={above}")
    shares = max(recipe.parts, group.size)
    if over := recipe.batch_size % shares:
        among = f"over {shares} processes" if shares == group.size else f"into {shares} parts"
        nearest = " or ".join(f"batch_size={recipe.batch_size - over + n}" for n in (0, shares) if n or recipe.batch_size > over)
        raise UsageError(f"a batch of {recipe.batch_size} does not divide {among}: choose {nearest}")
    return group.rank, group.size


def parts_here(parts: int, group: Group) -> range:
    """Which of a batch's parts this process computes: some of them whole, or a share of one."""
    first = group.rank * parts // group.size
    return range(first, first + max(parts // group.size, 1))


@contextmanager
def joined(wait: timedelta = WAIT) -> Iterator[Group]:
    """The group that torchrun's environment names, until all have left; the process alone where it names none.

    Raises TrainingError where the others do not come, or one of them is lost, with its own reason where it gave one.
    """
    group = named(os.environ)
    if group.size == 1:
        yield group
        return
    store = met(group, wait)
    try:
        yield group
        group.sum(torch.zeros(()))  # nobody leaves before the leading process has written all
    except (ResiduaError, OSError) as error:
        with suppress(RuntimeError):  # the store may have gone with the process that kept it
            store.set(ERROR, f"process {group.rank}: {error}")
        raise
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise TrainingError(reason(store)) from error
    finally:
        dist.destroy_process_group()


def reason(store: "Store") -> str:
    """Why another process has left, in its own words where it left any."""
    with suppress(RuntimeError):
        if store.check([ERROR]):
            return store.get(ERROR).decode()
    return "another process of the run was killed, or cannot be reached: torchrun --max-restarts, or --resume, goes on"


def named(environment: Mapping[str, str]) -> Group:
    """What torchrun says in the environment of a process; UsageError where only a part of it is there."""
    if not {"RANK", "WORLD_SIZE"} <= set(environment):
        return Group()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if lacking := [name for name in names if name not in environment]:
        raise UsageError(f"RANK and WORLD_SIZE are set, but not {', '.join(lacking)}: start by torchrun, or unset them")
    rank, size, local_rank = (int(environment[name]) for name in names[:3])
    return Group(rank, size, local_rank, int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)))


def met(group: Group, wait: timedelta) -> "Store":
    """Meet the others; a store that all of them read and write."""
    if torch.cuda.is_available():
        asked, count = int(os.environ.get("LOCAL_WORLD_SIZE", group.local_rank + 1)), torch.cuda.device_count()
        if asked > count:
            raise UsageError(f"{asked} processes here, but {count} GPU{'s' * (count > 1)}: start one for each at most")
        torch.cuda.set_device(group.local_rank)
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        common = next(iter(rendezvous("env://", timeout=wait)))[0]
        store = PrefixStore(f"{group.restarts} of {group.size}", common)  # torchrun's keeps what those wrote who died
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise TrainingError(f"{place} is in use: choose another MASTER_PORT, or start by torchrun --standalone") from error
        if found := re.search(r"(\d+)/\d+ clients joined", str(error)):
            came = f"{found[1]} of {group.size} processes came to {place} within {wait.seconds} seconds"
            raise TrainingError(f"{came}: start the others too, each with its RANK") from error
        raise TrainingError(f"the processes did not meet at {place}: {str(error).splitlines()[0]}") from error
    return store
