"""Runs of the command line that stop after some steps, as by Ctrl-C."""

import pytest

from residua.cli.parser import CommandParser
from residua.cli.run_options import make_run_request
from residua.cli.train import add_arguments
from residua.data.sources.resolve import resolve_dataset
from residua.errors import Interrupted
from residua.training.run import train_run
from residua.training.run_request import resolve_run
from tests.training.short_runs import CPU_FP32, ignore_progress, stop_after


def run_interrupted(run_options, photos, out, steps):
    """Train as the command does, until it is stopped after some steps."""
    parser = CommandParser(prog="residua")
    add_arguments(parser)
    request = make_run_request(parser.parse_args([str(photos), *run_options]))
    resolved = resolve_run(request, resolve_dataset(str(photos)), CPU_FP32)
    with pytest.raises(Interrupted):
        train_run(
            resolved.run,
            out,
            CPU_FP32,
            data=resolved.dataset,
            resume=out.exists(),
            on_progress=ignore_progress,
            should_stop=stop_after(steps),
        )
