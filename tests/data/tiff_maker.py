"""TIFF files written by hand, with tags that Pillow does not write."""

import struct

SHORT, LONG = 3, 4


def make_tiff(data, width, height, bits, photometric=1, big_endian=False, **tags):
    """An uncompressed TIFF file with one strip; `tags` are further tags by name, e.g. t254=1."""
    order = ">" if big_endian else "<"
    bits = [bits] if isinstance(bits, int) else list(bits)
    entries = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, bits),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        273: (LONG, [0]),
        277: (SHORT, [len(bits)]),
        278: (LONG, [height]),
        279: (LONG, [len(data)]),
        **{int(name[1:]): (LONG, [value]) for name, value in tags.items()},
    }
    directory_size = 2 + 12 * len(entries) + 4
    extra_start = 8 + directory_size
    extra = b"".join(struct.pack(f"{order}H", bit) for bit in bits) if len(bits) > 2 else b""
    entries[273] = (LONG, [extra_start + len(extra)])
    directory = struct.pack(f"{order}H", len(entries))
    for tag in sorted(entries):
        kind, values = entries[tag]
        if tag == 258 and extra:
            value = struct.pack(f"{order}L", extra_start)
        else:
            letter = "H" if kind == SHORT else "L"
            value = struct.pack(f"{order}{len(values)}{letter}", *values).ljust(4, b"\0")
        directory += struct.pack(f"{order}HHL", tag, kind, len(values)) + value
    header = (b"MM" if big_endian else b"II") + struct.pack(f"{order}HL", 42, 8)
    return header + directory + bytes(4) + extra + data
