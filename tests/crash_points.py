"""Kill a process at every one of its file operations.

An operation is a creation, write, rename, deletion, flush or change of mode of a file or folder by
Python.  A write is killed twice: before it, and when half of its bytes are written.
"""

import builtins
import io
import os
from collections import Counter
from pathlib import Path

import torch

from residua import files
from residua.net import safetensors_file
from tests.forks import KILLED, run_forked

OS_OPERATIONS = (
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "link",
    "symlink",
    "truncate",
    "ftruncate",
    "chmod",
    "fsync",
)
SLOW_OPERATIONS = ("fsync",)  # counted, not done: a kill loses nothing that was written before


class OperationCounter:
    """Counts the file operations of this process, and ends it before number `kill_at`."""

    def __init__(self, kill_at=0):
        self.kill_at, self.counts = kill_at, Counter()

    def count(self, name, do_half=None):
        """Count an operation; end the process if it is the last one, perhaps after half of it."""
        self.counts[name] += 1
        if self.counts.total() == self.kill_at:
            if do_half is not None:
                do_half()
            os._exit(KILLED)

    def install(self):
        """Replace the functions by which Python changes files, in the rest of this process."""
        for name in OS_OPERATIONS:
            setattr(os, name, self.wrap_os_function(name, getattr(os, name)))
        os.open = self.wrap_os_open(os.open)
        builtins.open = io.open = self.wrap_open(io.open)
        files.exchange_paths = self.wrap_exchange(files.exchange_paths)
        torch.save = self.wrap_library_writer("torch.save", torch.save)
        safetensors_file.save_file = self.wrap_library_writer(
            "save_file", safetensors_file.save_file
        )

    def wrap_os_function(self, name, function):
        def call(*arguments, **options):
            self.count(name)
            return None if name in SLOW_OPERATIONS else function(*arguments, **options)

        return call

    def wrap_os_open(self, function):
        def call(path, flags, *arguments, **options):
            if flags & os.O_CREAT:
                self.count("create")
            return function(path, flags, *arguments, **options)

        return call

    def wrap_exchange(self, function):
        def call(*arguments):
            self.count("exchange")
            return function(*arguments)

        return call

    def wrap_library_writer(self, name, function):
        """Count a library's writer as two operations, of which the second leaves a half."""

        def call(content, target, *arguments, **options):
            if not isinstance(target, Path):
                return function(content, target, *arguments, **options)
            self.count(name)
            function(content, target, *arguments, **options)
            self.count(name, lambda: cut_off_file(target))
            return None

        return call

    def wrap_open(self, function):
        """Count the creation of a file, and each write to it that reaches the operating system."""
        counter = self

        class CountedFile(io.FileIO):
            def write(self, data):
                counter.count("write")
                half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
                counter.count("write", lambda: io.FileIO.write(self, half))
                return super().write(data)

            def truncate(self, size=None):
                counter.count("truncate")
                return super().truncate(size)

        def call(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **options):
            is_written = set(mode) & set("wax") or mode == "rb+"
            if isinstance(file, int) or not is_written:
                return function(file, mode, buffering, encoding, errors, newline, **options)
            if mode != "rb+":
                counter.count("create")
            raw = CountedFile(file, mode.replace("b", "").replace("t", ""))
            if buffering == 0:
                return raw
            binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

        return call


def cut_off_file(path):
    """Leave a half of a file, and a temporary file as safetensors makes it beside the target."""
    with io.FileIO(path) as file:
        content = file.read()
    for name in (path, path.with_name(".tmpaBcDeF")):
        with io.FileIO(name, "w") as file:
            file.write(content[: len(content) // 2])


def run_counted(action, folder, kill_at, report=None):
    """Call `action(folder)` in this process, and end it before operation number `kill_at`."""
    counter = OperationCounter(kill_at)
    counter.install()
    action(folder)
    if report is not None:
        os.write(report, repr(dict(counter.counts)).encode())


def count_operations(action, folder):
    """The operations of `action(folder)`, by kind."""
    read_end, write_end = os.pipe()
    assert run_forked(run_counted, action, folder, 0, write_end) == 0
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        return Counter(eval(pipe.read()))  # a dict of our own
