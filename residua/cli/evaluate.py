"""Evaluate a trained network on a data set."""

from functools import partial
from pathlib import Path

from jsonargparse import Namespace

from residua import data, net, report, training
from residua.cli.image_options import (
    add_max_pixels_option,
    add_views_options,
    add_white_level_option,
    apply_to_dataset,
    check_image_options,
)
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_model_argument,
    add_offline_option,
    add_out_option,
    add_precision_option,
)
from residua.cli.parser import CommandParser
from residua.config.evaluation_results import EvaluationResult
from residua.config.image_views import choose_views, name_views_option
from residua.console.output import DataSummaryRecorder, print_note, print_notes, print_result
from residua.errors import UsageError
from residua.report.format import format_percent


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    add_data_argument(parser)
    parser.add_argument(
        "--split",
        choices=("train", "dev", "test", "all"),
        help="the images to evaluate on (default: test; all images of photographs without splits "
        "that the model was not trained on)",
    )
    parser.add_argument(
        "--skip-unknown-classes",
        action="store_true",
        help="leave out images of classes that the model does not know",
    )
    add_views_options(parser)
    parser.add_argument(
        "--calibrate",
        nargs="?",
        const="on",
        choices=("on", "off"),
        help="fit a temperature on the dev split, of at least 100 images, and store it in the "
        "model folder if it lowers the loss of images that it was not fitted on; off removes a "
        "stored temperature",
    )
    add_out_option(parser, "a folder for the page and CSV tables of the evaluation (default: none)")
    add_max_pixels_option(parser)
    add_white_level_option(parser, "the model's")
    add_device_option(parser)
    add_precision_option(parser, default="fp32")
    add_data_dir_option(parser)
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    views = choose_views(arguments.views, mirror=arguments.mirror)
    with training.join_process_group() as group:
        machine = training.set_up_machine(
            arguments.precision, group=group, device_choice=arguments.device
        )
        folder = group.run_local_rank0_first(partial(net.find_model_folder, arguments.model))
        if arguments.calibrate and (
            net.is_published_model(folder) or net.is_packaged_model(folder)
        ):
            raise UsageError(
                f"{arguments.model} stays as it was published: copy the folder {folder}, and "
                f"evaluate the copy with --calibrate {arguments.calibrate}"
            )
        config = net.read_model_config(folder)
        check_image_options(arguments)
        dataset = data.resolve_dataset(
            arguments.data,
            config.network.input,
            config.classes,
            skip_unknown=arguments.skip_unknown_classes,
            data_dir=arguments.data_dir,
        )
        dataset = apply_to_dataset(dataset, arguments)
        print_summary = DataSummaryRecorder(group.is_main)
        if group.is_main and folder.name == "last" and folder.parent == arguments.model:
            print_note(describe_evaluated_network(folder))
        evaluation = training.evaluate_model_folder(
            folder,
            dataset,
            arguments.split,
            machine,
            arguments.data_dir,
            on_data=print_summary,
            views=views,
            views_option=name_views_option(views, mirror=arguments.mirror),
            calibrate=arguments.calibrate == "on",
            forget_temperature=arguments.calibrate == "off",
        )
    if not group.is_main:
        return
    print_notes(report.list_skipped_files(evaluation))
    print_notes(filter(None, [evaluation.temperature_note]))
    page = report.write_evaluation_report(evaluation, arguments.out) if arguments.out else None
    facts = {
        **print_summary.json,
        **report.collect_evaluation_metrics(evaluation),
        **({"page": str(page)} if page else {}),
    }
    print_result(facts, format_evaluation_summary(evaluation, page), arguments.json)


def describe_evaluated_network(folder: Path) -> str:
    """Say which of a run's networks is evaluated, and how to evaluate the other one, if any."""
    best = folder.with_name("best")
    other = f"; the one with the lowest dev error is in {best}" if best.exists() else ""
    return f"the network after the last step is evaluated, in {folder}{other}"


def format_evaluation_summary(evaluation: EvaluationResult, page: Path | None) -> str:
    """Format the errors and the loss on one line, then other results, then the path of the page.

    The other results are calibration, recall by class, the main confusion and the number of labels
    in doubt, one per line.
    """
    wrong = report.describe_wrong_images(evaluation)
    error = format_percent(evaluation.error_rate, digits=2)
    top5_error = ""
    if report.has_informative_top5_error(evaluation):
        top5_error = f", top-5 error {format_percent(evaluation.top5_error_rate, digits=2)}"
    return "\n".join(
        [
            f"{wrong}: error {error}{top5_error}, loss {evaluation.loss:.4f}",
            *report.describe_evaluation(evaluation)[1:],
            *(
                [report.describe_label_check(evaluation)]
                if evaluation.labels_to_check_count
                else []
            ),
            *(["", f"The page: {page}"] if page else []),
        ]
    )
