"""Find a learning rate: train some steps while the rate rises (Smith 2017), and keep nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import training
from residua.cli.image_options import (
    add_max_pixels_option,
    add_white_level_option,
    check_image_options,
    resolve_data_argument,
)
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_offline_option,
    add_out_option,
    add_precision_option,
    add_recipe_options,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.cli.run_options import add_start_options, add_storage_option, make_run_request
from residua.config.papers import list_models
from residua.config.recipe import Recipe
from residua.console.output import DataSummaryRecorder, print_notes, print_result
from residua.console.progress import ProgressBar
from residua.errors import UsageError
from residua.files import require_writable_file, write_text
from residua.report.format import quote_path
from residua.report.lr_range_figure import render_lr_range_figure

if TYPE_CHECKING:
    from residua.training import RangeTest, ResolvedRun, RunRequest

TEST_STEPS = 200  # our choice; fastai takes 100


def add_arguments(parser: CommandParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--model",
        completions=list_models("*"),
        help="a network's name (default: as residua train chooses it)",
    )
    add_start_options(parser)
    parser.add_argument(
        "--size", type=int, help="side in pixels of photographs (default: as residua train does)"
    )
    add_storage_option(parser)
    add_max_pixels_option(parser)
    add_white_level_option(parser)
    parser.add_argument(
        "--balance", action="store_true", help="draw images of all classes equally often"
    )
    add_recipe_options(parser, default="the one that residua train chooses", has_length=False)
    parser.add_argument(
        "--steps", type=int, default=TEST_STEPS, help="steps of the test (default: %(default)s)"
    )
    add_seed_option(parser, "the initial weights, the order of images and their augmentation")
    add_out_option(parser, "a file for the figure, FILE.svg (default: no figure)")
    add_device_option(parser)
    add_precision_option(parser, default="auto")
    add_data_dir_option(parser)
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    check_image_options(arguments)
    check_figure_path(arguments.out)
    dataset = resolve_data_argument(arguments)
    machine = training.set_up_machine(arguments.precision, device_choice=arguments.device)
    resolved = training.resolve_run(make_test_request(arguments), dataset, machine)
    name = resolved.run.network.name
    print_notes(f"{why} (override: --{option})" for option, why in resolved.reasons.items())
    print_summary = DataSummaryRecorder(is_main=True)
    with ProgressBar("step") as bar:
        test = training.run_range_test(
            resolved.run,
            resolved.dataset,
            machine,
            initial_weights=resolved.weights_path,
            data_dir=arguments.data_dir,
            steps=arguments.steps,
            on_data=print_summary,
            on_step=lambda done, total: bar.update(name, done, total),
        )
    if arguments.out:
        write_text(arguments.out, render_range_test(test))
    facts = {
        "model": name,
        "data": resolved.run.dataset,
        "figure": str(arguments.out) if arguments.out else None,
    }
    lines = describe_range_test(test, arguments, resolved)
    print_result(facts | test.json | print_summary.json, "\n".join(lines), arguments.json)


def make_test_request(arguments: Namespace) -> "RunRequest":
    """Make the request of `residua train` with the same options, but no length and no rate."""
    settled = arguments.clone()
    for option in ("steps", "epochs", "lr", "recompute"):
        settled[option] = None
    return make_run_request(settled)


def check_figure_path(path: Path | None) -> None:
    """Raise UsageError, before the test, if the figure cannot be written there as *.svg."""
    if path is None:
        return
    if path.suffix.lower() != ".svg":
        raise UsageError(f"--out {path} is invalid: the figure is an SVG, so name it FILE.svg")
    try:
        require_writable_file(path)
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or str(error)
        raise UsageError(
            f"--out {path} cannot be written ({reason}): choose another file"
        ) from None


def render_range_test(test: "RangeTest") -> str:
    """Render the figure of a test, with its suggestion, if any, and the rates it comes from."""
    marked: dict[str, float] = {}
    if test.suggested_lr is not None:
        is_steepest = test.suggested_lr == test.steepest_lr
        others = {} if is_steepest else {"suggestion": test.suggested_lr}
        steepest = "suggestion, steepest fall" if is_steepest else "steepest fall"
        marked = {steepest: test.steepest_lr, "lowest loss": test.lowest_loss_lr} | others
    return render_lr_range_figure(test.rates, test.losses, test.smoothed, marked)


def describe_range_test(
    test: "RangeTest", arguments: Namespace, resolved: "ResolvedRun"
) -> list[str]:
    """Describe the result in a few lines, with the command to go on with."""
    recipe = resolved.run.recipe
    assert isinstance(recipe, Recipe)
    end = "the loss grew fourfold" if test.diverged else "the loss did not diverge"
    if test.overflowed:
        end = "the loss was not finite at the next rate"
    lines = [f"{len(test.rates)} steps from {test.rates[0]:.2g} to {test.rates[-1]:.2g}: {end}"]
    if test.suggested_lr is None:
        lines.append(
            "no suggestion: the loss did not fall by more than chance; try more --steps or a "
            "larger --batch-size"
        )
    else:
        lines.append(
            f"steepest fall of the loss at {test.steepest_lr:.2g}, lowest loss at "
            f"{test.lowest_loss_lr:.2g}"
        )
        lines.append(
            f"suggested: --lr {test.suggested_lr:.2g} (the smaller of the steepest fall and a "
            f"tenth of the lowest loss; the recipe {recipe.name} has {recipe.schedule.lr:g})"
        )
    if arguments.out:
        lines.append(f"The figure: {quote_path(arguments.out)}")
    return lines
