"""Sources of data sets: resolve their names and locations, list and read their files.

resolve            a data set's name or location -> `Dataset`; list the photos at any location
listing            the common form of all listings: entries, classes, splits, problems
image_folder       a folder of photos, by split and class
folder_layout      which folders of a folder of photos are splits, classes or neither
folder_scan        the files of folders with sizes and times, scanned in threads
folder_walk        walk through folders and links, never in a circle
imagenet           ImageNet, in the layouts in which it is found
imagenet_archives  its photographs in archives, read in place
imagenet_labels    the labels of its validation photographs
table              a CSV, TSV or parquet table of paths and labels
table_text         text tables of unknown encoding and delimiter -> rows of cells
table_columns      what the columns of a table hold, by name or by content
remote_dataset     data sets on servers: packed folders, shards, parquet files
remote_urls        the addresses for which a text stands
remote_files       read ranges of files on servers, tried again and kept
remote_retries     requests that are made again after errors, and shared by threads
remote_transport   one request to a server, and what its errors mean
remote_http        connections that are kept for the next request
remote_cache       the bounded local cache of what was read
remote_ahead       fetch photos before they are needed
packed             packed data sets: shards with an index
webdataset         tar shards of samples
shard_samples      the samples of one shard
shard_index        the samples of shards, kept between processes
tar_archive        the members of a tar archive, read from its headers alone
huggingface        Hugging Face data sets, and parquet files of images
huggingface_files  load their tables, from the hub, a folder or parquet files
download           find the files of published data sets, or download them into the cache
array_files        the files of CIFAR and MNIST -> images and labels
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
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

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "listing": "DataProblem EmbeddedFile ImageEntry ImageListing Split problems_to_json",
        "resolve": (
            "cached_image_side dataset_from_listing largest_side_that_fits "
            "PhotoDataset list_image_dataset resolve_dataset"
        ),
        "download": (
            "find_dataset_folder find_or_download get_cache_dir list_missing_files "
            "list_user_data_folders"
        ),
    },
)
