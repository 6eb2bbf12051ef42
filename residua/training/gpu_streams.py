"""The CUDA streams of a thread.

PyTorch hands out streams from a pool of 32 for all threads of a process, and begins anew when all
have been handed out.  A thread that asked for new ones in each of its runs would get one on which
another thread trains, and a CUDA graph would capture the kernels of both.
"""

import threading
from typing import Literal

import torch

StreamPurpose = Literal["run", "graph", "prefetch"]

own_streams = threading.local()


def get_own_stream(purpose: StreamPurpose) -> torch.cuda.Stream:
    """Return this thread's stream for a purpose on the current GPU, the same in every call."""
    name = f"{purpose} on GPU {torch.cuda.current_device()}"
    if not hasattr(own_streams, name):
        setattr(own_streams, name, torch.cuda.Stream())  # type: ignore[no-untyped-call]
    stream: torch.cuda.Stream = getattr(own_streams, name)
    return stream
