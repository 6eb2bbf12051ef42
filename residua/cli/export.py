"""Export a trained network as a file for other programs: ONNX, OpenVINO or torch.export."""

from pathlib import Path

from jsonargparse import Namespace

from residua import deploy, net
from residua.cli.image_options import add_max_pixels_option, check_image_options
from residua.cli.options import (
    add_data_dir_option,
    add_json_option,
    add_model_argument,
    add_offline_option,
    add_out_option,
)
from residua.cli.parser import CommandParser
from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.serialize import Json
from residua.console.output import DataSummaryRecorder, print_note, print_result
from residua.errors import UsageError
from residua.report.format import format_counted_noun, format_percent

EXPORT_SUFFIXES = {"onnx": ".onnx", "openvino": "-openvino", "torch-export": ".pt2"}
SUMMARY_FACTS = ("splits", "split_from", "skipped")  # of the images for int8
MAX_INT8_LOSS_POINTS = 0.5  # points of error that int8 may cost without a warning; our choice


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "--to", required=True, choices=tuple(EXPORT_SUFFIXES), help="the file format"
    )
    add_out_option(
        parser, "the file, or for openvino the folder (default: named like the model folder)"
    )
    parser.add_argument(
        "--bake-preprocessing",
        action="store_true",
        help="make the exported network take uint8 pixels and normalise them itself",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantise weights and activations to 8 bits, calibrated on --images, "
        "and report the change of the error",
    )
    parser.add_argument(
        "--images",
        help="for --int8: a folder of images (errors are counted if it has one subfolder per "
        "class), or a data set's name",
    )
    add_max_pixels_option(parser)
    add_data_dir_option(parser)
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.int8 and arguments.images is None:
        raise UsageError("--int8 needs images to calibrate on: add --images DIR")
    if arguments.images is not None and not arguments.int8:
        raise UsageError("--images only applies with --int8: add --int8, or leave --images out")
    check_image_options(arguments)
    suffix = f"{'-int8' if arguments.int8 else ''}{EXPORT_SUFFIXES[arguments.to]}"
    network, config = net.load_model_folder(net.find_model_folder(arguments.model))
    print_summary = DataSummaryRecorder(is_main=True)
    facts = deploy.export_model(
        network,
        config,
        arguments.to,
        arguments.out or Path(f"{arguments.model.resolve().name}{suffix}"),
        bake_preprocessing=arguments.bake_preprocessing,
        calibration_source=arguments.images or "",
        data_dir=arguments.data_dir,
        max_pixels=arguments.max_pixels or MAX_IMAGE_PIXELS,
        on_data=print_summary,
    )
    facts |= {name: print_summary.json[name] for name in SUMMARY_FACTS if arguments.int8}
    print_result(facts, format_export_summary(facts), arguments.json)
    if (loss_points := compute_int8_loss_points(facts)) > MAX_INT8_LOSS_POINTS:
        print_note(
            f"int8 costs {loss_points:.1f} points of error, more than {MAX_INT8_LOSS_POINTS}: "
            "prefer the fp32 file"
        )


def format_export_summary(facts: dict[str, Json]) -> str:
    """Summarise the exported file: its format, its input, and its difference from PyTorch."""
    opset = f", opset {facts['opset']}" if "opset" in facts else ""
    precision = "int8" if "agreement" in facts else "fp32"
    classes = f"{facts['classes']:,} classes"
    return "\n".join(
        [
            f"{facts['file']}: {facts['model']}, {classes}, {facts['format']}{opset}, {precision}",
            f"input: {facts['takes']}; outputs: scores and probabilities",
            describe_baked_temperature(facts["temperature"]),
            format_int8_costs(facts) if precision == "int8" else format_export_differences(facts),
        ]
    )


def describe_baked_temperature(temperature: Json) -> str:
    """Say by which temperature the file divides the scores before its softmax."""
    assert isinstance(temperature, int | float)
    if temperature == 1:
        return "probabilities: the softmax of the scores (the model stores no temperature)"
    return f"probabilities: the softmax of scores / {temperature:.3f}, the model's temperature"


def format_export_differences(facts: dict[str, Json]) -> str:
    """Format the largest differences between the outputs of the file and those of PyTorch."""
    return (
        f"largest difference from PyTorch: {facts['difference']:.1e} in a probability, "
        f"{facts['score_difference']:.1e} in a score; batches of 1 and of 5 images"
    )


def format_int8_costs(facts: dict[str, Json]) -> str:
    """Describe how often int8 and fp32 predict the same class, and the errors of both.

    The images were not used for calibration.  The errors are left out if the labels are not the
    model's classes.
    """
    assert isinstance(facts["images"], int)
    kind = "test image" if facts["split"] == "test" else "held-out image"
    images = format_counted_noun(facts["images"], kind)
    agreement = f"same class as fp32 for {format_share(facts['agreement'])} of {images}"
    if "fp32_error" not in facts:
        return (
            f"{agreement} of {facts['source']}; errors are not counted, "
            "because it has no folders with the names of the model's classes"
        )
    errors = [f"{format_share(facts[f'{kind}_error'])} in {kind}" for kind in ("fp32", "int8")]
    return f"{agreement} of {facts['source']}; error {', '.join(errors)}"


def compute_int8_loss_points(facts: dict[str, Json]) -> float:
    """Return int8's error minus fp32's, in percentage points; 0 if errors were not counted."""
    fp32_error, int8_error = facts.get("fp32_error", 0.0), facts.get("int8_error", 0.0)
    assert isinstance(fp32_error, float)
    assert isinstance(int8_error, float)
    return 100 * (int8_error - fp32_error)


def format_share(share: Json) -> str:
    assert isinstance(share, float)
    return format_percent(share, digits=2)
