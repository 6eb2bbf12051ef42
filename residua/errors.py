"""The exceptions for users' mistakes; each message is one sentence that names the fix.

ResiduaError            something failed: exit code 1
├── UsageError          the request itself is impossible: exit code 2
├── DataError           a data set is missing, damaged, or not what it claims to be
│   └── ImageError      an image file cannot be decoded; its `kind` says why
├── RecordError         a run's folder is missing, damaged, or belongs to another run
│   └── DamagedRecordError  a record is incomplete or unreadable
├── TrainingError       training cannot start or continue, e.g. because a loss is not finite
└── Interrupted         the user stopped a command: exit code 130
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ResiduaError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class UsageError(ResiduaError, ValueError):
    """The request is impossible; this is raised before anything is started."""

    exit_code = 2


class DataError(ResiduaError):
    """A data set cannot be read as requested."""


class ImageError(DataError):
    """An image cannot be decoded.

    kind    one of: unreadable, empty, not an image, truncated, damaged, too large
    detail  what is wrong: the message without the image's `source`, with which it begins
    """

    def __init__(self, source: str, kind: str, detail: str) -> None:
        super().__init__(f"{source} {detail}")
        self.kind, self.detail = kind, detail


class RecordError(ResiduaError):
    """A run's record or a model folder cannot be read or written as requested."""


class DamagedRecordError(RecordError):
    """A record is incomplete or unreadable."""


class TrainingError(ResiduaError):
    """Training could not start, or had to stop; if it stopped, the last good checkpoint is kept."""


class Interrupted(ResiduaError):
    """The user stopped a command; if it was training, it has written a checkpoint."""

    exit_code = 130


def unknown_name_error(kind: str, name: str, choices: Iterable[str], owner: str = "") -> UsageError:
    """Make the error for an unknown name; it suggests the nearest choice, or else lists all.

    `no recipe 'he2051': did you mean 'he2015'?`, or, with an `owner`,
    `recipe has no field 'widht': did you mean 'width'?`
    """
    names = list(choices)
    problem = f"{owner} has no {kind} {name!r}" if owner else f"no {kind} {name!r}"
    close_matches = get_close_matches(name, names, n=1, cutoff=0.6)
    if close_matches:
        return UsageError(f"{problem}: did you mean {close_matches[0]!r}?")
    return UsageError(f"{problem}: choose from {', '.join(names)}")
