"""A module for each kind of input; each makes a case from a `random.Random` and nothing else."""

from tests.fuzz.generators import (
    folders,
    images,
    options,
    records,
    requests,
    shards,
    tables,
    weights,
)

GENERATORS = {
    "folder": folders.make_case,
    "table": tables.make_case,
    "shards": shards.make_case,
    "weights": weights.make_case,
    "records": records.make_case,
    "options": options.make_case,
    "images": images.make_case,
    "http": requests.make_case,
}
