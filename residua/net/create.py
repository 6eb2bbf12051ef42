"""Create a network by name, with new or pretrained weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

from residua.config.network import Network
from residua.config.papers import network
from residua.config.weight_registry import find_weights_of_network
from residua.errors import UsageError
from residua.net.build import ResidualNetwork, build
from residua.net.pretrained import load_pretrained_weights
from residua.net.stage_features import StageFeatures


@overload
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input: tuple[int, ...] | None = None,
    in_chans: int | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
    seed: int = 0,
    pretrained: str | Path | bool | None = None,
    features_only: Literal[False] = False,
) -> ResidualNetwork: ...
@overload
def create_model(
    name: str,
    *,
    input: tuple[int, ...] | None = None,
    in_chans: int | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
    seed: int = 0,
    pretrained: str | Path | bool | None = None,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
) -> StageFeatures: ...
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input: tuple[int, ...] | None = None,
    in_chans: int | None = None,
    block: str | None = None,
    shortcut: str | None = None,
    order: str | None = None,
    seed: int = 0,
    pretrained: str | Path | bool | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
) -> ResidualNetwork | StageFeatures:
    """Create a network by name, e.g. `cifar-resnet20`; `input` is (channels, height, width).

    `in_chans` sets the channels alone.  With `num_classes=0`, the network has no last layer, and
    returns features (n, num_features).  With `features_only=True`, it is a `StageFeatures`, which
    returns the feature maps of the stages in `out_indices`.

    Weights are initialised from `seed`, or loaded from `pretrained`: another project's weight file,
    a model folder, the name of published weights, or hf:OWNER/NAME on the Hugging Face hub.  True
    stands for the published weights of the network, False is the same as None.  If `num_classes`
    differs from the number of classes of the pretrained weights, the head is
    initialised anew.  Raises UsageError if no network has this name or if the arguments contradict
    each other, and RecordError if the weights belong to another network.
    """
    if features_only:
        check_no_classes(num_classes)
        num_classes = 0
    elif out_indices is not None:
        raise UsageError(
            "out_indices applies only with features_only=True: add that, or leave out_indices out"
        )
    if pretrained is True:
        pretrained = find_weights_of_network(name).name
    requested = network(
        name, input=input, classes=num_classes or None, block=block, shortcut=shortcut, order=order
    )
    if in_chans is not None:
        requested = replace_input_channels(requested, in_chans, input)
    if pretrained is None or pretrained is False:
        net = build(requested, seed)
    else:  # its warnings name the caller of this function, so it must be called directly from here
        requested, weights = load_pretrained_weights(pretrained, name, requested, num_classes)
        net = build(requested, seed)
        net.load_state_dict({**net.state_dict(), **weights})
    if num_classes == 0:
        net.reset_classifier(0)
    return StageFeatures(net, out_indices) if features_only else net


def check_no_classes(num_classes: int | None) -> None:
    """Raise UsageError if a network without a head is to have classes."""
    if num_classes:
        raise UsageError(
            f"features_only=True has no head for num_classes={num_classes}: leave one of them out"
        )


def replace_input_channels(
    network: Network, in_chans: int, input: tuple[int, ...] | None
) -> Network:
    """Return `network` for images of `in_chans` channels; `input` must be None.

    Raises UsageError if `input` also sets the channels, or if `network` is fully connected.
    """
    if input is not None:
        raise UsageError(
            f"in_chans={in_chans} and input={input} both set the channels: leave one of them out"
        )
    if len(network.input) == 1:
        raise UsageError(
            f"{network.name} is fully connected, so its inputs have no channels: "
            "give input=(channels, height, width) instead of in_chans"
        )
    return replace(network, input=(in_chans, *network.input[1:]))
