"""Report an error that residua did not foresee: one sentence, and a file with the traceback."""

import os
import sys
import tempfile
import traceback

from residua.version import __version__

UNEXPECTED_ERROR = "unexpected error"  # begins the sentence; tests search for it
MAX_REASON_LENGTH = 200


def save_traceback_and_describe(error: Exception) -> str:
    """Write the traceback to a new file in the temporary folder; return a sentence that names it.

    If the memory was used up, the sentence says so instead, and no file is written.
    """
    if is_out_of_memory(error):
        return "the memory is used up: use a smaller batch, smaller images or a smaller network"
    lines = str(error).strip().splitlines() or ["without a message"]
    reason = f"{type(error).__name__}: {lines[0][:MAX_REASON_LENGTH]}"
    try:
        file = write_traceback_file(error)
    except OSError:  # no space
        last_call = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last_call.filename}, line {last_call.lineno}"
        return f"{UNEXPECTED_ERROR} in {place} ({reason}): please report it"
    return f"{UNEXPECTED_ERROR} ({reason}): please report it with the file {file}"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether Python, PyTorch on a CPU or PyTorch on a GPU could not allocate memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "can't allocate memory" in text)
    )


def write_traceback_file(error: Exception) -> str:
    """Write the command, the versions and the traceback to a new file; return its path."""
    descriptor, path = tempfile.mkstemp(prefix="residua-error-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"command: {sys.argv}\n")
        file.write(f"residua {__version__}, Python {sys.version} on {sys.platform}\n\n")
        traceback.print_exception(error, file=file)
    return path
