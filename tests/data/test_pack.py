"""Packed data sets: the same photos, names, splits and bits as the folder, in shards with an index.

What the shards hold is read with the standard library's tarfile.
"""

import io
import json
import os
import tarfile
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from residua.cli.main import main
from residua.config.model import ImagePreprocessing
from residua.data import pack_shard
from residua.data.check import check_dataset
from residua.data.checked_arrays import encode_checked_arrays, read_checked_arrays
from residua.data.image_cache import compute_cache_key, hash_listing, load_or_decode_images
from residua.data.pack import pack_dataset
from residua.data.pack_plan import PackOptions
from residua.data.photo_cache import open_stores
from residua.data.read import load_photos, read_split
from residua.data.sources.packed import PACK_INDEX, decode_pack_index
from residua.data.sources.resolve import dataset_from_listing, list_image_dataset
from residua.errors import DataError, UsageError
from tests.data.faulty_photos import (
    CLASS_CHANNELS,
    encode_image,
    make_picture,
    write_clean_folder,
    write_faulty_folder,
)
from tests.forks import KILLED, run_forked

VIEW = ImagePreprocessing((3, 24, 24), 28)
SMALL_SHARDS = 3 * 6400 / 2**20  # so that a few photos fill a shard


@pytest.fixture(autouse=True)
def isolate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_or_decode_images.cache_clear()


@pytest.fixture
def folder(tmp_path):
    write_clean_folder(tmp_path / "d")
    return tmp_path / "d"


def write_unsplit_folder(root):
    for name, channel in CLASS_CHANNELS.items():
        (root / name).mkdir(parents=True)
        for i in range(20):
            make_picture(1000 * channel + i, channel).save(root / name / f"a.{i}.png")
    return root


def pack(source, out, count=lambda done, total: None, **options):
    settings = replace(PackOptions(shard_mib=SMALL_SHARDS), **options)
    return pack_dataset(list_image_dataset(source), out, settings, count)


def describe(listing):
    return [(e.name, e.label, e.split, e.group, e.read_bytes()) for e in listing.entries]


def read_shards(folder):
    """The members of all shards of a folder, by shard and name."""
    members = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {(path.name, m.name): tar.extractfile(m).read() for m in tar}
    return members


@pytest.mark.parametrize("write", [write_clean_folder, write_unsplit_folder, write_faulty_folder])
def test_a_packed_data_set_is_the_folder_itself(tmp_path, write):
    """Names, order, classes, splits, digests, and so the key of the decoded images."""
    write(tmp_path / "d")
    result = pack(tmp_path / "d", tmp_path / "p")
    source, packed = [list_image_dataset(tmp_path / place) for place in ("d", "p")]
    assert (describe(packed), packed.classes) == (describe(source), source.classes)
    assert (packed.split_source, result.photos) == (source.split_source, len(source.entries))
    assert hash_listing(packed) == hash_listing(source)
    keys = [compute_cache_key(one, hash_listing(one), VIEW) for one in (source, packed)]
    assert keys[0] == keys[1]
    assert result.shards > 2


