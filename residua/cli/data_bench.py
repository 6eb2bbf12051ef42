"""The action `bench` of `residua data`: how fast photographs become training batches."""

from jsonargparse import Namespace

from residua import data, training
from residua.cli.image_options import apply_to_listing
from residua.cli.parser import CommandParser
from residua.config.papers import list_models
from residua.config.photo_storage import AUTO_STORAGE, PHOTO_STORAGES
from residua.config.serialize import Json
from residua.console.data_wait import suggest_faster_decoding
from residua.console.output import DataSummaryRecorder, print_result
from residua.report.format import format_counted_noun, format_rate

BENCH_OPTIONS = ("size", "model", "storage", "device")
STORAGES = tuple(name for name in PHOTO_STORAGES if name != "squares")


def add_bench_options(parser: CommandParser) -> None:
    """Add the options that only `bench` has."""
    parser.add_argument(
        "--model",
        completions=list_models("*"),
        help="bench: also measure the training steps of this network (default: none)",
    )
    parser.add_argument(
        "--storage",
        completions=(AUTO_STORAGE, *STORAGES),
        help="bench: how the photographs are kept: raw, jpeg or files (default: as residua train "
        "does for so many photographs)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="bench: what augments and trains: cpu, cuda or auto (default: auto)",
    )


def bench(arguments: Namespace) -> None:
    """Measure the rates of the pipeline, and print them with what binds and what would help."""
    listing = apply_to_listing(data.list_image_dataset(arguments.data), arguments)
    print_summary = DataSummaryRecorder(is_main=True)
    print_summary(data.summarize_listing(listing))
    machine = training.set_up_machine(device_choice=arguments.device or "auto")
    facts = training.measure_data_pipeline(
        listing,
        machine,
        model=arguments.model,
        size=arguments.size,
        storage=arguments.storage or AUTO_STORAGE,
    )
    facts["help"] = describe_help(facts)
    facts = {"data": arguments.data} | print_summary.json | facts
    print_result(facts, "\n".join(describe(facts)), arguments.json)


def describe(facts: dict[str, Json]) -> list[str]:
    """Describe the rates in a table, and what binds in a sentence."""
    threads = format_counted_noun(int(str(facts["threads"])), "thread")
    side = facts["size"]
    rows = [
        ("decoded", "decode", f"{threads}, storage {facts['storage']}, crops of {side} x {side}"),
        ("batches", "batch", f"decoded, augmented and normalised on {facts['device']}"),
        ("steps", "step", f"{facts['model']}, batch size {facts['batch_size']}"),
    ]
    lines = [f"measured on {facts['measured']:,} of {facts['photographs']:,} photographs"]
    for label, name, details in rows:
        rate = facts[f"{name}_images_per_second"]
        if isinstance(rate, float):
            lines.append(f"{label:9}{format_rate(rate):>10}  {details}")
    return [*lines, f"{str(facts['bound']).capitalize()} binds: {facts['help']}"]


def describe_help(facts: dict[str, Json]) -> str:
    """Say what would help against what binds."""
    if facts["bound"] == "step":
        return (
            "photographs come faster than the network learns from them; a faster device would help"
        )
    if facts["bound"] == "augmentation":
        return (
            "fewer random changes, such as augment.trivial or augment.colour, or a GPU would help"
        )
    return f"{suggest_faster_decoding(str(facts['storage']))} would help"
