"""The exceptions that a user can act on; each message is one sentence that names the fix.

ResiduaError            something failed: exit code 1
├── UsageError          the request itself is impossible: exit code 2
├── DataError           a data set is missing, damaged, or not what it claims to be
│   └── ImageError      an image file cannot be decoded; its `kind` says why
├── RecordError         a run's folder is missing, damaged, or belongs to another run
│   ├── DamagedRecordError  a record is incomplete or unreadable
│   └── MissingRecordError  there is no such record
├── TrainingError       training cannot start or continue, e.g. because a loss is not finite
│   └── RankStoppedError    another process of a distributed run has stopped
└── Interrupted         the user stopped a command: exit code 130
"""

from collections.abc import Iterable
from difflib import get_close_matches

MIN_LIKENESS = 0.7
"""The least share of letters, in [0, 1], that a name and its suggestion have in common.

At 0.66 `--batch-size` would be answered by `size`; `sqtr` and `sqrt` have 0.75 in common.
"""


class ResiduaError(Exception):
    """The base class of all errors that a user can act on.

    exit_code              exit code of the command that the error ends
    printed_by_every_rank  whether each process of a distributed run prints its error, or only the
                           first one on each machine
    """

    exit_code = 1
    printed_by_every_rank = False


class UsageError(ResiduaError, ValueError):
    """The request is impossible; raised before any work begins."""

    exit_code = 2


class DataError(ResiduaError):
    """A data set cannot be read as requested."""


class ImageError(DataError):
    """An image cannot be decoded.

    source  the image's name, with which the message begins
    kind    one of: unreadable, empty, not an image, truncated, damaged, too large,
            changed, not as indexed
    detail  the rest of the message, which says what is wrong
    """

    def __init__(self, source: str, kind: str, detail: str) -> None:
        super().__init__(f"{source} {detail}")
        self.kind, self.detail = kind, detail


class RecordError(ResiduaError):
    """A run's record or a model folder cannot be read or written as requested."""


class DamagedRecordError(RecordError):
    """A record is incomplete or unreadable."""


class MissingRecordError(RecordError):
    """There is no such record."""


class TrainingError(ResiduaError):
    """Training cannot start or continue; if it had started, the last good checkpoint is kept."""


class RankStoppedError(TrainingError):
    """Another rank of a distributed run has stopped, so this one cannot continue."""

    printed_by_every_rank = True


class Interrupted(ResiduaError):
    """The user stopped a command; a command that was training has written a checkpoint."""

    exit_code = 130


def describe_os_error(error: OSError) -> str:
    """Return the reason for an operating system error, and the file: `No space left: runs/a`."""
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason


def unknown_name_error(kind: str, name: str, choices: Iterable[str], owner: str = "") -> UsageError:
    """Make the error for an unknown name, with the nearest choice or, if none is near, all choices.

    `kind` says what the name stands for; `owner`, if given, is what has no such name.  E.g.
    `there is no recipe 'he2051': did you mean 'he2015'?`, or, with the owner `recipe`,
    `recipe has no field 'widht': did you mean 'width'?`
    """
    names = list(choices)
    problem = f"{owner} has no {kind} {name!r}" if owner else f"there is no {kind} {name!r}"
    # the dashes of options make all of them alike, so only the words are compared
    names_by_word = {choice.lstrip("-"): choice for choice in names}
    close_words = get_close_matches(name.lstrip("-"), names_by_word, n=1, cutoff=MIN_LIKENESS)
    if close_words:
        return UsageError(f"{problem}: did you mean {names_by_word[close_words[0]]!r}?")
    return UsageError(f"{problem}: choose from {', '.join(names)}")