def test_training_from_a_pack_gives_the_same_bits(tmp_path, folder, monkeypatch):
    pack(folder, tmp_path / "p")
    weights = []
    for place in ("d", "p"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{place}"))
        load_or_decode_images.cache_clear()
        words = ["--model", "cifar-resnet8", "--size", "16", "--steps", "3", "--precision", "fp32"]
        out = tmp_path / f"run-{place}"
        words += ["--set", "batch_size=8", "--device", "cpu", "--out", str(out)]
        assert main(["train", str(tmp_path / place), *words]) == 0
        weights.append(load_file(out / "last" / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_other_programs_find_each_photo_and_its_label_beside_it(tmp_path):
    """Keys have no dots, so that a.1.png and a.2.png are two samples."""
    folder = write_unsplit_folder(tmp_path / "d")
    pack(folder, tmp_path / "p")
    members = read_shards(tmp_path / "p")
    classes = (tmp_path / "p" / "classes.txt").read_text().split()
    photos = {
        (classes[int(members[shard, f"{name.partition('.')[0]}.cls"])], sha256(content).digest())
        for (shard, name), content in members.items()
        if name.endswith(".png")
    }
    assert photos == {
        (path.parent.name, sha256(path.read_bytes()).digest()) for path in folder.rglob("*.png")
    }
    assert len(members) == 2 * len(photos) == 120
    assert all(name.count(".") == 1 and name.isascii() for _, name in members)


def test_without_its_index_a_pack_is_an_ordinary_set_of_shards(tmp_path, folder):
    pack(folder, tmp_path / "p")
    (tmp_path / "p" / PACK_INDEX).unlink()
    source, packed = [list_image_dataset(tmp_path / place) for place in ("d", "p")]
    assert packed.classes == source.classes
    assert sorted(d[1:] for d in describe(packed)) == sorted(d[1:] for d in describe(source))


def test_classes_named_by_other_numbers_keep_their_names(tmp_path):
    for seed, name in enumerate(("1", "2", "0x")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(6):
            make_picture(100 * seed + i).save(tmp_path / "d" / name / f"{i}.png")
    pack(tmp_path / "d", tmp_path / "p")
    labels = {e.name: e.label for e in list_image_dataset(tmp_path / "p").entries}
    (tmp_path / "p" / PACK_INDEX).unlink()
    plain = list_image_dataset(tmp_path / "p")
    assert plain.classes == list_image_dataset(tmp_path / "d").classes
    assert sorted(e.label for e in plain.entries) == sorted(labels.values())
    by_bytes = {e.read_bytes(): e.label for e in list_image_dataset(tmp_path / "d").entries}
    assert all(by_bytes[e.read_bytes()] == e.label for e in plain.entries)


def test_groups_stay_together(tmp_path):
    write_unsplit_folder(tmp_path / "d")
    rows = [
        f"{p.relative_to(tmp_path / 'd')},{p.parent.name},g{i % 7}"
        for i, p in enumerate(sorted((tmp_path / "d").rglob("*.png")))
    ]
    (tmp_path / "d" / "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    pack(tmp_path / "d" / "t.csv", tmp_path / "p")
    source, packed = (
        list_image_dataset(tmp_path / "d" / "t.csv"),
        list_image_dataset(tmp_path / "p"),
    )
    assert describe(packed) == describe(source)
    assert {e.group for e in packed.entries} == {f"g{i}" for i in range(7)}


@pytest.mark.parametrize("killed_at", [1, 20, 45])
def test_a_killed_pack_goes_on_and_writes_the_same_bytes(tmp_path, folder, killed_at):
    def kill(done, total):
        if done == killed_at:
            os._exit(KILLED)

    assert run_forked(lambda: pack(folder, tmp_path / "p", kill)) == KILLED
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").glob("*.tar")}
    with pytest.raises(DataError, match="is not packed completely: go on with"):
        list_image_dataset(tmp_path / "p")
    again, whole = pack(folder, tmp_path / "p"), pack(folder, tmp_path / "whole")
    assert (again.photos, again.shards) == (51, whole.shards)
    assert again.kept_shards <= len(finished) <= again.kept_shards + 1
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / place).iterdir()}
        for place in ("p", "whole")
    ]
    assert files[0] == files[1]
    kept = [path for path, time in finished.items() if path.stat().st_mtime_ns == time]
    assert len(kept) >= again.kept_shards


def test_a_finished_pack_is_not_written_again(tmp_path, folder):
    first = pack(folder, tmp_path / "p")
    again = pack(folder, tmp_path / "p")
    assert (again.photos, again.kept_shards, again.bytes) == (51, first.shards, first.bytes)


def test_a_smaller_size_never_enlarges_and_keeps_every_split(tmp_path):
    folder = write_unsplit_folder(tmp_path / "d")
    turned = encode_image(
        make_picture(77, 1, (90, 60)),
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    )
    (folder / "cat" / "turned.jpg").write_bytes(turned)
    (folder / "cat" / "small.png").write_bytes(encode_image(make_picture(7, 1, (20, 9)), "PNG"))
    small_jpeg = encode_image(make_picture(8, 1, (23, 40)), quality=70)
    (folder / "cat" / "small.jpg").write_bytes(small_jpeg)
    (folder / "cat" / "none.png").write_bytes(b"no image")
    result = pack(folder, tmp_path / "p", size=24, quality=85)
    assert [(p.path, p.kind) for p in result.problems] == [("cat/none.png", "not an image")]
    packed = list_image_dataset(tmp_path / "p")
    sizes = {e.name: Image.open(io.BytesIO(e.read_bytes())).size for e in packed.entries}
    assert (sizes["cat/turned.jpg"], sizes["cat/small.png"]) == ((24, 36), (20, 9))
    assert small_jpeg in [e.read_bytes() for e in packed.entries]  # not encoded once more
    assert {size for name, size in sizes.items() if "a." in name} == {(28, 24)}
    formats = {Image.open(io.BytesIO(e.read_bytes())).format for e in packed.entries}
    assert formats == {"JPEG"}
    kinds = {problem.kind for problem in check_dataset(packed).problems}
    assert "wrong extension" not in kinds
    (folder / "cat" / "none.png").unlink()
    images = [
        load_or_decode_images(list_image_dataset(place), VIEW) for place in (folder, tmp_path / "p")
    ]
    for split in ("train", "dev", "test"):
        names = [set(one.names[one.split_slice(split)]) for one in images]
        assert names[0] == names[1], split


def test_a_photo_with_a_side_too_long_for_jpeg_is_left_out_by_name(tmp_path, capfd):
    folder = write_unsplit_folder(tmp_path / "d")
    Image.new("RGB", (66_000, 1400)).save(folder / "cat" / "wide.png", compress_level=1)
    result = pack(folder, tmp_path / "p", size=1400)
    assert [(p.path, p.kind) for p in result.problems] == [("cat/wide.png", "too large")]
    assert result.problems[0].detail.startswith("would be stored with 66,000 x 1,400 pixels")
    assert result.photos == 60
    assert capfd.readouterr().err == ""


def test_a_photo_of_the_stored_size_differs_little_from_its_original(tmp_path, folder):
    pack(folder, tmp_path / "p", size=28, quality=95)
    ours, theirs = [
        read_split(
            dataset_from_listing(list_image_dataset(place), (3, 24, 24)), "test"
        ).pixels.float()
        for place in (tmp_path / "p", folder)
    ]
    assert (ours - theirs).abs().mean() < 8


def test_a_file_that_vanishes_meanwhile_is_named_and_left_out(tmp_path, folder):
    listing = list_image_dataset(folder)
    (folder / "train" / "cat" / "03.png").unlink()
    result = pack_dataset(listing, tmp_path / "p", PackOptions(), lambda done, total: None)
    assert [(p.path, p.kind) for p in result.problems] == [("train/cat/03.png", "unreadable")]
    assert result.photos == len(list_image_dataset(tmp_path / "p").entries) == 50


def test_a_file_that_vanishes_before_its_split_is_decided_is_named(tmp_path):
    listing = list_image_dataset(write_unsplit_folder(tmp_path / "d"))
    (tmp_path / "d" / "cat" / "a.3.png").unlink()
    for _ in range(2):  # a finished pack is described again
        result = pack_dataset(listing, tmp_path / "p", PackOptions(size=9), lambda done, total: 0)
        assert [(p.path, p.kind) for p in result.problems] == [("cat/a.3.png", "unreadable")]
        assert result.photos == 59


def refuse(source, out, match, **options):
    with pytest.raises((UsageError, DataError), match=match):
        pack(source, out, **options)


def test_what_cannot_be_packed_is_refused_in_one_sentence(tmp_path, folder, monkeypatch):
    refuse(folder, folder / "p", "is inside .*, which is packed: choose another --out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    refuse(folder, tmp_path / "other", "already exists: choose another --out")
    pack(folder, tmp_path / "p")
    refuse(folder, tmp_path / "p", "holds other photographs, or the same in another way", size=9)
    monkeypatch.setattr("residua.data.pack.free_disk_bytes", lambda folder: 10)
    refuse(folder, tmp_path / "new", "the shards need about .*, and the disk of .* has less")
    assert not (tmp_path / "new").exists()


def test_an_unfinished_pack_of_changed_photographs_is_refused(tmp_path, folder):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "p", stop)
    make_picture(5).save(folder / "train" / "cat" / "new.png")
    refuse(folder, tmp_path / "p", "holds an unfinished pack of other photographs or options")


def test_a_full_disk_ends_the_pack_and_keeps_the_finished_shards(tmp_path, folder, monkeypatch):
    calls = []

    def fill_disk(*arguments):
        calls.append(1)
        if len(calls) > 60:
            raise OSError(28, "No space left on device")
        return append(*arguments)

    append = pack_shard.append_member
    with monkeypatch.context() as patch:
        patch.setattr(pack_shard, "append_member", fill_disk)
        with pytest.raises(OSError, match="No space left"):
            pack(folder, tmp_path / "p")
    assert list((tmp_path / "p").glob("*.tar"))
    assert pack(folder, tmp_path / "p").kept_shards > 0


def test_a_missing_or_shortened_shard_is_named(tmp_path, folder):
    pack(folder, tmp_path / "p")
    shard = tmp_path / "p" / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    with pytest.raises(DataError, match="train-000001.tar has .* bytes, but .* when it was packed"):
        list_image_dataset(tmp_path / "p")
    shard.unlink()
    with pytest.raises(DataError, match="train-000001.tar is listed in .*, but cannot be read"):
        list_image_dataset(tmp_path / "p")


def test_photos_in_a_shard_that_is_damaged_in_the_middle_are_named(tmp_path, folder):
    pack(folder, tmp_path / "p")
    shard = tmp_path / "p" / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[2000:4000] = bytes(2000)
    shard.write_bytes(content)
    images = load_or_decode_images(list_image_dataset(tmp_path / "p"), VIEW)
    assert {p.kind for p in images.problems} == {"not as indexed"}
    assert len(images.names) + len(images.problems) == 51


@pytest.mark.parametrize("position", [0, 20, 60, 100, 300, -1])
def test_a_damaged_index_is_named(tmp_path, folder, position):
    pack(folder, tmp_path / "p")
    path = tmp_path / "p" / PACK_INDEX
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="index.residua cannot be read: .*; pack the data set"):
        list_image_dataset(tmp_path / "p")


@pytest.mark.parametrize(
    "change",
    [
        lambda f, a: f.update(shards=[["../x.tar", 10**9]] * 99),
        lambda f, a: f.update(shards=[]),
        lambda f, a: f.update(classes=[]),
        lambda f, a: f.update(split_source="rumour"),
        lambda f, a: f.pop("notes"),
        lambda f, a: f.update(notes=["\x1b[2Jwiped"]),
        lambda f, a: f.update(notes=[7]),
        lambda f, a: f.update(dev_share="x"),
        lambda f, a: f.update(dev_share=7.0),
        lambda f, a: f.update(white_level=None),
        lambda f, a: f.update(white_level=-1),
        lambda f, a: f.update(stored_side=True),
        lambda f, a: a.update(names=a["names"] // 16),  # control characters
        lambda f, a: a["places"].__setitem__((0, 1), -1),
        lambda f, a: a["places"].__setitem__((0, 2), 2**40),
        lambda f, a: a["labels"].__setitem__(0, 7),
        lambda f, a: a.update(names=a["names"][:-20]),
        lambda f, a: a.pop("digests"),
    ],
)
def test_a_forged_index_is_refused(tmp_path, folder, change):
    pack(folder, tmp_path / "p")
    facts, arrays = read_checked_arrays(tmp_path / "p" / PACK_INDEX)
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(facts, arrays)
    with pytest.raises(ValueError, match=r"^(the index|its names)"):
        decode_pack_index(encode_checked_arrays(facts, arrays))


def test_the_command_packs_and_prints_one_object(tmp_path, folder, capsys):
    out = tmp_path / "p"
    words = ["data", "pack", str(folder), "--out", str(out), "--size", "20", "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["photos"], printed["size"], printed["quality"]) == (51, 20, 90)
    assert printed["bytes"] == sum(path.stat().st_size for path in out.glob("*.tar"))
    assert main(["data", "check", str(out), "--out", str(tmp_path / "c")]) == 0
    assert "51 usable images in 3 classes" in capsys.readouterr().out


def test_the_command_names_what_the_listing_leaves_out(tmp_path, folder, capsys):
    """A damaged shard comes before the other problems, of which only the first are printed."""
    pack(folder, tmp_path / "plain", shard_mib=256)
    (tmp_path / "plain" / PACK_INDEX).unlink()
    shard = tmp_path / "plain" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    middle = len(content) // 1024 * 512
    content[middle:] = b"?" * (len(content) - middle)
    shard.write_bytes(content)
    for i in range(12):
        (folder / "train" / "cat" / f"link-{i:02}.png").symlink_to("nowhere")
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    damaged = f"{shard.name} is damaged, and is read up to the damage: "
    for source, sentence in ((tmp_path / "plain", damaged), (folder, "is a link to a file")):
        out = str(tmp_path / f"packed-{source.name}")
        for _ in range(2):  # a finished pack is described again
            assert main(["data", "pack", str(source), "--out", out, "--json"]) == 0
            captured = capsys.readouterr()
            assert captured.err.count(sentence) in (1, 10)
            problems = json.loads(captured.out)["problems"]
            listed = list_image_dataset(source).problems
            assert [(p["path"], p["detail"]) for p in problems] == [
                (p.path, p.detail) for p in listed
            ]
    assert "train/cat/pipe.png is neither a file nor a folder" in [
        f"{p['path']} {p['detail']}" for p in problems
    ]
    assert "3 more problems, see --json" in captured.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pack", "D"], "pack needs the folder for the shards: add --out DIR"),
        (["pack", "D", "--out", "p", "--size", "0"], "--size 0 is invalid"),
        (["pack", "D", "--out", "p", "--quality", "80"], "--quality applies only with --size"),
        (["pack", "D", "--out", "p", "--size", "9", "--quality", "0"], "--quality 0 is invalid"),
        (["pack", "D", "--out", "p", "--shard-mib", "0"], "--shard-mib 0 is invalid"),
        (["pack", "D", "--out", "p", "--fix", "x.csv"], "--fix does not apply to data pack"),
        (["pack", "D", "--out", "p", "--max-pixels", "9"], "pack decodes photographs only with"),
        (["check", "D", "--shard-mib", "9"], "--shard-mib does not apply to data check"),
    ],
    ids=str,
)
def test_options_that_do_not_apply_end_in_one_sentence(folder, capsys, words, sentence):
    assert main(["data", *(str(folder) if word == "D" else word for word in words)]) == 2
    assert sentence in capsys.readouterr().err


def damage_one_photo(packed):
    """Overwrite the middle of one photo, not the tar around it; return its entry and the shard."""
    entry = next(e for e in list_image_dataset(packed).entries if e.split == "train")
    file = entry.embedded_file
    shard = next(path for path in packed.glob("*.tar") if entry.read_bytes() in path.read_bytes())
    intact = shard.read_bytes()
    middle = file.offset + file.length // 2
    shard.write_bytes(intact[:middle] + bytes(60) + intact[middle + 60 :])
    return entry, shard, intact


def load_names(place, storage):
    dataset = replace(dataset_from_listing(list_image_dataset(place), (3, 24, 24)), storage=storage)
    open_stores.clear()
    load_or_decode_images.cache_clear()
    hash_listing.cache_clear()
    images = load_photos(dataset)
    return set(images.names), [p for p in images.problems if p.kind == "not as indexed"]


@pytest.mark.parametrize("storage", ["squares", "raw", "files"])
def test_photos_of_a_damaged_shard_are_used_again_once_it_is_intact(folder, tmp_path, storage):
    pack(folder, tmp_path / "p")
    count = len(list_image_dataset(folder).entries)
    _, shard, intact = damage_one_photo(tmp_path / "p")
    used, problems = load_names(tmp_path / "p", storage)
    assert len(used) == count - 1
    assert [problem.detail for problem in problems] == [
        "has other bytes than its index states: copy its shard again, which is damaged"
    ]
    assert load_names(tmp_path / "p", storage) == (used, problems)  # from the cache
    # The folder's photographs have the digests that the pack states, and so are stored with it.
    names, problems = load_names(folder, storage)
    assert (len(names), problems) == (count, [])
    shard.write_bytes(intact)
    assert load_names(tmp_path / "p", storage) == (names, [])


def test_a_damaged_photo_of_a_pack_is_left_out_of_a_second_pack_and_found_by_the_check(
    folder, tmp_path
):
    pack(folder, tmp_path / "p")
    entry, _, _ = damage_one_photo(tmp_path / "p")
    result = pack(tmp_path / "p", tmp_path / "again")
    assert [(p.path, p.kind) for p in result.problems] == [(entry.name, "not as indexed")]
    assert result.photos == len(list_image_dataset(folder).entries) - 1
    checked = check_dataset(list_image_dataset(tmp_path / "p"))
    assert (entry.name, "not as indexed") in [(p.path, p.kind) for p in checked.problems]
