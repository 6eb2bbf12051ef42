"""The members of tar archives: the same as tarfile's, and forged archives end in bounded time."""

import io
import tarfile
import time
import tracemalloc

import pytest

from residua.data.sources.shard_samples import MAX_PROBLEMS_OF_A_KIND, list_shard_samples
from residua.data.sources.tar_archive import TarDamageError, iter_tar_members

BLOCK = 512
END = bytes(2 * BLOCK)


def make_member(name="a.png", content=b"", kind=tarfile.REGTYPE, **fields):
    """A header with a valid checksum, and the padded content; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def forge_field(header, start, stop, value):
    """A header in which one field is replaced, with a checksum that fits again."""
    header = bytearray(header)
    header[start:stop] = value.ljust(stop - start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:BLOCK])
    return bytes(header)


def make_pax(text):
    """A pax header with one record for the next member; the record states its own length."""
    record = next(
        line
        for digits in range(1, 8)
        for line in [f"{len(text) + 2 + digits} {text}\n".encode()]
        if int(line.split()[0]) == len(line)
    )
    return make_member("pax", record, tarfile.XHDTYPE)


def read_members(content):
    """The members up to the end or the damage, and the damage as text."""
    members = []
    try:
        for member in iter_tar_members(io.BytesIO(content)):
            members.append(member)
    except TarDamageError as error:
        return members, str(error)
    return members, ""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w|"])
def test_the_members_are_those_that_tarfile_reads(format, mode):
    file = io.BytesIO()
    names = ["a.png", "./b.cls", "d/" + 40 * "long/" + "c.png", "ä ✓.png", "../e", "f" * 90]
    with tarfile.open(fileobj=file, mode=mode, format=format) as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 300 * i, 1.5 * i
            tar.addfile(info, io.BytesIO(bytes([i]) * info.size))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"kind{ord(kind)}")
            info.type, info.linkname = kind, "x" * 50
            tar.addfile(info)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        wanted = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    members, damage = read_members(file.getvalue())
    assert damage == ""
    assert [(m.name, m.offset, m.size) for m in members if m.kind == "file"] == wanted
    assert [m.kind for m in members[-4:]] == ["folder", "link", "link", "special file"]


def test_a_sparse_file_is_named_and_the_members_after_it_are_found():
    header = forge_field(
        make_member("s", bytes(700), tarfile.GNUTYPE_SPARSE)[:BLOCK], 482, 483, b"\1"
    )
    maps = bytes(504) + b"\1" + bytes(7) + bytes(BLOCK)  # the second block of maps is the last
    content = header + maps + bytes(2 * BLOCK) + make_member("b.png", b"x") + END
    members, damage = read_members(content)
    assert [(m.name, m.kind, m.offset) for m in members] == [
        ("s", "sparse file", 3 * BLOCK),
        ("b.png", "file", 6 * BLOCK),
    ]
    assert damage == ""
    pax = make_pax("GNU.sparse.major=1") + make_member("t", b"x") + END
    assert [m.kind for m in read_members(pax)[0]] == ["sparse file"]


NEGATIVE_BINARY_SIZE = b"\xff" * 11 + b"\x00"  # -256 in base 256
FORGED = {
    "a negative binary size": forge_field(make_member(), 124, 136, NEGATIVE_BINARY_SIZE),
    "the most negative binary size": forge_field(make_member(), 124, 136, b"\xff" + bytes(11)),
    "a huge binary size": forge_field(make_member(), 124, 136, b"\x80" + b"\xff" * 11),
    "a negative octal size": forge_field(make_member(), 124, 136, b"-00000001000"),
    "a size in letters": forge_field(make_member(), 124, 136, b"abcdefgh"),
    "a negative pax size": make_pax("size=-5") + make_member(),
    "a fractional pax size": make_pax("size=1.5") + make_member(),
    "a pax size of 500,000 digits": make_pax("size=" + "9" * 500_000) + make_member(),
    "a pax record of 500,000 digits": make_member("x", b"9" * 500_000, tarfile.XHDTYPE),
    "a pax record that reaches past its header": make_member("x", b"99 a=b\n", tarfile.XHDTYPE),
    "a pax record without an end": make_member("x", b"6 a=b", tarfile.XHDTYPE),
    "a pax record that is too short": make_member("x", b"3 a=b\n", tarfile.XHDTYPE),
    "a pax header longer than the file": forge_field(
        make_member("x", kind=tarfile.XHDTYPE), 124, 136, b"00000400000\0"
    ),
    "a long name of a terabyte": forge_field(
        make_member("x", kind=tarfile.GNUTYPE_LONGNAME), 124, 136, b"\x80" + b"\0" * 5 + b"\1" * 6
    ),
    "sparse maps without an end": forge_field(
        make_member("s", kind=tarfile.GNUTYPE_SPARSE), 482, 483, b"\1"
    )
    + (bytes(504) + b"\1" + bytes(7)) * 1000,
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_size_is_damage_and_the_members_before_it_are_read(name):
    start = time.perf_counter()
    end = b"" if name == "sparse maps without an end" else END
    members, damage = read_members(make_member("first.png", b"12345") + FORGED[name] + end)
    assert time.perf_counter() - start < 1
    assert damage
    assert [(m.name, m.size) for m in members] == [("first.png", 5)]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_hundred_thousand_chained_headers_are_read_in_linear_time(kind):
    """tarfile calls itself for each."""
    content = make_member("././@LongLink", b"name\0", kind) * 50_000 + make_member() + END
    start = time.perf_counter()
    members, damage = read_members(content)
    assert time.perf_counter() - start < 5
    assert (len(members), damage) == (1, "")


def test_every_truncation_of_an_archive_is_reported_and_whole_members_are_kept():
    content = b"".join(make_member(f"{i}.png", bytes(100 + 300 * i)) for i in range(4)) + END
    whole, _ = read_members(content)
    for length in [0, 1, 511, *range(BLOCK, len(content) - 2 * BLOCK, 257)]:
        members, damage = read_members(content[:length])
        assert damage, length
        assert members == whole[: len(members)]
        assert len(members) >= sum(m.offset + m.size <= length for m in whole) - 1


def test_a_joined_archive_is_reported_instead_of_read_by_half():
    one = make_member("a.png", b"1") + END
    assert read_members(one + bytes(9000))[1] == ""  # padding of tar
    members, damage = read_members(one + one)
    assert (len(members), "archives that were joined" in damage) == (1, True)
    members, damage = read_members(one + bytes(3 * 2**20) + one)
    assert (len(members), "archives that were joined" in damage) == (1, True)


def test_many_empty_members_take_little_memory_and_are_reported_together(tmp_path):
    count = 20_000
    path = tmp_path / "0.tar"
    path.write_bytes(make_member("y/0.txt") * count + END)
    tracemalloc.start()
    start = time.perf_counter()
    samples, problems = list_shard_samples(path, (1, 1))
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 1_500_000, peak
    assert samples == ()
    assert len(problems) < MAX_PROBLEMS_OF_A_KIND + 10
    [summary] = [problem for problem in problems if problem.path == "" and problem.count > 1]
    assert summary.count == count - 1 - MAX_PROBLEMS_OF_A_KIND
    assert summary.detail == f"has {summary.count:,} more members of this kind (doubled)"


def test_links_and_compressed_archives_are_reported(tmp_path):
    path = tmp_path / "0.tar"
    path.write_bytes(
        make_member("a.png", kind=tarfile.LNKTYPE, linkname="b.png")
        + make_member("c/", kind=tarfile.DIRTYPE)
        + make_member("p.png", kind=tarfile.FIFOTYPE)
        + END
    )
    _, problems = list_shard_samples(path, (1, 1))
    assert [(p.path, p.detail) for p in problems] == [
        ("a.png", "is a link inside the archive, and is skipped"),
        ("p.png", "is a special file inside the archive, and is skipped"),
    ]
    path.write_bytes(b"\x1f\x8b\x08\0" + bytes(600))
    _, [problem] = list_shard_samples(path, (2, 2))
    assert problem.detail == "is compressed, and cannot be read: unpack it to a plain .tar"
