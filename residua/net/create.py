"""Create a network by name, with new or pretrained weights."""

from pathlib import Path

from residua.config.papers import network
from residua.net.build import ResidualNetwork, build
from residua.net.pretrained import load_pretrained_weights


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input: tuple[int, ...] | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
    seed: int = 0,
    pretrained: str | Path | None = None,
) -> ResidualNetwork:
    """Create a network by name, e.g. `cifar-resnet20`; `input` is (channels, height, width).

    Weights are initialised from `seed`, or loaded from `pretrained`: another project's weight file,
    a model folder, or hf:OWNER/NAME on the Hugging Face hub.  If `num_classes` differs from the
    number of classes of the pretrained weights, the head is initialised anew.  Raises UsageError if
    no network has this name, and RecordError if the weights belong to another network.
    """
    requested = network(
        name, input=input, classes=num_classes, block=block, shortcut=shortcut, order=order
    )
    if pretrained is None:
        return build(requested, seed)
    pretrained_network, weights = load_pretrained_weights(pretrained, name, requested, num_classes)
    net = build(pretrained_network, seed)
    net.load_state_dict({**net.state_dict(), **weights})
    return net
