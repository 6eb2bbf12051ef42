"""Command lines and YAML options: the same options both ways, and values nobody expects."""

import yaml

from tests.fuzz.case import Case

MODELS = (
    "cifar-resnet8",
    "cifar-resnet20",
    "resnet18",
    "cifar-preresnet20",
    "cifar-wrn16-4",
    "cifar-resnet14,order=bare",
)
BAD_MODELS = (
    "cifar-resnet99998",
    "resnet1e9",
    "cifar-resnet-2",
    "",
    " ",
    "cifar-resnet8,width=1000000",
    "cifar-wrn28-99999",
    "cifar-resnet8,",
    "é",
    "cifar-resnet8,units=[[[[",
    "a" * 5000,
    "/dev/null",
)
NUMBERS = (
    "1",
    "0",
    "-1",
    "99999999999999",
    "1e300",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "٣",
    " 3",
    "9" * 5000,
    "1.5",
    "",
)
FIELDS = (
    "batch_size=32",
    "schedule.lr=0.1",
    "smoothing=0.1",
    "augment.mixup=0.2",
    'optimiser={"kind": "Muon"}',
    "duration.epochs=1",
    "x=[[[[",
    "optimiser=adamw",
    "batch_size=0",
    "batch_size=1e99",
    "schedule.lr=nan",
    "=",
    "a=b=c",
    "schedule.lr=" + "[" * 5000,
    "batch_size=" + "9" * 6000,
    "augment=null",
    "smoothing=-3",
    "optimiser.momentum=1e400",
)
RAW_YAML = (
    "a: &a [1]\nb: *a",
    "&a [*a]",
    "[" * 5000,
    "? ? ? ?",
    "- 1\n- 2",
    "seed: [1, 2]",
    "data: {a: b}",
    "data: 5\nsteps: x",
    "epochs: .inf",
    "seed: 010",
    "seed: !!python/object:os.system x",
    "a: b: c",
    "\t",
    "data: !!binary aGk=",
    "seed: 1\nseed: 2",
    "json: maybe",
    "data: [a, b]",
    "%YAML 9.9\n---\na",
    "data: '\\0'",
    "steps: 1e3",
    "recipe: ~",
    "set: [batch_size=8]",
    "set: batch_size=8",
    "dry_run: yes",
    "%TAG ! x\n",
    "<<: {seed: 1}",
    "seed: 1\n---\nseed: 2",
    '"seed": "1"',
    "seed: 12345678901234567890",
    "data: \ud800",
    "\ufeffseed: 1",
)


NESTED = ([1, 2], [[1]], [{"seed": 1}], {}, {"a": "b"}, {"kind": [1]}, {1: {}})


def make_case(rng, seeds):
    makers = (compare_yaml, compare_yaml, try_yaml, try_yaml, nest_yaml, *[try_arguments] * 2)
    return rng.choice(makers)(rng)


def compare_yaml(rng):
    """Options in a YAML file mean the same as on the command line."""
    options = {
        "model": rng.choice(MODELS),
        "seed": rng.randrange(99),
        "steps": rng.randint(1, 500),
        "recipe": rng.choice(("small", "fast", "he2015")),
        "precision": "fp32",
        "balance": rng.random() < 0.5,
        "recompute": rng.choice(("none", "unit")),
        "set": rng.sample(FIELDS[:5], rng.randrange(3)),
    }
    chosen = {key: options[key] for key in rng.sample(sorted(options), rng.randint(1, 6))}
    if rng.random() < 0.4:
        chosen["steps"] = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        chosen["model"] = rng.choice(BAD_MODELS[:7])
    words = []
    for key, value in chosen.items():
        if isinstance(value, bool):
            words += [f"--{key}"] * value
        else:
            words += [
                w
                for v in (value if isinstance(value, list) else [value])
                for w in (f"--{key}={v}",)
            ]
    if "set" in chosen and not chosen["set"]:
        del chosen["set"]
    text = yaml.safe_dump(chosen, allow_unicode=rng.random() < 0.5)
    end = ["--dry-run", "--json"]
    commands = [
        ["train", "digits", *words, *end],
        ["train", "digits", "--config", "in/o.yaml", *end],
    ]
    ignored = ["seconds", "estimated_seconds", "time", "memory", "free", "images_per_second"]
    return Case(
        "options", f"YAML {text[:60]!r}", {"in/o.yaml": text}, commands, {"same": [[0, 1, ignored]]}
    )


