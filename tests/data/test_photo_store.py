"""Whole photographs in the cache: their crops agree with prediction, and damage is noticed."""

import errno
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from residua.cache_folder import clear_cache, list_cached_files
from residua.config.fold import Fold
from residua.config.model import ImagePreprocessing
from residua.config.photo_storage import PHOTO_STORAGES
from residua.data import photo_cache, photo_records
from residua.data.checksums import compute_sha256
from residua.data.decode import decode_and_preprocess, decode_image, preprocess_image
from residua.data.images import Images
from residua.data.photo_cache import delete_damaged_caches, load_photo_store
from residua.data.photo_index import (
    PackedDigests,
    PackedTexts,
    PhotoIndex,
    read_photo_index,
    write_photo_index,
)
from residua.data.photo_storage import choose_storage, choose_storage_by_space
from residua.data.preprocessed_images import read_preprocessed_split
from residua.data.resize import resize_box_of_pixels
from residua.data.sources.listing import DataProblem
from residua.data.sources.resolve import resolve_dataset
from residua.data.splits import choose_train_or_test
from residua.data.streamed_images import StreamedImages
from residua.deploy.predict import decode_or_error
from residua.errors import DataError, UsageError
from residua.training.prepared_network import require_recipe_suits_data
from tests import third_party  # noqa: F401 -- makes torchvision importable
from tests.data.faulty_photos import encode_image, make_picture

CROP, RESIZE = (16, 16), 20
VIEW = ImagePreprocessing((3, *CROP), RESIZE, scaled_decoding=True)
ORIENTATIONS = range(2, 9)


def make_deep_grey(seed, bits):
    levels = np.random.default_rng(seed).integers(0, 2**bits, (30, 44), dtype=np.uint16)
    return Image.fromarray(levels)


def exif_with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def make_odd_photos():
    """Files that decode in different ways, by name."""
    rgba = make_picture(31).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    files = {
        "landscape.jpg": encode_image(make_picture(1, size=(60, 40))),
        "portrait.png": encode_image(make_picture(2, size=(37, 61)), "PNG"),
        "square.bmp": encode_image(make_picture(3, size=(20, 20)), "BMP"),
        "grey.jpg": encode_image(make_picture(4).convert("L")),
        "deep.png": encode_image(make_deep_grey(5, 16), "PNG"),
        "cmyk.jpg": encode_image(make_picture(6).convert("CMYK")),
        "tiny.png": encode_image(make_picture(7, size=(9, 4)), "PNG"),
        "dot.png": encode_image(make_picture(8, size=(1, 1)), "PNG"),
        "long.jpg": encode_image(make_picture(9, size=(3000, 21))),
        "alpha.png": encode_image(rgba, "PNG"),
        "palette.gif": encode_image(make_picture(10).convert("P"), "GIF"),
        "large.jpg": encode_image(make_picture(11, size=(333, 251))),
        "larger.jpg": encode_image(make_picture(12, size=(251, 407)), progressive=True),
        "large-grey.jpg": encode_image(make_picture(13, size=(190, 170)).convert("L")),
    }
    for i in ORIENTATIONS:
        exif = exif_with_orientation(i)
        files[f"turned{i}.jpg"] = encode_image(make_picture(40 + i, size=(181, 99)), exif=exif)
    return files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(photo_cache, "open_stores", [])
    return tmp_path / "cache" / "residua" / "photos"


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """Photographs in the splits train and val; the odd ones are in both."""
    root = tmp_path_factory.mktemp("odd")
    for split, name in ((s, n) for s in ("train", "val") for n in ("cat", "dog")):
        (root / split / name).mkdir(parents=True)
        for i in range(3):
            picture = make_picture(100 * len(split) + i, name == "dog", size=(50, 30))
            picture.save(root / split / name / f"{i}.png")
    for split in ("train", "val"):
        for name, content in make_odd_photos().items():
            (root / split / "cat" / name).write_bytes(content)
    return root


def resolve_folder(folder, storage="raw", shape=(3, *CROP), **changes):
    data = resolve_dataset(str(folder), shape)
    return replace(data, storage=storage, resize=RESIZE, **changes)


def forget_open_stores():
    photo_cache.open_stores.clear()


def read_all_centers(photos, size=CROP):
    return torch.stack([photos.read_center(i, size) for i in range(len(photos))])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("storage", ["raw", "files"])
