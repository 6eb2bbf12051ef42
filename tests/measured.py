"""What a run measured, without what differs from one machine or minute to the next."""

OF_THE_MACHINE = {"seconds", "images_per_second", "data_wait", "peak_memory_bytes"}


def without_times(result):
    """Return a run's result without its times and its memory."""
    assert result.keys() & OF_THE_MACHINE, "a run measures times"
    return {key: value for key, value in result.items() if key not in OF_THE_MACHINE}
