"""Weights of ours and of others, and cached pixels: flipped bits, forged headers, wrong numbers."""

import io
import json
import pickle
import struct
import zipfile

from tests.fuzz.case import Case, locate, replace_cache_key
from tests.fuzz.generators.mutate import encode, make_edits, make_flips, mutate_json
from tests.fuzz.seeds import NORMAL

PEER_BYTES = 312_000  # about the size of peer.pth and of the model's weights
INDEX_BYTES, PIXEL_BYTES = 3_000, 6_000  # of the image cache
PREDICT = ["--json", "--engine", "torch", "--top", "10"]
CONVERT = ["--model", "cifar-resnet8", "--classes", *"abcdefghij", *NORMAL, "--out", "out/model"]


def make_case(rng, seeds):
    makers = (
        *(flip_pth, flip_pth, flip_safetensors, flip_model, forge_safetensors, forge_pth),
        *(spoil_numbers, spoil_numbers),
    )
    chosen = rng.randrange(len(makers) + 2)
    return makers[chosen](rng) if chosen < len(makers) else flip_cache(rng, seeds)


def convert_and_predict(case, file):
    """Convert a file; what it then predicts must be what the intact file predicts."""
    case.files["in/one.png"] = {"seed": "one.png"}
    case.commands += [
        ["convert", file, *CONVERT, "--json"],
        ["predict", "out/model", "in/one.png", *PREDICT],
    ]
    return case


def flip_pth(rng):
    few = rng.random() < 0.6  # of many, one is likely to make a weight that is refused as too large
    edits = make_flips(rng, PEER_BYTES, 3) if few else make_edits(rng, PEER_BYTES, most=20)
    case = Case(
        "weights", "a .pth file with edits", {"in/a.pth": {"seed": "peer.pth", "edits": edits}}, []
    )
    case.checks["as_seed"] = [[1, "predict_peer.json"]]
    return convert_and_predict(case, "in/a.pth")


def flip_safetensors(rng):
    """Edits of a .safetensors file of others, which has no sum: only order is expected."""
    edits = make_edits(rng, rng.choice((2_000, PEER_BYTES)))
    files = {"in/a.safetensors": {"seed": "peer.safetensors", "edits": edits}}
    return convert_and_predict(
        Case("weights", "a .safetensors file with edits", files, []), "in/a.safetensors"
    )


def flip_model(rng):
    """Edits of the weights of a model folder, which has their sum."""
    files = {"in/model": {"folder": "run/last"}, "in/one.png": {"seed": "one.png"}}
    edits = make_edits(rng, rng.choice((2_000, PEER_BYTES)))
    files["in/model/model.safetensors"] = {"seed": "run/last/model.safetensors", "edits": edits}
    commands = [["predict", "in/model", "in/one.png", *PREDICT]]
    return Case(
        "weights", "a model folder with edits", files, commands, {"as_seed": [[0, "predict.json"]]}
    )


def flip_cache(rng, seeds):
    """Edits of cached pixels or of their index: the result must not change."""
    name, size = rng.choice((("pixels.npy", PIXEL_BYTES), ("index.json", INDEX_BYTES)))
    path = f"cache/residua/images/KEY/{name}"
    content = {"seed": path, "edits": make_edits(rng, size)}
    if name == "index.json" and rng.random() < 0.6:
        content = exchange_labels(rng, locate(seeds, replace_cache_key(path, seeds)).read_text())
    files = {
        "in/photos": {"folder": "photos"},
        "in/model": {"folder": "run/last"},
        "cache": {"folder": "cache"},
    }
    files[path] = content
    commands = [["evaluate", "in/model", "in/photos", "--split", "all", "--json"]]
    return Case(
        "weights",
        f"a cache with edits of {name}",
        files,
        commands,
        {"as_seed": [[0, "evaluate.json"]], "accepted": [0]},
    )


