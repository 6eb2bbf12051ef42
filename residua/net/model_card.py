"""The card of a model: README.md, with the facts that the Hugging Face hub reads from its head, and how to use it."""

import json

from residua.config.evaluation_results import wilson_interval
from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.config.vlad_config import VladClassifier

MAX_LISTED_CLASSES = 200  # classes; more are in config.json alone


def render_model_card(config: ModelConfig, parameter_count: int) -> str:
    """A model card, in Markdown, of a network of so many parameters."""
    network, shape = config.network, "x".join(map(str, config.network.input))
    if isinstance(network, VladClassifier):
        tag, origin, parameter_count = (
            "vlad",
            f"fitted to {config.dataset or 'unnamed data'}",
            network.parameters,
        )
    elif config.recipe:
        tag, origin = (
            "residual-network",
            f"trained on {config.dataset or 'unnamed data'} by the recipe {config.recipe}",
        )
    else:
        tag, origin = "residual-network", "where its weights come from is not known here"
    text = render_card_metadata(config, tag) + f"# {network.name}\n\n"
    text += f"{len(config.classes)} classes, input {shape}, {parameter_count:,} parameters; {origin}.\n\n"
    text += "| | |\n|---|---|\n" + "".join(
        f"| {name} | {value} |\n" for name, value in collect_model_facts(config).items() if value
    )
    return text + render_usage_section() + render_classes_section(config)


def render_card_metadata(config: ModelConfig, tag: str) -> str:
    """What the hub reads: YAML, each value written as JSON, which YAML includes."""
    metadata: dict[str, Json] = {"library_name": "residua", "pipeline_tag": "image-classification"}
    if config.license:
        metadata["license"] = config.license
    metadata["tags"] = ["image-classification", tag]
    if config.test_error is not None and config.dataset:
        metric: Json = {"type": "accuracy", "value": round(1 - config.test_error, 6)}
        result: Json = {
            "task": {"type": "image-classification"},
            "dataset": {"type": config.dataset, "name": config.dataset, "split": "test"},
            "metrics": [metric],
        }
        metadata["model-index"] = [{"name": config.network.name, "results": [result]}]
    return (
        "---\n"
        + "".join(f"{name}: {json.dumps(value)}\n" for name, value in metadata.items())
        + "---\n"
    )


def collect_model_facts(config: ModelConfig) -> dict[str, str]:
    """What is known of it; empty where it is not."""
    mean_and_std = [
        f"{', '.join(f'{level:.4g}' for level in levels)}" for levels in (config.mean, config.std)
    ]
    versions = [
        f"residua {config.residua}" if config.residua else "",
        f"torch {config.torch}" if config.torch else "",
    ]
    return {
        "test error": format_test_error(config),
        "training data": config.dataset
        + (f", fingerprint `{config.fingerprint}`" if config.fingerprint else ""),
        "recipe": config.recipe,
        "images": f"pixels in [0, 1], minus {mean_and_std[0]}, over {mean_and_std[1]}",
        "licence": config.license,
        "made with": ", ".join(filter(None, versions)),
    }


def format_test_error(config: ModelConfig) -> str:
    """The test error, and between what it lies with 95 %, where the images were counted."""
    if config.test_error is None:
        return ""
    error_percent = f"{100 * config.test_error:.2f} %"
    if not config.test_images:
        return error_percent
    low, high = wilson_interval(round(config.test_error * config.test_images), config.test_images)
    return f"{error_percent} of {config.test_images:,} images; with 95 % between {100 * low:.2f} and {100 * high:.2f} %"


def render_usage_section() -> str:
    return """
## Use

```sh
residua predict THIS_FOLDER image.png
```

```python
import residua

net = residua.from_pretrained("THIS_FOLDER")  # a torch.nn.Module in evaluation mode
```

The classes, in the order of the scores, and the preprocessing are in `config.json`.
"""


def render_classes_section(config: ModelConfig) -> str:
    if len(config.classes) > MAX_LISTED_CLASSES:
        return ""
    return "\n## Classes\n\n" + ", ".join(f"`{name}`" for name in config.classes) + "\n"
