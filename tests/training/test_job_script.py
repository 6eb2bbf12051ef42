"""The job script of the page on many GPUs runs, stops at a checkpoint, and is queued again."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from residua.record import RunRecord
from residua.training.checkpoint import list_checkpoints

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "many-gpus.md"
OPTIONS_IN_PAGE = "train photos --model resnet50 --out runs/resnet50 --resume"
OPTIONS = (
    "train digits --model cifar-resnet8 --precision fp32 --steps 20000 --save-every 10m --resume "
    "--out"
)


def read_job_script():
    [script] = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)
    return script


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def find_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_job(folder):
    """Start the script with stand-ins for Slurm's programs, with two processes on digits."""
    script = read_job_script()
    assert OPTIONS_IN_PAGE in script
    script = script.replace(OPTIONS_IN_PAGE, f"{OPTIONS} {folder}/run")
    (folder / "job").write_text(script.replace(":29500", f":{find_free_port()}"))
    programs = folder / "bin"
    programs.mkdir()
    write_program(programs / "srun", 'exec "$@"')
    write_program(
        programs / "scontrol",
        f'if [ "$1" = requeue ]; then echo "$2" >> {folder}/queued; else echo localhost; fi',
    )
    write_program(programs / "torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    with (folder / "stderr").open("w") as stderr:
        return subprocess.Popen(
            ["bash", str(folder / "job")],
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "SLURM_NNODES": "1",
                "SLURM_GPUS_ON_NODE": "2",
                "SLURM_JOB_ID": "77",
                "SLURM_JOB_NODELIST": "localhost",
            },
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def test_the_job_script_is_valid_bash():
    checked = subprocess.run(["bash", "-n"], input=read_job_script(), text=True, check=False)
    assert checked.returncode == 0


def test_a_job_near_its_time_limit_writes_a_checkpoint_and_is_queued_again(tmp_path):
    """Slurm's signal goes to the script alone; the checkpoint is not one that was due anyway."""
    record, deadline = RunRecord(tmp_path / "run"), time.monotonic() + 120
    job = start_job(tmp_path)
    while not record.read_metrics() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.1)
    assert not list_checkpoints(record.checkpoints_folder)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 0, (tmp_path / "stderr").read_text()
    assert (tmp_path / "queued").read_text() == "77\n"
    [checkpoint] = list_checkpoints(record.checkpoints_folder)
    found = re.search(r"stopped at step ([0-9,]+) of 20,000", (tmp_path / "stderr").read_text())
    step = int(found[1].replace(",", ""))
    assert checkpoint.name == f"step-{step:09}.safetensors"
