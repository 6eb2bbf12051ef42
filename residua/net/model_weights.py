"""Check the weights of a model folder against its config, before they are used or written."""

from collections.abc import Mapping

from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.convert.match import format_tensor_shape, list_first_three
from residua.net.convert.state_dict import find_value_problem


def find_weight_shortage(tensors: Mapping[str, Tensor], classifier: ClassifierConfig) -> str:
    """Explain that a file has fewer numbers than `classifier` has parameters; "" if it has enough.

    Only the numbers are counted, so that no network is built that its file cannot fill.
    """
    planned = plan(classifier) if isinstance(classifier, Network) else classifier
    needed = planned.parameters
    stored = sum(tensor.numel() for tensor in tensors.values())
    if stored >= needed:
        return ""
    return f"it holds {stored:,} numbers, but {classifier.name} needs {needed:,}"


def find_weights_mismatch(tensors: Mapping[str, Tensor], net: nn.Module, name: str) -> str:
    """Explain the first difference in names or shapes between a file and `net`; "" if none."""
    expected = net.state_dict()
    if missing := [key for key in expected if key not in tensors]:
        return f"it lacks {list_first_three(missing)}, which {name} needs"
    if unexpected := [key for key in tensors if key not in expected]:
        return f"{name} has no place for its {list_first_three(unexpected)}"
    for key, tensor in expected.items():
        if tensors[key].shape != tensor.shape:
            shape = format_tensor_shape(tuple(tensors[key].shape))
            needed_shape = format_tensor_shape(tuple(tensor.shape))
            return f"its {key} is {shape}, but {name} needs {needed_shape}"
    return ""


def explain_unusable_values(tensors: Mapping[str, Tensor], net: nn.Module) -> str:
    """Explain the first tensor that cannot be a trained weight, e.g. one with a nan; "" if none."""
    for key, tensor in net.state_dict().items():
        name = key.rpartition(".")[2]
        is_checked = tensor.is_floating_point() or name == "num_batches_tracked"
        if is_checked and (problem := find_value_problem(tensors[key], name)):
            return f"{key} is {problem}"
    return ""


def check_classes_of_config(net: ResidualNetwork, config: ModelConfig) -> None:
    """Raise UsageError unless `net` returns a score for each class of `config`."""
    if not net.num_classes:
        raise UsageError(
            "a network with num_classes=0 cannot be a model folder, because it has no last layer: "
            "call reset_classifier first, or save its state_dict"
        )
    if net.num_classes != config.network.classes:
        raise UsageError(
            f"the network has {net.num_classes} classes, but its config has "
            f"{config.network.classes}: give a config with network=net.plan.network and a name "
            "for each class"
        )
