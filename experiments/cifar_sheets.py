"""Pack CIFAR-10 into sheets of lossless WebP, and unpack them into the original files.

The six files of CIFAR-10 take 177 MiB, their sheets 96 MiB, so that they can be copied to a machine
without a network in two parts.  The unpacked files are equal to the originals byte by byte, and
their MD5 sums are verified.  Half `a` holds the first three files, half `b` the others; each file
is four sheets of 2,500 images and a compressed rest (labels and file names).

    python experiments/cifar_sheets.py pack CIFAR-10-FOLDER sheets
    python experiments/cifar_sheets.py unpack sheets/a sheets/b --out data

or one half after the other: `unpack --partial sheets/a --out data`, then `unpack sheets/b`.
"""

import argparse
import io
import lzma
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residua.config.dataset import DataFile, get_dataset
from residua.data.checksums import compute_md5
from residua.errors import DataError
from residua.files import atomic_write

DATASET = get_dataset("cifar10")
FILES = (*DATASET.train, *DATASET.test)
SIDE, COLUMNS, ROWS = 32, 50, 50  # of an image in pixels; of a sheet in images
SHEETS_PER_FILE = 4
METHOD = 6  # of WebP: the smallest files, which take half a minute each
PIXEL_BYTES = SHEETS_PER_FILE * ROWS * COLUMNS * 3 * SIDE * SIDE  # in each file
PIXELS_BEGIN = b"T" + PIXEL_BYTES.to_bytes(4, "little")  # in a pickle, before so many bytes


def arrange_sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrange the images (2500, 3072) of a file as one sheet (1600, 1600, 3)."""
    tiles = images.reshape(ROWS, COLUMNS, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(tiles.reshape(ROWS * SIDE, COLUMNS * SIDE, 3))


def take_sheet_apart(sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images (2500, 3072) of a sheet, as a file holds them."""
    tiles = sheet.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(ROWS * COLUMNS, 3 * SIDE * SIDE)


def compress_sheet(pixels: NDArray[np.uint8]) -> bytes:
    """Compress the images of one sheet without loss."""
    content = io.BytesIO()
    Image.fromarray(arrange_sheet(pixels)).save(
        content, "WEBP", lossless=True, quality=100, method=METHOD
    )
    return content.getvalue()


def name_half(index: int) -> str:
    """Name the half that holds the file with this index: a or b."""
    return "a" if index < len(FILES) // 2 else "b"


def pack_files(source: Path, out: Path, workers: int | None = None) -> None:
    """Pack the files in `source` into the folders `out`/a and `out`/b."""
    with ProcessPoolExecutor(workers) as pool:
        for index, file in enumerate(FILES):
            content = (source / file.name).read_bytes()
            begin = content.index(PIXELS_BEGIN) + len(PIXELS_BEGIN)
            pixels = np.frombuffer(content[begin : begin + PIXEL_BYTES], np.uint8)
            sheets = np.split(pixels.reshape(-1, 3 * SIDE * SIDE), SHEETS_PER_FILE)
            folder = out / name_half(index)
            folder.mkdir(parents=True, exist_ok=True)
            for number, compressed in enumerate(pool.map(compress_sheet, sheets)):
                with atomic_write(folder / f"{file.name}-{number}.webp") as path:
                    path.write_bytes(compressed)
            rest = begin.to_bytes(4, "little") + content[:begin] + content[begin + PIXEL_BYTES :]
            with atomic_write(folder / f"{file.name}-rest.xz") as path:
                path.write_bytes(lzma.compress(rest, preset=9 | lzma.PRESET_EXTREME))
            print(f"{file.name} is packed", flush=True)


def rebuild_file(file: DataFile, folders: list[Path]) -> bytes:
    """Return the content of a file from its sheets.

    Raises DataError if sheets are missing or damaged.
    """
    names = [f"{file.name}-{number}.webp" for number in range(SHEETS_PER_FILE)]
    paths = {
        name: path
        for name in (*names, f"{file.name}-rest.xz")
        for folder in folders
        if (path := folder / name).is_file()
    }
    if missing := [name for name in (*names, f"{file.name}-rest.xz") if name not in paths]:
        raise DataError(
            f"{' and '.join(map(str, folders))} lack {', '.join(missing)}: give both halves"
        )
    compressed = {name: path.read_bytes() for name, path in paths.items()}
    damaged = DataError(f"the sheets of {file.name} are damaged: copy or pack them again")
    try:
        rest = lzma.decompress(compressed[f"{file.name}-rest.xz"])
        sheets = [np.asarray(Image.open(io.BytesIO(compressed[name]))) for name in names]
        pixels = np.concatenate([take_sheet_apart(sheet) for sheet in sheets])
    except (lzma.LZMAError, OSError, ValueError) as error:  # OSError is that of a damaged image
        raise damaged from error
    begin, rest = int.from_bytes(rest[:4], "little"), rest[4:]
    content = rest[:begin] + pixels.tobytes() + rest[begin:]
    if compute_md5(io.BytesIO(content)) != file.md5:
        raise damaged
    return content


def unpack_file(file: DataFile, folders: list[Path], out: Path) -> None:
    """Write one file of the data set; do nothing if it exists."""
    if (out / file.name).exists():
        return
    content = rebuild_file(file, folders)
    with atomic_write(out / file.name) as path:
        path.write_bytes(content)


def unpack_sheets(folders: list[Path], data_dir: Path, partial_data: bool = False) -> Path:
    """Write the data set's files into its folder in `data_dir`, and return `data_dir`.

    Files that exist already are kept, so that one half can be unpacked after the other; with
    `partial_data`, files without any sheet in `folders` are left out.  Raises DataError if sheets
    are missing or damaged.
    """
    out = data_dir / DATASET.folder
    out.mkdir(parents=True, exist_ok=True)
    files = [
        file
        for file in FILES
        if not partial_data or any(next(f.glob(f"{file.name}-*"), None) for f in folders)
    ]
    with ThreadPoolExecutor(len(FILES)) as pool:
        list(pool.map(partial(unpack_file, folders=folders, out=out), files))
    return data_dir


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="make the sheets (some minutes)")
    pack.add_argument("source", type=Path, help="the folder cifar-10-batches-py")
    pack.add_argument("out", type=Path, help="the folder of the two halves")
    pack.add_argument("--workers", type=int, help="default: one process per CPU")
    unpack = commands.add_parser("unpack", help="make the original files")
    unpack.add_argument("halves", type=Path, nargs="+", help="the folders of the halves")
    unpack.add_argument("--partial", action="store_true", help="only the files that are there")
    unpack.add_argument("--out", type=Path, required=True, help="the folder for the data set")
    given = parser.parse_args()
    try:
        if given.command == "pack":
            pack_files(given.source, given.out, given.workers)
        else:
            unpack_sheets(given.halves, given.out, given.partial)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