def try_yaml(rng):
    text = rng.choice(RAW_YAML)
    if rng.random() < 0.5:
        place = rng.randrange(len(text) + 1)
        text = (
            text[:place]
            + rng.choice((":", "\n", "[", "'", "!", "*a", "&a ", "{", "#", "\x00", "\u2028", "- "))
            + text[place:]
        )
    command = rng.choice(
        (
            ["train", "digits", "--dry-run", "--json"],
            ["show", "cifar-resnet8", "--json"],
            ["data", "check", "in/photos", "--out", "out/check", "--json"],
        )
    )
    files = {"in/o.yaml": text, "in/photos": {"folder": "photos"}}
    return Case("options", f"YAML {text[:60]!r}", files, [[*command, "--config", "in/o.yaml"]])


def nest_yaml(rng):
    """A list or a map in the place of one value."""
    key = rng.choice(("data", "model", "seed", "steps", "recipe", "precision", "set"))
    text = yaml.safe_dump({key: rng.choice(NESTED)}, default_flow_style=rng.random() < 0.5)
    data = [] if key == "data" else ["digits"]
    command = ["train", *data, "--config", "in/o.yaml", "--dry-run", "--json"]
    return Case("options", f"YAML {text[:60]!r}", {"in/o.yaml": text}, [command], {"refused": [0]})


def try_arguments(rng):
    number, model = rng.choice(NUMBERS), rng.choice((*BAD_MODELS, *MODELS))
    field = rng.choice(FIELDS)
    place = rng.choice(
        (
            "~nosuchuser/x",
            "",
            "/dev/zero",
            "/dev/null",
            "in",
            "hf:..",
            "hf:",
            "runs/typo",
            "in/" + "a" * 300,
            "-",
            "in/\udcff",
            "https://example.com/a.png",
            "C:\\photos",
        )
    )
    command = rng.choice(
        (
            ["train", "digits", "--dry-run", "--json", f"--steps={number}", f"--set={field}"],
            ["train", "digits", "--dry-run", "--json", f"--model={model}"],
            ["train", "digits", "--dry-run", "--json", f"--epochs={number}"],
            [
                "train",
                "digits",
                "--dry-run",
                "--json",
                f"--seed={number}",
                f"--save-every={number}",
            ],
            ["train", place, "--dry-run", "--json"],
            [
                "train",
                "in/photos",
                "--dry-run",
                "--json",
                f"--size={number.replace('1_000', '1_0')}",  # 1,000 pixels honestly take gigabytes
                *(["--balance"] * rng.randrange(2)),
            ],
            ["show", model, "--json"],
            ["show", model, "--data", "digits", "--json"],
            ["predict", place, "in/one.png", "--json"],
            ["predict", "in/model", place, "--json", "--engine", "torch"],
            ["predict", "in/model", "in/one.png", "--json", "--engine=torch", f"--top={number}"],
            ["predict", "in/model", "in/one.png", "--json", "--engine=torch", f"--batch={number}"],
            [
                "predict",
                "in/model",
                "in/one.png",
                "--json",
                "--engine=torch",
                f"--max-pixels={number}",
                f"--white-level={number}",
            ],
            ["evaluate", "in/model", place, "--json"],
            ["evaluate", place, "in/photos", "--json"],
            ["report", place, "--json"],
            ["convert", place, "--out", "out/c"],
            ["data", "check", place, "--out", "out/d", "--json"],
            [rng.choice(("trian", "--hlep", "", "train", "é", "data"))],
        )
    )
    files = {
        "in/photos": {"folder": "photos"},
        "in/model": {"folder": "run/last"},
        "in/one.png": {"seed": "one.png"},
    }
    return Case("options", " ".join(command)[:100], files, [command])
