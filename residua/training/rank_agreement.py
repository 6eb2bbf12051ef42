"""Check that all ranks of a distributed run train the same on the same data, with the same code.

Ranks that differ would not notice: each would compute its own gradients, the average of which
belongs to no run, or would wait for collective operations that the others never call.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from socket import gethostname

import torch

from residua.config.dataset import Dataset
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.checksums import compute_sha256
from residua.data.photo_records import RecordSettings
from residua.data.sources.resolve import PhotoDataset
from residua.errors import RankStoppedError, UsageError
from residua.record import RunRecord, describe_first_difference
from residua.training.distributed import DataParallelGroup
from residua.training.machine import Machine
from residua.version import __version__

RankFacts = dict[str, Json]

# Until ranks must see the run of rank 0; NFS may hide a new file from other machines for a minute.
OWN_DISK_SECONDS, SHARED_DISK_SECONDS = 2.0, 75.0
SAME_OPTIONS = "start all ranks with the same options"
REMEDIES = {
    "residua": "install the same version on all machines",
    "torch": "install the same version on all machines",
    "code": "install the same code on all machines",
    "device": "start all ranks on devices of one kind",
    "precision": "give all ranks the same --precision",
    "recompute": "give all ranks the same --recompute",
    "decoding": "give all ranks the same --storage, and install the same version of Pillow",
    "classes": "give all ranks the same images",
    "images": "give all ranks the same images",
}


def require_equal_ranks(machine: Machine, collect_facts: Callable[[], RankFacts]) -> None:
    """Check that all ranks run the same computation; with one process, do nothing.

    `collect_facts` returns what must be equal: the command, the run, fingerprints of the images.
    The versions, the code and the machine's settings are also compared.  All ranks must call
    this function.  A rank whose facts are not those of rank 0 raises UsageError, which names the
    first difference; the others raise RankStoppedError, which names the first such rank.
    """
    group = machine.group
    if group.world_size == 1:
        return
    facts_by_rank = group.gather_from_all_ranks(collect_software_facts(machine) | collect_facts())
    reference, own_facts = facts_by_rank[0], facts_by_rank[group.rank]
    if own_facts != reference:
        raise UsageError(explain_difference(reference, own_facts, group.rank))
    for rank, facts in enumerate(facts_by_rank):
        if facts != reference:
            raise RankStoppedError(
                f"rank {rank} stopped: {explain_difference(reference, facts, rank)}"
            )


def require_shared_folder(record: RunRecord, group: DataParallelGroup) -> None:
    """Check that all ranks see the run that rank 0 has begun; with one process, do nothing.

    All ranks must call this function.  A rank that does not see it in time raises UsageError, and
    the others raise RankStoppedError.
    """
    if group.world_size == 1:
        return
    wanted = group.broadcast_from_rank0(lambda: try_hash_file(record.run_json_path))
    is_one_machine = len(set(group.gather_from_all_ranks(gethostname()))) == 1
    patience = OWN_DISK_SECONDS if is_one_machine else SHARED_DISK_SECONDS
    deadline = time.monotonic() + patience
    while not (sees_run := try_hash_file(record.run_json_path) == wanted):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    ranks = group.gather_from_all_ranks((str(record.folder), sees_run))
    for rank, (folder, sees) in enumerate(ranks):
        if not sees:
            sentence = (
                f"rank {rank} does not see the run of rank 0, which is in {ranks[0][0]}, in its "
                f"folder {folder}: give all ranks the same --out, on a disk that they share"
            )
            if rank == group.rank:
                raise UsageError(sentence)
            raise RankStoppedError(f"rank {rank} stopped: {sentence}")


def try_hash_file(path: Path) -> str:
    """Return the SHA-256 sum of a file; "" if it cannot be read."""
    try:
        return compute_sha256(path.read_bytes())
    except OSError:
        return ""


def describe_run_on_rank(run: Run, data: Dataset, image_fingerprints: list[str]) -> RankFacts:
    """Return the facts about a run, including image fingerprints, that all ranks must agree on.

    The path of photographs is left out, because machines may keep them in different places.  Of
    whole photographs, what decides their pixels is a fact too, as their fingerprint is not of it.
    """
    run_json = run.json
    assert isinstance(run_json, dict)
    if data.kind == "folder":
        run_json = {name: value for name, value in run_json.items() if name != "dataset"}
    facts: RankFacts = {
        "size of images": [*data.input, data.resize],
        "classes": list(data.classes),
        "images": [*image_fingerprints],
        "run": run_json,
    }
    if isinstance(data, PhotoDataset) and data.is_streamed:
        facts["decoding"] = RecordSettings.of_dataset(data).describe()
    return facts


def collect_software_facts(machine: Machine) -> RankFacts:
    """Describe the versions, the code and the settings that decide what a rank computes."""
    return {
        "residua": __version__,
        "torch": torch.__version__,
        "code": hash_source_code(),
        "device": machine.device.type,
        "precision": machine.precision,
        "recompute": machine.recompute,
    }


def hash_source_code() -> str:
    """Hash this package's source files, which may differ while the version is the same."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.c")]):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def explain_difference(reference: RankFacts, facts: RankFacts, rank: int) -> str:
    """Say where the facts of `rank` first differ from those of rank 0, and what to do."""
    name = next(name for name in [*reference, *facts] if reference.get(name) != facts.get(name))
    remedy = REMEDIES.get(name, SAME_OPTIONS)
    if name == "code":
        return f"the source code of residua in rank {rank} is not that in rank 0: {remedy}"
    if name in ("images", "classes"):
        return f"the {name} of rank {rank} are not those of rank 0: {remedy}"
    difference = describe_first_difference(
        reference.get(name),
        facts.get(name),
        "" if isinstance(reference.get(name), dict) else name,
        places=("in rank 0", f"in rank {rank}"),
    )
    return f"{difference}: {remedy}"
