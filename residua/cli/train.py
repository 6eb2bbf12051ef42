"""Train a network on a data set, into a folder that a later command can read."""

from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import (
    Parser,
    add_data_dir,
    add_json,
    add_network,
    add_recipe,
    network_of,
    print_json,
    recipe_of,
)
from residua.errors import UsageError, unknown
from residua.spec.dataset import Dataset, dataset
from residua.spec.network import Network
from residua.spec.plan import plan
from residua.spec.run import Run
from residua.spec.text import Json
from residua.spec.vlad import vlad

NETWORKS_OWN = ("block", "shortcut", "order", "recipe", "steps", "epochs", "set", "recompute")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("data", help="digits, cifar10, cifar100, mnist or fashion-mnist")
    parser.add_argument("--model", help="a network's name, or vlad (default: cifar-resnet20, or that of --from)")
    add_network(parser)
    parser.add_argument("--from", type=Path, help="start from the weights of this run or model folder, with its preprocessing")
    add_recipe(parser)
    parser.add_argument("--seed", type=int, default=0, help="initial weights, order and augmentation follow from it")
    parser.add_argument("--out", type=Path, help="the run's folder (default: a name of its own under runs/)")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint, where it has one")
    parser.add_argument(
        "--save-every", default="60s", help="how often a checkpoint is written: 500 (steps), 30s, 5m (default: 60s)"
    )
    parser.add_argument("--precision", default="auto", help="bf16, fp32, or auto: bf16 where the machine is fast in it")
    parser.add_argument("--recompute", help="none, unit, stage or sqrt: compute activations again, for less memory; the same bits")
    add_data_dir(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan of the run, with its estimated time, and stop")
    add_json(parser)


def run(arguments: Namespace) -> None:
    data = dataset(arguments.data)
    planned, start = vlad_of(arguments, data), None
    if planned is None:
        start, fingerprinted, network = start_of(arguments, data)
        planned = Run(network, data.name, recipe_of(arguments, data), arguments.seed, fingerprinted)
    folder = arguments.out or Path("runs") / f"{planned.network.name}-{data.name}-{planned.id}"

    from residua.cli.progress import TrainingBar
    from residua.train.checkpoint import every
    from residua.train.dry import outline
    from residua.train.machine import machine
    from residua.train.memory import sentence
    from residua.train.parallel import joined
    from residua.train.run import asked_to_stop, train

    with joined() as group:
        here, saving = machine(arguments.precision, arguments.recompute or "none", group), every(arguments.save_every)
        if arguments.dry_run:
            facts = outline(planned, here, arguments.data_dir)
        else:
            first = sentence(planned, plan(planned.network), here) if isinstance(planned.network, Network) else ""
            bar = TrainingBar(planned.network.name, first, hidden=not group.leads)
            with bar as tell, asked_to_stop() as stop:
                result = train(
                    planned, folder, here, start=start, data_dir=arguments.data_dir, resume=arguments.resume, saving=saving,
                    tell=tell, stop=stop,
                )  # fmt: skip
            facts = {**result, "folder": str(folder)}
    if group.leads:
        print_json(facts) if arguments.json else print(prose(facts))


def vlad_of(arguments: Namespace, data: Dataset) -> Run | None:
    """The run that `--model vlad` asks for; None where another model is asked for."""
    name = str(arguments.model).partition(",")[0]
    if not get_close_matches(name, ["vlad"]):
        return None
    if name != "vlad":
        raise unknown("model", name, ["vlad"])
    for option in (*NETWORKS_OWN, "from"):
        if arguments[option] not in (None, []):
            raise UsageError(f"--{option} is for networks: leave it out with --model {arguments.model}")
    if arguments.precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {arguments.precision} is for networks: vlad is fitted in fp32")
    return Run(vlad(arguments.model, data.input, len(data.classes)), data.name, None, arguments.seed)


def start_of(arguments: Namespace, data: Dataset) -> tuple[Path | None, str, Network]:
    """The model folder to start from, its fingerprint, and its network; or none, and a network by name."""
    if arguments["from"] is None:
        return None, "", network_of(arguments, arguments.model or "cifar-resnet20", data)
    for option in ("model", "block", "shortcut", "order"):
        if arguments[option]:
            raise UsageError(f"--from takes the network of {arguments['from']}: leave --{option} out")

    from residua.net.folder import fingerprint
    from residua.train.evaluate import checked_for, model_folder

    folder = model_folder(arguments["from"])
    weights, network = fingerprint(folder), checked_for(data, folder).network
    if not isinstance(network, Network):
        raise UsageError(f"--from wants a network's weights, but {folder} holds {network.name}: give another folder")
    return folder, weights, network


def prose(facts: dict[str, Json]) -> str:
    """A line per fact, with units that people read."""
    return "\n".join(f"{name.replace('_', ' '):20} {text(name, value)}" for name, value in facts.items())


def text(name: str, value: Json) -> str:
    match name.rpartition("_")[2], value:
        case "error", float():
            return f"{100 * value:.2f} %"
        case "bytes", int():
            return f"{value / 2**20:,.1f} MiB"
        case "seconds", float():
            return str(timedelta(seconds=round(value)))
        case "rates", list(pairs):
            return ", ".join(f"{pair['lr']:.4g} from step {pair['step']:,}" for pair in pairs)  # type: ignore[index,call-overload]
        case _, float():
            return f"{value:,.1f}"
        case _, int():
            return f"{value:,}"
    return str(value)
