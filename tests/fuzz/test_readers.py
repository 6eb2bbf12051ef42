"""Readers of what others wrote, against the standard library's, on whatever hypothesis makes up."""

import csv
import io
import json
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residua.bounded_json import MAX_NESTING, parse_strict_json
from residua.data.sources.listing import clean_cell, escape_unprintable, parse_split_name
from residua.data.sources.table_text import read_text_table
from residua.data.sources.tar_archive import TarDamageError, iter_tar_members

fixed = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
sizes = st.integers(0, 1500)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
archives = st.lists(st.tuples(names | st.text("ab/", min_size=90, max_size=300), sizes), max_size=5)


@fixed
@given(values, st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(value, as_ascii):
    text = json.dumps(value, ensure_ascii=as_ascii)
    assert parse_strict_json(text) == parse_strict_json(text.encode()) == value


@fixed
@given(st.binary(max_size=40) | st.text('[]{}",:\\u0dD8aeE+-.19 ', max_size=40).map(str.encode))
def test_what_is_no_json_is_a_value_error_and_nothing_else_differs(content):
    try:
        wanted = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        with pytest.raises(ValueError, match="."):  # any sentence
            parse_strict_json(content)
        return
    try:
        assert parse_strict_json(content) == wanted
    except ValueError as error:  # a limit, of which the message speaks
        assert any(word in str(error) for word in ("nested", "digits", "finite", "twice", "half"))


@pytest.mark.parametrize("depth", [1, MAX_NESTING, MAX_NESTING + 1, 10**5])
@pytest.mark.parametrize("kind", ["[]", '{"a":}'])
def test_nesting_is_bounded(depth, kind):
    opening, closing = kind[:-1], kind[-1]
    text = opening * depth + "1" + closing * depth
    if depth <= MAX_NESTING:
        assert parse_strict_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="nested"):
            parse_strict_json(text)


def pack_archive(members, archive_format):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=archive_format) as archive:
        for i, (name, size) in enumerate(members):
            header = tarfile.TarInfo(name)
            header.size = size
            archive.addfile(header, io.BytesIO(bytes([i + 1]) * size))
    return file


@fixed
@given(archives, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_members_of_an_archive_are_those_of_tarfile(members, archive_format):
    file = pack_archive(members, archive_format)
    found = [(member.offset, member.size) for member in iter_tar_members(file)]
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        wanted = [(member.offset_data, member.size) for member in archive]
        wanted_names = [member.name for member in archive]
    assert found == wanted
    found_names = [member.name.rstrip("/") for member in iter_tar_members(file)]
    assert found_names == [name.rstrip("/") for name in wanted_names]


@fixed
@given(archives, st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8))
def test_a_damaged_archive_ends_in_order_and_no_member_reaches_past_its_end(members, edits):
    content = bytearray(pack_archive(members, tarfile.PAX_FORMAT).getvalue())
    for place, byte in edits:
        content[place % min(len(content), 4096)] = byte
    last = -1
    try:
        for member in iter_tar_members(io.BytesIO(content)):
            assert last < member.offset <= member.offset + member.size <= len(content)
            last = member.offset
    except TarDamageError:
        pass


@fixed
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_a_table_is_read_as_the_standard_library_reads_it(tmp_path, rows, delimiter):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("path", "label"), *rows])
    (tmp_path / "t.csv").write_bytes(file.getvalue().encode())
    found, _ = read_text_table(tmp_path / "t.csv")
    kept = [("path", "label"), *(row for row in rows if any(map(str.strip, row)))]
    assert [[cell.strip() for cell in row] for row in found] == [
        [cell.strip() for cell in row] for row in kept
    ]


@fixed
@given(st.text(max_size=20))
def test_cleaning_a_cell_twice_changes_nothing_and_its_name_is_printable(text):
    cleaned = clean_cell(text)
    assert clean_cell(cleaned) == cleaned
    assert cleaned == cleaned.strip()
    assert escape_unprintable(cleaned).isprintable()


@fixed
@given(st.sampled_from(["train", "training", "test", "testing", "val", "valid", "dev"]), texts)
def test_a_split_is_the_same_however_its_name_is_written(word, decoration):
    split = parse_split_name(word)
    assert split in ("train", "dev", "test")
    spellings = (
        word.upper(),
        word.title(),
        f" {word} ",
        f"{word} set",
        f"my_{word}",
        f"1-{word}.2",
    )
    assert {parse_split_name(spelling) for spelling in spellings} == {split}
    assert parse_split_name(decoration) in ("train", "dev", "test", "")
