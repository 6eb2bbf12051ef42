"""Answer with a trained network on the web: a page for people, JSON for programs."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir
from residua.errors import UsageError

if TYPE_CHECKING:
    from residua.deploy.explain import Explainer
    from residua.deploy.similar import Album
    from residua.spec.model import ModelConfig


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's or a model folder")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 is every one of this machine")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on; 0 is any that is free (default: 8000)")
    parser.add_argument(
        "--images", help="a folder of training images, or a data set's name: similar ones are shown beside a prediction"
    )
    parser.add_argument("--engine", default="auto", help="torch, onnx, openvino, or auto: the fastest that holds the accuracy")
    parser.add_argument("--max-bytes", type=int, default=20_000_000, help="of a request's body")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="of an image")
    parser.add_argument(
        "--max-waiting", type=int, default=256, help="images that are not answered yet; more are asked to come again"
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for a request to arrive, and for its answer")
    add_data_dir(parser)


def run(arguments: Namespace) -> None:
    for option in ("max_bytes", "max_pixels", "max_waiting", "timeout"):
        if arguments[option] <= 0:
            raise UsageError(f"--{option.replace('_', '-')} {arguments[option]} lets nothing in: give more than 0")

    from residua.extras import require

    require("serve")

    from residua.deploy.engine import engine
    from residua.deploy.serve import listening, serve
    from residua.deploy.service import Limits, Service
    from residua.report.html import rendered

    with listening(arguments.host, arguments.port) as listener:  # before what takes long
        runs = engine(arguments.model, arguments.engine)
        config = runs.config
        explainer, album = explainer_of(arguments.model, config), album_of(arguments, config)
        limits = Limits(arguments.max_bytes, arguments.max_pixels, arguments.max_waiting, arguments.timeout)
        page = rendered(
            "serve.html.j2",
            **words(config, runs.name, limits.bytes),
            similar=6 * (album is not None),
        )
        service = Service(runs, page, limits, explainer, album)
        serve(
            service, listener, lambda address: print(f"{config.network.name} by {runs.name}: {address}  (Ctrl-C stops)", flush=True)
        )


def words(config: "ModelConfig", engine: str, most: int) -> dict[str, object]:
    """What the page says of the model."""
    error = "" if config.test_error is None else f"; on its test images it was wrong for {100 * config.test_error:.3g} %"
    trained = f", trained on {config.dataset}" if config.dataset else ""
    return {
        "title": "What is in this picture?", "inks": {}, "classes": config.classes, "most": most,
        "subject": f"{config.network.name} knows {len(config.classes)} classes{trained}", "facts": f"It runs by {engine}{error}.",
    }  # fmt: skip


def explainer_of(folder: Path, config: "ModelConfig") -> "Explainer | None":
    """Grad-CAM, where captum is installed and the network has maps to look at."""
    from residua.deploy.explain import Explainer
    from residua.net.folder import from_pretrained
    from residua.train.evaluate import model_folder

    try:
        return Explainer(from_pretrained(model_folder(folder)), config)
    except UsageError:
        return None


def album_of(arguments: Namespace, config: "ModelConfig") -> "Album | None":
    """The training images of `--images`, as the network sees them."""
    if arguments.images is None:
        return None
    from tqdm import tqdm

    from residua.data.folder import data_of
    from residua.data.read import read
    from residua.deploy.similar import Album
    from residua.net.folder import from_pretrained
    from residua.train.evaluate import model_folder

    data = data_of(arguments.images, config.input)
    if data.input != config.input:
        raise UsageError(f"{arguments.model} takes images of {config.input}, but those of {data.name} are {data.input}")
    images = read(data, "train", arguments.data_dir).middle(config.input[1:])
    net = from_pretrained(model_folder(arguments.model))
    return Album(net, config, images, data.classes, lambda batches: tqdm(batches, desc="images", unit="batch"))
