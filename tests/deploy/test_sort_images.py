"""Sorted images: each in the folder of its class, none overwritten, all of them or no folder."""

import errno
import os
import resource
import signal
import stat
from pathlib import Path

import pytest

from residua.deploy import sort_images
from residua.deploy.sort_images import (
    check_sort_folder,
    number_file_name,
    open_image_sorter,
    refuse_searched_folder,
)
from residua.errors import DataError, UsageError
from tests.forks import run_at_once, run_forked

CLASSES = ("cat", "dog", "a class without images")


def write_file(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def sort_files(target, images, classes=CLASSES, **options):
    """Sort (path, class, probability) triples; return their new paths and the sentence."""
    with open_image_sorter(target, classes, **options) as sorter:
        paths = [sorter.place_image(*image) for image in images]
    return paths, sorter.describe()


def list_tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_images_are_copied_with_their_times_into_folders_of_their_classes(tmp_path):
    images = [write_file(tmp_path / "new" / f"{name}.jpg", name) for name in "abc"]
    os.utime(images[0], ns=(10**18, 10**18 + 1))
    images[1].chmod(0o400)
    target = tmp_path / "made" / "sorted"
    paths, sentence = sort_files(
        target, [(images[0], "cat", 0.9), (images[1], "cat", 0.499), (images[2], "dog", 0.5)]
    )
    assert paths == [target / "cat/a.jpg", target / "unsure/b.jpg", target / "dog/c.jpg"]
    assert list_tree(target) == [
        *("cat", "cat/a.jpg", "dog", "dog/c.jpg", "unsure", "unsure/b.jpg"),
    ]
    assert [path.read_text() for path in paths] == ["a", "b", "c"]
    assert paths[0].stat().st_mtime_ns == 10**18 + 1
    assert paths[1].stat().st_mode == paths[2].stat().st_mode
    assert stat.S_IMODE(images[1].stat().st_mode) == 0o400
    assert sentence == f"sorted 3 images into {target}: 1 cat, 1 dog, 1 unsure"


def test_links_have_absolute_targets_and_leave_the_images_as_they_are(tmp_path, monkeypatch):
    image = write_file(tmp_path / "new" / "a.jpg")
    image.chmod(0o400)
    before = image.stat()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").symlink_to("new")
    paths, _ = sort_files(
        Path("sorted"), [(Path("album/../new/a.jpg"), "cat", 0.9)], unsure_below=0, links=True
    )
    assert os.readlink(tmp_path / paths[0]) == str(tmp_path / "new" / "a.jpg")
    assert image.stat() == before


def test_images_of_the_same_name_are_all_kept_in_the_order_in_which_they_come(tmp_path):
    names = ["1/a.jpg", "2/a.jpg", "3/a-2.jpg", "4/a.jpg", "5/b"]
    images = [write_file(tmp_path / name, name) for name in names]
    copies, _ = sort_files(tmp_path / "sorted", [(image, "cat", 0.9) for image in images])
    assert [path.name for path in copies] == ["a.jpg", "a-2.jpg", "a-2-2.jpg", "a-3.jpg", "b"]
    assert [path.read_text() for path in copies] == names
    links, _ = sort_files(tmp_path / "linked", [(i, "cat", 0.9) for i in images], links=True)
    assert [path.name for path in links] == [path.name for path in copies]


@pytest.mark.parametrize("name", ["ä" * 125 + ".jpeg", "x" * 255, "." + "x" * 254])
def test_a_second_file_with_the_longest_name_gets_a_shorter_one(tmp_path, name):
    images = [write_file(tmp_path / folder / name, folder) for folder in "12"]
    paths, _ = sort_files(tmp_path / "sorted", [(image, "cat", 0.9) for image in images])
    assert [path.read_text() for path in paths] == ["1", "2"]
    assert paths[1].suffix == Path(name).suffix
    assert number_file_name(name, 2) == paths[1].name


@pytest.mark.parametrize("links", [False, True])
def test_hostile_file_names_are_kept_byte_by_byte(tmp_path, links):
    names = [b"-rf.jpg", b"a\nb\x1b[2J.jpg", b"\xff\xe6.jpg", b"$(x) 'y' \"z\".jpg", b"..jpg"]
    images = [write_file(tmp_path / "new" / os.fsdecode(name)) for name in names]
    paths, _ = sort_files(tmp_path / "s", [(image, "cat", 0.9) for image in images], links=links)
    assert [os.fsencode(path.name) for path in paths] == names
    assert sorted(os.listdir(os.fsencode(tmp_path / "s" / "cat"))) == sorted(names)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b"])
def test_a_class_that_cannot_name_a_folder_is_refused(tmp_path, name):
    with pytest.raises(UsageError) as error:
        check_sort_folder(tmp_path / "sorted", ("cat", name))
    assert str(error.value) == (
        f"the name of the class {name!r} is not a valid folder name: "
        "rename it in the model's config.json"
    )


def test_classes_of_other_bytes_than_utf8_name_folders_and_broken_text_does_not(tmp_path):
    image = write_file(tmp_path / "a.jpg")
    paths, sentence = sort_files(
        tmp_path / "s", [(image, "caf\udce9", 0.9)], classes=("caf\udce9", "-x", "con.", "a\nb")
    )
    assert os.fsencode(paths[0]).endswith(b"/s/caf\xe9/a.jpg")
    assert sentence.endswith("1 caf\udce9")
    with pytest.raises(UsageError, match=r"'\\ud800' is not valid text: rename it"):
        check_sort_folder(tmp_path / "t", ("\ud800",))


def test_a_class_named_unsure_needs_sorting_without_that_folder(tmp_path):
    image = write_file(tmp_path / "a.jpg")
    with pytest.raises(
        UsageError, match=r"has a class 'unsure'.*add --unsure-below 0, which needs no such folder$"
    ):
        check_sort_folder(tmp_path / "s", ("unsure", "cat"))
    paths, sentence = sort_files(
        tmp_path / "s", [(image, "unsure", 0.1)], classes=("unsure", "cat"), unsure_below=0
    )
    assert paths == [tmp_path / "s" / "unsure" / "a.jpg"]
    assert sentence == f"sorted 1 image into {tmp_path / 's'}: 1 unsure"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x" * 256, f"'{'x' * 256}' is not a valid folder name here"),
        ("Cat", "'Cat' is another folder's on this file system"),
        ("Unsure", "'unsure' is another folder's on this file system"),
    ],
)
def test_the_file_system_itself_refuses_names_of_classes_before_any_image(
    tmp_path, monkeypatch, name, problem
):
    make_folder = Path.mkdir

    def ignore_case(path, *arguments, **options):
        make_folder(path.with_name(path.name.lower()), *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", ignore_case)
    with pytest.raises(UsageError) as error, open_image_sorter(tmp_path / "s", ("cat", name)):
        pytest.fail("images were asked for")
    assert str(error.value) == (
        f"the name of the class {problem}: rename it in the model's config.json"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".DS_Store", "cat"])
