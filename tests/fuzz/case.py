"""A case of the fuzz suite: files to lay out, commands to run on them, and what must then hold.

A case is JSON, so that one that ever failed can be kept, and replayed when generators have changed.
"""

import base64
import hashlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ZEROS = 10**6  # bytes that are compressed at once


@dataclass
class Case:
    """Files by path, commands, requests to a server, and checks with their arguments.

    The content of a file is a text, or a dictionary that `make_content` understands.  The commands
    run in the folder that holds the files; `in/` is for inputs, `out/` for what commands write.
    """

    kind: str
    name: str
    files: dict[str, object]
    commands: list[list[str]]
    checks: dict[str, object] = field(default_factory=dict)
    requests: list[object] = field(default_factory=list)

    def to_line(self):
        return json.dumps(asdict(self), sort_keys=True)


def read_case(line):
    return Case(**json.loads(line))


def pack_case(case):
    """A case as one word, for a command that replays it."""
    return base64.urlsafe_b64encode(zlib.compress(case.to_line().encode(), 9)).decode()


def unpack_case(word):
    return read_case(zlib.decompress(base64.urlsafe_b64decode(word)).decode())


def encode_bytes(content):
    return {"base64": base64.b64encode(content).decode()}


def make_content(content, seeds):
    """The bytes of a file; `seeds` is the folder of the seeds that a content may name."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    if "base64" in content:
        made = base64.b64decode(content["base64"])
    elif "image" in content:
        made = encode_noise(content["image"], content.get("format", "PNG"), content.get("side", 12))
    elif "seed" in content:
        made = (seeds / replace_cache_key(content["seed"], seeds)).read_bytes()
    elif "tar" in content:
        made = make_tar(content["tar"], seeds)
    elif "text" in content:
        made = content["text"].encode(content["encoding"], "replace")
    elif "lines" in content:
        made = "\n".join(map(str, range(content["lines"]))).encode()
    elif "zip" in content:
        made = make_zip(content["zip"], seeds)
    else:
        before, middle, count, after = content["repeat"]
        made = f"{before}{middle * count}{after}".encode("latin-1")
    return apply_edits(made, content.get("edits", []))


def apply_edits(content, edits):
    """Apply edits (offset, removed bytes, inserted bytes in base64); offsets are cut to fit."""
    changed = bytearray(content)
    for offset, removed, inserted in edits:
        start = offset % (len(changed) + 1)
        changed[start : start + removed] = base64.b64decode(inserted)
    return bytes(changed)


def encode_noise(seed, image_format="PNG", side=12):
    """A small image of noise; images of different seeds look different."""
    levels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()


def make_tar(members, seeds):
    """An archive of members (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            made = make_content(content, seeds)
            header = tarfile.TarInfo(name)
            header.size = len(made)
            archive.addfile(header, io.BytesIO(made))
    return file.getvalue()


def make_zip(members, seeds):
    """A compressed archive of members (name, content); {"zeros": n} is not held in memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members:
            header = zipfile.ZipInfo(name)
            header.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(header, "w") as member:
                if isinstance(content, dict) and "zeros" in content:
                    for _ in range(content["zeros"] // ZEROS):
                        member.write(bytes(ZEROS))
                else:
                    member.write(make_content(content, seeds))
    return file.getvalue()


def lay_out(case, folder, seeds):
    """Write the files of a case into `folder`."""
    for name in ("in", "out", "tmp", "cache", "home"):
        (folder / name).mkdir(parents=True)
    for name, content in case.files.items():
        path = locate(folder, replace_cache_key(name, seeds))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict) and "link" in content:
            path.symlink_to(content["link"])
        elif isinstance(content, dict) and "folder" in content:
            source = seeds / content["folder"] if content["folder"] else None
            copy_folder(source, path)
        elif path.is_dir():
            continue
        else:
            path.unlink(missing_ok=True)
            path.write_bytes(make_content(content, seeds))
    for name, content in case.files.items():
        if isinstance(content, dict) and "sum_of" in content:
            correct_checksum(locate(folder, name), folder / content["sum_of"])


def replace_cache_key(name, seeds):
    """Put the name of the only folder in the seeds' cache in the place of KEY."""
    if "/KEY/" not in name:
        return name
    (folder,) = (seeds / "cache" / "residua" / "images").iterdir()
    return name.replace("/KEY/", f"/{folder.name}/")


def correct_checksum(config_path, weights_path):
    """Write the SHA-256 sum of the weights into a config, as one who forges a model would."""
    config = json.loads(config_path.read_text())
    config["weights"] = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    config_path.write_text(json.dumps(config))


def copy_folder(source, target):
    """Make a folder with the files of `source`, or an empty one if that is None."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.rglob("*") if source else []:
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def locate(folder, name):
    return Path(folder) / os.fsdecode(name.encode("utf-8", "surrogateescape"))
