"""A folder of photos with 40 faults of 20 kinds."""

import os
from io import BytesIO

import numpy as np
from PIL import Image

from tests.data.test_decode import make_png_bomb

CLASS_CHANNELS = {"bird": 0, "cat": 1, "dog": 2}


def make_picture(seed, channel=0, size=(48, 40)):
    """Noise in the colour of a class; no two seeds look alike."""
    levels = np.random.default_rng(seed).integers(0, 140, (6, 6, 3), dtype=np.uint8)
    levels[..., channel] += 110
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def write_oblong_folder(root):
    """Write a folder of splits with small oblong photographs, whose corners are not alike."""
    for split, count in (("train", 8), ("val", 4)):
        for name, channel in CLASS_CHANNELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = make_picture(10 * i + channel + 1000 * (split == "val"), channel)
                picture.resize((60, 41 + i)).save(root / split / name / f"{i:02}.png")
    return root


def encode_image(image, format="JPEG", **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def write_clean_folder(root):
    """Write three classes with 12 training images and 5 test images each."""
    for split, count in (("train", 12), ("val", 5)):
        for name, channel in CLASS_CHANNELS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                make_picture(1000 * channel + 100 * (split == "val") + i, channel).save(
                    root / split / name / f"{i:02}.png"
                )


def write_faulty_folder(root):
    """Write the faults into `root`; return the paths or classes to be reported for each kind."""
    write_clean_folder(root)
    train = root / "train"
    intact_jpeg = encode_image(make_picture(501))
    intact_png = encode_image(make_picture(502), "PNG")
    outside = root.parent / "outside.png"
    make_picture(503).save(outside)

    def write_file(path, content):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        return path

    def copy_file(path, source):
        return write_file(path, (root / source).read_bytes())

    def reencode_file(path, source, format="PNG", size=None, **settings):
        image = Image.open(root / source)
        return write_file(
            path, encode_image(image.resize(size) if size else image, format, **settings)
        )

    animated_gif = encode_image(
        make_picture(507),
        "GIF",
        save_all=True,
        append_images=[make_picture(508), make_picture(509)],
    )
    faults = {
        "truncated": [
            write_file("train/cat/half.jpg", intact_jpeg[: len(intact_jpeg) // 2]),
            write_file("train/dog/half.png", intact_png[:400]),
            write_file("val/cat/a.bmp", encode_image(make_picture(504), "BMP")[:500]),
        ],
        "damaged": [
            write_file("train/cat/changed.png", intact_png[:60] + b"\0" * 40 + intact_png[100:]),
            write_file("train/dog/changed.gif", b"GIF89a" + b"\xff" * 60),
            write_file(
                "val/bird/odd.webp", encode_image(make_picture(521), "WEBP")[:30] + b"\0" * 200
            ),
        ],
        "empty": [
            write_file(path, b"")
            for path in ("train/cat/empty.jpg", "val/dog/empty.png", "train/bird/empty.gif")
        ],
        "not an image": [
            write_file("train/cat/notes.txt", b"no image"),
            write_file("train/dog/page.jpg", b"<html>404</html>"),
            write_file("train/bird/film.mp4", b"\0\0\0\x18ftypmp42" * 9),
        ],
        "too large": [
            write_file("train/cat/bomb.png", make_png_bomb(100_000, 100_000)),
            write_file("train/dog/bomb.png", make_png_bomb(20_000, 20_000)),
        ],
        "wrong extension": [
            write_file("train/cat/really.png", encode_image(make_picture(505))),
            write_file("train/dog/really.jpg", encode_image(make_picture(506), "WEBP")),
        ],
        "duplicate": [
            copy_file("train/cat/zz-copy.png", "train/cat/00.png"),
            copy_file("val/dog/zz-copy.png", "val/dog/01.png"),
        ],
        "near duplicate": [
            reencode_file("train/bird/zz-small.png", "train/bird/03.png", size=(40, 34)),
            reencode_file("train/cat/zz-squeezed.jpg", "train/cat/04.png", "JPEG", quality=80),
        ],
        "leakage": [
            copy_file("train/dog/zz-leak.png", "val/dog/02.png"),
            reencode_file("train/cat/zz-leak.jpg", "val/cat/03.png", "JPEG", quality=85),
        ],
        "two classes": [copy_file("train/dog/zz-bird.png", "train/bird/05.png")],
        "film": [write_file("train/cat/film.gif", animated_gif)],
        "small image": [
            write_file("train/cat/dot.png", encode_image(make_picture(510, size=(1, 1)), "PNG")),
            write_file("train/dog/thin.png", encode_image(make_picture(511, size=(200, 3)), "PNG")),
        ],
        "one colour": [
            write_file("train/cat/white.png", encode_image(Image.new("L", (30, 40), 255), "PNG")),
            write_file(
                "train/bird/flat.png", encode_image(Image.new("RGB", (40, 40), (9, 9, 9)), "PNG")
            ),
        ],
        "odd name": [
            write_file(os.fsdecode(b"train/bird/\xff.png"), encode_image(make_picture(522), "PNG")),
            write_file("train/dog/ blank.png", encode_image(make_picture(520), "PNG")),
            write_file("train/cat/new\nline.png", encode_image(make_picture(512), "PNG")),
        ],
        "no class": [
            write_file("train/readme.txt", b"read me"),
            write_file("val/labels.csv", b"path,label\n"),
        ],
    }
    os.symlink(outside, train / "cat" / "away.png")  # is followed
    os.symlink(root.parent, train / "dog" / "up")
    os.symlink(root / "nothing.png", train / "cat" / "lost.png")
    os.mkfifo(train / "dog" / "pipe.png")
    (train / "empty").mkdir()
    write_file("train/Cat/one.png", encode_image(make_picture(513), "PNG"))
    write_file("val/horse/one.png", encode_image(make_picture(514), "PNG"))
    write_file("train/.hidden.png", b"is no part of it")
    return faults | {
        "link loop": ["train/dog/up"],
        "broken link": ["train/cat/lost.png"],
        "no file": ["train/dog/pipe.png"],
        "empty class": ["empty"],
        "unknown class": ["horse"],
        "tiny class": ["Cat"],
        "alike classes": ["cat"],
    }