def test_a_folder_that_holds_anything_is_refused_and_an_empty_one_is_used(tmp_path, name):
    image = write_file(tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir(mode=0o700)
    sort_files(tmp_path / "empty", [(image, "cat", 0.9)])
    assert list_tree(tmp_path / "empty") == ["cat", "cat/a.jpg"]
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    write_file(tmp_path / "full" / name)
    with pytest.raises(UsageError) as error:
        sort_files(tmp_path / "full", [(image, "cat", 0.9)])
    assert str(error.value) == (
        f"{tmp_path / 'full'} is not empty (it holds {name}): "
        "choose a new or an empty folder for --sort-into"
    )
    with pytest.raises(UsageError, match="a.jpg is not a folder: choose"):
        check_sort_folder(image, CLASSES)


def test_what_comes_into_the_folder_meanwhile_is_kept(tmp_path):
    image = write_file(tmp_path / "new" / "a.jpg")
    with (
        pytest.raises(UsageError, match=r"is not empty \(it holds mine"),
        open_image_sorter(tmp_path / "s", CLASSES) as sorter,
    ):
        sorter.place_image(image, "cat", 0.9)
        write_file(tmp_path / "s" / "mine")
    assert list_tree(tmp_path) == ["new", "new/a.jpg", "s", "s/mine"]


def test_of_two_sortings_into_one_folder_the_second_is_refused(tmp_path):
    image = write_file(tmp_path / "a.jpg")

    def sort_and_tell():
        try:
            sort_files(tmp_path / "s", [(image, "cat", 0.9)])
        except UsageError:
            return 2

    assert sorted(run_at_once([sort_and_tell, sort_and_tell])) == [0, 2]
    assert list_tree(tmp_path) == ["a.jpg", "s", "s/cat", "s/cat/a.jpg"]


def test_an_interrupted_sorting_leaves_nothing(tmp_path):
    image = write_file(tmp_path / "new" / "a.jpg")
    with (
        pytest.raises(KeyboardInterrupt),
        open_image_sorter(tmp_path / "made" / "s", CLASSES) as sorter,
    ):
        sorter.place_image(image, "cat", 0.9)
        raise KeyboardInterrupt
    assert list_tree(tmp_path) == ["new", "new/a.jpg"]


def test_a_full_disk_leaves_nothing_and_an_error_that_names_the_folder(tmp_path):
    image = write_file(tmp_path / "new" / "a.jpg", "x" * 1000)

    def sort_on_full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match=r"File too large: '.*/s'"):
            sort_files(tmp_path / "s", [(image, "cat", 0.9)])

    assert run_forked(sort_on_full_disk) == 0
    assert list_tree(tmp_path) == ["new", "new/a.jpg"]


