"""Records and configs in JSON with something wrong in them, for every command that reads them."""

from tests.fuzz.case import Case
from tests.fuzz.generators.mutate import mutate_json_text


def make_case(rng, seeds):
    """A run whose run.json, metrics.jsonl or config.json is changed."""
    target = rng.choice(
        ("run.json", "run.json", "metrics.jsonl", "last/config.json", "last/config.json")
    )
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
