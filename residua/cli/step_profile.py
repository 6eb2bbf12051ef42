"""The option `residua train --profile`: where a step goes, as a table and a trace."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from residua import training
from residua.config.serialize import Json
from residua.console.output import DataSummaryRecorder
from residua.errors import UsageError
from residua.files import holds_visible_entries, require_writable_file
from residua.report.format import format_counted_noun, format_percent_number, quote_path

if TYPE_CHECKING:
    from residua.training import Machine, ResolvedRun

TRACE_NAME = "PROFILE.json.gz"
PROFILE_FACTS = (
    "model",
    "data",
    "recipe",
    "batch_size",
    "device",
    "threads",
    "precision",
    "recompute",
    "milliseconds",
    "images_per_second",
)


def profile_resolved_run(
    resolved: "ResolvedRun",
    machine: "Machine",
    folder: Path,
    arguments: Namespace,
    on_data: DataSummaryRecorder,
) -> dict[str, Json]:
    """Take steps of a run, and return where their time goes; the trace is written to `folder`."""
    require_profile_folder(folder)
    return training.profile_run(
        resolved.run,
        machine,
        folder / TRACE_NAME,
        arguments.data_dir,
        resolved.dataset,
        on_data,
    )


def require_profile_folder(folder: Path) -> None:
    """Raise UsageError, before any step, if the trace cannot be written or `folder` is another's.

    A folder is another's if it holds files but no trace, e.g. those of a run.
    """
    trace = folder / TRACE_NAME
    if folder.is_dir() and holds_visible_entries(folder) and not trace.exists():
        raise UsageError(f"{folder} is not empty and has no {TRACE_NAME}: choose another --out")
    try:
        require_writable_file(trace)
    except OSError as error:
        raise UsageError(
            f"{trace} cannot be written ({error.strerror or error}): choose another --out"
        ) from None


def select_shown_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Select the quantities that stand above the table of parts."""
    return {**{name: facts[name] for name in PROFILE_FACTS}, **facts["engine"]}


def describe_step_profile(facts: dict[str, Any]) -> list[str]:
    """Describe the parts of a step in a table, and its share of the limit in a sentence."""
    total = facts["milliseconds"]
    rows = [(part["name"], part["milliseconds"]) for part in facts["parts"]] + [("all", total)]
    width = max(len(name) for name, _ in rows)
    side, repeated = facts["limit_side"], facts["recompute"] != "none"
    return [
        "",
        f"{'part':{width}}  {'ms a step':>10}  {'%':>6}",
        *(
            f"{name:{width}}  {time:10.3f}  {format_percent_number(time / total):>6}"
            for name, time in rows
        ),
        "",
        f"{facts['step_tflops']:.3g} TFLOP/s{' without recomputation' * repeated}, "
        f"{format_percent_number(facts['share_of_limit'])} % of the {facts['limit_tflops']:.3g} "
        f"TFLOP/s of a product of {side} x {side} {facts['precision']} matrices",
        f"The trace of {format_counted_noun(facts['traced_steps'], 'step')}, "
        f"for https://ui.perfetto.dev: {quote_path(facts['trace'])}",
    ]
