"""Render a model card: a README.md with metadata for the hub, a table and a usage example."""

import json
import re

from residua.config.evaluation_results import wilson_interval
from residua.config.image_views import describe_views
from residua.config.model import ModelConfig
from residua.config.published_weights import forbids_commercial_use
from residua.config.serialize import Json

MAX_LISTED_CLASSES = 200  # a longer list of classes is left out of the card
MODEL_PLACEHOLDER = "THIS_FOLDER"  # the name of the model in the example of its use


def render_model_card(config: ModelConfig, parameter_count: int) -> str:
    """Render the model card of a network with `parameter_count` parameters, in Markdown."""
    network, shape = config.network, "x".join(map(str, config.network.input))
    data_name = config.dataset or "unnamed data"
    if not network.IS_TRAINED_BY_STEPS:
        origin = f"fitted to {data_name}"
    elif config.published_as:
        origin = f"published as {config.published_as}, SHA-256 `{config.published_sum}`"
    elif config.recipe:
        origin = f"trained on {data_name} with the recipe {config.recipe}"
    else:
        origin = "the origin of its weights is unknown"
    facts = "".join(
        f"| {name} | {value} |\n" for name, value in collect_model_facts(config).items() if value
    )
    return (
        f"{render_card_metadata(config, network.CARD_TAG)}# {network.name}\n\n"
        f"{len(config.classes)} classes, input {shape}, {parameter_count:,} parameters; "
        f"{origin}.\n\n"
        f"| | |\n|---|---|\n{facts}{render_usage_section()}{render_classes_section(config)}"
    )


def render_card_metadata(config: ModelConfig, tag: str) -> str:
    """Render the YAML metadata at the top of the card, which the Hugging Face hub reads.

    Every value is written as JSON, which is valid YAML and needs no further quoting.
    """
    metadata: dict[str, Json] = {"library_name": "residua", "pipeline_tag": "image-classification"}
    if config.license and re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", config.license):
        metadata["license"] = config.license
    elif config.license:  # not written as the hub writes the licences that it knows
        metadata |= {"license": "other", "license_name": make_hub_word(config.license.lower())}
    metadata["tags"] = ["image-classification", tag]
    if config.test_error is not None and config.dataset:
        metric: Json = {"type": "accuracy", "value": round(1 - config.test_error, 6)}
        result: Json = {
            "task": {"type": "image-classification"},
            "dataset": {
                "type": make_hub_word(config.dataset),
                "name": config.dataset,
                "split": "test",
            },
            "metrics": [metric],
        }
        metadata["model-index"] = [{"name": config.network.name, "results": [result]}]
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in metadata.items())
    return f"---\n{lines}---\n"


def make_hub_word(text: str) -> str:
    """Replace what the hub allows in no id, such as blanks, by dashes: `my pets` is `my-pets`."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-") or "unnamed"


def collect_model_facts(config: ModelConfig) -> dict[str, str]:
    """Collect the rows of the card's table, as a dict from name to value; "" if unknown."""
    mean, std = (
        ", ".join(f"{level:.4g}" for level in levels) for levels in (config.mean, config.std)
    )
    fingerprint = f", fingerprint `{config.fingerprint}`" if config.fingerprint else ""
    versions = [
        f"residua {config.residua}" if config.residua else "",
        f"torch {config.torch}" if config.torch else "",
    ]
    return {
        "test error": format_test_error(config),
        "training data": f"{config.dataset}{fingerprint}",
        "recipe": config.recipe,
        "weights": f"running average over the steps, decay {config.ema:g}" if config.ema else "",
        "images": f"pixels in [0, 1], minus {mean}, over {std}",
        "started from": describe_start(config),
        "licence": describe_licence(config),
        "made with": ", ".join(filter(None, versions)),
    }


def describe_start(config: ModelConfig) -> str:
    """Say which weights the training started from; "" for random ones."""
    if not config.weights_from:
        return ""
    return f"the weights {config.weights_from}, SHA-256 `{config.weights_from_sum}`"


def describe_licence(config: ModelConfig) -> str:
    """Say which licence the weights have, whether it is inherited and what it forbids."""
    words = [config.license] if config.license else []
    if config.weights_from:
        words.append(
            "of the weights that it started from"
            if config.license
            else "not known for the weights that it started from"
        )
    if forbids_commercial_use(config.license):
        words.append("no commercial use")
    return ", ".join(words)


def format_test_error(config: ModelConfig) -> str:
    """Format the test error in percent, or return "" if it is unknown.

    A 95 % confidence interval is added if the number of test images is known.
    """
    if config.test_error is None:
        return ""
    error_percent = f"{100 * config.test_error:.2f} %"
    views = describe_views(config.test_views)
    if not config.test_images:
        return f"{error_percent}{views}"
    low, high = wilson_interval(round(config.test_error * config.test_images), config.test_images)
    interval = f"95 % CI {100 * low:.2f}-{100 * high:.2f} %"
    return f"{error_percent} of {config.test_images:,} images{views} ({interval})"


def render_usage_section() -> str:
    return f"""
## Use

```sh
residua predict {MODEL_PLACEHOLDER} image.png
```

```python
import residua

classifier = residua.load("{MODEL_PLACEHOLDER}")  # classifier.net is a torch.nn.Module
print(classifier.predict_one("image.png"))
```

The classes, in the order of the scores, and the preprocessing are in `config.json`.
"""


def render_classes_section(config: ModelConfig) -> str:
    if len(config.classes) > MAX_LISTED_CLASSES:
        return ""
    return "\n## Classes\n\n" + ", ".join(f"`{name}`" for name in config.classes) + "\n"
