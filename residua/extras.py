"""Features that need packages which are not installed with residua itself."""

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
"""For each feature the extra of residua that brings it, and the packages that it needs."""


def find_missing_package(feature: str) -> str:
    """The first package that `feature` needs and that is not installed; "" if all are installed."""
    return next(
        (package for package in EXTRA_PACKAGES[feature][1] if find_spec(package) is None), ""
    )


def require_extra(feature: str) -> None:
    """UsageError, with the command that installs it, if a package is missing for `feature`."""
    if package := find_missing_package(feature):
        extra = EXTRA_PACKAGES[feature][0]
        raise UsageError(
            f"{feature} needs {package.replace('_', '-')}, which is not installed: "
            f"pip install 'residua[{extra}]'"
        )
