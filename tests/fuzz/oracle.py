"""Run a case in a forked child, and say what is wrong with what residua did.

A child costs milliseconds, because everything is imported before the fork, and cannot spoil the
next case.  Limits of the operating system end it when it takes too long or too much.
"""

import csv
import hashlib
import io
import json
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import namedtuple
from pathlib import Path

from residua.cli.main import main
from tests.fuzz.case import lay_out
from tests.fuzz.properties import PROPERTIES
from tests.fuzz.server import answer_requests

CPU_SECONDS = 90  # of one case; the slowest honest one takes 3, or 40 on a busy machine
WALL_SECONDS = 300  # ends what waits for ever; several times the other, for a busy machine
# That a case may add to what is imported: an image of the 128 million pixels that are allowed
# takes 7 bytes a pixel while it is decoded.
MEMORY_BYTES = 1_200 * 2**20
ADDRESS_BYTES = 4 * 2**30  # of address space that it may add: a bomb ends here
HALF_WRITTEN = re.compile(r"\.(part|old|lock|tmp|temp)$|^tmp|~$")
PYTHON_WORDS = re.compile(
    r"<class|object at 0x|NoneType|\[Errno|Traceback|\b[A-Z][a-z]+Error\b|keyword argument|"
    r"torch\.Size|unexpected error|list index|out of range|has no attribute|codec can't"
)
FORMULA = re.compile(r"[=+\-@\t\r]")  # with this a spreadsheet would begin to compute
Outcome = namedtuple("Outcome", "code out err seconds")


def run_case(case, seeds):
    """Run a case in a new folder; return its complaints, each a kind and a sentence."""
    with tempfile.TemporaryDirectory(prefix="residua-fuzz-") as name:
        folder = Path(name)
        lay_out(case, folder, seeds)
        before = take_snapshot(folder)
        outcomes, complaints = run_in_child(case, folder, seeds)
        for outcome, command in zip(outcomes, case.commands, strict=False):
            complaints += check_outcome(outcome, command)
        complaints += check_files(folder, before)
        if len(outcomes) == len(case.commands):
            for check, arguments in case.checks.items():
                complaints += [
                    (check, text) for text in PROPERTIES[check](folder, outcomes, arguments, seeds)
                ]
        return complaints


def run_in_child(case, folder, seeds):
    """Fork, run the commands of a case, and collect the outcomes and complaints about limits."""
    sys.stdout.flush()
    sys.stderr.flush()
    resident_before = read_status("VmRSS")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become_child(case, folder, seeds)
            code = 0
        except BaseException:
            (folder / "home" / "crash").write_text(traceback.format_exc()[-800:])
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    complaints = []
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        is_time = name in ("SIGXCPU", "SIGALRM", "SIGKILL")
        complaints.append(("time" if is_time else "crash", f"ended by {name}"))
    elif os.WEXITSTATUS(status):
        reason = folder / "home" / "crash"
        complaints.append(("crash", reason.read_text() if reason.exists() else "exited"))
    added = usage.ru_maxrss * 1024 - resident_before
    if added > MEMORY_BYTES:
        complaints.append(("memory", f"took {added // 2**20} MiB"))
    outcomes = []
    for path in sorted((folder / "home").glob("outcome-*")):
        outcome = pickle.loads(path.read_bytes())
        if isinstance(outcome, Outcome):
            outcomes.append(outcome)
        else:
            complaints += outcome
    return outcomes, complaints