@pytest.mark.parametrize(
    ("code", "links", "rest"),
    [
        (errno.EPERM, True, "linked to {} (Operation not permitted): leave out --link"),
        (errno.EINVAL, False, "copied to {} (Invalid argument): rename it"),
    ],
)
def test_a_file_system_without_links_or_with_fewer_names_is_an_error_that_says_so(
    tmp_path, monkeypatch, code, links, rest
):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    image = write_file(tmp_path / "new" / "a:b.jpg")
    monkeypatch.setattr(sort_images.os, "symlink", refuse)
    monkeypatch.setattr(sort_images, "copy_with_time", refuse)
    with pytest.raises(DataError) as error:
        sort_files(tmp_path / "s", [(image, "cat", 0.9)], links=links)
    assert str(error.value) == f"{image} cannot be {rest.format(tmp_path / 's')}"
    assert list_tree(tmp_path) == ["new", "new/a:b.jpg"]


def test_an_image_that_vanished_is_named_and_stops_the_sorting(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        sort_files(tmp_path / "s", [(tmp_path / "gone.jpg", "cat", 0.9)])
    assert error.value.filename == str(tmp_path / "gone.jpg")
    assert list_tree(tmp_path) == []


def test_a_copy_that_a_search_finds_meanwhile_is_refused(tmp_path):
    image = write_file(tmp_path / "a.jpg")
    with (
        pytest.raises(UsageError, match="is a copy that this command has just made: choose"),
        open_image_sorter(tmp_path / "s", CLASSES) as sorter,
    ):
        sorter.place_image(image, "cat", 0.9)
        [copy] = [path for path in tmp_path.rglob("a.jpg") if path != image]
        sorter.place_image(copy, "cat", 0.9)


@pytest.mark.parametrize("target", ["photos", "photos/s", "photos/1/x/y", "other/s", "PHOTOS"])
def test_a_folder_inside_one_that_is_searched_is_refused(tmp_path, target):
    images = [write_file(tmp_path / name) for name in ("photos/1/a.jpg", "other/deep/b.jpg")]
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "PHOTOS").symlink_to(tmp_path / "photos")
    found = [images[0], tmp_path / "photos" / "linked" / "deep" / "b.jpg"]
    with pytest.raises(UsageError, match="whose images are classified: choose a folder for --sort"):
        list(refuse_searched_folder(tmp_path / target, tmp_path / "photos", found))


def test_a_folder_beside_the_one_that_is_searched_is_allowed(tmp_path, monkeypatch):
    image = write_file(tmp_path / "photos" / "1" / "a.jpg")
    for target in (tmp_path / "photos2", tmp_path / "s" / "photos", tmp_path / "photos" / "2"):
        assert list(refuse_searched_folder(target, image.parent, [image])) == [image]
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(UsageError, match=r"^s is inside \., whose images"):
        list(refuse_searched_folder(Path("s"), Path("."), [Path("1/a.jpg")]))


def test_many_classes_are_counted_together(tmp_path):
    classes = [f"class {i}" for i in range(30)]
    image = write_file(tmp_path / "a.jpg")
    images = [(image, name, 0.9) for name in classes]
    _, sentence = sort_files(tmp_path / "s", images, classes)
    assert sentence.endswith("/s: 30 in 30 classes")
    _, sentence = sort_files(tmp_path / "t", [*images, (image, "class 1", 0.1)], classes)
    assert sentence.endswith("/t: 30 in 30 classes, 1 unsure")
