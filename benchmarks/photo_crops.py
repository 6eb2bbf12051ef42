"""Random crops a second on one core, of photographs that are stored in different ways.

JPEG files of three sizes are made of the photographs in FOLDER: enlarged, with noise until they
have 2 to 4 bits a pixel, as cameras' files do.  Each contender makes random crops with areas of 8
to 100 % at 224 x 224 pixels: the same ones, but for DALI, which draws its own.  `raw`, `jpeg` and
`files` are the ways of `--storage`; torchvision opens each file with Pillow and applies
RandomResizedCrop, as a DataLoader's worker does.  "copied out" makes also an array of torchvision's
crop, as ToTensor begins.  DALI, if it can be imported, decodes on the CPU only what its crops need.
Rates are those of CPU time, which other work on the machine changes less than the time on the
clock.

    python benchmarks/photo_crops.py FOLDER/imagenette-sample/train [--rounds 5]
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peers import load_third_party
from PIL import Image
from timing import measure_in_turn

from residua.data.photo_cache import load_photo_store
from residua.data.photo_source import Box, PhotoSource
from residua.data.sources.resolve import dataset_from_listing, list_image_dataset

SIZES = ((224, 224), (500, 375), (4000, 3000))
CROPS_BY_SIZE = {224: 400, 500: 400, 4000: 24}  # of each contender in a round
FILES_PER_CLASS = 6
MIN_BITS = 2.0  # of a file, per pixel
NOISE_LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
CROP = 224
AREAS, ASPECTS = (0.08, 1.0), (3 / 4, 4 / 3)
DALI_BATCH = 8


def write_photographs(folder: Path, originals: list[Path], size: tuple[int, int]) -> float:
    """Write JPEG files of one size in two classes; returns their bits a pixel."""
    generator = np.random.default_rng(size[0])
    total_bytes = 0
    for i, original in enumerate(originals):
        target = folder / ("a", "b")[i % 2] / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(
            Image.open(original).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        )
        noise = generator.standard_normal(pixels.shape, np.float32)
        for level in NOISE_LEVELS:
            noisy = np.clip(pixels + level * noise, 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(target, quality=90)
            if 8 * target.stat().st_size >= MIN_BITS * size[0] * size[1]:
                break
        total_bytes += target.stat().st_size
    return 8 * total_bytes / (len(originals) * size[0] * size[1])


def choose_boxes(photos: PhotoSource, count: int) -> list[tuple[int, Box]]:
    """Choose photographs and boxes by torchvision's rule, in shares of the sides."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    choose = random.Random(0)
    boxes: list[tuple[int, Box]] = []
    for _ in range(count):
        i = choose.randrange(len(photos))
        height, width = photos.sizes[i].tolist()
        image = torch.empty(1, 10 * height, 10 * width)
        top, left, rows, columns = RandomResizedCrop.get_params(image, AREAS, ASPECTS)
        right, bottom = left + columns, top + rows
        width, height = 10 * width, 10 * height
        boxes.append((i, (left / width, top / height, right / width, bottom / height)))
    return boxes


def crop_all(photos: PhotoSource, boxes: list[tuple[int, Box]]) -> None:
    """Read the crops of a source."""
    for i, share in boxes:
        height, width = photos.sizes[i].tolist()
        box = (share[0] * width, share[1] * height, share[2] * width, share[3] * height)
        photos.read_crop(i, box, (CROP, CROP))


def crop_all_with_torchvision(
    files: list[Path], boxes: list[tuple[int, Box]], *, copies_out: bool
) -> None:
    """Open, crop and resize the files as RandomResizedCrop does."""
    from torchvision.transforms import functional

    for i, (left, top, right, bottom) in boxes:
        with Image.open(files[i]) as file:
            image = file.convert("RGB")
        width, height = image.size
        crop = functional.resized_crop(
            image,
            round(top * height),
            round(left * width),
            max(round((bottom - top) * height), 1),
            max(round((right - left) * width), 1),
            [CROP, CROP],
        )
        if copies_out:
            functional.pil_to_tensor(crop)


def make_dali_pipeline(files: list[Path]) -> Callable[[], object] | None:
    """Make a function that reads DALI_BATCH random crops with DALI; None if it is not installed."""
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError:
        return None

    @pipeline_def(batch_size=DALI_BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def read_crops() -> object:
        encoded, _ = fn.readers.file(files=[str(file) for file in files], random_shuffle=True)
        crops = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=list(AREAS),
            random_aspect_ratio=list(ASPECTS),
        )
        return fn.resize(crops, size=[CROP, CROP], interp_type=types.INTERP_LINEAR, antialias=True)

    return read_crops().run


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def measure_cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of CPU time of all threads in one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_size(originals: list[Path], size: tuple[int, int], rounds: int) -> None:
    """Print the table's rows of photographs of one size."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        bits = write_photographs(Path(folder) / "photos", originals, size)
        data = dataset_from_listing(list_image_dataset(f"{folder}/photos"), (3, CROP, CROP))
        count = CROPS_BY_SIZE[size[0]]
        contenders: dict[str, Callable[[], float]] = {}
        for storage in ("raw", "jpeg", "files"):
            store = load_photo_store(replace(data, storage=storage))
            photos = store.split_photos("train")  # the others are raw
            boxes = choose_boxes(photos, count)
            contenders[storage] = partial(measure_cpu_seconds, partial(crop_all, photos, boxes))
        files = [Path(folder) / "photos" / name for name in store.names]
        for copies_out in (False, True):
            work = partial(crop_all_with_torchvision, files, boxes, copies_out=copies_out)
            name = "torchvision" + ", copied out" * copies_out
            contenders[name] = partial(measure_cpu_seconds, work)
        if run_dali := make_dali_pipeline(files):
            work = partial(repeat, run_dali, count // DALI_BATCH)
            contenders["DALI"] = partial(measure_cpu_seconds, work)
        seconds = measure_in_turn(contenders, rounds, warm_up_rounds=1)
        peer = count / statistics.median(seconds["torchvision"])
        for name, values in seconds.items():
            rate = count / statistics.median(values)
            spread = f"{count / max(values):,.0f} to {count / min(values):,.0f}"
            print(
                f"| {size[0]} x {size[1]}, {bits:.1f} bits a pixel | {name} | {rate:,.0f} "
                f"({spread}) | {rate / peer:.2f}x |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder with JPEG files in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[size[0] for size in SIZES])
    arguments = parser.parse_args()
    originals = sorted(arguments.folder.rglob("*.JPEG")) or sorted(arguments.folder.rglob("*.jpg"))
    if not originals:
        sys.exit(f"{arguments.folder} has no JPEG files: give a folder with some")
    torch.set_num_threads(1)
    load_third_party()
    chosen = originals[:: max(len(originals) // (2 * FILES_PER_CLASS), 1)][: 2 * FILES_PER_CLASS]
    print("| files | storage | crops a second of one core | relative to torchvision |")
    print("|---|---|---|---|")
    for size in SIZES:
        if size[0] in arguments.sides:
            measure_size(chosen, size, arguments.rounds)


if __name__ == "__main__":
    main()
