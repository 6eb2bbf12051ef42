import os
from pathlib import Path

import pytest
import torch


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
