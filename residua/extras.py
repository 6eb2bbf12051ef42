"""Check for the optional packages that some features of residua need."""

from importlib.util import find_spec

from residua.errors import UsageError

EXTRA_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "Grad-CAM": ("captum",),
    "a parquet table": ("pyarrow",),
    "a Hugging Face data set": ("datasets",),
    "a remote data set": ("fsspec",),
    "a HEIC image": ("pillow_heif",),
    "push": ("huggingface_hub",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "an ONNX file": ("onnx",),
    "a Keras file": ("h5py",),
    "a Flax file": ("msgpack",),
    "serve": ("starlette", "uvicorn", "python_multipart"),
}
"""Maps each feature to the packages that it needs, which an extra in pyproject.toml installs."""


def list_missing_packages(feature: str) -> list[str]:
    """Return the names, as pip knows them, of the missing packages that `feature` needs."""
    return [
        package.replace("_", "-")
        for package in EXTRA_PACKAGES[feature]
        if find_spec(package) is None
    ]


def require_extra(feature: str) -> None:
    """Raise UsageError if a package that `feature` needs is missing.

    The message contains the command that installs the missing packages.  It names them and not the
    extra of residua: pip would look for residua itself where it is not installed, in a package
    index that has no residua.
    """
    missing = list_missing_packages(feature)
    if feature in missing:
        raise UsageError(f"{feature} is not installed: pip install {' '.join(missing)}")
    if missing:
        raise UsageError(
            f"{feature} needs {missing[0]}, which is not installed: pip install {' '.join(missing)}"
        )
