"""Fetch the files of published weights: once, checked, and resumed where a download broke off.

Beside a file NAME in the cache there may be:

.NAME.download      the part of NAME that an interrupted download has fetched
WEIGHTS.sha256      the sum of the file, if only its first digits were known before
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from residua.cache_folder import get_cache_dir
from residua.config.published_weights import SUM_DIGITS, PublishedWeights, is_url
from residua.downloads import (
    NETWORK_ERRORS,
    OFFLINE_REASON,
    RedirectRecorder,
    describe_network_error,
    download_with_retries,
    hide_password,
    is_offline,
    open_url,
    tell_user,
)
from residua.errors import RecordError, UsageError
from residua.files import FULL_DISK_ERRORS, atomic_write, delete_path, hold_output_lock, write_text
from residua.net.save_model import compute_file_sha256

MIRROR_VARIABLE = "RESIDUA_MIRROR"
PROBE_SECONDS = 10.0
HUB_SUM_HEADERS = ("X-Linked-Etag", "ETag")


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file of published weights whose SHA-256 sum is right, and this sum."""

    path: Path
    sha256: str
    was_downloaded: bool = False  # rather than found


def get_weights_folder() -> Path:
    """Return the folder of the cache that holds published weights."""
    return get_cache_dir() / "weights"


@contextmanager
def hold_file_lock(weights: PublishedWeights) -> Iterator[None]:
    """Keep other processes from fetching the same weights, or from deleting their file."""
    target = target_of(weights)
    with suppress(OSError):  # which `fetch_weights` explains
        target.parent.mkdir(parents=True, exist_ok=True)
    with hold_output_lock(target):
        yield


def fetch_weights(weights: PublishedWeights) -> VerifiedFile:
    """Return the file of published weights, from this machine or else from its publisher.

    An interrupted download goes on where it stopped, also in another process.  Raises RecordError
    if the file cannot be fetched, or if it is not what was published; nothing wrong is kept.
    """
    target = target_of(weights)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold_output_lock(target):
            return find_weights_file(weights) or download_weights(weights, target)
    except OSError as error:
        if error.errno in FULL_DISK_ERRORS:
            with suppress(OSError):
                delete_path(partial_file_of(target))
        reason = error.strerror or error
        raise RecordError(
            f"{weights.name} cannot be written to {target}: {reason}; "
            "set XDG_CACHE_HOME to another folder"
        ) from error


def find_weights_file(
    weights: PublishedWeights, tell: Callable[[str], None] = tell_user
) -> VerifiedFile | None:
    """Find the file in the cache, or in those of torch and of the Hugging Face hub.

    Files with another sum are passed over.  A file that was put into residua's cache by hand, and
    whose sum nobody states, is taken as it is.  `tell` gets a sentence about what was found.
    """
    expected, own_path = read_expected_sum(weights), target_of(weights)
    for path in list_possible_files(weights):
        actual = compute_file_sha256(path)
        if not (actual.startswith(expected) if expected else is_named_by_its_sum(path, actual)):
            if path != own_path or expected:
                tell(
                    f"{path} is not {weights.name}, because its SHA-256 sum is {actual[:12]}..., "
                    f"not {expected[:12] or 'its name'}...: it is not used"
                )
                continue
            tell(f"{path} is used as it is, because no SHA-256 sum is known for it")
        if path != own_path:
            tell(f"{weights.name} is used from {path}, where it was already")
        record_sum(weights, actual)
        return VerifiedFile(path, actual)
    return None


def list_possible_files(weights: PublishedWeights) -> Iterator[Path]:
    """Yield the files on this machine that may be those weights, residua's cache first."""
    user_cache = read_folder_variable("XDG_CACHE_HOME", Path.home() / ".cache")
    candidates = [target_of(weights)]
    if weights.hub_file:
        repository, _, file = weights.hub_file
        home = read_folder_variable("HF_HOME", user_cache / "huggingface")
        hub = read_folder_variable("HF_HUB_CACHE", home / "hub")
        folder = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
        candidates += sorted(folder.glob(f"*/{file}"))
    else:
        torch_home = read_folder_variable("TORCH_HOME", user_cache / "torch")
        candidates.append(torch_home / "hub" / "checkpoints" / weights.published_file)
    yield from (path for path in candidates if path.is_file())


def read_folder_variable(name: str, default: Path) -> Path:
    """Return the folder that an environment variable names, which may begin with ~."""
    return Path(os.path.expanduser(os.environ.get(name) or default))


def is_named_by_its_sum(path: Path, sha256: str) -> bool:
    """Return whether a file of the hub's cache is named by its own sum, as the hub stated it."""
    return path.is_symlink() and path.resolve().name == sha256


def read_expected_sum(weights: PublishedWeights) -> str:
    """Return the SHA-256 sum that the file must have, or its first digits; "" if none are known.

    A sum that was recorded when the file was first fetched completes the digits that the publisher
    states.
    """
    if weights.has_full_sha256:
        return weights.sha256
    with suppress(OSError, UnicodeDecodeError):
        recorded = sum_file_of(weights).read_text(encoding="ascii")[:SUM_DIGITS]
        if re.fullmatch(rf"[0-9a-f]{{{SUM_DIGITS}}}", recorded):
            return recorded if recorded.startswith(weights.sha256) else weights.sha256
    return weights.sha256


def record_sum(weights: PublishedWeights, sha256: str) -> None:
    """Record the sum of a file of which only the first digits were known: it is demanded later."""
    if not weights.has_full_sha256 and read_expected_sum(weights) != sha256:
        write_text(sum_file_of(weights), f"{sha256}  {weights.file_name}\n")


def target_of(weights: PublishedWeights) -> Path:
    """Return where the file of published weights stands in the cache, and whose lock they have."""
    return get_weights_folder() / weights.file_name


