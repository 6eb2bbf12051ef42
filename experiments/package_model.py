"""Copies a trained network into the package, where it has a name, and keeps the record of its run.

    python experiments/package_model.py RUN cifar-resnet20.fast_cifar10

A short name for the network comes before the dot, the recipe and the data after it.  The network of
the last step is taken, without what resuming the run would need.  Its stated error is that of each
test image alone, whatever views of the images its recipe takes; both are in evaluation.json.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import residua
from residua.config.published_weights import PACKAGED_MODELS, WEIGHT_NAME
from residua.files import write_json
from residua.net.save_model import save_pretrained

RECORDS = Path(__file__).parent / "packaged-models"
LICENCE = "apache-2.0"  # residua's own


def package_model(run: Path, name: str) -> Path:
    """Write the model folder of a run into the package, and its record beside the experiments."""
    classifier = residua.load(run)
    config = classifier.config
    if config.weights_from:
        sys.exit(f"{run} began with {config.weights_from}, which has a licence of its own")
    errors = {
        views: classifier.evaluate(config.dataset, split="test", views=views).error_rate
        for views in sorted({"none", config.test_views})
    }
    config = replace(config, license=LICENCE, test_error=errors["none"], test_views="none")
    folder = PACKAGED_MODELS / name
    save_pretrained(classifier.net, config, folder)
    (RECORDS / name).mkdir(parents=True, exist_ok=True)
    for file in (run / "run.json", run / "metrics.jsonl"):
        shutil.copy(file, RECORDS / name)
    write_json(RECORDS / name / "evaluation.json", {"test_error_by_views": errors})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("name", help="NETWORK.RECIPE_DATA")
    given = parser.parse_args()
    if not WEIGHT_NAME.fullmatch(given.name) or "." not in given.name:
        parser.error(f"{given.name} is not a name for weights: write NETWORK.RECIPE_DATA")
    print(package_model(given.run, given.name))


if __name__ == "__main__":
    main()
