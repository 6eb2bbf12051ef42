"""Push a trained network to the Hugging Face hub from Python."""

from pathlib import Path

from residua.api.own_errors import name_keywords_in_errors
from residua.config.serialize import Json
from residua.console.output import print_note
from residua.deploy.push import prepare_upload, push_to_hub


@name_keywords_in_errors
def push(
    source: str | Path, target: str, *, private: bool = False, message: str = ""
) -> dict[str, Json]:
    """Push the network of a run's folder or a model folder to hf:OWNER/NAME, as `residua push`.

    Returns what `residua push --json` prints, e.g. `address` and `commit`.  `residua.load(target)`
    loads it anywhere.  Raises UsageError if the run is not finished, and RecordError if the folder
    holds no network or the hub refuses it.
    """
    upload = prepare_upload(Path(source), target, message)
    return push_to_hub(upload, private=private, on_note=print_note).json
