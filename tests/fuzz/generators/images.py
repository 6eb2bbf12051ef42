"""Image files of every format with edits, forged sizes, odd modes and odd depths."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from tests.fuzz.case import Case
from tests.fuzz.generators.mutate import encode, make_edits

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "AVIF", "JPEG2000")
# What lies among photographs, and has no result of its own or, for the last ones, a line that says
# why it cannot be read.
LITTER = (
    *("notes.txt", "film.mp4", "README", "raw.CR2", "scan.v2", "labels.csv", "old/LOG"),
    *("Thumbs.db", ".hidden.png", "@eaDir/a.png", "a.heic", "b.JPG", "old/c.png"),
)
CLASS_NAMES = ("cat", "dog", "é", "a,b", "=1+1", "+x", "-x", "@y", "'=z", 'q"', "-1")
MODES = ("RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16", "F", "I")


def make_case(rng, seeds):
    """Some images to classify, one by one and together: the results must be the same."""
    files = {"in/model": {"folder": "run/last"}}
    names = []
    for i in range(rng.randint(1, 4)):
        name, content = make_image(rng)
        names.append(f"in/images/{i}{name}")
        files[names[-1]] = {"base64": encode(content)}
    base = ["predict", "in/model"]
    options = ["--json", "--engine", "torch"]
    commands = [[*base, *names, *options], [*base, *names, *options, "--batch", "1"]]
    case = Case("images", ", ".join(names), files, commands)
    case.checks["same"] = [[0, 1, ["probability", "top"]]]
    if rng.random() < 0.4:
        for name in rng.sample(LITTER, rng.randint(1, 4)):
            files[f"in/images/{name}"] = "no image"
        if rng.random() < 0.5:
            files["in/images/scan"] = files[rng.choice(names)]
        case.checks["passed_over"] = {"command": len(commands), "path": "in/images"}
        commands.append([*base, "in/images", *options])
    if rng.random() < 0.3:
        config = json.loads((seeds / "run" / "last" / "config.json").read_text())
        classes = rng.sample(CLASS_NAMES, 3)
        files["in/model/config.json"] = {
            "text": json.dumps(config | {"classes": classes}),
            "encoding": "utf-8",
            "sum_of": "in/model/model.safetensors",
        }
        commands.append([*base, *names, "--engine", "torch", "--csv"])
    if rng.random() < 0.3:
        files |= {f"in/data/{n % 2}/{n}{name[-5:]}": files[name] for n, name in enumerate(names)}
        commands.append(["data", "check", "in/data", "--out", "out/check", "--json"])
    return case


def make_image(rng):
    """A suffix and the bytes of an image, which may be forged or damaged."""
    kind = rng.choice(("plain", "plain", "edits", "edits", "edits", "bomb", "text", "chunks"))
    image_format, mode = rng.choice(FORMATS), rng.choice(MODES)
    suffix = f".{image_format.lower()}"
    content = encode_image(rng, image_format, mode)
    if kind == "edits":
        content = edit(rng, content)
    elif kind == "bomb":
        return ".png", make_png(
            rng.choice((10, 20_000, 2**31 - 1)), rng.choice((1, 20_000, 2**31 - 1)), rng
        )
    elif kind == "text":
        content = rng.choice(
            (
                b"",
                b"<html>",
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff",
                b"GIF89a",
                b"BM",
                rng.randbytes(300),
            )
        )
    elif kind == "chunks":
        return ".png", make_png(8, 8, rng, extra=True)
    return suffix, content


def encode_image(rng, image_format, mode):
    side = rng.choice((1, 2, 7, 16, 40))
    levels = np.frombuffer(rng.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
    image = Image.fromarray(levels)
    try:
        image = (
            image.convert("L").convert(mode) if mode in ("I;16", "F", "I") else image.convert(mode)
        )
        file = io.BytesIO()
        image.save(file, image_format)
    except (OSError, ValueError, KeyError):  # a format without this mode
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def edit(rng, content):
    import base64

    changed = bytearray(content)
    for offset, removed, inserted in make_edits(rng, len(content), most=10):
        changed[offset : offset + removed] = base64.b64decode(inserted)
    return bytes(changed)


def make_png(width, height, rng, extra=False):
    """A PNG with right sums whose header states any size; with `extra`, chunks of many kinds."""
    depth, colour = rng.choice(((8, 2), (16, 0), (1, 0), (8, 3), (16, 6), (8, 4)))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if colour == 3:
        chunks.append((b"PLTE", rng.randbytes(rng.choice((3, 768, 0)))))
    if extra:
        bomb = zlib.compress(bytes(rng.choice((100, 30_000_000))))
        chunks += rng.sample(
            [
                (b"zTXt", b"a\0\0" + bomb),
                (b"iCCP", b"a\0\0" + bomb),
                (b"tRNS", rng.randbytes(6)),
                (b"eXIf", rng.randbytes(40)),
                (b"acTL", struct.pack(">II", 2**31, 0)),
                (b"gAMA", bytes(4)),
                (b"pHYs", rng.randbytes(9)),
                (b"tEXt", b"a" * 10**6),
            ],
            3,
        )
    rows = zlib.compress(bytes((width * 8 + 1) * height) if width * height < 10**4 else bytes(1000))
    chunks += [(b"IDAT", rows), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
