"""A folder of photographs with 40 planted faults of 20 kinds."""

import os
from io import BytesIO

import numpy as np
from PIL import Image

from tests.data.test_image import bomb

COLOURS = {"bird": 0, "cat": 1, "dog": 2}


def picture(seed, channel=0, size=(48, 40)):
    """Noise of a class's colour, of which no two look alike."""
    levels = np.random.default_rng(seed).integers(0, 140, (6, 6, 3), dtype=np.uint8)
    levels[..., channel] += 110
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def bytes_of(image, format="JPEG", **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def sound(root):
    """Three classes of 12 images to train on and 5 to test on."""
    for part, count in (("train", 12), ("val", 5)):
        for name, channel in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture(1000 * channel + 100 * (part == "val") + i, channel).save(root / part / name / f"{i:02}.png")


def planted(root):
    """Plant them in `root`, and return what is named for each kind: relative paths, or classes."""
    sound(root)
    train = root / "train"
    whole = bytes_of(picture(501))
    png = bytes_of(picture(502), "PNG")
    outside = root.parent / "outside.png"
    picture(503).save(outside)

    def put(path, content):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        return path

    def copied(path, source):
        return put(path, (root / source).read_bytes())

    def redone(path, source, format="PNG", size=None, **settings):
        image = Image.open(root / source)
        return put(path, bytes_of(image.resize(size) if size else image, format, **settings))

    moving = bytes_of(picture(507), "GIF", save_all=True, append_images=[picture(508), picture(509)])
    faults = {
        "truncated": [
            put("train/cat/half.jpg", whole[: len(whole) // 2]),
            put("train/dog/half.png", png[:400]),
            put("val/cat/a.bmp", bytes_of(picture(504), "BMP")[:500]),
        ],
        "damaged": [
            put("train/cat/changed.png", png[:60] + b"\0" * 40 + png[100:]),
            put("train/dog/changed.gif", b"GIF89a" + b"\xff" * 60),
            put("val/bird/odd.webp", bytes_of(picture(521), "WEBP")[:30] + b"\0" * 200),
        ],
        "empty": [put(path, b"") for path in ("train/cat/empty.jpg", "val/dog/empty.png", "train/bird/empty.gif")],
        "not an image": [
            put("train/cat/notes.txt", b"no image"),
            put("train/dog/page.jpg", b"<html>404</html>"),
            put("train/bird/film.mp4", b"\0\0\0\x18ftypmp42" * 9),
        ],
        "too large": [put("train/cat/bomb.png", bomb(100_000, 100_000)), put("train/dog/bomb.png", bomb(20_000, 20_000))],
        "wrong extension": [
            put("train/cat/really.png", bytes_of(picture(505))),
            put("train/dog/really.jpg", bytes_of(picture(506), "WEBP")),
        ],
        "duplicate": [copied("train/cat/zz-copy.png", "train/cat/00.png"), copied("val/dog/zz-copy.png", "val/dog/01.png")],
        "near duplicate": [
            redone("train/bird/zz-small.png", "train/bird/03.png", size=(40, 34)),
            redone("train/cat/zz-squeezed.jpg", "train/cat/04.png", "JPEG", quality=80),
        ],
        "leakage": [
            copied("train/dog/zz-leak.png", "val/dog/02.png"),
            redone("train/cat/zz-leak.jpg", "val/cat/03.png", "JPEG", quality=85),
        ],
        "two classes": [copied("train/dog/zz-bird.png", "train/bird/05.png")],
        "film": [put("train/cat/film.gif", moving)],
        "small image": [
            put("train/cat/dot.png", bytes_of(picture(510, size=(1, 1)), "PNG")),
            put("train/dog/thin.png", bytes_of(picture(511, size=(200, 3)), "PNG")),
        ],
        "one colour": [
            put("train/cat/white.png", bytes_of(Image.new("L", (30, 40), 255), "PNG")),
            put("train/bird/flat.png", bytes_of(Image.new("RGB", (40, 40), (9, 9, 9)), "PNG")),
        ],
        "odd name": [
            put(os.fsdecode(b"train/bird/\xff.png"), bytes_of(picture(522), "PNG")),
            put("train/dog/ blank.png", bytes_of(picture(520), "PNG")),
            put("train/cat/new\nline.png", bytes_of(picture(512), "PNG")),
        ],
        "no class": [put("train/readme.txt", b"read me"), put("val/labels.csv", b"path,label\n")],
    }
    os.symlink(outside, train / "cat" / "away.png")
    os.symlink(root.parent, train / "dog" / "up")
    os.symlink(root / "nothing.png", train / "cat" / "lost.png")
    os.mkfifo(train / "dog" / "pipe.png")
    (train / "empty").mkdir()
    put("train/Cat/one.png", bytes_of(picture(513), "PNG"))
    put("val/horse/one.png", bytes_of(picture(514), "PNG"))
    put("train/.hidden.png", b"is no part of it")
    return faults | {
        "link outside": ["train/cat/away.png", "train/dog/up"],
        "broken link": ["train/cat/lost.png"],
        "no file": ["train/dog/pipe.png"],
        "empty class": ["empty"],
        "unknown class": ["horse"],
        "tiny class": ["Cat"],
        "alike classes": ["cat"],
    }
