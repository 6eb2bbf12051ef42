"""Serve a trained network over HTTP: a page for people, JSON for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import deploy, net, report
from residua.cli.options import (
    add_data_dir_option,
    add_engine_option,
    add_model_argument,
    add_offline_option,
)
from residua.cli.parser import CommandParser, make_number_parser
from residua.config.image_views import describe_views
from residua.config.weight_registry import is_model_name
from residua.console.output import print_data_summary
from residua.console.progress import ProgressBar
from residua.deploy.limits import ServerLimits
from residua.errors import UsageError
from residua.extras import require_extra
from residua.report.accuracy import format_accuracy
from residua.report.format import format_counted_noun, format_shortest_percent

if TYPE_CHECKING:
    from torch import nn

    from residua.config.model import ModelConfig
    from residua.deploy import ExampleImage, GradCamExplainer, SimilarImageIndex
    from residua.net.build import ResidualNetwork
    from residua.net.vlad import VladNetwork

DEFAULT_LIMITS = ServerLimits()
SIMILAR_IMAGES = 6  # shown next to a prediction


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0 accepts connections from other machines",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="the port to listen on; 0 takes any free one"
    )
    parser.add_argument(
        "--images",
        help="a folder of training images, or a data set's name: the page shows the most similar "
        "ones next to each prediction (default: none)",
    )
    add_engine_option(parser)
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="a folder of images that the page offers to click, up to "
        f"{deploy.MAX_EXAMPLES} in turn from each of its subfolders (default: none)",
    )
    parser.add_argument(
        "--unsure-below",
        "--threshold",
        dest="threshold",
        type=make_number_parser("--unsure-below", float),
        metavar="PROBABILITY",
        help="answers with a probability below this one, from 0 to 1, are unsure (default: "
        f"{deploy.DEFAULT_UNSURE_BELOW} on the page; without the option, JSON does not say)",
    )
    add_limit_options(parser)
    add_access_options(parser)
    add_data_dir_option(parser)
    add_offline_option(parser)


def add_limit_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=DEFAULT_LIMITS.max_body_bytes,
        help="the largest request body, in bytes",
    )
    parser.add_argument(
        "--max-total-bytes",
        type=int,
        help="memory for the bodies of all requests, in bytes; when it is full, the body that has "
        "taken the most for the longest time is rejected, to be retried (default: "
        f"{DEFAULT_LIMITS.max_total_bytes}, or --max-bytes if that is more)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=DEFAULT_LIMITS.max_image_pixels,
        help="the largest image, in pixels; all images that are decoded at the same time take at "
        "most 13 times as many bytes, so the limit is lower for images with transparency or with "
        "more than 8 bits",
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=DEFAULT_LIMITS.max_waiting_images,
        help="queue limit in images; further requests are rejected, to be retried",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_LIMITS.timeout_seconds,
        help="the longest time in seconds for a request's body to arrive, and for its answer",
    )
    parser.add_argument(
        "--head-timeout",
        type=float,
        default=DEFAULT_LIMITS.head_timeout_seconds,
        help="the longest time in seconds for a request's headers to arrive",
    )


def add_access_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--allow-host",
        nargs="+",
        action="extend",
        default=[],
        metavar="HOST",
        help="names under which clients reach the server, besides localhost, --host and its own "
        "addresses; requests to any other host are rejected",
    )
    parser.add_argument(
        "--allow-origin",
        nargs="+",
        action="extend",
        default=[],
        metavar="ORIGIN",
        help="other sites whose pages may send requests and read the answers (CORS), such as "
        "https://photos.example, or '*' for all (default: only the server's own page)",
    )


def run(arguments: Namespace) -> None:
    require_valid_limits(arguments)
    require_extra("serve")
    access = deploy.AccessRules(
        (arguments.host, *map(deploy.parse_allowed_host, arguments.allow_host)),
        tuple(map(deploy.parse_allowed_origin, arguments.allow_origin)),
    )
    if not Path(arguments.model).exists() and not is_model_name(arguments.model):
        net.read_model_config(arguments.model)  # raises the error that names the missing folder
    # the port is opened first, so that a port in use is reported before the model is loaded
    with deploy.open_listener(arguments.host, arguments.port) as listener:
        network, config = net.load_model_folder(net.find_model_folder(arguments.model))
        engine = deploy.build_engine(network, config, arguments.engine)
        limits = deploy.ServerLimits(
            arguments.max_bytes,
            arguments.max_pixels,
            arguments.max_waiting,
            arguments.timeout,
            arguments.max_total_bytes or max(DEFAULT_LIMITS.max_total_bytes, arguments.max_bytes),
            arguments.head_timeout,
        )
        examples = arguments.examples and deploy.load_example_images(
            arguments.examples, config, limits
        )
        similar_images = index_training_images(network, config, arguments)
        page = report.render_template(
            "serve.html.j2",
            **build_page_variables(
                config,
                engine.description,
                limits.max_body_bytes,
                arguments.threshold,
                examples or (),
                SIMILAR_IMAGES if similar_images else 0,
            ),
        )
        explainer = try_build_explainer(network, config)
        service = deploy.PredictionService(
            engine,
            page,
            limits,
            explainer,
            similar_images,
            access,
            arguments.threshold or 0.0,
            examples or (),
        )
        greeting = f"{config.network.name} by {engine.description}"
        deploy.serve_until_stopped(
            service,
            listener,
            lambda address: print(f"{greeting}: {address}  (Ctrl-C stops)", flush=True),
        )


def require_valid_limits(arguments: Namespace) -> None:
    """Raise UsageError if a limit is not positive, or contradicts another one."""
    options = ("max_bytes", "max_total_bytes", "max_pixels", "max_waiting", "timeout")
    for option in (*options, "head_timeout"):
        if arguments[option] is not None and arguments[option] <= 0:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} must be positive, got {arguments[option]}")
    if (arguments.max_total_bytes or arguments.max_bytes) < arguments.max_bytes:
        raise UsageError(
            f"--max-total-bytes {arguments.max_total_bytes} is less than --max-bytes "
            f"{arguments.max_bytes}: raise the first, or lower the second"
        )
    if not 0 <= (arguments.threshold or 0.0) <= 1:
        raise UsageError(
            f"--unsure-below {arguments.threshold} is invalid: give a probability from 0 to 1"
        )


def build_page_variables(
    config: "ModelConfig",
    engine_name: str,
    max_bytes: int,
    threshold: float | None = None,
    examples: "Sequence[ExampleImage]" = (),
    similar_count: int = 0,
) -> dict[str, object]:
    """Build the variables of the template serve.html.j2.

    `threshold` is the probability below which an answer is unsure, by default that of
    `residua predict`.
    """
    unsure_below = deploy.DEFAULT_UNSURE_BELOW if threshold is None else threshold
    trained_text = f", trained on {config.dataset}" if config.dataset else ""
    accuracy_text = ""
    if config.test_error is not None:
        right, low, high = format_accuracy(config.test_error, config.test_images)
        interval = f" (95 % interval {low} to {high})" if low else ""
        views = describe_views(config.test_views)
        accuracy_text = f"; {right} % right on the test images{views}{interval}"
    class_count = format_counted_noun(len(config.classes), "class", "classes")
    return {
        "title": "What is in this picture?",
        "inks": {},
        "classes": config.classes,
        "most": max_bytes,
        "unsure_below": unsure_below,
        "unsure_text": format_shortest_percent(unsure_below),
        "examples": examples,
        "similar": similar_count,
        "subject": f"{config.network.name} knows {class_count}{trained_text}",
        "facts": f"It runs by {engine_name}{accuracy_text}.",
    }


def try_build_explainer(network: "nn.Module", config: "ModelConfig") -> "GradCamExplainer | None":
    """Build a Grad-CAM explainer.

    Returns None if captum is not installed, or if the network has no convolutional stages.
    """
    try:
        return deploy.GradCamExplainer(network, config)
    except UsageError:
        return None


def index_training_images(
    network: "ResidualNetwork | VladNetwork", config: "ModelConfig", arguments: Namespace
) -> "SimilarImageIndex | None":
    """Index the training images of `--images`; None if the option is not given."""
    if arguments.images is None:
        return None
    with ProgressBar("batch") as bar:
        return deploy.build_similar_image_index(
            network,
            config,
            arguments.images,
            arguments.data_dir,
            lambda batches: bar.track(batches, "images"),
            print_data_summary,
        )
