"""What runs a model folder: PyTorch, ONNX Runtime or OpenVINO, each from uint8 images to probabilities."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.deploy.inference_module import InferenceModule
from residua.deploy.runners import make_onnx_runner, make_openvino_runner
from residua.deploy.translate import convert_to_openvino, export_onnx_program
from residua.errors import unknown_name_error
from residua.extras import find_missing_package, require_extra
from residua.net.build import ResidualNetwork
from residua.net.fold_bn import fold_batchnorm
from residua.net.model_folder import from_pretrained, read_model_config
from residua.training.evaluate import find_model_folder
from residua.training.machine import cpu_has_bf16

EngineName = Literal["auto", "torch", "onnx", "openvino"]
PROBABILITY_TOLERANCE = 0.1  # our choice: on noise, an engine's probabilities may differ by this much from those of PyTorch in fp32


@dataclass(frozen=True, slots=True)
class InferenceEngine:
    """Images (n, c, h, w) uint8 on the CPU -> probabilities (n, classes) fp32.  To be called by one thread at a time."""

    description: str  # what runs, for people
    config: ModelConfig
    classify: Callable[[Tensor], Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.classify(pixels)


def load_engine(folder: Path, name: EngineName = "auto") -> InferenceEngine:
    """The engine of a run's or a model folder.

    `auto` is the fastest that is installed and holds the accuracy (benchmarks/): on a GPU PyTorch, elsewhere OpenVINO, and PyTorch
    where it is missing.  Each is held against PyTorch in fp32 on two images of noise; where probabilities differ by more than
    HOLDS, the next is taken.  Raises UsageError for an engine that does not exist or is not installed, RecordError for a
    damaged folder.
    """
    if name not in get_args(EngineName):
        raise unknown_name_error("engine", str(name), get_args(EngineName))
    if name in ("onnx", "openvino"):
        require_extra(name)
    folder = find_model_folder(Path(folder))
    config, net = read_model_config(folder), from_pretrained(folder)
    match name:
        case "torch":
            return build_torch_engine(net, config)
        case "onnx":
            return build_onnx_engine(net, config)
        case "openvino":
            return build_openvino_engine(net, config)
    reference = build_torch_engine(net, config, "fp32")
    for candidate in build_engines_by_speed(net, config):
        if max_probability_difference(candidate, reference) <= PROBABILITY_TOLERANCE:
            return candidate
    return reference


def build_engines_by_speed(net: nn.Module, config: ModelConfig) -> Iterator[InferenceEngine]:
    """The engines that there are here, the fastest first."""
    if not torch.cuda.is_available() and not find_missing_package("openvino"):
        with suppress(Exception):  # by whatever its translator fails: PyTorch runs every network
            yield build_openvino_engine(net, config)
    yield build_torch_engine(net, config)


def max_probability_difference(first: InferenceEngine, second: InferenceEngine) -> float:
    """Between the probabilities of two engines, at most, on two images of noise."""
    shape = first.config.input
    pixels = torch.randint(
        256, (2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return (first(pixels) - second(pixels)).abs().max().item()


def build_torch_engine(
    net: nn.Module, config: ModelConfig, precision: Literal["auto", "fp32"] = "auto"
) -> InferenceEngine:
    """PyTorch, on the GPU where there is one: BN folded, channels-last, bf16 weights but for the head where bf16 is native."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_native_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else cpu_has_bf16()
    )
    uses_bf16 = (
        precision == "auto" and has_native_bf16 and isinstance(net, ResidualNetwork)
    )  # near a border of VLAD bf16 takes another word
    net = fold_batchnorm(net).requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(net, ResidualNetwork) and uses_bf16:
        net = net.to(torch.bfloat16)
        net.head = Fp32Head(net.head)  # type: ignore[assignment]
    dtype = torch.bfloat16 if uses_bf16 else torch.float32

    def classify(pixels: Tensor) -> Tensor:
        x = normalise_pixels(pixels.to(device), config.mean, config.std).to(dtype)
        scores: Tensor = net(x)
        return torch.softmax(scores.float() / config.temperature, 1).cpu()

    device_words = " on the GPU" if device.type == "cuda" else ""
    return InferenceEngine(
        f"torch {'bf16' if uses_bf16 else 'fp32'}, folded BN{device_words}", config, classify
    )


class Fp32Head(nn.Module):
    """A head in fp32 behind units in bf16: scores of 20 would be an eighth apart in bf16."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head.float()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.float())
        return scores


def build_onnx_engine(net: nn.Module, config: ModelConfig) -> InferenceEngine:
    """ONNX Runtime in fp32."""
    program = export_onnx_program(InferenceModule(net, config, bake_preprocessing=True))
    run_onnx = make_onnx_runner(program.model_proto.SerializeToString())
    return InferenceEngine("onnx fp32", config, lambda pixels: run_onnx(pixels)[1])


def build_openvino_engine(
    net: nn.Module, config: ModelConfig, precision: Literal["auto", "fp32"] = "auto"
) -> InferenceEngine:
    """OpenVINO on the CPU, in bf16 where it is native."""
    uses_bf16 = precision == "auto" and cpu_has_bf16() and isinstance(net, ResidualNetwork)
    run_openvino = make_openvino_runner(
        convert_to_openvino(InferenceModule(net, config, bake_preprocessing=True)),
        "bf16" if uses_bf16 else "f32",
    )
    return InferenceEngine(
        f"openvino {'bf16' if uses_bf16 else 'fp32'}",
        config,
        lambda pixels: run_openvino(pixels)[1],
    )
