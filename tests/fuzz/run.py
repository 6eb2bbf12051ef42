"""Find inputs that residua does not handle: make cases, run them, and shrink those that fail.

python -m tests.fuzz.run --minutes 5          random cases, until the time is over
python -m tests.fuzz.run --fixed              the corpus and fixed cases of each kind
python -m tests.fuzz.run --replay CASE        one case again, as a failure prints it
"""

import argparse
import importlib
import json
import os
import pkgutil
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

import residua
from tests.fuzz.case import pack_case, read_case, unpack_case
from tests.fuzz.generators import GENERATORS
from tests.fuzz.oracle import run_case
from tests.fuzz.seeds import make_seeds

CORPUS = Path(__file__).with_name("corpus.jsonl")
FIXED_SEED = 2015
FIXED_CASES = {
    "folder": 18,
    "table": 18,
    "shards": 14,
    "weights": 12,
    "records": 10,
    "options": 16,
    "images": 10,
    "http": 3,
}
SHRINK_SECONDS = 30
LONGEST_WORD = 2000  # characters of a case on the command line
LIBRARIES = (
    "torchvision",
    "sklearn.datasets",
    "matplotlib.figure",
    "scipy.stats",
    "safetensors.torch",
    "jinja2",
    "starlette.applications",
    "uvicorn",
    "captum.attr",
    "huggingface_hub",
    "numpy",
    "PIL.Image",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long random cases are made")
    parser.add_argument("--kind", choices=[*GENERATORS], help="make cases of this kind alone")
    parser.add_argument("--seed", type=int, help="of the first case (default: by chance)")
    parser.add_argument("--fixed", action="store_true", help="run the corpus and fixed cases")
    parser.add_argument("--replay", metavar="CASE", help="run one case, as a failure prints it")
    parser.add_argument("--keep", action="store_true", help="add what fails to the corpus")
    parser.add_argument("--first", action="store_true", help="stop after the first failure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write counts and failures")
    arguments = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory(prefix="residua-fuzz-seeds-") as name:
        seeds = Path(name)
        make_seeds(seeds)
        hunt = Hunt(seeds, arguments.first)
        if arguments.replay:
            word = arguments.replay
            if word.endswith(".case"):
                word = Path(word).read_text()
            hunt.try_case(unpack_case(word), "replay")
        elif arguments.fixed:
            hunt.run_fixed(arguments.kind)
        else:
            hunt.run_random(arguments.minutes, arguments.kind, arguments.seed)
    hunt.print_summary()
    if arguments.keep:
        with CORPUS.open("a", encoding="utf-8") as file:
            file.writelines(f"{failure['case']}\n" for failure in hunt.failures)
    if arguments.json:
        arguments.json.write_text(json.dumps({"cases": hunt.counts, "failures": hunt.failures}))
    return 1 if hunt.failures else 0


def prepare():
    """Import all that a command needs, so that a forked child need not, and use one thread."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    modules = [
        m.name
        for m in pkgutil.walk_packages(residua.__path__, "residua.")
        if "__main__" not in m.name
    ]
    warnings.simplefilter("ignore")
    for name in (*modules, *LIBRARIES):
        with suppress(ImportError):  # old names of modules say so when they are imported
            importlib.import_module(name)


class Hunt:
    """Runs cases, counts them by kind, and keeps and prints the failures, each kind once."""

    def __init__(self, seeds, stop_at_first=False):
        self.seeds, self.stop_at_first = seeds, stop_at_first
        self.counts, self.failures, self.known = Counter(), [], Counter()
        self.started = self.printed = time.monotonic()

    def run_fixed(self, kind=None):
        for number, line in enumerate(read_corpus()):
            case = read_case(line)
            if kind in (None, case.kind):
                self.try_case(case, f"corpus line {number + 1}", "corpus")
        for name, count in FIXED_CASES.items():
            for i in range(count if kind in (None, name) else 0):
                self.try_seed(name, FIXED_SEED + i)

    def run_random(self, minutes, kind, seed):
        seed = random.randrange(10**9) if seed is None else seed
        print(f"first seed {seed}", flush=True)
        kinds = [kind] if kind else [*GENERATORS]
        end = self.started + 60 * minutes
        while time.monotonic() < end and not (self.stop_at_first and self.failures):
            for name in kinds:
                if time.monotonic() < end:
                    self.try_seed(name, seed)
            seed += 1
            self.print_progress(end)

    def try_seed(self, kind, seed):
        case = GENERATORS[kind](random.Random(f"{kind} {seed}"), self.seeds)
        self.try_case(case, f"seed {seed}", kind)

    def try_case(self, case, origin, counted_as=None):
        self.counts[counted_as or case.kind] += 1
        try:
            complaints = run_case(case, self.seeds)
        except Exception as error:  # of the suite itself: the search goes on, but does not pass
            complaints = [("suite", f"{type(error).__name__}: {error}")]
        if not complaints:
            return
        kind, text = complaints[0]
        signature = (
            f"{case.kind}: {kind}: {text[:60] if kind in ('sentence', 'unexpected error') else ''}"
        )
        self.known[signature] += 1
        if self.known[signature] > 3:
            return
        seconds = time.monotonic() - self.started
        print(
            f"\nFOUND {case.kind}, {origin}, after {seconds:.0f} s: {case.name}\n  {kind}: {text}",
            flush=True,
        )
        small = self.shrink(case, kind)
        for command in small.commands:
            print(f"  $ residua {' '.join(command)}"[:600])
        print(f"  replay: scripts/fuzz --replay {name_replay(small)}", flush=True)
        self.failures.append(
            {
                "kind": case.kind,
                "origin": origin,
                "name": case.name,
                "complaint": kind,
                "text": text,
                "seconds": seconds,
                "case": small.to_line(),
            }
        )

    def shrink(self, case, complaint):
        """Leave out files, commands and requests as long as the complaint stays."""
        end = time.monotonic() + SHRINK_SECONDS

        def fails(smaller):
            try:
                return complaint in [kind for kind, _ in run_case(smaller, self.seeds)]
            except (OSError, LookupError):  # the reader misses a file
                return False

        only_check = {name: case.checks[name] for name in case.checks if name == complaint}
        if fails(smaller := replace(case, checks=only_check)):
            case = smaller
        size = max(len(case.files) // 2, 1)
        while size:
            for start in range(0, len(case.files), size):
                names = [*case.files][start : start + size]
                smaller = replace(
                    case, files={n: c for n, c in case.files.items() if n not in names}
                )
                if (
                    time.monotonic() < end
                    and len(smaller.files) < len(case.files)
                    and fails(smaller)
                ):
                    case = smaller
            size //= 2
        for request in list(case.requests):
            smaller = replace(case, requests=[r for r in case.requests if r != request])
            if time.monotonic() < end and fails(smaller):
                case = smaller
        return case

    def print_progress(self, end):
        if time.monotonic() - self.printed > 30:
            self.printed = time.monotonic()
            cases, seconds = sum(self.counts.values()), self.printed - self.started
            print(
                f"{cases:,} cases, {cases / seconds:.1f} a second, {len(self.failures)} failures, "
                f"{max(end - self.printed, 0) / 60:.1f} minutes left",
                flush=True,
            )

    def print_summary(self):
        seconds = time.monotonic() - self.started
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.counts.items())
        print(
            f"{sum(self.counts.values()):,} cases in {seconds:.0f} s ({kinds}); "
            f"{len(self.failures)} failures"
        )
        for signature, count in self.known.most_common():
            print(f"  {count:4} x {signature}")


def name_replay(case):
    """A word that replays a case, or the file in which the word is if it is long."""
    word = pack_case(case)
    if len(word) <= LONGEST_WORD:
        return word
    handle, path = tempfile.mkstemp(prefix=f"residua-fuzz-{case.kind}-", suffix=".case")
    with os.fdopen(handle, "w") as file:
        file.write(word)
    return path


def read_corpus():
    """The lines of the corpus, one case each: all inputs that ever failed."""
    return (
        [line for line in CORPUS.read_text(encoding="utf-8").splitlines() if line.strip()]
        if CORPUS.exists()
        else []
    )


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
