"""Names of repositories on the Hugging Face hub, which are written `hf:OWNER/NAME`."""

import re
from pathlib import Path

from residua.errors import UsageError

HUB_PREFIX = "hf:"
REPOSITORY_WORD = re.compile(r"(?!.*(\.\.|--|\.git$))\w([\w.-]{0,94}\w)?", re.ASCII)
"""An owner or a name, as the hub allows it; it cannot stand for a folder such as `..`."""


def is_hub_name(source: str | Path) -> bool:
    """Return whether `source` is written as a name on the hub, not as a path or another name."""
    return str(source).startswith(HUB_PREFIX)


def is_repository(name: str) -> bool:
    """Return whether `name` has the form OWNER/NAME of a repository on the hub."""
    words = name.split("/")
    return len(words) == 2 and all(map(REPOSITORY_WORD.fullmatch, words))


def require_hub_name(source: str | Path) -> str:
    """Return OWNER/NAME of `hf:OWNER/NAME`; raises UsageError if `source` has another form."""
    repository = str(source).removeprefix(HUB_PREFIX)
    if not is_repository(repository):
        raise UsageError(
            f"{source} is not a name on the Hugging Face hub: "
            f"write {HUB_PREFIX}OWNER/NAME, or leave out {HUB_PREFIX} to give a local folder"
        )
    return repository
