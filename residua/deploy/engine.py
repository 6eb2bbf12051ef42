"""What runs a model folder: PyTorch, ONNX Runtime or OpenVINO, each from uint8 images to probabilities."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from residua.data.augment import normalise
from residua.deploy.graph import Graph
from residua.deploy.runners import onnx_runner, openvino_runner
from residua.deploy.translate import onnx_program, openvino_model
from residua.errors import unknown
from residua.extras import absent, require
from residua.net.build import ResidualNetwork
from residua.net.folder import from_pretrained, read_config
from residua.net.fuse import folded
from residua.spec.model import ModelConfig
from residua.train.evaluate import model_folder
from residua.train.machine import cpu_has_bf16

Name = Literal["auto", "torch", "onnx", "openvino"]
HOLDS = 0.1  # our choice: on noise, an engine's probabilities may differ by this much from those of PyTorch in fp32


@dataclass(frozen=True, slots=True)
class Engine:
    """Images (n, c, h, w) uint8 on the CPU -> probabilities (n, classes) fp32.  To be called by one thread at a time."""

    name: str  # what runs, for people
    config: ModelConfig
    run: Callable[[Tensor], Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.run(pixels)


def engine(folder: Path, name: Name = "auto") -> Engine:
    """The engine of a run's or a model folder.

    `auto` is the fastest that is installed and holds the accuracy (benchmarks/): on a GPU PyTorch, elsewhere OpenVINO, and PyTorch
    where it is missing.  Each is held against PyTorch in fp32 on two images of noise; where probabilities differ by more than
    HOLDS, the next is taken.  Raises UsageError for an engine that does not exist or is not installed, RecordError for a
    damaged folder.
    """
    if name not in get_args(Name):
        raise unknown("engine", str(name), get_args(Name))
    if name in ("onnx", "openvino"):
        require(name)
    folder = model_folder(Path(folder))
    config, net = read_config(folder), from_pretrained(folder)
    match name:
        case "torch":
            return torch_engine(net, config)
        case "onnx":
            return onnx_engine(net, config)
        case "openvino":
            return openvino_engine(net, config)
    plain = torch_engine(net, config, "fp32")
    for fast in fastest(net, config):
        if difference(fast, plain) <= HOLDS:
            return fast
    return plain


def fastest(net: nn.Module, config: ModelConfig) -> Iterator[Engine]:
    """The engines that there are here, the fastest first."""
    if not torch.cuda.is_available() and not absent("openvino"):
        with suppress(Exception):  # by whatever its translator fails: PyTorch runs every network
            yield openvino_engine(net, config)
    yield torch_engine(net, config)


def difference(one: Engine, other: Engine) -> float:
    """Between the probabilities of two engines, at most, on two images of noise."""
    shape = one.config.input
    pixels = torch.randint(256, (2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return (one(pixels) - other(pixels)).abs().max().item()


def torch_engine(net: nn.Module, config: ModelConfig, precision: Literal["auto", "fp32"] = "auto") -> Engine:
    """PyTorch, on the GPU where there is one: BN folded, channels-last, bf16 weights but for the head where bf16 is native."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    halves = precision == "auto" and native and isinstance(net, ResidualNetwork)  # near a border of VLAD bf16 takes another word
    net = folded(net).requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(net, ResidualNetwork) and halves:
        net = net.to(torch.bfloat16)
        net.head = Full(net.head)  # type: ignore[assignment]
    dtype = torch.bfloat16 if halves else torch.float32

    def run(pixels: Tensor) -> Tensor:
        x = normalise(pixels.to(device), config.mean, config.std).to(dtype)
        scores: Tensor = net(x)
        return torch.softmax(scores.float() / config.temperature, 1).cpu()

    where = " on the GPU" if device.type == "cuda" else ""
    return Engine(f"torch {'bf16' if halves else 'fp32'}, folded BN{where}", config, run)


class Full(nn.Module):
    """A head in fp32 behind units in bf16: scores of 20 would be an eighth apart in bf16."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head.float()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.float())
        return scores


def onnx_engine(net: nn.Module, config: ModelConfig) -> Engine:
    """ONNX Runtime in fp32."""
    program = onnx_program(Graph(net, config, bakes=True))
    run = onnx_runner(program.model_proto.SerializeToString())
    return Engine("onnx fp32", config, lambda pixels: run(pixels)[1])


def openvino_engine(net: nn.Module, config: ModelConfig, precision: Literal["auto", "fp32"] = "auto") -> Engine:
    """OpenVINO on the CPU, in bf16 where it is native."""
    halves = precision == "auto" and cpu_has_bf16() and isinstance(net, ResidualNetwork)
    run = openvino_runner(openvino_model(Graph(net, config, bakes=True)), "bf16" if halves else "f32")
    return Engine(f"openvino {'bf16' if halves else 'fp32'}", config, lambda pixels: run(pixels)[1])
