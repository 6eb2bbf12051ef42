"""Data sets: from a name or a folder of photos to augmented training batches.

sources          find data sets by name or location, and list or download their files
images           images in memory, with their labels
image_views      the views of test images, and the average of their predictions
read             data set -> uint8 images and labels of a split
preprocessed_images  images of splits as prediction prepares them, with their names
in_memory        data sets of images that are in memory
convert_arrays   arrays and Python data sets -> uint8 images and labels
user_data        what a Python program gives as data -> a data set
user_transform   a random change of the training images by a function of the user's
decode           image file -> pixels, the same for training and prediction
scaled_decoding  JPEG files decoded at a reduced size
resize           resize and crop decoded photographs
image_formats    the formats that are read: suffixes and signatures
rgb_conversion   opened images of any mode -> upright RGB of 8 bits
grey_levels      grey of more than 8 bits -> 8 bits, by the level of white
decode_listing   all photos of a data set -> pixels, in parallel
digest_index     the digests of files, kept between processes
checked_arrays   arrays in one file, with a checksum
image_cache      decoded photos, stored for the next run
pixel_file       the memory-mapped file of the cached photos
photo_source     the interface of photographs that are decoded when they are needed
photo_cache      whole photographs, stored for the next run
photo_store      boxes and center crops of stored photographs
photo_records    whole photographs as raw pixels, JPEG bytes or nothing but their size
photo_index      the index of stored photographs, for a million of them
photo_storage    the choice of how photographs are stored
splits           which photos are for training and which are held out
streamed_images  photographs that are decoded when they are needed, as images
crop_prefetcher  decodes the crops of the next batches in threads
batches          the endless stream of training batches, as a function of the step
sample_changes   which random changes a training sample gets, and by which random bits
augment          crops, flips, colour changes and normalisation of a batch
mixing           mixup and CutMix of a batch
random_changes   TrivialAugment, RandAugment, colour components and erased boxes of a batch
counter_rng      random bits as a pure function of integer keys such as a seed and an epoch
epoch_orders     the random order in which an epoch uses the training images
pack             pack a data set into shards with an index
pack_shard       write one shard
pack_plan        which photo goes into which shard
check            find the problems of a data set of photos before training
checked_image    the check of a single photo: size, hashes, histogram and warnings
near_duplicates  find images that look the same
checksums        compute MD5 and SHA-256 sums
thumbnails       images as data URIs for HTML pages
threads          work on many files in parallel
space            free memory and disk space
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.data.augment import normalisation_scale_and_shift as normalisation_scale_and_shift
    from residua.data.augment import normalise_pixels as normalise_pixels
    from residua.data.augment import random_crop as random_crop
    from residua.data.batches import TrainingBatches as TrainingBatches
    from residua.data.batches import make_training_batches as make_training_batches
    from residua.data.check import DatasetCheck as DatasetCheck
    from residua.data.check import check_dataset as check_dataset
    from residua.data.check import format_usable_csv as format_usable_csv
    from residua.data.check import make_check_thumbnails as make_check_thumbnails
    from residua.data.counter_rng import RandomStream as RandomStream
    from residua.data.counter_rng import random_bits_from_keys as random_bits_from_keys
    from residua.data.counter_rng import random_permutation as random_permutation
    from residua.data.decode import HasPreprocessing as HasPreprocessing
    from residua.data.decode import decode_image as decode_image
    from residua.data.decode import preprocess_image as preprocess_image
    from residua.data.decode import suspend_pillow_limits as suspend_pillow_limits
    from residua.data.grey_levels import (
        summarize_doubtful_white_levels as summarize_doubtful_white_levels,
    )
    from residua.data.image_views import average_over_views as average_over_views
    from residua.data.image_views import keep_margin_for_views as keep_margin_for_views
    from residua.data.image_views import require_views_for_model as require_views_for_model
    from residua.data.images import Images as Images
    from residua.data.images import center_crop as center_crop
    from residua.data.pack import pack_dataset as pack_dataset
    from residua.data.pack_plan import PackOptions as PackOptions
    from residua.data.photo_cache import delete_damaged_caches as delete_damaged_caches
    from residua.data.preprocessed_images import NamedImages as NamedImages
    from residua.data.preprocessed_images import read_preprocessed_split as read_preprocessed_split
    from residua.data.read import ensure_dataset_ready as ensure_dataset_ready
    from residua.data.read import list_skipped_images as list_skipped_images
    from residua.data.read import read_split as read_split
    from residua.data.sources.download import find_dataset_folder as find_dataset_folder
    from residua.data.sources.download import find_or_download as find_or_download
    from residua.data.sources.download import get_cache_dir as get_cache_dir
    from residua.data.sources.download import list_missing_files as list_missing_files
    from residua.data.sources.download import list_user_data_folders as list_user_data_folders
    from residua.data.sources.listing import DataProblem as DataProblem
    from residua.data.sources.listing import EmbeddedFile as EmbeddedFile
    from residua.data.sources.listing import ImageEntry as ImageEntry
    from residua.data.sources.listing import ImageListing as ImageListing
    from residua.data.sources.listing import Split as Split
    from residua.data.sources.listing import problems_to_json as problems_to_json
    from residua.data.sources.resolve import PhotoDataset as PhotoDataset
    from residua.data.sources.resolve import cached_image_side as cached_image_side
    from residua.data.sources.resolve import dataset_from_listing as dataset_from_listing
    from residua.data.sources.resolve import largest_side_that_fits as largest_side_that_fits
    from residua.data.sources.resolve import list_image_dataset as list_image_dataset
    from residua.data.sources.resolve import resolve_dataset as resolve_dataset
    from residua.data.space import format_bytes as format_bytes
    from residua.data.space import free_memory_bytes as free_memory_bytes
    from residua.data.summarize import summarize_checked_data as summarize_checked_data
    from residua.data.summarize import summarize_listing as summarize_listing
    from residua.data.summary import DETAILED_KINDS as DETAILED_KINDS
    from residua.data.summary import DataSummary as DataSummary
    from residua.data.threads import count_available_cores as count_available_cores
    from residua.data.thumbnails import encode_data_uri as encode_data_uri
    from residua.data.thumbnails import make_thumbnail_uri as make_thumbnail_uri
    from residua.data.thumbnails import pixels_to_image as pixels_to_image

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "read": "ensure_dataset_ready list_skipped_images read_split",
        "preprocessed_images": "NamedImages read_preprocessed_split",
        "images": "Images center_crop",
        "image_views": "average_over_views keep_margin_for_views require_views_for_model",
        "pack": "pack_dataset",
        "pack_plan": "PackOptions",
        "photo_cache": "delete_damaged_caches",
        "batches": "TrainingBatches make_training_batches",
        "augment": "normalisation_scale_and_shift normalise_pixels random_crop",
        "counter_rng": "RandomStream random_bits_from_keys random_permutation",
        "decode": "HasPreprocessing decode_image preprocess_image suspend_pillow_limits",
        "grey_levels": "summarize_doubtful_white_levels",
        "check": "DatasetCheck check_dataset format_usable_csv make_check_thumbnails",
        "thumbnails": "encode_data_uri make_thumbnail_uri pixels_to_image",
        "summarize": "summarize_checked_data summarize_listing",
        "summary": "DETAILED_KINDS DataSummary",
        "threads": "count_available_cores",
        "space": "format_bytes free_memory_bytes",
        "sources.listing": (
            "DataProblem EmbeddedFile ImageEntry ImageListing Split problems_to_json"
        ),
        "sources.resolve": (
            "cached_image_side dataset_from_listing largest_side_that_fits "
            "PhotoDataset list_image_dataset resolve_dataset"
        ),
        "sources.download": (
            "find_dataset_folder find_or_download get_cache_dir list_missing_files "
            "list_user_data_folders"
        ),
    },
)
