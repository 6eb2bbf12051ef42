import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.studies.in_process import train_studies_in_this_process

# On a busy machine an example may take long, and is still right.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# No test fetches published weights from the network, or uses those that this machine has: nobody
# listens at this address, and no file has these sums.
os.environ["RESIDUA_MIRROR"] = "http://127.0.0.1:9"
os.environ["RESIDUA_WEIGHTS"] = str(
    Path(__file__).parent / "fixtures" / "no_published_weights.json"
)


@pytest.fixture(scope="session")
def real_data_folder():
    """The folder of real data sets; skips the test unless RESIDUA_DATA names one with CIFAR-10."""
    data_folder = os.environ.get("RESIDUA_DATA")
    if not data_folder or not (Path(data_folder) / "cifar-10-batches-py").exists():
        pytest.skip("RESIDUA_DATA names no folder with cifar-10-batches-py")
    return Path(data_folder).resolve()


@pytest.fixture(autouse=True)
def use_one_thread():
    """One thread gives the same bits on all machines that have the same instructions."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def write_no_run_pages(request):
    """Training writes no pages, which take two seconds.

    A test module that looks at them says so with `WRITES_RUN_PAGES = True`.
    """
    if getattr(request.module, "WRITES_RUN_PAGES", False):
        yield
        return
    no_pages = {"page": None, "evaluation_page": None}
    with pytest.MonkeyPatch.context() as patch:
        for place in ("cli.train", "api.training_session"):
            patch.setattr(f"residua.{place}.write_run_pages", lambda *args, **keywords: no_pages)
        yield


@pytest.fixture
def studies_in_this_process():
    """For tests of what a study trains, not of how its worker processes work together."""
    with train_studies_in_this_process():
        yield
