"""Inference engines that map uint8 images to probabilities: PyTorch, ONNX Runtime and OpenVINO."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.image_views import compute_probabilities
from residua.deploy.export_check import largest_difference
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.runners import make_onnx_runner, make_openvino_runner
from residua.deploy.translate import convert_to_openvino, export_onnx_program
from residua.errors import unknown_name_error
from residua.extras import list_missing_packages, require_extra
from residua.net.build import ResidualNetwork
from residua.net.fold_bn import fold_batchnorm
from residua.net.native_bf16 import device_has_bf16

EngineName = Literal["auto", "torch", "onnx", "openvino"]
EnginePrecision = Literal["auto", "fp32"]  # auto: bf16 if the device has it and the network allows

FEW_IMAGES = 100  # of resnet50: PyTorch in fp32 classifies them while OpenVINO compiles it
PROBABILITY_TOLERANCE = 0.1
"""The largest difference of a probability from PyTorch in fp32 that `auto` accepts; our choice.

The difference is measured on noise images.
"""


@dataclass(frozen=True, slots=True)
class InferenceEngine:
    """Maps images (n, c, h, w) uint8 on the CPU to probabilities (n, classes) fp32 on the CPU.

    An engine is not thread-safe: only one thread may call it at a time.
    """

    description: str  # library and precision in words, e.g. "onnx fp32"
    config: ModelConfig
    score: Callable[[Tensor], Tensor]  # maps images to class scores (n, classes)

    def __call__(self, pixels: Tensor) -> Tensor:
        return compute_probabilities(self.compute_scores(pixels), self.config.temperature)

    def compute_scores(self, pixels: Tensor) -> Tensor:
        """Compute the class scores (n, classes) fp32 of images, before temperature and softmax."""
        with torch.inference_mode():
            return self.score(pixels).float()


def build_engine(
    net: nn.Module,
    config: ModelConfig,
    name: EngineName = "auto",
    image_count: int | None = None,
) -> InferenceEngine:
    """Build the engine `name` from a copy of the network.

    `image_count` is the number of images to be classified, if it is known.  For at most
    `FEW_IMAGES`, `auto` takes PyTorch in fp32, because building and comparing other engines would
    take longer.  Otherwise `auto` tries the installed engines, fastest first (see
    benchmarks/inference.py): PyTorch on a GPU; without a GPU, OpenVINO and then PyTorch.  It takes
    the first engine whose probabilities on two noise images differ from those of PyTorch in fp32 by
    at most `PROBABILITY_TOLERANCE`.  If there is none, it takes PyTorch in fp32.  Raises UsageError
    for an unknown engine or one that is not installed.
    """
    if name not in get_args(EngineName):
        raise unknown_name_error("engine", str(name), get_args(EngineName))
    if name in ("onnx", "openvino"):
        require_extra(name)
    match name:
        case "torch":
            return build_torch_engine(net, config)
        case "onnx":
            return build_onnx_engine(net, config)
        case "openvino":
            return build_openvino_engine(net, config)
    reference = build_torch_engine(net, config, "fp32")
    if image_count is not None and image_count <= FEW_IMAGES:
        return reference
    for candidate in build_engines_by_speed(net, config):
        if max_probability_difference(candidate, reference) <= PROBABILITY_TOLERANCE:
            return candidate
    return reference


def build_engines_by_speed(net: nn.Module, config: ModelConfig) -> Iterator[InferenceEngine]:
    """Yield the engines that `auto` may take on this machine, fastest first."""
    if not torch.cuda.is_available() and not list_missing_packages("openvino"):
        # A network that OpenVINO's converter rejects still runs in PyTorch; the converter raises
        # exceptions of many types.
        with suppress(Exception):
            yield build_openvino_engine(net, config)
    yield build_torch_engine(net, config)


def max_probability_difference(first: InferenceEngine, second: InferenceEngine) -> float:
    """Return the largest difference of the probabilities of two engines on two noise images.

    It is infinite if a probability is not finite.
    """
    pixels = torch.randint(
        256,
        (2, *first.config.input),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    return largest_difference(first(pixels), second(pixels))


def should_use_bf16(net: nn.Module, device: torch.device, precision: EnginePrecision) -> bool:
    """Return whether a network should compute in bf16 on `device`, given the requested precision.

    A VLAD model always computes in fp32.  In bf16, rounding could assign a descriptor close to the
    border between two visual words to the wrong word.
    """
    return precision == "auto" and isinstance(net, ResidualNetwork) and device_has_bf16(device)


def build_torch_engine(
    net: nn.Module, config: ModelConfig, precision: EnginePrecision = "auto"
) -> InferenceEngine:
    """Build an engine that runs PyTorch on the GPU, or on the CPU if there is no GPU.

    Each BN that follows a weight layer is folded into it, and tensors are channels-last.  bf16 is
    used if the hardware supports it natively; the head then stays in fp32 (`Fp32Head`).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    uses_bf16 = should_use_bf16(net, device, precision)
    net = fold_batchnorm(net).requires_grad_(False)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(net, ResidualNetwork) and uses_bf16:
        net = net.to(torch.bfloat16)
        net.head = Fp32Head(net.head)  # type: ignore[assignment]
    dtype = torch.bfloat16 if uses_bf16 else torch.float32

    def score(pixels: Tensor) -> Tensor:
        x = normalise_pixels(pixels.to(device), config.mean, config.std).to(dtype)
        scores: Tensor = net(x)
        return scores.float().cpu()

    precision_word = "bf16" if uses_bf16 else "fp32"
    device_words = " on the GPU" if device.type == "cuda" else ""
    return InferenceEngine(f"torch {precision_word}, folded BN{device_words}", config, score)


class Fp32Head(nn.Module):
    """Wraps a head so that it computes in fp32 while the units before it compute in bf16.

    bf16 has 8 significant bits, so scores around 20 would be rounded to multiples of 1/8.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head.float()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.float())
        return scores


def build_onnx_engine(net: nn.Module, config: ModelConfig) -> InferenceEngine:
    """Build an engine that runs ONNX Runtime on the CPU, in fp32."""
    program = export_onnx_program(ExportableClassifier(net, config, bake_preprocessing=True))
    run_onnx = make_onnx_runner(program.model_proto.SerializeToString())
    return InferenceEngine("onnx fp32", config, lambda pixels: run_onnx(pixels)[0])


def build_openvino_engine(
    net: nn.Module, config: ModelConfig, precision: EnginePrecision = "auto"
) -> InferenceEngine:
    """Build an engine that runs OpenVINO on the CPU, in bf16 if the CPU supports it natively."""
    uses_bf16 = should_use_bf16(net, torch.device("cpu"), precision)
    model = convert_to_openvino(ExportableClassifier(net, config, bake_preprocessing=True))
    run_openvino = make_openvino_runner(model, "bf16" if uses_bf16 else "f32")
    return InferenceEngine(
        f"openvino {'bf16' if uses_bf16 else 'fp32'}",
        config,
        lambda pixels: run_openvino(pixels)[0],
    )
