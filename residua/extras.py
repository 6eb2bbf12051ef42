"""Check for the optional packages that some features of residua need."""

from importlib.util import find_spec

from residua.errors import UsageError

EXTRA_PACKAGES = {
    "onnx": ("export", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": ("openvino", ("openvino",)),
    "Grad-CAM": ("explain", ("captum",)),
    "a parquet table": ("datasets", ("pyarrow",)),
    "a Hugging Face data set": ("datasets", ("datasets",)),
    "a HEIC image": ("heic", ("pillow_heif",)),
    "serve": ("serve", ("starlette", "uvicorn", "python_multipart")),
}
"""Maps each feature to the pip extra that installs it and to the packages that it needs."""


def find_missing_package(feature: str) -> str:
    """Return the first missing package that `feature` needs; "" if all are installed."""
    return next(
        (package for package in EXTRA_PACKAGES[feature][1] if find_spec(package) is None), ""
    )


def require_extra(feature: str) -> None:
    """Raise UsageError if a package that `feature` needs is missing.

    The message contains the command that installs the package.
    """
    if package := find_missing_package(feature):
        extra = EXTRA_PACKAGES[feature][0]
        raise UsageError(
            f"{feature} needs {package.replace('_', '-')}, which is not installed: "
            f"pip install 'residua[{extra}]'"
        )
