"""The card of a model: README.md, with the facts that the Hugging Face hub reads from its head, and how to use it."""

import json

from residua.spec.evaluation import wilson
from residua.spec.model import ModelConfig
from residua.spec.text import Json
from residua.spec.vlad import VladClassifier

LISTED = 200  # classes; more are in config.json alone


def card(config: ModelConfig, parameters: int) -> str:
    """A model card, in Markdown, of a network of so many parameters."""
    network, shape = config.network, "x".join(map(str, config.network.input))
    if isinstance(network, VladClassifier):
        tag, origin, parameters = "vlad", f"fitted to {config.dataset or 'unnamed data'}", network.parameters
    elif config.recipe:
        tag, origin = "residual-network", f"trained on {config.dataset or 'unnamed data'} by the recipe {config.recipe}"
    else:
        tag, origin = "residual-network", "where its weights come from is not known here"
    text = head(config, tag) + f"# {network.name}\n\n"
    text += f"{len(config.classes)} classes, input {shape}, {parameters:,} parameters; {origin}.\n\n"
    text += "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in facts(config).items() if value)
    return text + use() + classes(config)


def head(config: ModelConfig, tag: str) -> str:
    """What the hub reads: YAML, each value written as JSON, which YAML includes."""
    said: dict[str, Json] = {"library_name": "residua", "pipeline_tag": "image-classification"}
    if config.license:
        said["license"] = config.license
    said["tags"] = ["image-classification", tag]
    if config.test_error is not None and config.dataset:
        metric: Json = {"type": "accuracy", "value": round(1 - config.test_error, 6)}
        result: Json = {
            "task": {"type": "image-classification"}, "dataset": {"type": config.dataset, "name": config.dataset, "split": "test"},
            "metrics": [metric],
        }  # fmt: skip
        said["model-index"] = [{"name": config.network.name, "results": [result]}]
    return "---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in said.items()) + "---\n"


def facts(config: ModelConfig) -> dict[str, str]:
    """What is known of it; empty where it is not."""
    channels = [f"{', '.join(f'{level:.4g}' for level in levels)}" for levels in (config.mean, config.std)]
    versions = [f"residua {config.residua}" if config.residua else "", f"torch {config.torch}" if config.torch else ""]
    return {
        "test error": error(config),
        "training data": config.dataset + (f", fingerprint `{config.fingerprint}`" if config.fingerprint else ""),
        "recipe": config.recipe,
        "images": f"pixels in [0, 1], minus {channels[0]}, over {channels[1]}",
        "licence": config.license,
        "made with": ", ".join(filter(None, versions)),
    }


def error(config: ModelConfig) -> str:
    """The test error, and between what it lies with 95 %, where the images were counted."""
    if config.test_error is None:
        return ""
    told = f"{100 * config.test_error:.2f} %"
    if not config.test_images:
        return told
    low, high = wilson(round(config.test_error * config.test_images), config.test_images)
    return f"{told} of {config.test_images:,} images; with 95 % between {100 * low:.2f} and {100 * high:.2f} %"


def use() -> str:
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


def classes(config: ModelConfig) -> str:
    if len(config.classes) > LISTED:
        return ""
    return "\n## Classes\n\n" + ", ".join(f"`{name}`" for name in config.classes) + "\n"