def sum_file_of(weights: PublishedWeights) -> Path:
    return get_weights_folder() / f"{weights.name}.sha256"


def partial_file_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.download")


def choose_url(weights: PublishedWeights) -> str:
    """Return the URL to fetch the file from: RESIDUA_MIRROR's or HF_ENDPOINT's, if they are set.

    A mirror has torchvision's files as MIRROR/FILE, and the hub's as MIRROR/OWNER/NAME/FILE.
    """
    mirror, endpoint = os.environ.get(MIRROR_VARIABLE), os.environ.get("HF_ENDPOINT")
    if mirror:
        require_url(MIRROR_VARIABLE, mirror)
        place = weights.published_file
        if weights.hub_file:
            repository, _, file = weights.hub_file
            place = f"{repository}/{file}"
        return f"{mirror.rstrip('/')}/{place}"
    if weights.hub_file and endpoint:
        require_url("HF_ENDPOINT", endpoint)
        repository, revision, file = weights.hub_file
        return f"{endpoint.rstrip('/')}/{repository}/resolve/{revision}/{file}"
    return weights.address


def require_url(variable: str, value: str) -> None:
    """Raise UsageError unless an environment variable holds a URL."""
    if not is_url(value):
        shown = re.sub(r"(?<=://).*@", "***@", value)  # a password may hold what ends a host's name
        raise UsageError(f"{variable}={shown} is not a URL: write https://HOST/PATH")


def download_weights(weights: PublishedWeights, target: Path) -> VerifiedFile:
    """Download the file to `target`, which appears only when its sum is right."""
    url = choose_url(weights)
    if is_offline():
        raise explain_out_of_reach(weights, OFFLINE_REASON)
    announce_download(weights, url, target)
    try:
        expected = read_expected_sum(weights) or ask_for_sum(weights, url)
        sha256 = download_until_verified(weights, url, expected, partial_file_of(target))
    except NETWORK_ERRORS as error:
        raise explain_out_of_reach(weights, describe_network_error(error), url) from error
    with atomic_write(target) as temporary:
        os.rename(partial_file_of(target), temporary)
    record_sum(weights, sha256)
    return VerifiedFile(target, sha256, was_downloaded=True)


def announce_download(weights: PublishedWeights, url: str, target: Path) -> None:
    """Say what is fetched, and on which terms; a non-commercial licence is said first."""
    if weights.is_non_commercial:
        tell_user(f"{weights.name} must not be used commercially: its licence is {weights.licence}")
    licence = f", licence {weights.licence}" if weights.licence else ""
    tell_user(f"fetching {weights.name} from {hide_password(url)} into {target.parent}{licence}")


def download_until_verified(
    weights: PublishedWeights, url: str, expected: str, partial_file: Path
) -> str:
    """Complete `partial_file`, and return its SHA-256; raise RecordError if this is wrong."""
    # The file may continue an earlier attempt that was damaged: then start over once.
    for _ in range(2 if partial_file.exists() else 1):
        download_with_retries(url, partial_file, weights.name)
        actual = compute_file_sha256(partial_file)
        if actual.startswith(expected):
            return actual
        size = partial_file.stat().st_size
        delete_path(partial_file)
    raise RecordError(
        f"{hide_password(url)} is not {weights.name}: the SHA-256 sum of its {size:,} bytes is "
        f"{actual}, not {describe_sum(expected)}; nothing was kept: try again later, or set "
        f"{MIRROR_VARIABLE} to another server"
    )


def ask_for_sum(weights: PublishedWeights, url: str) -> str:
    """Ask the Hugging Face hub for the SHA-256 of a file; raise RecordError if it states none."""
    recorder = RedirectRecorder()
    with open_url(url, method="HEAD", recorder=recorder) as response:
        answers = [*recorder.answers, response.headers]
    for headers in answers:
        for name in HUB_SUM_HEADERS:
            stated = str(headers.get(name, "")).removeprefix("W/").strip('"')
            if re.fullmatch(rf"[0-9a-f]{{{SUM_DIGITS}}}", stated):
                return stated
    raise RecordError(
        f"{weights.name} cannot be checked, because no SHA-256 sum of it is known and "
        f"{hide_password(url)} states none: give its sum in the file that RESIDUA_WEIGHTS names"
    )


def describe_sum(expected: str) -> str:
    return expected if len(expected) == SUM_DIGITS else f"{expected}..."


def explain_out_of_reach(weights: PublishedWeights, reason: str, url: str = "") -> RecordError:
    """Make the error for weights that cannot be fetched: what to put where by hand."""
    expected = read_expected_sum(weights)
    which = f"with the SHA-256 sum {describe_sum(expected)} " if expected else ""
    return RecordError(
        f"{weights.name} cannot be fetched from {hide_password(url or choose_url(weights))} "
        f"({reason}): repeat the command later, or put the file {which}at {target_of(weights)}"
    )


def explain_why_unreachable(weights: PublishedWeights, seconds: float = PROBE_SECONDS) -> str:
    """Explain why the publisher's file cannot be fetched now; return "" if it can.

    The answer comes within `seconds`, also if name servers or proxies do not answer.
    """
    if is_offline():
        return OFFLINE_REASON
    url = choose_url(weights)
    shown = hide_password(url)
    reasons = [f"{urlsplit(shown).netloc} did not answer within {seconds:g} seconds"]

    def probe_url() -> None:
        try:
            with open_url(url, byte_range="0-0", timeout=seconds):
                reasons[0] = ""
        except (*NETWORK_ERRORS, OSError, ValueError) as error:
            reasons[0] = f"{shown}: {describe_network_error(error)}"

    # a thread, because looking up a host's name has no time limit
    thread = threading.Thread(target=probe_url, daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[0]
