"""Checksums: MD5 to verify the files of published data sets, SHA-256 to identify images."""

import hashlib
from io import BufferedIOBase


def compute_md5(file: BufferedIOBase) -> str:
    """Compute the MD5 sum of an open file, from its current position on, in hexadecimal digits."""
    # `usedforsecurity=False`: it detects damage, and some systems forbid MD5 for anything more.
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def compute_sha256(content: bytes | memoryview) -> str:
    """Compute the SHA-256 sum of bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
