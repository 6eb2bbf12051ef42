"""How ranks wait for one that prepares data, for hours if need be."""

from contextlib import AbstractContextManager
from datetime import timedelta

import torch
import torch.distributed as dist

PREPARATION_TIMEOUT = timedelta(days=7)  # our choice


class PatientWait(AbstractContextManager["PatientWait"]):
    """A wait of all ranks for some that hash, download or decode files.

    The ranks have connections of their own for it, which all of them open at the beginning: a rank
    that ends closes them, so that the others notice it at once, however long they would wait.
    """

    def __init__(self) -> None:
        # A rank that ended before is noticed here; to open new connections, it would be waited for.
        dist.all_reduce(torch.zeros(()))
        self.group: dist.ProcessGroup | None = dist.new_group(
            timeout=PREPARATION_TIMEOUT, backend="gloo"
        )

    def wait_for_all_ranks(self) -> None:
        """Block until every rank has called this."""
        dist.all_reduce(torch.zeros(()), group=self.group)

    def __exit__(self, *error: object) -> None:
        """Close the connections; after an error, they stay open until the others can read it."""
        if error[0] is None:
            dist.destroy_process_group(self.group)
        self.group = None  # the traceback of an error would keep it
