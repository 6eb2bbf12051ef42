"""The tables of the measurements of fine-tuning, as `fine_tuning.py table` writes them."""

import json
import re
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev

FIRST_ARM = "nothing chosen: published weights"  # with which the others are compared
RECORD = "results.jsonl"
README_START = """# Fine-tuning on few photographs

Written by `python experiments/fine_tuning.py table experiments/fine-tuning` from the rows of
[results.jsonl](results.jsonl). Errors are those of the test images, in percent: the mean over the
seeds and its 95 % interval (Student's t). Points above the first arm are differences of runs with
the same seed. Other jobs ran on the machine, so the seconds, which are medians, are only a hint.

The arms of fastai and timm start from the same weights and classify the same test images. They
train on all training images, with those that residua holds out to choose among its networks.
"""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % of Student's t, by seeds


def read_rows(record: Path) -> list[dict]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def format_table(rows: list[dict]) -> str:
    """Format each arm's mean test error, and its difference from the first arm, as Markdown.

    Intervals are those of Student's t over the seeds.  Of two rows with one arm and one seed, the
    later one counts.
    """
    by_arm: dict[str, dict[int, dict]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    baseline = by_arm.get(FIRST_ARM, {})
    lines = [
        "| arm | test error | points above the first arm | steps | seconds | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for arm in sorted(by_arm, key=lambda arm: arm != FIRST_ARM):
        by_seed = by_arm[arm]
        error = format_mean([100 * row["test_error"] for row in by_seed.values()], "{:.1f}")
        apart = format_mean(
            [
                100 * (by_seed[seed]["test_error"] - baseline[seed]["test_error"])
                for seed in sorted(by_seed.keys() & baseline.keys())
            ],
            "{:+.1f}",
        )
        steps = ", ".join(str(n) for n in sorted({row["steps"] for row in by_seed.values()}))
        seconds = median(row["seconds"] for row in by_seed.values())
        apart = "" if arm == FIRST_ARM else apart
        lines.append(f"| {arm} | {error} % | {apart} | {steps} | {seconds:.0f} | {len(by_seed)} |")
    return "\n".join(lines)


def format_mean(values: list[float], pattern: str) -> str:
    """Format a mean with its 95 % interval, if there are enough values: `31.6 ± 1.1`."""
    if not values:
        return ""
    text = pattern.format(mean(values))
    if len(values) not in T_95:
        return text
    return f"{text} ± {T_95[len(values)] * stdev(values) / sqrt(len(values)):.1f}"


def write_tables(out: Path, documents: list[Path]) -> None:
    """Write the tables of a record to README.md beside it, and into documents.

    Rows are in one table if data, size and stand-in are the same.  A document gets the table that a
    line `<!-- table DATA STAND-IN -->` or, for a chosen size in pixels, `<!-- table DATA SIZE
    STAND-IN -->` names, up to the line `<!-- end -->`; STAND-IN is the beginning of its sum.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in read_rows(out / RECORD):
        key = (row["data"], row.get("size"), row.get("stand_in"))
        groups.setdefault(key, []).append(row)
    parts = [README_START]
    tables = {}
    for (data, size, stand_in), rows in groups.items():
        name = " ".join(str(part) for part in (data, size, (stand_in or "")[:12]) if part)
        tables[name] = format_table(rows)
        side = f", {size} pixels" if size else ""
        sources = {f"residua {row['residua']}" for row in rows if "residua" in row}
        sources |= {f"{name} {v}" for row in rows for name, v in row.get("versions", {}).items()}
        facts = [f"stand-in {stand_in[:12]}"] if stand_in else []
        facts += [", ".join(sorted(sources))] if sources else []
        facts += sorted({row["device"] for row in rows if "device" in row})
        heading = f"## {data}{side}\n\n" + (f"{'; '.join(facts)}.\n\n" if facts else "")
        parts.append(f"{heading}{tables[name]}\n")
    (out / "README.md").write_text("\n".join(parts))
    for document in documents:
        text = document.read_text()
        for name, table in tables.items():
            pattern = rf"(<!-- table {re.escape(name)} -->\n)(?:.*?\n)??(<!-- end -->)"
            text = re.sub(pattern, rf"\g<1>{table}\n\2", text, flags=re.DOTALL)
        document.write_text(text)
    for table in tables.values():
        print(f"{table}\n")
