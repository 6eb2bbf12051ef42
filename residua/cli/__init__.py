"""The command line: a module for each command."""

import os
import sys

if (
    not sys.stderr.isatty()
):  # a log gets a line of each bar in ten seconds; tqdm reads this as it is imported
    os.environ.setdefault("TQDM_MININTERVAL", "10")
