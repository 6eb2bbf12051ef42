"""JSON that others wrote ends in a value or in one sentence, within bounded time."""

import json
import math
import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residua.bounded_json import (
    MAX_DIGITS,
    MAX_NESTING,
    parse_strict_json,
    read_json,
    read_json_lines,
    read_regular_file,
)
from residua.errors import DamagedRecordError, MissingRecordError, RecordError
from residua.record import RunRecord
from tests.test_design import PACKAGE

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@settings(max_examples=40)
@given(json_values, st.booleans())
def test_everything_that_python_writes_is_read_as_python_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_strict_json(text) == json.loads(text) == value
    assert parse_strict_json(text.encode("utf-8", "surrogatepass")) == value


REFUSED = {
    "nothing": (b"", "Expecting value"),
    "binary": (b"\xff\xfe\x00\x01", "its byte 0 is not UTF-8 text"),
    "zeros": (b"\0" * 100, "Expecting value"),
    "open lists": (b"[" * 100_000, f"nested more than {MAX_NESTING} "),
    "lists": (b"[" * 100_000 + b"]" * 100_000, f"nested more than {MAX_NESTING} "),
    "objects": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, f"nested more than {MAX_NESTING} "),
    "one level too many": (
        b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1),
        f"nested more than {MAX_NESTING} ",
    ),
    "5,000 digits": (b"9" * 5000, f" more than {MAX_DIGITS} digits"),
    "5,000 digits in a list": (b'{"a": [1, ' + b"9" * 5000 + b"]}", "digits"),
    "5,000 decimals": (b"0." + b"1" * 5000, "digits"),
    "NaN": (b'{"loss": NaN}', "it contains NaN, which is not a finite number"),
    "Infinity": (b"[-Infinity]", "it contains -Infinity, which is not a finite number"),
    "an infinite exponent": (b"[1e999]", "it contains 1e999, which is not a finite number"),
    "the same key twice": (b'{"result": 1, "result": {}}', "it has the key 'result' twice"),
    "half a surrogate pair": (b'{"a": "\\ud83d"}', "has half of a surrogate pair"),
    "half a pair as a key": (b'{"\\ude00\\ud83d": 1}', "has half of a surrogate pair"),
    "quotes without end": (b'"' + b'\\"' * 1_000_000, "Unterminated string"),
    "backslashes": (b"\\" * 1_000_001, "Expecting value"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unusable_file_is_one_sentence_that_names_it_at_once(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "run.json"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(DamagedRecordError) as refused:
        read_json(path)
    assert time.perf_counter() - start < 1
    assert str(refused.value).startswith(f"{path} is damaged: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),  # with a byte order mark
        (b'{"a": "[[[[ 1e999 NaN \\\\"}', {"a": "[[[[ 1e999 NaN \\"}),
        (b'["\\ud83d\\ude00", "\\udcff"]', ["\N{GRINNING FACE}", "\udcff"]),  # a file's name
        (b"[1e-320, 1e300]", [1e-320, 1e300]),
        (b"[" * MAX_NESTING + b"]" * MAX_NESTING, json.loads("[" * 64 + "]" * 64)),
        (b"9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
    ],
)
def test_what_only_looks_unusable_is_read(tmp_path, content, value):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == value


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3')
    with pytest.raises(DamagedRecordError, match=r"metrics.jsonl is damaged in line 4: Expecting"):
        read_json_lines(path)
    path.write_text('{"step": 1}\n\n{"step": "\N{LINE SEPARATOR}"}\n')
    assert read_json_lines(path) == [{"step": 1}, {"step": "\N{LINE SEPARATOR}"}]


def test_a_loss_that_was_not_finite_is_none_in_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "dev_loss": NaN, "loss": -Infinity, "lr": 0.1}\n')
    rows = [{"step": 1, "dev_loss": None, "loss": None, "lr": 0.1}]
    assert RunRecord(tmp_path).read_metrics() == read_json_lines(path) == rows
    RunRecord(tmp_path).append_metrics({"step": 2, "dev_loss": math.inf, "loss": math.nan})
    assert json.loads(path.read_text().splitlines()[1]) == {
        "step": 2,
        "dev_loss": None,
        "loss": None,
    }


def test_folders_pipes_devices_and_impossible_paths_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("{}")
    for name, kind, sentence in (
        ("pipe", RecordError, "pipe is a pipe or a device: give a regular file"),
        (".", RecordError, " is a folder: give a file"),
        ("none", MissingRecordError, "there is no file"),
        ("file/below", MissingRecordError, "there is no file"),
        ("x" * 300, RecordError, "cannot be read: File name too long"),
        ("a\0b", RecordError, "cannot be read: embedded null byte"),
        ("/dev/zero", RecordError, "/dev/zero is a pipe or a device"),
    ):
        with pytest.raises(kind, match=sentence):
            read_json(tmp_path / name)


def test_a_file_above_the_budget_is_not_read(tmp_path):
    (tmp_path / "large").write_bytes(b"[" + b"0," * 1000 + b"0]")
    assert len(read_json(tmp_path / "large", 2002 + 1)) == 1001
    with pytest.raises(DamagedRecordError, match="large is too large: it has more than 100 bytes"):
        read_json(tmp_path / "large", 100)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(DamagedRecordError, match="sparse is too large"):
        read_regular_file(tmp_path / "sparse", 2**20)


OTHER_READERS = {  # of JSON, with the reason
    "bounded_json.py",
    "shard_samples.py",  # labels in shards of other programs, which write NaN; of a few bytes
    "step_profile.py",  # the trace that the profiler of this process has just written
}


def test_json_is_parsed_in_one_place():
    for path in PACKAGE.rglob("*.py"):
        found = re.search(
            r"\bjson\.loads?\(|JSONDecoder\(|from json import.*\bload", path.read_text()
        )
        assert not found or path.name in OTHER_READERS, f"{path}: {found[0]}"
