"""The standard streams of a command, whatever they are connected to and whatever their encoding."""

import os
import sys
from contextlib import suppress

from residua.console.progress import update_bars_rarely_in_logs


def prepare_streams_and_environment() -> None:
    """Prepare the standard streams and the environment of a process that runs a command."""
    make_output_streams_safe()
    update_bars_rarely_in_logs()
    os.environ["MPLBACKEND"] = "agg"  # no figure is shown, and the user's value may be invalid


def make_output_streams_safe() -> None:
    """Make any text printable, and replace closed output streams by ones that discard their text.

    A character that the stream's encoding lacks is printed as an escape such as `\\xe9`.  Closed
    standard input stays None in `sys.stdin`.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            occupy_descriptor(descriptor)
            if name != "stdin":
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def occupy_descriptor(descriptor: int) -> None:
    """Open the null device as `descriptor` if it is free.

    Otherwise the next file to be opened would get this descriptor, and C libraries would print into
    that file.
    """
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def flush_standard_output() -> None:
    """Write out what was printed.  Raises OSError if that fails, e.g. because the disk is full."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def discard_further_output() -> None:
    """Discard what is not written yet to standard output, so that Python does not retry."""
    with suppress(OSError, ValueError, AttributeError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, sys.stdout.fileno())
        os.close(null_device)
