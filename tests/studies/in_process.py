"""Studies whose runs are trained by the process of the test, one after the other."""

from concurrent.futures import Executor, Future
from contextlib import contextmanager

import pytest

from residua.studies import local


class InProcessExecutor(Executor):
    """In place of a pool of worker processes, each of which takes seconds to start."""

    def __init__(self, workers, context, initializer, worker_arguments):
        local.worker_progress_events, halt_event = worker_arguments[:2]
        local.worker_should_stop = halt_event.is_set

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def train_studies_in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "ProcessPoolExecutor", InProcessExecutor)
        patch.setattr(local, "worker_progress_events", None, raising=False)
        patch.setattr(local, "worker_should_stop", None, raising=False)
        yield
