"""Answer with a trained network on the web: a page for people, JSON for programs."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_data_dir_option
from residua.errors import UsageError

if TYPE_CHECKING:
    from residua.config.model import ModelConfig
    from residua.deploy.explain import GradCamExplainer
    from residua.deploy.similar import SimilarImageIndex


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, help="a run's or a model folder")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0 is every one of this machine",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="the port to listen on; 0 is any that is free (default: 8000)",
    )
    parser.add_argument(
        "--images",
        help="a folder of training images, or a data set's name: similar ones are shown beside a prediction",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        help="torch, onnx, openvino, or auto: the fastest that holds the accuracy",
    )
    parser.add_argument("--max-bytes", type=int, default=20_000_000, help="of a request's body")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="of an image")
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=256,
        help="images that are not answered yet; more are asked to come again",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds for a request to arrive, and for its answer",
    )
    add_data_dir_option(parser)


def run(arguments: Namespace) -> None:
    for option in ("max_bytes", "max_pixels", "max_waiting", "timeout"):
        if arguments[option] <= 0:
            raise UsageError(
                f"--{option.replace('_', '-')} {arguments[option]} lets nothing in: give more than 0"
            )

    from residua.extras import require_extra

    require_extra("serve")

    from residua.deploy.engine import load_engine
    from residua.deploy.serve import open_listener, serve_until_stopped
    from residua.deploy.service import PredictionService, ServerLimits
    from residua.report.html import render_template

    with open_listener(arguments.host, arguments.port) as listener:  # before what takes long
        chosen_engine = load_engine(arguments.model, arguments.engine)
        config = chosen_engine.config
        explainer, album = (
            try_build_explainer(arguments.model, config),
            load_similar_image_album(arguments, config),
        )
        limits = ServerLimits(
            arguments.max_bytes, arguments.max_pixels, arguments.max_waiting, arguments.timeout
        )
        page = render_template(
            "serve.html.j2",
            **build_page_variables(config, chosen_engine.description, limits.max_body_bytes),
            similar=6 * (album is not None),
        )
        service = PredictionService(chosen_engine, page, limits, explainer, album)
        serve_until_stopped(
            service,
            listener,
            lambda address: print(
                f"{config.network.name} by {chosen_engine.description}: {address}  (Ctrl-C stops)",
                flush=True,
            ),
        )


def build_page_variables(
    config: "ModelConfig", engine_name: str, max_bytes: int
) -> dict[str, object]:
    """What the page says of the model."""
    error_text = (
        ""
        if config.test_error is None
        else f"; on its test images it was wrong for {100 * config.test_error:.3g} %"
    )
    trained_text = f", trained on {config.dataset}" if config.dataset else ""
    return {
        "title": "What is in this picture?",
        "inks": {},
        "classes": config.classes,
        "most": max_bytes,
        "subject": f"{config.network.name} knows {len(config.classes)} classes{trained_text}",
        "facts": f"It runs by {engine_name}{error_text}.",
    }


def try_build_explainer(folder: Path, config: "ModelConfig") -> "GradCamExplainer | None":
    """Grad-CAM, where captum is installed and the network has maps to look at."""
    from residua.deploy.explain import GradCamExplainer
    from residua.net.model_folder import from_pretrained
    from residua.training.evaluate import find_model_folder

    try:
        return GradCamExplainer(from_pretrained(find_model_folder(folder)), config)
    except UsageError:
        return None


def load_similar_image_album(
    arguments: Namespace, config: "ModelConfig"
) -> "SimilarImageIndex | None":
    """The training images of `--images`, as the network sees them."""
    if arguments.images is None:
        return None
    from tqdm import tqdm

    from residua.data.read import read_split
    from residua.data.sources.image_folder import resolve_dataset
    from residua.deploy.similar import SimilarImageIndex
    from residua.net.model_folder import from_pretrained
    from residua.training.evaluate import find_model_folder

    data = resolve_dataset(arguments.images, config.input)
    if data.input != config.input:
        raise UsageError(
            f"{arguments.model} takes images of {config.input}, but those of {data.name} are {data.input}"
        )
    images = read_split(data, "train", arguments.data_dir).center_crop(config.input[1:])
    net = from_pretrained(find_model_folder(arguments.model))
    return SimilarImageIndex(
        net,
        config,
        images,
        data.classes,
        lambda batches: tqdm(batches, desc="images", unit="batch"),
    )
