"""Say what is on images: the class, its probability and the next likeliest ones."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import Parser, print_json
from residua.errors import DataError, UsageError
from residua.spec.text import Json

if TYPE_CHECKING:
    from residua.deploy.predict import Prediction

NAME = 24  # characters of a class in a table
Top = list[tuple[str, float]]  # classes and their probabilities, the likeliest first
Show = Callable[[Path, Top, str, str], None]  # path, top, error, picture


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's folder (its last network) or a model folder, such as RUN/best")
    parser.add_argument("images", nargs="+", help="files, folders of them, or - for paths on standard input, one a line")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name for each image (default: 3)")
    parser.add_argument("-0", "--null", action="store_true", help="paths on standard input end in NUL, as those of find -print0")
    parser.add_argument("--engine", default="auto", help="what computes: auto, torch, onnx or openvino (default: auto)")
    parser.add_argument("--batch", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--explain", type=Path, metavar="DIR", help="a folder for pictures of where the network looks (Grad-CAM)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image, and nothing else")
    parser.add_argument("--csv", action="store_true", help="print a table that spreadsheets read")


def run(arguments: Namespace) -> None:
    if arguments.json and arguments.csv:
        raise UsageError("--json and --csv both say how to print: give one of them")
    for option in ("top", "batch"):
        if arguments[option] < 1:
            raise UsageError(f"--{option} {arguments[option]} is impossible: give 1 or more")

    from tqdm import tqdm

    from residua.deploy.engine import engine
    from residua.deploy.predict import predictions
    from residua.net.folder import read_config
    from residua.train.evaluate import model_folder

    folder = model_folder(arguments.model)
    config = read_config(folder)
    picture = pictures(folder, arguments.explain)
    paths: Iterable[Path] = asked(arguments.images, arguments.null)
    if "-" not in arguments.images:
        paths = list(paths)  # so that the time left is known
    show = json_line if arguments.json else csv_rows(arguments.top) if arguments.csv else table_rows(config.classes)
    found = predictions(paths, engine(folder, arguments.engine), config, arguments.batch)
    total = len(paths) if isinstance(paths, list) else None
    count = failed = 0
    for one in tqdm(found, "predict", total=total, unit="image", dynamic_ncols=True, disable=sys.stdout.isatty()):
        count, failed = count + 1, failed + bool(one.error)
        top = [(config.classes[k], p) for k, p in one.top(arguments.top)]
        show(one.path, top, one.error, picture(one, count))
    if not count:
        raise DataError(f"no image in {', '.join(map(printable, arguments.images))}: give image files, or folders of them")
    if failed:
        raise DataError(f"{failed:,} of {count:,} files could not be read")


def asked(images: list[str], null: bool) -> Iterator[Path]:
    """The files that the arguments name, and standard input in place of `-`; those of folders in the order of their names."""
    from residua.deploy.predict import images_in

    for name in images:
        for path in lines(null) if name == "-" else [Path(name)]:
            yield from images_in(path) if path.is_dir() else [path]


def lines(null: bool) -> Iterator[Path]:
    """The paths on standard input, whatever bytes they are of."""
    end, rest = (b"\0" if null else b"\n"), b""
    for line in sys.stdin.buffer:
        *whole, rest = (rest + line).split(end)
        yield from (Path(os.fsdecode(path)) for path in whole if path)
    if rest:
        yield Path(os.fsdecode(rest))


def pictures(folder: Path, out: Path | None) -> "Callable[[Prediction, int], str]":
    """Draws where the network looks at the n-th image into `out`, and says the file; where no `out` is asked for, nothing."""
    if out is None:
        return lambda one, n: ""

    from residua.deploy.explain import Explainer
    from residua.net.folder import from_pretrained, read_config

    explainer = Explainer(from_pretrained(folder), read_config(folder))

    def draw(one: "Prediction", n: int) -> str:
        if one.pixels is None:
            return ""
        path = out / f"{n:05}-{one.path.stem}.png"
        explainer.draw(one.pixels, one.top(1)[0][0], path)
        return str(path)

    return draw


def json_line(path: Path, top: Top, error: str, picture: str) -> None:
    said: dict[str, Json] = {"path": str(path)}
    if error:
        said["error"] = error
    else:
        said |= {"class": top[0][0], "probability": top[0][1], "top": [{"class": name, "probability": p} for name, p in top]}
    print_json(said | ({"explanation": picture} if picture else {}))


def csv_rows(k: int) -> Show:
    """path, class, probability, then those of the next likeliest classes, and the error."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    more = [f"{what}{i}" for i in range(2, k + 1) for what in ("class", "probability")]
    rows.writerow(["path", "class", "probability", *more, "error"])

    def show(path: Path, top: Top, error: str, picture: str) -> None:
        said = [value for pair in top for value in pair]
        rows.writerow([printable(path), *said, *[""] * (2 * k - len(said)), error])

    return show


def table_rows(classes: tuple[str, ...]) -> Show:
    """A line for each image: its classes in columns, the path last, for it may be long."""
    width = min(NAME, max(map(len, classes)))

    def show(path: Path, top: Top, error: str, picture: str) -> None:
        columns = [f"{100 * p:6.2f} % {shortened(name, width):{width}}" for name, p in top]
        print("  ".join([*columns, printable(path)]) if top else f"not read: {printable(path)} {error}")

    return show


def shortened(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def printable(path: str | Path) -> str:
    """A path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
