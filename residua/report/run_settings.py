"""The settings of runs by name, and those in which runs differ."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

from residua.bounded_json import parse_strict_json
from residua.config.serialize import Json
from residua.report.recorded_run import upgrade_recipe_json

ENVIRONMENT_SETTINGS = (
    *("precision", "device", "threads", "processes", "recompute", "kernels", "residua", "torch"),
    *("images", "dev_share", "white_level", "max_pixels", "transform"),
)
DURATION_SETTINGS = ("steps", "epochs")  # of a recipe; exactly one of them is above 0
SHOWN_SETTINGS = {"data", "model", "recipe"}
"""The settings that a list of runs shows of every run."""

MAX_SETTING_LENGTH = 60


def collect_run_settings(run: dict[str, Json], environment: Json) -> dict[str, str]:
    """Collect the settings of a run, from its run.json, as texts by name.

    A setting of the recipe has the name by which `--set` changes it.  The parts of a network are
    left out, because its name determines them.
    """
    network, recipe = run["network"], run["recipe"]
    parts = network if isinstance(network, dict) else {}
    settings: dict[str, Json] = {
        "data": run["dataset"],
        "model": parts.get("name"),
        "seed": run["seed"],
        "start": run.get("start", ""),
        **{name: value for name, value in parts.items() if not isinstance(value, dict | list)},
        "input": parts.get("input"),
    }
    del settings["name"]
    texts = {name: format_setting(value) for name, value in settings.items()}
    if isinstance(recipe, dict):
        recipe_texts = dict(flatten_recipe(json.dumps(recipe)))
        for name in DURATION_SETTINGS:
            if recipe_texts.get(name) == "0":  # the other one sets the duration
                del recipe_texts[name]
        texts |= {"recipe": recipe_texts.pop("name", ""), **recipe_texts}
    facts = environment if isinstance(environment, dict) else {}
    texts |= {name: format_setting(facts[name]) for name in ENVIRONMENT_SETTINGS if name in facts}
    return texts


@lru_cache(maxsize=4096)  # the runs of a study share their recipe
def flatten_recipe(recipe_text: str) -> tuple[tuple[str, str], ...]:
    """Flatten a recipe's JSON, in this version's form, to fields (dotted name, text)."""
    recipe = parse_strict_json(recipe_text)
    assert isinstance(recipe, dict)  # as its caller wrote it
    return tuple(
        (name, format_setting(value)) for name, value in flatten_json(upgrade_recipe_json(recipe))
    )


def flatten_json(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Yield the values in nested objects with their dotted keys."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, part in value.items():
        yield from flatten_json(part, f"{path}.{key}" if path else key)


def format_setting(value: Json) -> str:
    """Format a setting as text: `0.1`, `yes`, `none`, `3 x 32 x 32`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "none"
    if isinstance(value, list):
        return " x ".join(map(format_setting, value))[:MAX_SETTING_LENGTH]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()[:MAX_SETTING_LENGTH]


def list_differing_settings(settings: Sequence[dict[str, str]]) -> list[str]:
    """List the names of the settings in which runs differ, apart from `SHOWN_SETTINGS`.

    A setting that a run does not have differs from one that it has.
    """
    names = dict.fromkeys(name for run_settings in settings for name in run_settings)
    return [
        name
        for name in names
        if name not in SHOWN_SETTINGS
        and len({run_settings.get(name) for run_settings in settings}) > 1
    ]
