"""Commands that write, each with a reader of what a kill may leave.

`prepare(folder)` makes the state before the command, `act(folder)` runs the command, and
`read_state(folder)` reads what it writes as another command would, and returns a value that tells
the old from the new state.  It fails if anything half-written is read.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from hashlib import md5
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

import residua
from residua.config.dataset import DataFile, DownloadArchive, get_dataset
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.published_weights import PublishedWeights
from residua.data.digest_index import get_index
from residua.data.image_cache import decode_to_cache, hash_listing, load_cached_images
from residua.data.pack import pack_dataset
from residua.data.pack_plan import PackOptions
from residua.data.photo_cache import decode_photos_to_cache, load_cached_photos
from residua.data.photo_records import RecordSettings
from residua.data.sources.download import find_or_download, list_missing_files
from residua.data.sources.image_folder import list_image_folder
from residua.data.sources.resolve import list_image_dataset
from residua.deploy import export
from residua.deploy.export_check import OutputDifference
from residua.deploy.sort_images import open_image_sorter
from residua.errors import DataError, UsageError
from residua.files import claim_new_output, holds_visible_entries, write_json
from residua.net.convert.state_dict import write_state_dict
from residua.net.convert.weights import convert_to_project
from residua.net.model_folder import (
    compute_file_sha256,
    read_model_config,
    replace_model_config,
    save_pretrained,
)
from residua.net.published_model import fetch_model_folder, find_fetched_model
from residua.record import RunRecord
from residua.report import figures, study
from residua.report.runs import read_study_runs
from residua.study_records import pack_runs
from residua.training.checkpoint import load_newest_and_delete_damaged, write_checkpoint
from tests.report.fake_records import write_study_records


def do_nothing(folder):
    pass


@dataclass(frozen=True)
class Scenario:
    name: str
    act: Callable[[Path], object]
    read_state: Callable[[Path], Any]
    prepare: Callable[[Path], object] = do_nothing
    between: tuple[object, ...] | None = ()  # other states that a kill may leave; None: any
    is_done_once: bool = (
        False  # whether the command, repeated, finds its work done and takes no lock
    )


# One JSON file.


def write_new_json(folder):
    write_json(folder / "a.json", ["new"] * 100)


def read_new_json(folder):
    return json.loads((folder / "a.json").read_text())[0]


# Model folders.


@cache
def make_model(seed):
    net = residua.create_model("cifar-resnet8", num_classes=3, input=(1, 8, 8), seed=seed)
    config = ModelConfig(
        network=net.plan.network, classes=("a", "b", "c"), mean=(0.5,), std=(0.25,), dataset="d"
    )
    return net, config


def save_old_model(folder):
    save_pretrained(*make_model(0), folder / "m")


def save_new_model(folder):
    save_pretrained(*make_model(1), folder / "m")


def read_model(folder):
    """The checksum of the weights in the model folder, and its temperature."""
    config = read_model_config(folder / "m")
    assert compute_file_sha256(folder / "m" / "model.safetensors") == config.weights
    assert (folder / "m" / "README.md").exists()
    return config.weights, config.temperature


def change_temperature(folder):
    config = read_model_config(folder / "m")
    replace_model_config(folder / "m", replace(config, temperature=2.0))


def convert_new_model(folder):
    with suppress(UsageError), claim_new_output(folder / "m"):  # as `residua convert`
        save_new_model(folder)


def read_model_or_nothing(folder):
    return read_model(folder) if (folder / "m").exists() else None


# Checkpoints and metrics of a run.


def write_step(folder, step):
    groups = {"net": {"w": torch.full((50,), float(step))}}
    write_checkpoint(folder / "checkpoints", step, groups, {"step": float(step)}, keep_last=2)


def write_old_steps(folder):
    for step in (1, 2):
        write_step(folder, step)


def write_next_step(folder):
    _, scalars, _ = load_newest_and_delete_damaged(folder / "checkpoints")
    write_step(folder, int(scalars["step"]) + 1)


def read_newest_step(folder):
    groups, scalars, warnings = load_newest_and_delete_damaged(folder / "checkpoints")
    assert groups["net"]["w"].eq(scalars["step"]).all()
    assert not warnings
    return "old" if scalars["step"] == 2 else "new"


def append_old_row(folder):
    RunRecord(folder).append_metrics({"step": 1, "loss": 0.5})


def append_new_row(folder):
    RunRecord(folder).append_metrics({"step": 2, "loss": 0.25})


def read_rows(folder):
    steps = [row["step"] for row in RunRecord(folder).read_metrics_so_far()]
    assert steps in ([1], [1, 2], [1, 2, 2])
    return len(set(steps))


def truncate_rows(folder):
    RunRecord(folder).truncate_metrics_after(1)


def append_two_rows(folder):
    append_old_row(folder)
    append_new_row(folder)


# The runs of a study.


def write_two_runs(folder):
    write_study_records(folder, {"cifar-resnet20": [(0.01, 0.05), (0.02, 0.06)]})


def pack_two_runs(folder):
    pack_runs(folder)


def read_two_runs(folder):
    runs = read_study_runs(folder).finished
    assert [(run.seed, run.result.test_error, len(run.metric_lines)) for run in runs] == [
        (0, 0.05, 3),
        (1, 0.06, 3),
    ]
    names = {path.name for path in folder.rglob("*.json*")}
    return "packed" if names == {"runs.jsonl"} else "not packed"


def write_result(folder):
    record = RunRecord(folder / "runs" / "cifar-resnet20-seed0")
    record.write_result({"test_error": 0.04})


def write_unfinished_run(folder):
    write_two_runs(folder)
    record = RunRecord(folder / "runs" / "cifar-resnet20-seed0")
    write_json(record.run_json_path, record.read_run_json() | {"result": None})
    write_old_steps(record.folder)


def read_result(folder):
    record = RunRecord(folder / "runs" / "cifar-resnet20-seed0")
    if record.read_result() is None:
        assert read_newest_step(record.folder) == "old"  # the run can be resumed
        return "unfinished"
    return "finished" if not record.checkpoints_folder.exists() else "checkpoints left"


# Reports.


def write_report(text):
    def act(folder):
        summary = study.read_study_summary(folder)
        svgs = {"depth": (f"<svg>{text}</svg>", "")}
        with (
            mock.patch.object(study, "render_study_figures", return_value=svgs),
            mock.patch.object(study, "render_study_page", return_value=f"<html>{text}</html>"),
            mock.patch.object(figures, "add_white_background", str),
        ):
            study.write_study_report(summary, folder)

    return act


def prepare_report(folder):
    write_two_runs(folder)
    write_report("old")(folder)


def read_report(folder):
    page = (folder / "report.html").read_text()
    svgs = {path.read_text() for path in (folder / "figures").iterdir() if path.name[0] != "."}
    assert svgs <= {"<svg>old</svg>", "<svg>new</svg>"}
    assert json.loads((folder / "results.json").read_text())["cells"]
    assert page in ("<html>old</html>", "<html>new</html>")
    return page


# The cache of decoded images.


IMAGE_VIEW = ImagePreprocessing((3, 8, 8))


def write_photos(folder):
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(2):
            colour = (80 * i, 20, 200 if name == "cat" else 90)
            path = folder / "photos" / name / f"{i}.png"
            Image.new("RGB", (8, 8), colour).save(path)
            os.utime(path, (1e9, 1e9))  # of a file that may still change, no digest is kept


def hash_photos(folder):
    """List and hash the photos; the digests are kept in the folder."""
    listing = list_image_folder(folder / "photos")
    hash_listing.cache_clear()  # as in a new process
    get_index.cache_clear()
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "kept")):
        return listing, hash_listing(listing)


def decode_photos(folder):
    return decode_to_cache(*hash_photos(folder), IMAGE_VIEW, folder / "cache" / "k")


def read_cached_photos(folder):
    images = load_cached_images(folder / "cache" / "k")
    if images is None:
        return None
    assert len(images.pixels) == 4
    return images.pixels.double().sum().item()


# The cache of whole photographs.


PHOTO_SETTINGS = RecordSettings("raw", 3, 8, 8)


def store_photos(folder):
    listing, digests = hash_photos(folder)
    return decode_photos_to_cache(listing, digests, PHOTO_SETTINGS, folder / "cache" / "k")


def read_stored_photos(folder):
    listing = list_image_folder(folder / "photos")
    store = load_cached_photos(folder / "cache" / "k", listing, PHOTO_SETTINGS)
    if store is None:
        return None
    assert len(store.labels) == 4
    return sum(store.photos.read_center(i, (8, 8)).double().sum().item() for i in range(4))


def pack_photos(folder):
    """Pack the photos into two shards, one after the other."""
    options = replace(PackOptions(), shard_mib=1 / 128)
    with mock.patch("residua.data.pack.count_available_cores", return_value=1):
        listing = list_image_folder(folder / "photos")
        pack_dataset(listing, folder / "p", options, lambda done, total: None)


def read_packed_photos(folder):
    if not (folder / "p").exists() or not holds_visible_entries(folder / "p"):
        return None
    try:
        listing = list_image_dataset(folder / "p")
    except DataError as error:
        assert "is not packed completely" in str(error)
        return "unfinished"
    for entry in listing.entries:
        assert entry.read_bytes() == (folder / "photos" / entry.name).read_bytes()
    return len(listing.entries)


# Downloads.


FILE_CONTENTS = {name: name.encode() * 500 for name in ("data_batch_1", "test_batch")}


def write_archive(folder):
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        for name, content in FILE_CONTENTS.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def make_published_dataset(folder):
    files = [
        DataFile(n, md5(c, usedforsecurity=False).hexdigest()) for n, c in FILE_CONTENTS.items()
    ]
    archive = folder / "a.tar.gz"
    checksum = md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    return replace(
        get_dataset("cifar10"),
        train=(files[0],),
        test=(files[1],),
        archives=(DownloadArchive((archive.as_uri(),), checksum),),
    )


def download_dataset(folder):
    with (
        mock.patch.dict(
            "os.environ", {"XDG_CACHE_HOME": str(folder / "cache"), "RESIDUA_DATA": ""}
        ),
        mock.patch("residua.downloads.tqdm", mock.MagicMock()),
    ):
        find_or_download(make_published_dataset(folder))


def read_downloaded(folder):
    dataset = make_published_dataset(folder)
    target = folder / "cache" / "residua" / dataset.folder
    if not target.exists():
        return None
    assert not list_missing_files(target, dataset.train + dataset.test)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILE_CONTENTS
    return "downloaded"


# Published weights.


def publish_file(folder):
    net, config = make_model(0)
    tensors = convert_to_project(net.state_dict(), config.network, "timm")
    write_state_dict(tensors, folder / "w.safetensors")


def make_published_weights(folder):
    """Weights of which only the first digits of the sum are published."""
    return PublishedWeights(
        name="tiny.v1",
        network="cifar-resnet8",
        address=(folder / "w.safetensors").as_uri(),
        sha256=compute_file_sha256(folder / "w.safetensors")[:8],
        class_names=("a", "b", "c"),
        mean=(0.5,),
        std=(0.25,),
        side=8,
        resize=8,
    )


def use_cache_in(folder):
    return mock.patch.dict(
        "os.environ",
        {"XDG_CACHE_HOME": str(folder / "cache"), "RESIDUA_MIRROR": "", "TORCH_HOME": str(folder)},
    )


def fetch_published_model(folder):
    with use_cache_in(folder), mock.patch("residua.downloads.tqdm", mock.MagicMock()):
        fetch_model_folder(make_published_weights(folder))


def read_published_model(folder):
    with use_cache_in(folder):
        found = find_fetched_model(make_published_weights(folder))
    return found and read_model_config(found).weights


# Sorted images.


def write_two_images(folder):
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(name.encode() * 100)


def sort_two_images(folder):
    with suppress(UsageError), open_image_sorter(folder / "s", ("cat", "dog")) as sorter:
        sorter.place_image(folder / "a.jpg", "cat", 0.9)
        sorter.place_image(folder / "b.jpg", "dog", 0.1)


def read_sorted_images(folder):
    if not (folder / "s").exists():
        return None
    files = {path for path in (folder / "s").rglob("*") if path.is_file()}
    assert files == {folder / "s" / "cat" / "a.jpg", folder / "s" / "unsure" / "b.jpg"}
    assert all(path.read_bytes() == path.stem.encode() * 100 for path in files)
    return "sorted"


# Exports, with a writer that takes no time.


def export_file(folder):
    net, config = make_model(0)
    difference = OutputDifference(0.0, 0.0, 1.0)
    with (
        suppress(UsageError),  # an export that was killed after it was done
        mock.patch.object(export, "write_export", lambda *a: a[-1].write_bytes(b"model" * 100)),
        mock.patch.object(export, "load_exported_runner"),
        mock.patch.object(export, "measure_output_difference", return_value=difference),
    ):
        export.export_model(net, config, "torch-export", folder / "e.pt2")


def read_exported(folder):
    path = folder / "e.pt2"
    if not path.exists():
        return None
    assert path.read_bytes() == b"model" * 100
    return "exported"


SCENARIOS = [
    Scenario("write_json", write_new_json, read_new_json, lambda f: write_json(f / "a.json", [1])),
    Scenario("model folder", save_new_model, read_model, save_old_model),
    Scenario("config of a model folder", change_temperature, read_model, save_old_model),
    Scenario("convert", convert_new_model, read_model_or_nothing),
    Scenario("checkpoint", write_next_step, read_newest_step, write_old_steps),
    Scenario("append to metrics", append_new_row, read_rows, append_old_row),
    Scenario("truncate metrics", truncate_rows, read_rows, append_two_rows),
    Scenario(
        "result of a run", write_result, read_result, write_unfinished_run, ("checkpoints left",)
    ),
    Scenario("pack runs", pack_two_runs, read_two_runs, write_two_runs),
    Scenario("report", write_report("new"), read_report, prepare_report),
    Scenario(
        "pack photos",
        pack_photos,
        read_packed_photos,
        write_photos,
        ("unfinished",),
        is_done_once=True,
    ),
    Scenario("image cache", decode_photos, read_cached_photos, write_photos),
    Scenario("photo cache", store_photos, read_stored_photos, write_photos),
    Scenario("download", download_dataset, read_downloaded, write_archive, is_done_once=True),
    Scenario(
        "published weights",
        fetch_published_model,
        read_published_model,
        publish_file,
        is_done_once=True,
    ),
    Scenario("export", export_file, read_exported),
    Scenario("sort images", sort_two_images, read_sorted_images, write_two_images),
]
