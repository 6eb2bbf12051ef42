"""Where a data set's files are: in a folder of the user's, in the cache, or fetched into it."""

import os
from pathlib import Path

from residua.errors import DataError
from residua.spec.dataset import Dataset


def located(dataset: Dataset, folder: Path | None) -> Path:
    """The folder that holds the data set's files."""
    place = Path(folder or os.environ["RESIDUA_DATA"]) / dataset.folder
    if not place.exists():
        raise DataError("x")
    return place