def test_center_crops_are_bit_identical_to_prediction(cache, odd_folder, storage, channels):
    data = resolve_folder(odd_folder, storage, (channels, *CROP))
    view = replace(VIEW, input=data.input)
    store = load_photo_store(data)
    assert len(store.names) == 12 + 2 * len(make_odd_photos())
    for i, name in enumerate(store.names):
        predicted = decode_or_error(odd_folder / name, view)
        assert torch.equal(store.photos.read_center(i, CROP), predicted.pixels), name
    evaluated = read_preprocessed_split(data, "all", view)
    assert evaluated.names == store.names[:]
    assert torch.equal(evaluated.images.pixels, read_all_centers(store.photos))
    assert torch.equal(evaluated.images.labels, store.photos.labels)


@pytest.mark.parametrize(
    "view",
    [
        VIEW,
        replace(VIEW, scaled_decoding=False),
        replace(VIEW, resize=0),
        ImagePreprocessing((1, *CROP), 24, "bicubic", scaled_decoding=True),
    ],
)
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_many_photographs_are_evaluated_without_being_in_memory_together(
    cache, odd_folder, monkeypatch, view, split
):
    data = resolve_folder(odd_folder, "squares", view.input)
    wanted = read_preprocessed_split(data, split, view)
    monkeypatch.setattr("residua.data.preprocessed_images.MAX_DECODED_BYTES", 1000)
    found = read_preprocessed_split(data, split, view)
    assert isinstance(wanted.images, Images)
    assert isinstance(found.images, StreamedImages)
    assert found.names == wanted.names
    assert torch.equal(found.images[:].pixels, wanted.images.pixels)
    assert torch.equal(found.images.labels, wanted.images.labels)
    assert found.images.image_size == CROP
    chosen = torch.tensor([3, 0])
    assert torch.equal(found.images.select(chosen)[:].pixels, wanted.images[chosen].pixels)
    [folder] = cache.iterdir()
    assert (folder / "photos.bin").stat().st_size == 0


def test_photos_that_are_not_shrunk_by_half_are_cropped_as_torchvision_does(cache, odd_folder):
    from torchvision.transforms import functional

    store = load_photo_store(resolve_folder(odd_folder))
    compared = 0
    for i, name in enumerate(store.names):
        image = decode_image(odd_folder / name)
        if name.endswith("long.jpg") or (name.endswith(".jpg") and min(image.size) >= 2 * RESIZE):
            continue
        wanted = functional.center_crop(functional.resize(image, RESIZE), list(CROP))
        found = store.photos.read_center(i, CROP).permute(1, 2, 0)
        assert np.array_equal(found, wanted), name
        compared += 1
    assert compared > 20


