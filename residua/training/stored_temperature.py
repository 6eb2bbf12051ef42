"""Store a temperature in a model folder if it helps on other images, or remove it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from residua.config.evaluation_results import MIN_CALIBRATION_IMAGES
from residua.config.model import ModelConfig
from residua.data.preprocessed_images import NamedImages
from residua.errors import UsageError
from residua.net.model_folder import replace_model_config
from residua.training.calibration import (
    FloatArray,
    TemperatureGain,
    fit_temperature,
    measure_temperature_gain,
)


def store_temperature_if_better(
    folder: Path, config: ModelConfig, held_out: NamedImages, logits: FloatArray, *, write: bool
) -> tuple[ModelConfig, str, Literal["dev", "folder"]]:
    """Fit a temperature on held-out images, and store it in `folder` if it lowers their loss.

    The loss of each half of the images is measured at the temperature fitted on the other half, and
    must fall by more than its standard error.  If no image is misclassified, the best temperature
    tends to 0, and none is stored.  `logits` is (n, classes).

    Returns the config (with the new temperature, or unchanged), a sentence that says which of these
    it is, and the source of the config's temperature.  The file is written only if `write` is set.
    Raises UsageError if there are fewer than `MIN_CALIBRATION_IMAGES` images.
    """
    labels = held_out.images.labels.numpy()
    if len(labels) < MIN_CALIBRATION_IMAGES:
        raise UsageError(
            f"--calibrate needs at least {MIN_CALIBRATION_IMAGES} held-out images, but the dev "
            f"split has {len(labels):,}: leave --calibrate out, or give more images"
        )
    gain, path = measure_temperature_gain(logits, labels), folder / "config.json"
    measured = describe_gain(gain, len(labels))
    has_mistakes = bool((logits.argmax(1) != labels).any())
    if not has_mistakes:
        measured = f"no mistake among {len(labels):,} held-out images shows how sure to be"
    if not (has_mistakes and gain.is_beyond_its_error):
        kept = ""
        if config.temperature != 1:
            kept = f"; {path} keeps the temperature {config.temperature:.3f}"
        return config, f"no temperature was written: {measured}{kept}", "folder"
    config = replace(config, temperature=fit_temperature(logits, labels))
    if write:
        replace_model_config(folder, config)
    sentence = f"temperature {config.temperature:.3f} was written to {path}: {measured}"
    return config, sentence, "dev"


def remove_stored_temperature(
    folder: Path, config: ModelConfig, *, write: bool
) -> tuple[ModelConfig, str]:
    """Remove the temperature from the config in `folder`; return the config and what was done.

    The file is written only if `write` is set.
    """
    path = folder / "config.json"
    if config.temperature == 1:
        return config, f"{path} has no temperature: nothing was changed"
    removed, config = config.temperature, replace(config, temperature=1.0)
    if write:
        replace_model_config(folder, config)
    return config, f"temperature {removed:.3f} was removed from {path}"


def describe_gain(gain: TemperatureGain, image_count: int) -> str:
    """Say by how much the loss changes, e.g. `... lowers the loss by 0.020 ± 0.004`."""
    verb = "lowers" if gain.mean > 0 else "raises"
    beyond = "beyond" if gain.is_beyond_its_error else "not beyond"
    return (
        f"fitted on one half of {image_count:,} held-out images, it {verb} the loss of the other "
        f"half by {abs(gain.mean):.2g} ± {gain.standard_error:.2g}, {beyond} its standard error"
    )
