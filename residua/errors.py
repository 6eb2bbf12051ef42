"""Every mistake a user can make ends in one of these, with a sentence that names the fix.

ResiduaError            something failed: exit code 1
├── UsageError          the request itself is impossible: exit code 2
├── DataError           a data set is missing, damaged, or not what it claims to be
│   └── ImageError      one image file is; its kind says how
├── RecordError         a run's folder is missing, damaged, or belongs to another run
│   └── DamagedError    a record is cut short, or is none; a study's page is written without it
├── TrainingError       training cannot go on, e.g. a loss that is not finite, or not begin for want of memory
└── Interrupted         the user stopped it: exit code 130
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ResiduaError(Exception):
    """Base of all errors that residua raises for a reason a user can act on."""

    exit_code = 1


class UsageError(ResiduaError, ValueError):
    """What was asked for cannot exist; nothing was started."""

    exit_code = 2


class DataError(ResiduaError):
    """A data set cannot be read as asked."""


class ImageError(DataError):
    """An image cannot be decoded.

    `kind` is one of: unreadable, empty, not an image, truncated, damaged, too large; `detail` is the sentence without its subject.
    """

    def __init__(self, source: str, kind: str, detail: str) -> None:
        super().__init__(f"{source} {detail}")
        self.kind, self.detail = kind, detail


class RecordError(ResiduaError):
    """A run's record or a model folder cannot be read or written as asked."""


class DamagedRecordError(RecordError):
    """A record is not whole."""


class TrainingError(ResiduaError):
    """Training stopped, and the last good checkpoint is kept; or it did not begin."""


class Interrupted(ResiduaError):
    """The user stopped what was going on; a checkpoint is written."""

    exit_code = 130


def unknown_name_error(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """`no recipe 'he2051': did you mean 'he2015'?`, or the list of what is possible."""
    names = list(choices)
    close_matches = get_close_matches(name, names, n=1, cutoff=0.6)
    return UsageError(
        f"no {kind} {name!r}: "
        + (
            f"did you mean {close_matches[0]!r}?"
            if close_matches
            else f"choose from {', '.join(names)}"
        )
    )