def test_stored_photos_keep_their_aspect_and_their_shorter_side_is_the_stored_one(
    cache, odd_folder
):
    store = load_photo_store(resolve_folder(odd_folder, stored_side=24))
    sizes = dict(zip(store.names, store.photos.sizes.tolist(), strict=True))
    assert sizes["train/cat/landscape.jpg"] == [24, 36]
    assert sizes["train/cat/long.jpg"] == [24, 24 * 50]  # the ends are cut off
    assert sizes["train/cat/dot.png"] == [24, 24]
    assert sizes["train/cat/turned6.jpg"] == [24 * 181 // 99, 24]
    assert sizes["val/cat/landscape.jpg"] == [RESIZE, 30]  # as evaluation needs it
    files = load_photo_store(resolve_folder(odd_folder, "files"))
    sizes = dict(zip(files.names, files.photos.sizes.tolist(), strict=True))
    assert sizes["val/cat/landscape.jpg"] == [40, 60]
    assert sizes["val/cat/long.jpg"] == [21, 21 * 50]
    assert sizes["val/cat/turned6.jpg"] == [181, 99]
    assert store.count_split("test") == files.count_split("test") > 0


@pytest.mark.parametrize("orientation", [1, *ORIENTATIONS])
@pytest.mark.parametrize("size", [(161, 177), (255, 137)])
def test_scaled_decoding_does_not_move_the_photo(orientation, size):
    """A ramp tells where pixels are; sides that end within a block would stretch it by 4 %."""
    width, height = size
    ramp = np.zeros((height, width, 3))
    ramp[..., 0] = (np.arange(width) + 0.5) * (255 / width)
    ramp[..., 1] = (np.arange(height)[:, None] + 0.5) * (255 / height)
    image = Image.fromarray(np.rint(ramp).astype(np.uint8))
    exif = exif_with_orientation(orientation)
    content = encode_image(image, quality=100, subsampling=0, exif=exif)
    for view in (VIEW, replace(VIEW, resize=0)):
        scaled = decode_and_preprocess(content, view)
        whole = decode_and_preprocess(content, replace(view, scaled_decoding=False))
        assert scaled.size == whole.size == (size if orientation < 5 else size[::-1])
        assert not torch.equal(scaled.pixels, whole.pixels)
        assert (scaled.pixels.int() - whole.pixels.int()).abs().max() <= 2


def test_scaled_decoding_decodes_only_what_is_needed(monkeypatch):
    decoded_sizes = []
    content = encode_image(make_picture(1, size=(400, 320)))
    monkeypatch.setattr(
        "residua.data.decode.convert_to_rgb",
        lambda image, *rest: decoded_sizes.append(image.size) or pytest.skip(),
    )
    for side, wanted in ((20, (50, 40)), (40, (50, 40)), (41, (100, 80)), (161, (400, 320))):
        view = ImagePreprocessing((3, 16, 16), side, scaled_decoding=True)
        try:
            decode_and_preprocess(content, view)
        except pytest.skip.Exception:
            assert decoded_sizes.pop() == wanted


def test_a_crop_of_raw_pixels_is_the_resized_box_in_whole_pixels(cache, odd_folder):
    """Within one level of the exact result: torch's antialiased resizing in float64."""
    photos = load_photo_store(resolve_folder(odd_folder)).photos
    for i in range(len(photos)):
        height, width = photos.sizes[i].tolist()
        whole = photos.read_crop(i, (0, 0, width, height), (height, width))
        box = (0.25, 0.1 * height, 0.75 * width, height + 1e-9)
        part = whole[:, round(box[1]) :, : max(round(box[2]), 1)].double()
        wanted = F.interpolate(part[None], (14, 18), mode="bilinear", antialias=True)[0]
        found = photos.read_crop(i, box, (14, 18))
        assert found.is_contiguous()
        assert (found - wanted).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_beyond_the_pixels_or_of_less_than_one_is_a_pixel_at_the_edge(channels):
    pixels = np.arange(6 * 5 * channels, dtype=np.uint8).reshape(6, 5, channels)
    for box, (row, column) in {
        (4.9, 5.8, 5.2, 6.3): (5, 4),
        (-3.0, -2.0, 0.1, 0.2): (0, 0),
        (2.0, 3.0, 2.1, 3.1): (3, 2),
    }.items():
        found = resize_box_of_pixels(pixels, box, (2, 3))
        assert found.shape == (channels, 2, 3)
        assert torch.equal(
            found, torch.from_numpy(pixels)[row, column, :, None, None].expand_as(found)
        )


def test_a_crop_of_a_file_shows_the_same_part_as_a_crop_of_raw_pixels(cache, tmp_path):
    """The same share of each photo; the pixels differ a little, as they are resized once."""
    for name in ("cat", "dog"):
        (tmp_path / "d" / name).mkdir(parents=True)
    for i in range(8):
        exif = exif_with_orientation(i + 1)
        image = make_picture(i, size=(163, 99)).resize((163, 99))
        for name in ("cat", "dog"):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            (tmp_path / "d" / name / f"{i}.jpg").write_bytes(
                encode_image(image, quality=100, subsampling=0, exif=exif)
            )
    raw, jpeg, files = (
        load_photo_store(resolve_folder(tmp_path / "d", storage, stored_side=64))
        for storage in ("raw", "jpeg", "files")
    )
    assert raw.names[:] == jpeg.names[:] == files.names[:]
    assert len({store.photos.fingerprint for store in (raw, jpeg, files)}) == 1
    for i in range(raw.count_split("train")):
        crops = []
        for store in (raw, jpeg, files):
            height, width = store.photos.sizes[i].tolist()
            box = (0.1 * width, 0.3 * height, 0.8 * width, 0.9 * height)
            crops.append(store.photos.read_crop(i, box, (12, 14)).float())
        assert (crops[0] - crops[1]).abs().mean() < 3  # a reduced size is cut at its own pixels
        assert (crops[0] - crops[2]).abs().mean() < 3
        assert (crops[0] - crops[2].flip(2)).abs().mean() > 5


def test_a_crop_of_a_file_whose_ends_are_cut_off_lies_between_them(cache, tmp_path):
    ramp = np.tile(np.linspace(0, 255, 3000)[None, :, None], (21, 1, 3)).astype(np.uint8)
    for split, name in ((s, n) for s in ("train", "val", "test") for n in ("cat", "dog")):
        (tmp_path / "d" / split / name).mkdir(parents=True)
        Image.fromarray(ramp + 10 * (split == "val")).save(tmp_path / "d" / split / name / "a.png")
    photos = load_photo_store(resolve_folder(tmp_path / "d", "files")).photos
    width = photos.sizes[0, 1].item()
    assert width == 50 * 21
    crop = photos.read_crop(0, (0, 0, width, 21), (1, 50))
    assert abs(crop[0, 0, 0].item() - (975 + 10) / 3000 * 255) < 2
    assert abs(crop[0, 0, -1].item() - (3000 - 975 - 10) / 3000 * 255) < 2


def test_jpeg_records_are_those_of_training_photographs_only(cache, odd_folder):
    raw, jpeg = (load_photo_store(resolve_folder(odd_folder, s)) for s in ("raw", "jpeg"))
    for split in ("dev", "test"):
        centers = [read_all_centers(store.split_photos(split)) for store in (raw, jpeg)]
        assert torch.equal(*centers)
    centers = [read_all_centers(store.split_photos("train")).float() for store in (raw, jpeg)]
    assert 0 < (centers[0] - centers[1]).abs().mean() < 6


def test_selected_photographs_keep_their_labels_sizes_and_fingerprint(cache, odd_folder):
    photos = load_photo_store(resolve_folder(odd_folder)).photos
    chosen = photos.select(torch.tensor([4, 9, 2, 2]))
    twice = chosen.select(torch.tensor([2, 0]))
    assert torch.equal(twice.labels, photos.labels[[2, 4]])
    assert torch.equal(twice.sizes, photos.sizes[[2, 4]])
    assert torch.equal(twice.read_center(1, CROP), photos.read_center(4, CROP))
    assert twice.fingerprint == photos.select(torch.tensor([2, 4])).fingerprint
    assert twice.fingerprint != photos.select(torch.tensor([4, 2])).fingerprint


def test_photographs_of_shards_and_tables_are_read_like_those_of_folders(cache, odd_folder):
    """The files themselves lie in a shard and in a parquet table."""
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    for split in ("train", "val"):
        (cache.parent / "shards").mkdir(parents=True, exist_ok=True)
        files = sorted((odd_folder / split).glob("*/*"))
        with tarfile.open(cache.parent / "shards" / f"{split}-0.tar", "w") as tar:
            for i, file in enumerate(files):
                for suffix, content in (
                    (file.suffix[1:], file.read_bytes()),
                    ("cls", file.parent.name.encode()),
                ):
                    member = tarfile.TarInfo(f"{i:03}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
        (cache.parent / "tables").mkdir(exist_ok=True)
        parquet.write_table(
            table(
                {
                    "image": [file.read_bytes() for file in files],
                    "label": [file.parent.name for file in files],
                }
            ),
            cache.parent / "tables" / f"{split}-0.parquet",
        )
    folder = load_photo_store(resolve_folder(odd_folder, "files"))
    wanted = {
        digest: folder.photos.read_crop(i, (1, 1, 5, 4), CROP)
        for i, (digest, size) in enumerate(zip(folder.digests, folder.photos.sizes, strict=True))
        if size.min() > 4
    }
    for name in ("shards", "tables"):
        store = load_photo_store(resolve_folder(cache.parent / name, "files"))
        assert sorted(store.digests) == sorted(folder.digests)
        assert store.split_counts.tolist()[2] == folder.split_counts.tolist()[2]
        for i, digest in enumerate(store.digests):
            if digest in wanted:
                assert torch.equal(store.photos.read_crop(i, (1, 1, 5, 4), CROP), wanted[digest])


def test_many_threads_read_what_one_reads(cache, odd_folder):
    for storage in ("raw", "jpeg", "files"):
        photos = load_photo_store(resolve_folder(odd_folder, storage)).photos
        wanted = read_all_centers(photos)
        with ThreadPoolExecutor(8) as pool:
            rows = torch.arange(200) % len(photos)
            found = pool.map(photos.read_center, rows.tolist(), [CROP] * 200)
            assert torch.equal(torch.stack([*found]), wanted[rows])


def test_photographs_are_decoded_once_and_listed_with_the_cache(cache, odd_folder, monkeypatch):
    first = load_photo_store(resolve_folder(odd_folder))
    forget_open_stores()
    monkeypatch.setattr(photo_cache, "write_records", None)
    again = load_photo_store(resolve_folder(odd_folder))
    assert again.photos.fingerprint == first.photos.fingerprint
    assert again.names[:] == first.names[:]
    assert again.digests[2:4] == first.digests[2:4]
    assert torch.equal(read_all_centers(again.photos), read_all_centers(first.photos))
    [listed] = list_cached_files("photos/*")
    assert listed.kind == "whole photographs"
    assert listed.bytes > again.photos.sizes.prod(1).sum() * 3
    assert clear_cache("photos/*") == [listed]


def cut_end(content):
    return content[:-1]


def change_middle(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("spoil", [cut_end, change_middle])
@pytest.mark.parametrize("file", ["photos.bin", "index.npz", "index.json"])
def test_a_damaged_cache_is_found_and_decoded_again(cache, odd_folder, capsys, spoil, file):
    data = resolve_folder(odd_folder)
    wanted = read_all_centers(load_photo_store(data).photos)
    [folder] = cache.iterdir()
    (folder / file).write_bytes(spoil((folder / file).read_bytes()))
    forget_open_stores()
    assert torch.equal(read_all_centers(load_photo_store(data).photos), wanted)
    assert capsys.readouterr().err.count("are damaged, and are decoded again") == 1
    assert delete_damaged_caches(data.listing.location) == 0
    (folder / file).write_bytes(spoil((folder / file).read_bytes()))
    # Of an unreadable header, the data set is not known.
    assert sum(map(delete_damaged_caches, ("elsewhere", data.listing.location))) == 1
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_record_that_is_damaged_while_a_run_reads_it_names_the_photograph(
    cache, odd_folder, storage
):
    store = load_photo_store(resolve_folder(odd_folder, storage))
    photos = store.split_photos("train")
    [folder] = cache.iterdir()
    content = (folder / "photos.bin").read_bytes()
    offset, length = photos.index.locate_record(1)
    with open(folder / "photos.bin", "r+b") as file:
        file.seek(offset + length // 2)
        file.write(bytes([content[offset + length // 2] ^ 255]))
    if storage == "raw":  # as in a large cache, of which only a part is checked on opening
        photos.records.is_checked[:] = False
    photos.read_center(0, CROP)
    with pytest.raises(DataError, match=rf"^{store.names[1]} is damaged in the cache: delete"):
        photos.read_crop(1, (0, 0, 9, 9), CROP)
    (folder / "photos.bin").write_bytes(content[: offset + length + 5])
    photos.read_center(1, CROP)
    with pytest.raises(DataError, match=rf"^{store.names[2]} is damaged in the cache"):
        photos.read_center(2, CROP)


def test_a_file_that_changes_or_vanishes_during_a_run_is_named(cache, odd_folder, tmp_path):
    import shutil

    shutil.copytree(odd_folder, tmp_path / "d")
    store = load_photo_store(resolve_folder(tmp_path / "d", "files"))
    rows = {name: i for i, name in enumerate(store.names)}
    (tmp_path / "d" / "train/cat/grey.jpg").write_bytes(make_odd_photos()["cmyk.jpg"])
    (tmp_path / "d" / "train/cat/alpha.png").unlink()
    for name, reason in (
        ("train/cat/grey.jpg", "was changed after this command had read it"),
        ("train/cat/alpha.png", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(DataError, match=f"^{name} {reason}"):
            store.photos.read_crop(rows[name], (0, 0, 9, 9), CROP)


def find_content(make, split):
    """The first file of `make(0)`, `make(1)`, ... whose digest chooses this split."""
    return next(
        content
        for content in map(make, range(100))
        if choose_train_or_test(compute_sha256(content)) == split
    )


@pytest.mark.parametrize("storage", ["raw", "jpeg", "files"])
def test_splits_and_problems_are_as_if_damaged_files_did_not_exist(
    cache, tmp_path, storage, monkeypatch
):
    for name in ("a", "b", "c"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(30 if name != "c" else 0):
            make_picture(100 * ord(name) + i).save(tmp_path / "d" / name / f"{i:02}.png")
    jpeg = encode_image(make_picture(7, size=(300, 200)))
    (tmp_path / "d" / "a" / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    # The intact image of c is in the test split, and moves to training without the damaged one.
    (tmp_path / "d" / "c" / "0.png").write_bytes(
        find_content(lambda i: b"no image %d" % i, "train")
    )
    (tmp_path / "d" / "c" / "1.png").write_bytes(
        find_content(lambda i: encode_image(make_picture(i, size=(90, 30)), "PNG"), "test")
    )
    firsts = []
    write_record = photo_records.PhotoWriter.write_record
    monkeypatch.setattr(
        photo_records.PhotoWriter,
        "write_record",
        lambda self, i, record: (firsts.append(i == 0), write_record(self, i, record)),
    )
    spoiled = load_photo_store(resolve_folder(tmp_path / "d", storage))
    assert sum(firsts) == 2  # passes over all images
    assert {("c/0.png", "not an image"), ("a/half.jpg", "truncated")} <= {
        (problem.path, problem.kind) for problem in spoiled.problems
    }
    (tmp_path / "d" / "c" / "0.png").unlink()
    (tmp_path / "d" / "a" / "half.jpg").unlink()
    intact = load_photo_store(resolve_folder(tmp_path / "d", storage))
    assert sum(firsts) == 3
    assert spoiled.names[:] == intact.names[:]
    assert spoiled.split_counts.tolist() == intact.split_counts.tolist()
    assert torch.equal(read_all_centers(spoiled.photos), read_all_centers(intact.photos))
    sizes = [(folder / "photos.bin").stat().st_size for folder in cache.iterdir()]
    assert sizes[0] == sizes[1] == spoiled.photos.index.ends[-1]
    assert [p.kind for p in intact.problems] == ["tiny class"]


def test_where_the_cache_cannot_be_written_photographs_are_kept_in_memory(
    cache, odd_folder, monkeypatch, capsys
):
    data = resolve_folder(odd_folder)
    wanted = read_all_centers(load_photo_store(data).photos)
    clear_cache()
    forget_open_stores()
    monkeypatch.setattr(photo_cache, "free_disk_bytes", lambda folder: 1000)
    store = load_photo_store(data)
    assert "photographs are not cached in" in capsys.readouterr().err
    assert torch.equal(read_all_centers(store.photos), wanted)
    forget_open_stores()
    monkeypatch.setattr("residua.data.space.free_memory_bytes", lambda: 1000)
    with pytest.raises(DataError, match=r"photographs need 0 MiB.*--storage files, which decodes"):
        load_photo_store(data)
    assert list(cache.iterdir()) == []


def test_a_disk_that_fills_up_leaves_no_files(cache, odd_folder, monkeypatch):
    def write_until_full(self, i, record):
        if i == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(record.content)

    monkeypatch.setattr(photo_records.PhotoWriter, "write_record", write_until_full)
    monkeypatch.setattr("residua.data.space.free_memory_bytes", lambda: 0)
    with pytest.raises(DataError, match="No space left on device"):
        load_photo_store(resolve_folder(odd_folder))
    assert list(cache.iterdir()) == []


def test_where_a_fold_is_held_out_photographs_are_never_encoded_again(
    cache, odd_folder, monkeypatch
):
    data = resolve_folder(odd_folder, "squares").hold_out_fold(Fold(1, 3))
    monkeypatch.setattr("residua.data.photo_storage.total_memory_bytes", lambda: 2**40)
    assert choose_storage(data.listing, data).storage == "raw"
    load_photo_store(replace(data, storage="jpeg"))  # is not taken, although it is in the cache
    monkeypatch.setattr("residua.data.photo_storage.total_memory_bytes", lambda: 1000)
    storage, reason = choose_storage(data.listing, data)
    assert storage == "files"
    assert "because a fold is held out" in reason
    for storage in PHOTO_STORAGES:
        if storage != "jpeg":
            require_recipe_suits_data(None, replace(data, storage=storage))
    with pytest.raises(UsageError, match="give --storage raw or files"):
        require_recipe_suits_data(None, replace(data, storage="jpeg"))
    require_recipe_suits_data(None, replace(data, storage="jpeg", fold=None))


def test_the_choice_of_storage_says_what_decided(cache, odd_folder, monkeypatch):
    data = resolve_folder(odd_folder, "squares", stored_side=256)

    def choose(memory, disk):
        monkeypatch.setattr("residua.data.photo_storage.total_memory_bytes", lambda: memory)
        monkeypatch.setattr("residua.data.photo_storage.free_disk_bytes", lambda folder: disk)
        return choose_storage(data.listing, data)

    large = 2**40
    storage, reason = choose(large, large)
    assert storage == "raw"
    raw_bytes = float(reason.split(", ")[1].split(" MiB")[0]) * 2**20
    assert reason.endswith("there are 1,024.0 GiB of memory and 1,024.0 GiB of free disk")
    store = load_photo_store(replace(data, storage="raw"))
    assert 0.7 < raw_bytes / (3 * store.photos.sizes.prod(1).sum().item()) < 1.4
    assert choose(0, 0) == ("raw", "whole photographs are kept as pixels, which the cache holds "
                            "already")  # fmt: skip
    clear_cache()
    for memory, disk in ((2 * raw_bytes - 2**22, large), (large, 2 * raw_bytes - 2**22)):
        storage, reason = choose(int(memory), int(disk))
        assert storage == "jpeg"
        assert "as JPEG of quality 95, " in reason
        assert ": pixels need " in reason
    with pytest.raises(DataError, match=r"54 photographs need .* as pixels or .* as JPEG, and .*"):
        choose(large, 2**20)
    ways = r"more space, or add --storage raw, which then keeps the pixels in memory, or add "
    for free_memory, suggested in ((large, ways), (2**20, "more space, or add ")):
        monkeypatch.setattr(
            "residua.data.photo_storage.free_memory_bytes", lambda free=free_memory: free
        )
        with pytest.raises(DataError, match=f"{suggested}--storage files, which needs no disk"):
            choose(large, 2**20)
        unstored = choose_storage_by_space(data.listing, data, is_stored=False)
        assert unstored.storage == ("raw" if free_memory == large else "files")
    assert choose(None, large).storage == "raw"


def test_the_index_of_many_photographs_is_small_and_kept_as_it_is(tmp_path):
    count = 50_000
    generator = np.random.default_rng(1)
    sizes = generator.integers(200, 500, (count, 2), dtype=np.int32)
    names = PackedTexts.pack(f"train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(count))
    index = PhotoIndex(
        ends=(sizes.astype(np.int64).prod(1) * 3).cumsum(),
        checksums=generator.integers(0, 2**32, count, dtype=np.uint32),
        encoded=np.zeros(count, bool),
        sizes=sizes,
        labels=np.arange(count) % 1000,
        positions=np.arange(count),
        split_counts=np.array([count - 2, 1, 1]),
        digests=generator.integers(0, 256, (count, 32), dtype=np.uint8),
        name_bytes=names.content,
        name_ends=names.ends,
    )
    problems = [DataProblem("a.jpg", "truncated", "is truncated")]
    write_photo_index(tmp_path, index, "d", problems, 3)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 150 * count
    found, found_problems = read_photo_index(tmp_path)
    assert all(
        np.array_equal(getattr(found, name), getattr(index, name)) for name in index.__slots__
    )
    assert list(found_problems) == problems
    assert found.name_of(49_999) == "train/n00000999/n00000999_49999.JPEG"
    with pytest.raises(ValueError, match="is damaged"):
        replace(index, sizes=sizes[:-1]).require_consistency(3)
    with pytest.raises(ValueError, match="is damaged"):
        replace(index, ends=index.ends[::-1].copy()).require_consistency(3)


def test_packed_texts_and_digests_read_as_the_texts_that_were_packed():
    texts = ["", "a", "Zürich/ß.png", "\udcff.jpg", "", "z"]
    packed = PackedTexts.pack(texts)
    assert list(packed) == texts
    assert (packed[1:4], packed[-1], len(packed)) == (texts[1:4], "z", 6)
    with pytest.raises(IndexError):
        packed[6]
    sums = [f"{i:02x}" * 32 for i in range(5)]
    assert list(PackedDigests.pack(sums)) == sums
    assert PackedDigests.pack(sums)[1:3] == sums[1:3]
    assert list(PackedTexts.pack([])) == list(PackedDigests.pack([])) == []


def test_preprocessing_an_image_in_memory_is_unchanged():
    image = make_picture(1, size=(400, 300))
    assert torch.equal(
        preprocess_image(image, VIEW), preprocess_image(image, replace(VIEW, scaled_decoding=False))
    )
