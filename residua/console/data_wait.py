"""Say that training waits for photographs, and what would help."""

from residua.data.threads import count_decoding_threads

NOTED_WAIT = 0.1  # share of the training time above which it is said; our choice
HELP_BY_STORAGE = {
    "files": "--storage raw or jpeg, which are smaller than the files, ",
    "jpeg": "--storage raw, ",
    "raw": "",
}


def describe_data_wait(share: float, storage: str) -> str:
    """Say what binds if training waits for photographs for more than a tenth of its time, else "".

    `storage` is that of the photographs, and "" for other data, which are in memory.
    """
    if share <= NOTED_WAIT or storage not in HELP_BY_STORAGE:
        return ""
    threads = count_decoding_threads()
    decoders = "one thread decodes" if threads == 1 else f"{threads} threads decode"
    return (
        f"training waits for photographs for {100 * share:.0f} % of its time, because {decoders} "
        "them more slowly than the network learns from them: "
        f"{suggest_faster_decoding(storage)} would help"
    )


def suggest_faster_decoding(storage: str) -> str:
    """Name what makes photographs with this storage come faster."""
    return f"{HELP_BY_STORAGE.get(storage, '')}more CPU cores or a smaller --size"
