"""Train a network on a data set, into a folder that a later command can read."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, add_recipe, print_json, recipe_of
from residua.errors import UsageError, unknown
from residua.record import Record
from residua.spec.dataset import Dataset
from residua.spec.network import Network
from residua.spec.papers import network
from residua.spec.plan import plan
from residua.spec.recipe import Recipe
from residua.spec.run import Run
from residua.spec.text import Json
from residua.spec.vlad import vlad

if TYPE_CHECKING:
    from residua.train.machine import Machine

NETWORKS_OWN = ("recipe", "steps", "epochs", "set", "recompute", "balance", "freeze")


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "data", help="digits, cifar10, ...; photographs: a folder by class, a table of path,label, shards, hf:OWNER/NAME"
    )
    parser.add_argument(
        "--model", help="a network's name, or vlad (default: cifar-resnet20, chosen for a folder, or that of --from)"
    )
    parser.add_argument("--from", help="start from these weights: a run, a model folder, a file, OWNER/NAME on the hub")
    parser.add_argument("--freeze", action="store_true", help="train the last layer alone, on what --from has learned")
    parser.add_argument("--size", type=int, help="a folder's photographs are cut to squares of so many pixels (default: chosen)")
    parser.add_argument("--balance", action="store_true", help="show each class equally often, however many images it has")
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
    from residua.cli.progress import TrainingBar
    from residua.data.folder import data_of
    from residua.train.checkpoint import every
    from residua.train.dry import outline
    from residua.train.machine import machine
    from residua.train.memory import sentence
    from residua.train.parallel import joined
    from residua.train.run import asked_to_stop, train

    data = data_of(arguments.data)
    with joined() as group:
        here, saving = machine(arguments.precision, arguments.recompute or "none", group), every(arguments.save_every)
        asked = asked_for(arguments, data, here)
        planned = asked.run
        folder = arguments.out or Path("runs") / f"{planned.network.name}-{data.name}-{planned.id}"
        if arguments.dry_run:
            facts = outline(planned, here, arguments.data_dir)
        else:
            if group.leads:
                say(asked.reasons)
            first = sentence(planned, plan(planned.network), here) if isinstance(planned.network, Network) else ""
            bar = TrainingBar(planned.network.name, first, hidden=not group.leads)
            with bar as tell, asked_to_stop() as stop:
                result = train(
                    planned, folder, here, start=asked.start, data_dir=arguments.data_dir, resume=arguments.resume, saving=saving,
                    tell=tell, stop=stop,
                )  # fmt: skip
            facts = {**result, "folder": str(folder)}
            if group.leads:
                say(named(Record(folder).left_out()))
    if group.leads:
        print_json(facts) if arguments.json else print(prose(facts))


@dataclass(frozen=True, slots=True)
class Asked:
    """A run, the weights it starts from, and sentences about what was chosen for the user."""

    run: Run
    start: Path | None = None
    reasons: tuple[str, ...] = ()


def asked_for(arguments: Namespace, data: Dataset, here: "Machine") -> Asked:
    """The run that the options ask for; what they leave open is chosen for a folder by its images and the machine."""
    if fitted := vlad_of(arguments, data):
        return Asked(fitted)
    if arguments.freeze and arguments["from"] is None:
        raise UsageError("--freeze keeps what --from has learned: give that, too")
    if data.kind == "folder":
        return asked_for_folder(arguments, data, here)
    if arguments.size is not None:
        raise UsageError(f"--size is for folders of photographs: images of {data.name} are {data.input[1]} x {data.input[2]}")
    start, fingerprint, network = start_of(arguments, data, "cifar-resnet20")
    return Asked(Run(network, data.name, how(arguments, data), arguments.seed, fingerprint), start)


def asked_for_folder(arguments: Namespace, data: Dataset, here: "Machine") -> Asked:
    """The same for photographs, with what is chosen by their number and size and by the machine."""
    from residua.data.folder import as_dataset, listed
    from residua.train.choice import choose
    from residua.train.start import own_side, source

    if arguments.size is not None and not 8 <= arguments.size <= 1024:
        raise UsageError(f"--size {arguments.size} is impossible: give 8 to 1024 pixels")
    listing, tuned = listed(data.folder), arguments["from"] is not None
    side = arguments.size or (own_side(source(arguments["from"])) if tuned else 0)
    chosen = choose(listing, here, tuned=tuned, side=side)
    start, fingerprint, network = start_of(arguments, as_dataset(listing, (3, chosen.side, chosen.side)), chosen.model)
    recipe = how(arguments, data, chosen.recipe)
    given = {option for option in ("model", "size", "recipe", "balance") if arguments[option] not in (None, False)}
    given |= {"recipe"} if arguments.steps or arguments.epochs else set()
    given |= {"model"} if tuned else set()
    reasons = tuple(f"{why} (otherwise: --{option})" for option, why in chosen.reasons.items() if option not in given)
    return Asked(Run(network, data.folder, recipe, arguments.seed, fingerprint), start, reasons)


def how(arguments: Namespace, data: Dataset, default: Recipe | None = None) -> Recipe:
    """The recipe, with what --balance and --freeze change."""
    recipe = recipe_of(arguments, data, default)
    return replace(recipe, balance=recipe.balance or arguments.balance, freeze=recipe.freeze or arguments.freeze)


def named(lost: list[dict[str, str]], most: int = 20) -> Iterator[str]:
    """Which files of a folder were left out, and why."""
    yield from (f"left out: {problem['path']} {problem['detail']}" for problem in lost[:most])
    if len(lost) > most:
        yield f"{len(lost) - most:,} more were left out: run.json names them all"


def say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"residua: {sentence}", file=sys.stderr)


def vlad_of(arguments: Namespace, data: Dataset) -> Run | None:
    """The run that `--model vlad` asks for; None where another model is asked for."""
    name = str(arguments.model).partition(",")[0]
    if not get_close_matches(name, ["vlad"]):
        return None
    if name != "vlad":
        raise unknown("model", name, ["vlad"])
    for option in (*NETWORKS_OWN, "from"):
        if arguments[option] is not None and arguments[option] is not False and arguments[option] != []:
            raise UsageError(f"--{option} is for networks: leave it out with --model {arguments.model}")
    if arguments.precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {arguments.precision} is for networks: vlad is fitted in fp32")
    name = data.folder if data.kind == "folder" else data.name
    side = arguments.size or 64
    input = (3, side, side) if data.kind == "folder" else data.input
    return Run(vlad(arguments.model, input, len(data.classes)), name, None, arguments.seed)


def start_of(arguments: Namespace, data: Dataset, default: str) -> tuple[Path | None, str, Network]:
    """The weights to start from, their fingerprint, and their network; or none, and a network by name."""
    if arguments["from"] is None:
        return None, "", network(arguments.model or default, input=data.input, classes=len(data.classes))

    from residua.train.start import network_for, source

    found = source(arguments["from"])
    if found.path.is_dir() and arguments.model:
        raise UsageError(f"--from takes the network of {arguments['from']}: leave --model out")
    return found.path, found.fingerprint, network_for(found, data, arguments.model)


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
