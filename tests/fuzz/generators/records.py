"""Records and configs in JSON with something wrong in them, for every command that reads them."""

import json

from tests.fuzz.case import Case
from tests.fuzz.generators.mutate import HUGE_NUMBERS, get_place, list_places, mutate_json_text


def make_case(rng, seeds):
    """A run whose run.json, metrics.jsonl or config.json is changed."""
    if rng.random() < 0.4:
        target = "last/config.json"
        text = enlarge_network(rng, json.loads((seeds / "run" / target).read_text()))
    else:
        targets = ("run.json", "run.json", "metrics.jsonl", "last/config.json", "last/config.json")
        target = rng.choice(targets)
        text = mutate_json_text(rng, (seeds / "run" / target).read_text())
    files = {
        "in/run": {"folder": "run"},
        f"in/run/{target}": text,
        "in/one.png": {"seed": "one.png"},
        "in/photos": {"folder": "photos"},
    }
    commands = [
        ["report", "in/copy", "--json"],
        ["predict", "in/run", "in/one.png", "--json", "--engine", "torch"],
        ["evaluate", "in/run", "in/photos", "--json"],
        [
            "train",
            "in/photos",
            "--from",
            "in/run",
            "--size",
            "8",
            "--steps",
            "1",
            "--dry-run",
            "--json",
        ],
        ["convert", "in/run", "--to", "timm", "--out", "out/a.safetensors"],
        ["evaluate", "in/run/last", "in/photos", "--json", "--split", "all"],
        [
            "train",
            "in/photos",
            "--out",
            "out/run",
            "--resume",
            "--model",
            "cifar-resnet8",
            "--size",
            "8",
            "--steps",
            "1",
            "--json",
        ],
        ["deepen", "in/run", "--out", "out/deep"],
        ["lesion", "in/run", "--data", "in/photos", "--out", "out/lesion", "--json"],
    ]
    chosen = rng.sample(commands, 2)
    for command in chosen:
        if command[0] in ("report", "train"):  # these write into the run's folder
            files |= {"out/run": {"folder": "run"}, f"out/run/{target}": text}
            command[:] = [word.replace("in/copy", "out/run") for word in command]
    return Case("records", f"{target}: {text[:60]!r}", files, chosen)


def enlarge_network(rng, config):
    """A config of the right form in which one or two sizes of the network are huge."""
    network = config["network"]
    sizes = [path for path in list_places(network) if type(get_place(network, path)) is int]
    for *path, last in rng.choices(sizes, k=rng.choice((1, 1, 1, 2))):
        get_place(network, path)[last] = rng.choice(HUGE_NUMBERS)
    return json.dumps(config)
