"""What is not installed with residua itself, and by which extra it comes."""

from importlib.util import find_spec

from residua.errors import UsageError

EXTRA_PACKAGES = {
    "onnx": ("export", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("openvino", ("openvino",)),
    "Grad-CAM": ("explain", ("captum",)),
    "a parquet table": ("datasets", ("pyarrow",)),
    "a Hugging Face data set": ("datasets", ("datasets",)),
    "serve": ("serve", ("starlette", "uvicorn", "python_multipart")),
}
"""The extra of residua, and the packages that must be there."""


def find_missing_package(feature: str) -> str:
    """The first package that `what` needs and this Python does not have; empty where it has them all."""
    return next(
        (package for package in EXTRA_PACKAGES[feature][1] if find_spec(package) is None), ""
    )


def require_extra(feature: str) -> None:
    """UsageError where a package is missing, with the command that brings it."""
    if package := find_missing_package(feature):
        raise UsageError(
            f"{feature} needs {package.replace('_', '-')}, which is not installed: pip install 'residua[{EXTRA_PACKAGES[feature][0]}]'"
        )
