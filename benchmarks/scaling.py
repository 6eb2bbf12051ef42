"""Compute what binds data-parallel training first: the cards, the all-reduce or the decoding.

    python benchmarks/scaling.py --step-ms 100 --images 256 --gradient-mb 102.2 \
        --decode-rate 150 --cores-per-card 16 [--cards 8 64 512] [--json]

Nothing is measured here.  The step and the rate of decoding are to be measured on one card; the
links are by default those of machines of eight H100s, by their data sheets.  The batch grows with
the number of cards: each computes what it computes alone.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from math import ceil, floor, inf, log2, log10


@dataclass(frozen=True, slots=True)
class CardWork:
    """What one card does in a step, measured on one card.

    step_seconds  of a step without an exchange, with its batch in memory
    images        in its share of the batch
    gradient_bytes  of all parameters, as they are exchanged
    """

    step_seconds: float
    images: int
    gradient_bytes: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines of equal cards, their links and their cores.

    Bandwidths are in bytes per second and direction: of one card to the others of its machine, and
    of all network adapters of a machine.  Latencies are seconds of one message.  A rate of 0 images
    decoded per second and core says that nothing is decoded: the images are in the cards' memory.
    """

    cards_per_machine: int
    card_bandwidth: float
    card_latency: float
    machine_bandwidth: float
    machine_latency: float
    cores_per_card: float
    decode_rate_per_core: float


@dataclass(frozen=True, slots=True)
class ComputedStep:
    """A step of many cards: its parts in seconds, all of it, and the share that is computing.

    exchange    the all-reduce, which begins when the gradients are complete
    decoding    of the next batch, beside the rest
    bound       the part that takes longest: "cards", "all-reduce" or "decoding"
    """

    cards: int
    computing: float
    exchange: float
    decoding: float
    seconds: float
    efficiency: float
    images_per_second: float
    bound: str


def compute_all_reduce_seconds(gradient_bytes: float, cards: int, cluster: Cluster) -> float:
    """The time of an all-reduce within each machine and between machines, one after the other.

    Of n equal partners, each sends and receives 2 (n - 1) / n of the bytes, as in a ring, in
    2 log2(n) messages, as in a tree: what NCCL comes close to.
    """
    local = min(cards, cluster.cards_per_machine)
    machines = ceil(cards / cluster.cards_per_machine)
    seconds = 0.0
    for partners, bandwidth, latency in (
        (local, cluster.card_bandwidth, cluster.card_latency),
        (machines, cluster.machine_bandwidth, cluster.machine_latency),
    ):
        if partners > 1:
            seconds += 2 * (partners - 1) / partners * gradient_bytes / bandwidth
            seconds += 2 * ceil(log2(partners)) * latency
    return seconds


def compute_step(work: CardWork, cards: int, cluster: Cluster) -> ComputedStep:
    """Compute the step of `cards` cards: decoding runs beside it, the all-reduce after it."""
    exchange = compute_all_reduce_seconds(work.gradient_bytes, cards, cluster)
    decoded_per_second = cluster.decode_rate_per_core * cluster.cores_per_card
    decoding = work.images / (decoded_per_second or inf)
    seconds = max(work.step_seconds + exchange, decoding)
    parts = {"cards": work.step_seconds, "all-reduce": exchange}
    bound = max(parts, key=lambda name: parts[name]) if seconds > decoding else "decoding"
    return ComputedStep(
        cards,
        work.step_seconds,
        exchange,
        decoding,
        seconds,
        work.step_seconds / seconds,
        cards * work.images / seconds,
        bound,
    )


def format_table(steps: list[ComputedStep]) -> str:
    """A Markdown table of computed steps."""
    lines = [
        "| cards | computing | all-reduce | decoding | step | efficiency | images/s | bound by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for step in steps:
        times = [step.computing, step.exchange, step.decoding, step.seconds]
        cells = [f"{1000 * seconds:.3g} ms" if seconds else "none" for seconds in times]
        digits = 2 - floor(log10(step.images_per_second))  # three of them say enough
        rate = f"{round(step.images_per_second, digits):,.0f}"
        efficiency = f"{100 * step.efficiency:.0f} %"
        lines.append(f"| {step.cards} | {' | '.join([*cells, efficiency, rate, step.bound])} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, meaning in (
        ("step-ms", None, "milliseconds of a step of one card"),
        ("images", None, "images of one card in a step"),
        ("gradient-mb", None, "10^6 bytes of gradients: 4 times the millions of parameters"),
        ("decode-rate", 0.0, "images decoded per second and core; 0: none are (default)"),
        ("cores-per-card", 16.0, "cores that decode for one card (default: 16)"),
        ("cards-per-machine", 8, "cards of a machine (default: 8)"),
        ("card-gb", 450.0, "10^9 bytes/s of a card to its neighbours (default: 450, NVLink 4)"),
        ("machine-gb", 400.0, "10^9 bytes/s of a machine (default: 400, eight of 400 Gbit/s)"),
        ("card-us", 5.0, "microseconds of a message between cards (default: 5)"),
        ("machine-us", 15.0, "microseconds of a message between machines (default: 15)"),
    ):
        is_count = name in ("images", "cards-per-machine")
        parser.add_argument(
            f"--{name}",
            type=int if is_count else float,
            default=default,
            required=default is None,
            help=meaning,
        )
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--json", action="store_true", help="print JSON, with times in seconds")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    work = CardWork(arguments.step_ms / 1e3, arguments.images, arguments.gradient_mb * 1e6)
    cluster = Cluster(
        arguments.cards_per_machine,
        arguments.card_gb * 1e9,
        arguments.card_us / 1e6,
        arguments.machine_gb * 1e9,
        arguments.machine_us / 1e6,
        arguments.cores_per_card,
        arguments.decode_rate,
    )
    steps = [compute_step(work, cards, cluster) for cards in arguments.cards]
    print(json.dumps([asdict(step) for step in steps]) if arguments.json else format_table(steps))


if __name__ == "__main__":
    main()
