"""Choose what weights cannot show of their network by evaluating the possible networks."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

import residua
from residua import data, net, report, training
from residua.config.canonical_names import with_canonical_name
from residua.config.evaluation_results import EvaluationResult
from residua.config.model import ModelConfig
from residua.config.network import Fork, Network, Shortcut
from residua.console.output import print_data_summary
from residua.data.summary import ignore_summary
from residua.errors import UsageError


@dataclass(frozen=True, slots=True)
class CheckedNetwork:
    """The network with the fewest errors, and a sentence on the errors of all networks."""

    network: Network
    note: str


def list_possible_networks(
    network: Network, name: str, *, padding_is_unknown: bool, fork_is_unknown: bool
) -> list[Network]:
    """List the networks that may have the weights of `network`, which comes first.

    They differ in where option A adds its zero channels, in where pre-activation units fork, and in
    which convolution of a bottleneck has the stride, unless `name` sets these parts.
    """
    unit = network.unit
    shortcuts: list[Shortcut] = [unit.shortcut]
    forks: list[Fork] = [unit.fork]
    strides = [unit.stride_at]
    if padding_is_unknown and not names_padding(name):
        shortcuts = ["pad", "pad-last"]
    if fork_is_unknown and "fork=" not in name:
        forks = ["first-unit", "shape-change"]
    if unit.kernels == (1, 3, 1) and "stride=" not in name:
        strides.append(1 - unit.stride_at)
    units = [
        replace(unit, shortcut=shortcut, fork=fork, stride_at=stride_at)
        for shortcut, fork, stride_at in product(shortcuts, forks, strides)
    ]
    return [
        network if other == unit else with_canonical_name(replace(network, unit=other))
        for other in units
    ]


def names_padding(name: str) -> bool:
    """Return whether a network's name says where option A adds its zero channels."""
    return any(part.startswith("shortcut=pad") for part in name.split(","))


def require_known_padding(network: Network) -> None:
    """Raise UsageError, with the ways to say where option A adds its zero channels."""
    base = ",".join(part for part in network.name.split(",") if not part.startswith("shortcut="))
    raise UsageError(
        "the file cannot tell where option A adds its zero channels: "
        f"give --model {base},shortcut=pad-last (after the others, as in most code) or "
        f"{base},shortcut=pad (half before and half after, as in akamaster's code), or "
        "--check DATA, which evaluates both"
    )


def check_networks(
    networks: list[Network], tensors: dict[str, Tensor], config: ModelConfig, data_name: str
) -> CheckedNetwork:
    """Evaluate networks with the same weights on a data set; return the one with fewest errors.

    Of two with equally many errors, the one with the lower loss is returned.  Raises UsageError if
    the images do not tell the best two apart.
    """
    evaluations: dict[str, EvaluationResult] = {}
    with training.join_process_group() as group, TemporaryDirectory() as folder:
        machine = training.set_up_machine("fp32", group=group, device_choice="auto")
        dataset = data.resolve_dataset(data_name, networks[0].input, config.classes)
        for i, network in enumerate(networks):
            model = residua.build(network)
            model.load_state_dict(tensors)
            path = Path(folder) / str(i)
            net.save_pretrained(model, replace(config, network=network), path)
            evaluations[network.name] = training.evaluate_model_folder(
                path,
                dataset,
                None,
                machine,
                on_data=ignore_summary if i else print_data_summary,
            )
    sentences = [
        f"{name} has {report.describe_wrong_images(evaluation)}"
        for name, evaluation in evaluations.items()
    ]
    errors = f"on {data_name}, {', '.join(sentences)}"
    if len(networks) == 1:
        return CheckedNetwork(networks[0], errors)
    ranks = {name: (found.wrong, found.loss) for name, found in evaluations.items()}
    best, second = sorted(networks, key=lambda network: ranks[network.name])[:2]
    (wrong, loss), (next_wrong, next_loss) = ranks[best.name], ranks[second.name]
    if (wrong, loss) == (next_wrong, next_loss):
        raise UsageError(
            f"{data_name} cannot tell {best.name} and {second.name} apart, with equal losses: name "
            "one of them with --model, or give other images to --check"
        )
    by_loss = f", for its lower loss ({loss:.4f}; {second.name} {next_loss:.4f})"
    kept = f"{best.name} is kept{by_loss if wrong == next_wrong else ''}"
    return CheckedNetwork(best, f"{errors}; {kept}")
