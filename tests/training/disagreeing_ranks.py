"""The program that test_rank_agreement.py starts once per rank, by hand, without torchrun.

disagreeing_ranks.py RANK WORLD_SIZE CASES    run the cases of a JSON file one after the other

A case is {"name", "port", "arguments": one list per rank, "versions": {rank: {package: version}},
"kill": [rank, step], "environment": more variables}.  Each rank writes NAME.RANK.json next to
CASES: exit code, standard error, and the time at which it ended.
"""

import io
import json
import os
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch

from residua.cli.main import exit_skipping_rank_cleanup, main
from residua.training import rank_agreement
from residua.training.progress import TrainingProgress


def run_case(case, rank, world_size):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(case["port"]),
    }
    environment = case.get("environment", {})
    versions = case.get("versions", {}).get(str(rank), {})
    version, add_step = rank_agreement.__version__, TrainingProgress.add_step

    def add_step_or_die(progress, loss, wrong):
        add_step(progress, loss, wrong)
        if case.get("kill") == [rank, progress.step]:
            os.kill(os.getpid(), signal.SIGKILL)

    errors = io.StringIO()
    with (
        patch.object(rank_agreement, "__version__", versions.get("residua", version)),
        patch.object(torch, "__version__", versions.get("torch", torch.__version__)),
        patch.object(TrainingProgress, "add_step", add_step_or_die),
        patch.dict(os.environ, environment),
        redirect_stderr(errors),
        redirect_stdout(io.StringIO()),
    ):
        try:
            code = main(case["arguments"][rank])
        except SystemExit as error:
            code = error.code
    return {"code": code, "stderr": errors.getvalue(), "ended": time.time()}


if __name__ == "__main__":
    rank, world_size, cases_path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    for case in json.loads(cases_path.read_text()):
        if rank < len(case["arguments"]):
            outcome = run_case(case, rank, len(case["arguments"]))
            path = cases_path.with_name(f"{case['name']}.{rank}.json")
            path.write_text(json.dumps(outcome))
    exit_skipping_rank_cleanup(0)
