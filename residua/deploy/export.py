"""A model folder -> one file for other programs, held against PyTorch before it is put in place."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
from torch import Tensor

from residua.data.augment import normalise
from residua.deploy.graph import Graph
from residua.deploy.int8 import cost, samples, write_int8
from residua.deploy.runners import Runs, onnx_runner, openvino_runner
from residua.deploy.translate import OPSET, exported, onnx_program, openvino_model, quiet
from residua.errors import RecordError, UsageError, unknown
from residua.extras import require
from residua.files import written_aside
from residua.net.folder import from_pretrained, read_config
from residua.spec.model import ModelConfig
from residua.spec.text import Json
from residua.train.evaluate import model_folder

Format = Literal["onnx", "openvino", "torch-export"]
ALLOWED = 1e-4  # of the difference to PyTorch: of probabilities, and of scores in shares of the largest, or of 1
BATCHES = (1, 5)  # sizes that the file is tried at; an example of 2 is what it is made from
META = "residua"  # the section of metadata, where a format has sections


@dataclass(frozen=True, slots=True)
class Difference:
    """Between a file's outputs and PyTorch's in fp32, at most."""

    scores: float
    probabilities: float
    largest: float  # score, without its sign

    @property
    def holds(self) -> bool:
        return self.scores <= ALLOWED * max(1.0, self.largest) and self.probabilities <= ALLOWED


def export(
    folder: Path, to: Format, out: Path, *, bakes: bool = False, images: str = "", data_dir: Path | None = None
) -> dict[str, Json]:
    """Write `out`, an ONNX file, a folder of OpenVINO's two files, or a `torch.export` archive; says what was found.

    It takes any number of images and gives scores and probabilities, in evaluation mode; with `bakes` it takes uint8 images
    and normalises them itself.  Its metadata are those of `metadata`.  With `images`, a folder or a data set, it is of int8, and
    what that costs is said, instead of a difference that is held against ALLOWED.  Raises UsageError for a format that does not
    exist, is not installed, or an `out` that does; RecordError for a damaged folder, and where its outputs are not PyTorch's.
    """
    ready(to, out, bool(images))
    folder = model_folder(folder)
    config = read_config(folder)
    graph = Graph(from_pretrained(folder), config, bakes=bakes)
    facts: dict[str, Json] = {
        "file": str(out), "format": to, **({"opset": OPSET} if to == "onnx" else {}), "model": config.network.name,
        "classes": len(config.classes), "takes": takes(graph),
    }  # fmt: skip
    if images:
        real = samples(images, config, data_dir)
        with written_aside(out) as aside:
            write_quantised(graph, to, aside, config, real.calibrating)
            run = runner(to, aside)
            costs = cost(lambda batch: graph(batch)[0], lambda batch: run(batch)[0], graph, config, real)
        return facts | costs
    with written_aside(out) as aside:
        write(graph, to, aside, metadata(config, graph))
        found = compared(runner(to, aside), graph, config, folder)
        if not found.holds:
            raise RecordError(
                f"{out} was not written: its probabilities differ from PyTorch's by {found.probabilities:.1e}, "
                f"its scores by {found.scores:.1e}"
            )
    return facts | {
        "difference": found.probabilities, "score_difference": found.scores, "largest_score": found.largest,
        "batches": list(BATCHES),
    }  # fmt: skip


def ready(to: str, out: Path, quantises: bool) -> None:
    """UsageError where a format cannot be written, or `out` stands already."""
    if to not in get_args(Format):
        raise unknown("format", to, get_args(Format))
    if quantises and to == "torch-export":
        raise UsageError("int8 is for onnx and openvino: leave --int8 out, or choose --to onnx")
    if to != "torch-export":
        require(to)
    if quantises:
        require("onnx")
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")


def takes(graph: Graph) -> str:
    """The input in words."""
    return f"{graph.takes}: (batch, {', '.join(map(str, graph.shape))}) {'uint8' if graph.bakes else 'fp32, normalised'}"


def metadata(config: ModelConfig, graph: Graph) -> dict[str, str]:
    """What travels in the file: strings, JSON where they are not words."""
    height, width = config.input[1:]
    resize = (
        f"the shorter side to {config.resize}, then the middle {height} x {width}" if config.resize else f"to {height} x {width}"
    )
    return {
        "model": config.network.name,
        "classes": json.dumps(config.classes),
        "input": json.dumps(config.input),
        "takes": takes(graph),
        "mean": json.dumps(config.mean),
        "std": json.dumps(config.std),
        "resize": json.dumps(config.resize),
        "interpolation": config.interpolation,
        "temperature": json.dumps(config.temperature),
        "preprocessing": f"RGB, resized ({config.interpolation}, without aliasing) {resize}"
        + ("" if graph.bakes else "; then (pixels / 255 - mean) / std, channel by channel"),
        "residua": version("residua"),
    }


def write(graph: Graph, to: Format, path: Path, meta: dict[str, str]) -> None:
    """The graph with its metadata; RecordError where the libraries cannot write."""
    match to:
        case "onnx":
            program = onnx_program(graph)
            program.model.metadata_props.update(meta)
            path.write_bytes(program.model_proto.SerializeToString())
        case "torch-export":
            archive = BytesIO()
            with quiet():
                torch.export.save(exported(graph), archive, extra_files={f"{META}.json": json.dumps(meta)})
            path.write_bytes(archive.getvalue())
        case "openvino":
            write_openvino(openvino_model(graph), path, meta)


def write_quantised(graph: Graph, to: Format, path: Path, config: ModelConfig, calibrating: Tensor) -> None:
    """The graph in int8, with its metadata; OpenVINO reads what ONNX Runtime has quantised."""
    import onnx

    meta = {**metadata(config, graph), "precision": f"int8, calibrated on {len(calibrating)} images"}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        write_int8(graph, config, calibrating, file)
        if to == "openvino":
            import openvino  # type: ignore[import-untyped]

            write_openvino(openvino.Core().read_model(file), path, meta)
            return
        model = onnx.load(file)
    onnx.helper.set_model_props(model, meta)
    path.write_bytes(model.SerializeToString())


def write_openvino(model: object, path: Path, meta: dict[str, str]) -> None:
    """A folder of model.xml and model.bin."""
    import openvino

    path.mkdir()
    for name, text in meta.items():
        model.set_rt_info(text, [META, name])  # type: ignore[attr-defined]
    try:
        openvino.save_model(model, path / "model.xml", compress_to_fp16=False)
    except RuntimeError as error:  # a full disk
        raise RecordError(f"no model was written: {str(error).splitlines()[-1]}") from error


def runner(to: Format, path: Path) -> Runs:
    """What runs a written file by its own library, in fp32."""
    match to:
        case "onnx":
            return onnx_runner(path.read_bytes())
        case "openvino":
            return openvino_runner(path / "model.xml")
    with quiet():
        module = torch.export.load(BytesIO(path.read_bytes())).module()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, probabilities = module(images)
        return scores, probabilities

    return run


@torch.inference_mode()
def compared(run: Runs, graph: Graph, config: ModelConfig, folder: Path) -> Difference:
    """A file against the network of the model folder, not folded, on images of noise in batches of BATCHES."""
    net, found = from_pretrained(folder), Difference(0.0, 0.0, 0.0)
    for count in BATCHES:
        pixels = torch.randint(256, (count, *graph.shape), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
        images = normalise(pixels, config.mean, config.std)
        expected = net(images)
        scores, probabilities = run(pixels if graph.bakes else images)
        found = Difference(
            max(found.scores, furthest(scores - expected)),
            max(found.probabilities, furthest(probabilities - torch.softmax(expected / config.temperature, 1))),
            max(found.largest, furthest(expected)),
        )
    return found


def furthest(x: Tensor) -> float:
    """From 0."""
    return x.abs().max().item()
