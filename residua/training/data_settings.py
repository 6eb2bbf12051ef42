"""The settings of a run's photographs that its record keeps: shares of splits, and decoding."""

from dataclasses import replace
from pathlib import Path

from residua.config.dataset import Dataset
from residua.config.model import MAX_IMAGE_PIXELS
from residua.config.run import Run
from residua.config.serialize import Json
from residua.data.photo_records import RecordSettings
from residua.data.read import list_skipped_images
from residua.data.sources.listing import ImageListing, problems_to_json
from residua.data.sources.resolve import PhotoDataset, resize_for_recipe, resolve_dataset
from residua.data.splits import FIRST_DEV_SHARE, choose_dev_share
from residua.record import RunRecord, describe_first_difference
from residua.training.storage_choice import read_recorded_storage


def prepare_data_of_run(
    run: Run, data: Dataset | None, record: RunRecord, data_dir: Path | None = None
) -> Dataset:
    """Return the data set of `run` with the settings of its record, and with its fold held out.

    `data` is the data set, if the caller has resolved it already.
    """
    data = data or resolve_dataset(run.dataset, run.network.input, data_dir=data_dir)
    data = resize_for_recipe(data, run.recipe)
    data = keep_data_settings_of_run(data, record)
    return data if run.fold is None else data.hold_out_fold(run.fold)


def describe_data_facts(data: Dataset, fingerprint: str) -> dict[str, Json]:
    """Return what a run's record keeps about its data; `fingerprint` is that of training images."""
    facts: dict[str, Json] = {"images": fingerprint}
    if skipped := list_skipped_images(data):
        facts["left_out"] = problems_to_json(skipped)
    if isinstance(data, PhotoDataset) and data.listing.dev_share:
        facts["dev_share"] = data.listing.dev_share
        facts |= list_unusual_decoding_settings(data.listing)
        if data.storage != "squares":
            facts |= {"storage": data.storage, "stored_side": data.stored_side or data.resize}
            facts["decoding"] = RecordSettings.of_dataset(data).describe()
    return facts


def explain_other_decoding(record: RunRecord, facts: dict[str, Json]) -> str:
    """Say that the photographs of an unfinished run are not decoded as before; "" if they are.

    The run is in `record`, and `facts` are those of `describe_data_facts`.
    """
    if not record.run_json_path.exists() or record.is_finished:
        return ""
    environment = record.read_run_json()["environment"]
    stored = environment.get("decoding") if isinstance(environment, dict) else None
    if not isinstance(stored, dict) or stored == facts.get("decoding"):
        return ""
    difference = describe_first_difference(stored, facts.get("decoding"), "", ("then", "now"))
    return (
        f"the photographs are not decoded as when this run was started ({difference}), so that it "
        "goes on, but not with the same bits"
    )


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

    A run that records no share began when the default was `FIRST_DEV_SHARE`, and one that records
    no storage has squares.  The white level and the pixel limit are also those of the run, unless
    `data` sets them itself.
    """
    if not isinstance(data, PhotoDataset):
        return data
    share = data.listing.dev_share or choose_dev_share(len(data.listing.entries))
    settings: dict[str, Json] = {}
    if record.run_json_path.exists():
        environment = record.read_run_json()["environment"]
        settings = environment if isinstance(environment, dict) else {}
        stored = settings.get("dev_share")
        share = stored if isinstance(stored, float) else FIRST_DEV_SHARE
        side = settings.get("stored_side")
        data = replace(
            data,
            storage=read_recorded_storage(record) or data.storage,
            stored_side=side if isinstance(side, int) else 0,
        )
    white_level, max_pixels = settings.get("white_level"), settings.get("max_pixels")
    listing = replace(data.listing, dev_share=share)
    if isinstance(white_level, int) and not listing.white_level:
        listing = replace(listing, white_level=white_level)
    if isinstance(max_pixels, int) and listing.max_pixels == MAX_IMAGE_PIXELS:
        listing = replace(listing, max_pixels=max_pixels)
    return replace(data, listing=listing)
