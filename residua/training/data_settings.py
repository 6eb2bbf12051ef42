"""The settings of a run's photographs that its record keeps: shares of splits, and decoding."""

from dataclasses import replace

from residua.config.dataset import Dataset
from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.serialize import Json
from residua.data.sources.listing import ImageListing
from residua.data.sources.resolve import PhotoDataset
from residua.data.splits import FIRST_DEV_SHARE, choose_dev_share
from residua.record import RunRecord


def list_unusual_decoding_settings(listing: ImageListing) -> dict[str, Json]:
    """Return the settings for decoding photographs that are not the defaults, to record them."""
    settings: dict[str, Json] = {}
    if listing.white_level:
        settings["white_level"] = listing.white_level
    if listing.max_pixels != MAX_IMAGE_PIXELS:
        settings["max_pixels"] = listing.max_pixels
    return settings


def keep_data_settings_of_run(data: Dataset, record: RunRecord) -> Dataset:
    """Give photos the dev share of the run in `record`, or of a new run if it holds none.

    A run that records no share began when the default was `FIRST_DEV_SHARE`.  The white level and
    the pixel limit are also those of the run, unless `data` sets them itself.
    """
    if not isinstance(data, PhotoDataset):
        return data
    share = choose_dev_share(len(data.listing.entries))
    settings: dict[str, Json] = {}
    if record.run_json_path.exists():
        environment = record.read_run_json()["environment"]
        settings = environment if isinstance(environment, dict) else {}
        stored = settings.get("dev_share")
        share = stored if isinstance(stored, float) else FIRST_DEV_SHARE
    white_level, max_pixels = settings.get("white_level"), settings.get("max_pixels")
    listing = replace(data.listing, dev_share=share)
    if isinstance(white_level, int) and not listing.white_level:
        listing = replace(listing, white_level=white_level)
    if isinstance(max_pixels, int) and listing.max_pixels == MAX_IMAGE_PIXELS:
        listing = replace(listing, max_pixels=max_pixels)
    return replace(data, listing=listing)