def exchange_labels(rng, text):
    """An index of the right form in which labels, names or counts have changed their places."""
    stored = json.loads(text)
    numbers = stored["index"][rng.choice(("labels", "labels", "names", "counts"))]
    first, second = rng.randrange(len(numbers)), rng.randrange(len(numbers))
    numbers[first], numbers[second] = numbers[second], numbers[first]
    if rng.random() < 0.5:
        numbers.reverse()
    return json.dumps(stored)


def spoil_numbers(rng):
    """Weights whose sum is right or that have none, with a number that is not finite or huge."""
    value = float(rng.choice(("nan", "nan", "nan", "inf", "-inf", "-3e38")))
    place = rng.randrange(0, 200_000, 4)
    spoiled = {"edits": [[-place - 5, 4, encode(struct.pack("<f", value))]]}
    files = {
        "in/model": {"folder": "run/last"},
        "in/photos": {"folder": "photos"},
        "in/one.png": {"seed": "one.png"},
        "in/a.safetensors": {"seed": "peer.safetensors", **spoiled},
        "in/model/model.safetensors": {"seed": "run/last/model.safetensors", **spoiled},
        "in/model/config.json": {
            "seed": "run/last/config.json",
            "sum_of": "in/model/model.safetensors",
        },
    }
    # Only some of them compute anything with the weights, so that a later guard would see it.
    commands = [
        ["predict", "in/model", "in/one.png", *PREDICT],
        ["evaluate", "in/model", "in/photos", "--split", "all", "--json"],
        ["convert", "in/model", "--to", "timm", "--out", "out/a.safetensors"],
        ["convert", "in/a.safetensors", *CONVERT, "--json"],
        ["deepen", "in/model", "--out", "out/deep"],
    ]
    name = f"a weight of {value} with the right sum"
    return Case("weights", name, files, rng.sample(commands, 2), {"refused": [0, 1]})


def forge_safetensors(rng):
    """A header that lies about shapes, offsets or its own length."""
    header = {"conv1.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    for _ in range(rng.randint(0, 3)):
        header = mutate_json(rng, header)
        if not isinstance(header, dict):
            break
    text = json.dumps(header).encode()
    text = rng.choice((text, text, text, b"[" * 50_000, b'{"a":' * 5000, b"{}"))
    length = rng.choice((len(text), len(text), len(text), 2**63, 2**40, 0, len(text) + 1))
    content = struct.pack("<Q", length) + text + bytes(rng.choice((24, 24, 0, 100)))
    files = {"in/a.safetensors": {"base64": encode(content)}}
    return convert_and_predict(
        Case("weights", "forged .safetensors", files, []), "in/a.safetensors"
    )


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def forge_pth(rng):
    """A pickle that would run code, nest without end, or ask for much memory."""
    import os

    import numpy as np

    bombs = {
        "calls": lambda: pickle.dumps(Calls(os.mkdir, "in/pwned"), 2),
        "dtype": lambda: pickle.dumps({"a": Calls(np.dtype, "V2000000000")}, 2),
        "bytearray": lambda: pickle.dumps({"a": Calls(bytearray, 3 * 2**30)}, 2),
        "nested": lambda: b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".",
        "dicts": lambda: b"\x80\x02" + b"}" * 500_000 + b".",
        "memo": lambda: b"\x80\x02]r\xff\xff\xff\x7f.",
        "long": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",
        "stop": lambda: b".",
        "text": lambda: b"\x80\x02X\xff\xff\xff\x7fabc.",
        "random": lambda: b"\x80\x02" + rng.randbytes(60) + b".",
        "deflated": lambda: b"\x80\x02X\x00\x00\x00\x30" + b"a" * 0x30000000 + b".",
    }
    name = rng.choice(sorted(set(bombs) - {"deflated"}))
    data = bombs[name]()
    if rng.random() < 0.6:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
            if rng.random() < 0.3:
                archive.writestr("archive/data/0", bytes(10**8))
        data = file.getvalue()
    files = {"in/a.pth": {"base64": encode(data)}}
    case = convert_and_predict(Case("weights", f"forged .pth: {name}", files, []), "in/a.pth")
    case.checks["refused"] = [0]
    return case
