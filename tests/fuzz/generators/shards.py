"""WebDataset shards: honest ones, and archives that are damaged or forged."""

import base64

from tests.fuzz.case import Case, make_tar
from tests.fuzz.generators.folders import PhotoMaker, choose_commands
from tests.fuzz.generators.mutate import encode, make_edits

NAMES = {
    "": ("shard", "a", "images"),
    "train": ("train", "my-train", "training"),
    "test": ("test", "my_test", "testing"),
    "dev": ("val", "validation", "dev"),
    "other": ("holdout", "eval", "private", "unseen"),
}
SIZE_FIELDS = (
    b"\xff" * 12,
    b"\x80" + b"\xff" * 11,
    b"-0000000001\0",
    b"99999999999\0",
    b"\xff" * 11 + b"\x00",
    b"7777777777 \0",
    b"            ",
    b"0x000000010\0",
    b"\xff" * 10 + b"\xfe\x00",
)
PAX_RECORDS = (
    b"size=-5",
    b"size=-512",
    b"size=" + b"9" * 500_000,
    b"size=1e3",
    b"size=",
    b"path=../../x.jpg",
    b"GNU.sparse.size=5",
    b"size=0",
    b"path=" + b"a/" * 5000,
)


def make_case(rng, seeds):
    photos, files = PhotoMaker(rng), {}
    classes = rng.sample(("cat", "dog", "bird", "0", "1", "né"), rng.randint(2, 3))
    style = rng.choice(
        (
            ("",),
            ("train", "test"),
            ("train", "test"),
            ("train", "dev", "test"),
            ("train", "dev"),
            ("train", "other"),
            ("", "test"),
            ("", "other"),
        )
    )
    for role in style:
        least = 4 if role in ("test", "dev", "other") else 9
        name = f"in/shards/{rng.choice(NAMES[role])}-{rng.randrange(20):03}.tar"
        files[name] = {"tar": make_members(rng, photos, classes, rng.randint(least, least + 4))}
    case = Case("shards", f"{'+'.join(style)}: {', '.join(files)}", files, [])
    if rng.random() < 0.5:
        return choose_commands(rng, case, "in/shards", "shards")
    return forge(rng, case)


def make_members(rng, photos, classes, count):
    members = []
    for i in range(count):
        suffix, content = photos.make_photo()
        members += [[f"{i:04}{suffix}", content], [f"{i:04}.cls", classes[i % len(classes)]]]
    if rng.random() < 0.2:
        members += [["9999.png", {"image": 77}]]
    if rng.random() < 0.2:
        members += [["8888.cls", "cat"]]
    return members


def forge(rng, case):
    """Damage one archive: edits anywhere, forged sizes with a right sum, pax headers, repeats."""
    name = rng.choice(sorted(case.files))
    content = bytearray(make_tar(case.files[name]["tar"], None))
    kind = rng.choice(("edits", "size", "size", "size", "pax", "pax", "joined", "cut"))
    header = find_header(rng, content)
    if kind == "edits":
        case.files[name] = {**case.files[name], "edits": make_edits(rng, len(content))}
    elif kind == "size":
        forged = rng.choice(SIZE_FIELDS)
        content[header + 124 : header + 136] = forged
        fix_sum(content, header)
        case.files[name] = {"base64": encode(bytes(content))}
        kind += f" {forged!r}"
    elif kind == "pax":
        record = rng.choice(PAX_RECORDS)
        content[header:header] = make_pax(record)
        case.files[name] = {"base64": encode(bytes(content))}
        kind += f" {record[:20]!r}"
    elif kind == "joined":
        case.files[name] = {"base64": encode(bytes(content) * 2)}
    else:
        case.files[name] = {"base64": encode(bytes(content[: rng.randrange(len(content))]))}
    case.name = f"forged ({kind}) {case.name}"
    case.commands.append(["data", "check", "in/shards", "--out", "out/check", "--json"])
    return case


def find_header(rng, content):
    places = [i for i in range(0, len(content), 512) if content[i + 257 : i + 262] == b"ustar"]
    return rng.choice(places)


def fix_sum(content, header):
    block = (
        bytes(content[header : header + 148])
        + b" " * 8
        + bytes(content[header + 156 : header + 512])
    )
    content[header + 148 : header + 156] = b"%06o\0 " % sum(block)


def make_pax(record):
    """A pax header of one record, as it stands before the file that it describes."""
    length = len(record) + 3
    while len(b"%d " % length) + len(record) + 1 != length:
        length = len(b"%d " % length) + len(record) + 1
    text = b"%d " % length + record + b"\n"
    block = bytearray(base64.b64decode(encode(make_tar([["pax", {"base64": encode(text)}]], None))))
    block = block[: 512 + -(-len(text) // 512) * 512]
    block[156:157] = b"x"
    fix_sum(block, 0)
    return bytes(block)