def become_child(case, folder, seeds):
    """Set limits and the environment, run the commands, and store each outcome in home/."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    address_space = read_status("VmSize") + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)
    os.chdir(folder)
    os.environ |= {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    os.environ.pop("RESIDUA_DATA", None)
    tempfile.tempdir = None
    for i, command in enumerate(case.commands):
        (folder / "home" / f"outcome-{i:03}").write_bytes(
            pickle.dumps(run_command(command, folder))
        )
    if case.requests:
        complaints = answer_requests(case.requests, seeds)
        (folder / "home" / "outcome-http").write_bytes(pickle.dumps(complaints))


def run_command(command, folder):
    """Run one command with its streams in files."""
    streams = [folder / "home" / name for name in ("stdout", "stderr")]
    for number, path in enumerate(streams, 1):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    started = time.monotonic()
    try:
        code = main(command)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        code = f"raised {type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = [path.read_text(encoding="utf-8", errors="replace") for path in streams]
    return Outcome(code, out, err, time.monotonic() - started)


def read_status(key):
    """A number of bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def check_outcome(outcome, command):
    """Complaints about the exit code and the printed text of one command."""
    title = " ".join(command)[:120]
    if outcome.code not in (0, 1, 2):
        yield "exit code", f"{title}: exit code {outcome.code}"
    if "unexpected error" in outcome.err or "Traceback" in outcome.err + outcome.out:
        yield "unexpected error", f"{title}: {outcome.err.strip()[-500:]}"
    elif "the memory is used up" in outcome.err:
        yield "memory", f"{title}: {outcome.err.strip()[-300:]}"
    if outcome.code in (1, 2):
        last = re.split(r"[\r\n]+", outcome.err.strip())[-1].strip()
        for typed in [*command, *(word.partition("=")[2] for word in command)]:
            if len(typed) > 100:  # what the user typed may be as long as they like
                last = last.replace(typed, "...")
        if problem := find_sentence_problem(last):
            yield "sentence", f"{title}: {problem}: {last[:400]!r}"
    if "--csv" in command:
        yield from find_formulas(outcome.out, title)
    if "--json" in command:
        try:
            for line in outcome.out.splitlines() if outcome.out.strip() else []:
                json.loads(line, parse_constant=lambda word: 1 / 0)
            if outcome.code == 0 and not outcome.out.strip():
                yield "json", f"{title}: nothing was printed"
        except (ValueError, ZeroDivisionError):
            yield "json", f"{title}: standard output is no JSON: {outcome.out[:200]!r}"


def find_formulas(text, title):
    """A complaint if a spreadsheet would compute a cell of a CSV text that is no number."""
    cells = (cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row)
    if formulas := [cell for cell in cells if FORMULA.match(cell) and not is_number(cell)]:
        yield "formula", f"{title}: a spreadsheet would compute {formulas[0][:200]!r}"


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_sentence_problem(line):
    """What keeps a line from being one sentence of the field; None if nothing does."""
    match = re.match(r"residua( [a-z]+)?: (.+)", line)
    if not match:
        return "it does not begin with residua:"
    text = re.sub(r"'[^']*'", "''", match[2])
    if len(line) > 1500:
        return f"it has {len(line)} characters"
    if text.endswith(".") and not text.endswith("..."):
        return "it ends with a full stop"
    if found := PYTHON_WORDS.search(text):
        return f"it speaks Python ({found[0]})"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line):
        return "it has control characters"
    return None


def take_snapshot(folder):
    """The content of all files, as digests by path."""
    return {
        str(path.relative_to(folder)): path.is_symlink() or hash_file(path)
        for name in ("in", "out", "cache")
        for path in list_files(folder / name)
    }


def list_files(folder):
    return [Path(root, name) for root, _, names in os.walk(folder) for name in names]


def hash_file(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def check_files(folder, before):
    """Complaints about files: inputs are as they were, and nothing else is half-written."""
    after = take_snapshot(folder)
    changed = sorted(n for n in before.keys() | after if before.get(n) != after.get(n))
    if changed_inputs := [name for name in changed if name.startswith("in/")]:
        yield "inputs", f"changed inputs: {changed_inputs[:5]}"
    strangers = sorted(set(os.listdir(folder)) - {"in", "out", "tmp", "cache", "home"})
    if strangers:
        yield "strange files", f"written outside the output: {strangers[:5]}"
    if left := list_files(folder / "tmp"):
        yield "strange files", f"left in the temporary folder: {left[:3]}"
    for name in changed:
        if (folder / name).is_file():
            yield from check_written_file(folder / name)


def check_written_file(path):
    """Complaints about one file that was written: its name, its JSON, its model folder."""
    if HALF_WRITTEN.search(path.name) or any(map(HALF_WRITTEN.search, path.parent.parts[-2:])):
        yield "half-written", f"{path.name} was left behind"
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        yield "half-written", f"{path.name} is no JSON"
    if path.suffix == ".csv":
        yield from find_formulas(path.read_text(encoding="utf-8"), path.name)
    if path.name == "config.json" and not (path.parent / "model.safetensors").exists():
        yield "half-written", f"{path.parent.name} has a config without weights"
    if path.name == "model.safetensors" and not (path.parent / "config.json").exists():
        yield "half-written", f"{path.parent.name} has weights without a config"
