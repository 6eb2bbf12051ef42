import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def real_data_folder():
    """The folder of real data sets; tests that need it are skipped where RESIDUA_DATA does not say where it is."""
    data_folder = os.environ.get("RESIDUA_DATA")
    if not data_folder or not (Path(data_folder) / "cifar-10-batches-py").exists():
        pytest.skip("RESIDUA_DATA names no folder with cifar-10-batches-py")
    return Path(data_folder).resolve()


@pytest.fixture(autouse=True)
def use_one_thread():
    """The same bits on every machine with the same instructions."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
